"""What the server counts, for Prometheus. One registry per application: several can live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Every figure of `/metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "edit_r1_requests", "Requests answered.", ["endpoint", "status"], registry=self.registry
        )
        self.rejected = Counter(
            "edit_r1_rejected",
            "Requests refused before judging: queue_full, stopping, too_large, bytes_at_once, slow_body, unauthorized.",
            ["reason"],
            registry=self.registry,
        )
        self.items = Counter(
            "edit_r1_items",
            "Items answered: scored; unparsed (the model answered without a usable trace); failed (no answer came, or "
            "the image was unreadable); refused (not sent to the model).",
            ["outcome"],
            registry=self.registry,
        )
        self.unparsed_traces = Counter(
            "edit_r1_unparsed_traces", "Traces of judged items that gave no score.", registry=self.registry
        )
        self.batch_failures = Counter(
            "edit_r1_batch_failures",
            "Calls of the model that raised, or to which an endpoint gave no answer at all.",
            registry=self.registry,
        )
        self.queued = Gauge("edit_r1_queue_items", "Items waiting for the model.", registry=self.registry)
        self.batch_items = Histogram(
            "edit_r1_batch_items", "Items judged in one call.", buckets=_ITEMS, registry=self.registry
        )
        self.judging_seconds = Histogram(
            "edit_r1_judging_seconds", "Duration of one call of the model.", buckets=_SECONDS, registry=self.registry
        )
        self.waiting_seconds = Histogram(
            "edit_r1_waiting_seconds", "Time of an item in the queue.", buckets=_SECONDS, registry=self.registry
        )

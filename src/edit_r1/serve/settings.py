"""Every setting of the reward server; importing this file needs no server library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edit_r1.verifier.scoring import MAX_TRACES


@dataclass(frozen=True)
class ServeSettings:
    """How the reward server listens, batches and refuses."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines can reach needs a token file."""
    port: int = 8500
    """0 takes any free port."""
    token_file: Path | None = None
    """File with a token a line; every path but /health then needs one."""
    traces: int = 1
    """Traces per item where a protocol cannot say: 1 is greedy, more are sampled and their scores averaged."""
    batch_size: int = 64
    """Most traces judged in one call of the model."""
    calls: int | None = None
    """Calls of the model under way at once; by default 1, and 4 where the model is behind an endpoint."""
    max_wait_ms: float = 20.0
    """Longest wait of a request for others to be judged with it, in milliseconds."""
    queue: int = 1024
    """Most items waiting; a request that does not fit is answered with 503."""
    max_items: int = 256
    """Most items in one request."""
    max_body_mb: int = 256
    """Largest request, in MiB."""
    max_bodies_mb: int = 1024
    """All requests held at once, in MiB."""
    max_image_mb: int = 20
    """Largest image file, in MiB."""
    max_megapixels: float = 25.0
    """Largest image, in millions of pixels."""
    batch_megapixels: float = 256.0
    """Most pixels decoded for one batch, in millions: bounds the memory, 3 bytes a pixel."""
    body_seconds: float = 60.0
    """Longest time a request may take to arrive."""
    grace_seconds: int = 60
    """Time to finish accepted requests after SIGTERM."""

    def __post_init__(self) -> None:
        """ValueError for a value out of range."""
        ranges: dict[str, tuple[float, float]] = {
            "port": (0, 65535), "traces": (1, MAX_TRACES), "batch_size": (1, 4096), "calls": (1, 64),
            "max_wait_ms": (0, 10_000),
            "queue": (1, 100_000), "max_items": (1, 10_000), "max_body_mb": (1, 4096), "max_bodies_mb": (1, 1 << 20),
            "max_image_mb": (1, 64), "max_megapixels": (0.001, 50), "batch_megapixels": (0.001, 10_000),
            "body_seconds": (1, 3600), "grace_seconds": (1, 3600),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = self.__dict__[name]
            if value is None:
                continue
            if not low <= value <= high:
                raise ValueError(f"--{name.replace('_', '-')} {value}: use {low:g} to {high:g}")
        if self.queue < self.max_items:
            raise ValueError(
                f"--queue {self.queue}: must hold a request of --max-items {self.max_items}; raise it or lower that"
            )
        if self.max_bodies_mb < self.max_body_mb:
            raise ValueError(
                f"--max-bodies-mb {self.max_bodies_mb}: must hold a request of --max-body-mb {self.max_body_mb}"
            )

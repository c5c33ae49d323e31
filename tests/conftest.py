"""Settings of every test: no network, few threads, GPU tests skipped where there is no GPU."""

from __future__ import annotations

import os

# Before anything imports torch or a Hugging Face library: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# No test reads or leaves anything in the home of who runs it; tests of the cache name a folder.
os.environ["EDIT_R1_CACHE"] = "off"

import pytest
from hypothesis import settings

# No deadlines: a slow machine must not fail a test. Derandomised: a test fails for everyone or for no one.
settings.register_profile("edit_r1", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edit_r1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` on a machine without CUDA; torch is imported only when there are any."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))

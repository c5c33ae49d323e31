"""Which model judged, in a way that another process and another machine can check: by content, not by path."""

from __future__ import annotations

from pathlib import Path

from edit_r1.store.fingerprints import fingerprint

__all__ = ["fingerprint", "judge_identity"]


def judge_identity(model: str | Path, endpoint: str | None = None, adapter: str | None = None) -> str:
    """ "files:FINGERPRINT" of a folder, "hub:ID" of a model that is none, "served:NAME" of one behind an endpoint.

    A served model is known by its name alone: the same server has other addresses on other machines. Raises ValueError
    as `fingerprint`.
    """
    if endpoint is not None:
        return f"served:{model}"
    if Path(model).is_dir():
        return f"files:{fingerprint(model, adapter)}"
    return f"hub:{model}" if adapter is None else f"hub:{model}+files:{fingerprint(adapter)}"

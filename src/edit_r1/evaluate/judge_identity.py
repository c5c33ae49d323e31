"""Which model judged, in a way that another process and another machine can check: by content, not by path."""

from __future__ import annotations

from pathlib import Path

from edit_r1.store.fingerprints import fingerprint
from edit_r1.verifier.choice import ModelChoice

__all__ = ["answering_identity", "fingerprint", "judge_identity"]


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


def answering_identity(models: ModelChoice, identity: str) -> str:
    """A judge's `identity` with what else of the choice shapes its answers: precision, backend, who writes principles.

    For folders of kept answers, where the same model in another precision, or by another writer's principles, must not
    find what it never said. What is left at its default adds nothing. Raises ValueError as `fingerprint`.
    """
    told = [identity]
    writer, writes_here = models.principles_model, models.principles_endpoint is None
    if models.dtype != "float32" and (models.endpoint is None or (writer is not None and writes_here)):
        told.append(models.dtype)
    if models.backend != "transformers":
        told.append(models.backend)
    if writer is not None:
        told.append(f"principles by {judge_identity(writer, models.principles_endpoint)}")
    return ", ".join(told)

"""Which model judged, in a way that another process and another machine can check: by content, not by path."""

from __future__ import annotations

import hashlib
from pathlib import Path

_KEPT = {".safetensors", ".bin", ".pt", ".json", ".model", ".txt", ".jinja", ".gguf"}
"""Endings of files that shape what a checkpoint answers; its card for people does not."""
_SAMPLES = 64
_SAMPLE_BYTES = 4096
"""Of a large file this much is read, at this many places at even distances."""


def fingerprint(folder: str | Path, adapter: str | Path | None = None) -> str:
    """16 hexadecimal digits for a checkpoint's files (and its adapter's): names, sizes and samples of their bytes.

    A copy of a checkpoint has the same one. Reading is bounded (256 KiB a file), so that two checkpoints that agree in
    every sampled byte are taken for one; training changes nearly every weight. Raises ValueError where there is no such
    folder, or it cannot be read.
    """
    digest = hashlib.sha256()
    for root in (folder, *([] if adapter is None else [adapter])):
        files = sorted(file for file in Path(root).glob("*") if file.is_file() and file.suffix in _KEPT)
        if not files:
            raise ValueError(f"{root}: holds no checkpoint: name its folder")
        for file in files:
            try:
                size = file.stat().st_size
                digest.update(f"{file.name}\0{size}\0".encode())
                with open(file, "rb") as stream:
                    if size <= _SAMPLES * _SAMPLE_BYTES:
                        digest.update(stream.read())
                        continue
                    for number in range(_SAMPLES):
                        stream.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                        digest.update(stream.read(_SAMPLE_BYTES))
            except OSError as error:
                raise ValueError(f"{file}: cannot be read ({error.strerror or error}): check the folder") from error
        digest.update(b"\1")
    return digest.hexdigest()[:16]


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

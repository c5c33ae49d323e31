"""Which checkpoint lies in a folder: by content, so that another machine can check it, and not by path."""

from __future__ import annotations

import hashlib
from pathlib import Path

_KEPT = {".safetensors", ".bin", ".pt", ".json", ".model", ".txt", ".jinja", ".gguf"}
"""Endings of files that shape what a checkpoint answers; its card for people does not."""
_SAMPLES = 64
_SAMPLE_BYTES = 4096
"""Of a large file this much is read, at this many places at even distances."""


def fingerprint(folder: str | Path, adapter: str | Path | None = None, parts: bool = False) -> str:
    """16 hexadecimal digits for a checkpoint's files (and its adapter's): names, sizes and samples of their bytes.

    parts: of a pipeline, whose parts lie in folders of their own.

    A copy of a checkpoint has the same one. Reading is bounded (256 KiB a file), so that two checkpoints that agree in
    every sampled byte are taken for one; training changes nearly every weight. Raises ValueError where there is no such
    folder, or it cannot be read.
    """
    digest = hashlib.sha256()
    for root in (folder, *([] if adapter is None else [adapter])):
        found = [*Path(root).glob("*"), *(Path(root).glob("*/*") if parts else ())]
        files = sorted(file for file in found if file.is_file() and file.suffix in _KEPT)
        if not files:
            raise ValueError(f"{root}: holds no checkpoint: name its folder")
        for file in files:
            try:
                size = file.stat().st_size
                digest.update(f"{file.relative_to(root)}\0{size}\0".encode())
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

"""The pictures of a context and a candidate as every model is shown them, in curation as in scoring."""

from __future__ import annotations

from edit_r1.images import ImageError, judged_pictures, judged_sources
from edit_r1.records import Sample


def shown_source(sample: Sample) -> bytes:
    """The source, scaled as for a judgment; as it is when it cannot be read, which the model's answer then says."""
    try:
        return judged_sources([sample.source])[0]
    except ImageError:
        return sample.source


def shown_pair(sample: Sample, edited: bytes) -> tuple[bytes, bytes]:
    """Source and edited picture, likewise."""
    try:
        (source,), image = judged_pictures([sample.source], edited)
    except ImageError:
        return sample.source, edited
    return source, image

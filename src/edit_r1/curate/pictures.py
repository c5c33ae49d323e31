"""The pictures of a context and a candidate as every model is shown them, in curation as in scoring."""

from __future__ import annotations

from edit_r1.images import ImageError, judged_pictures, judged_sources
from edit_r1.records import Sample


def shown_sources(sample: Sample) -> tuple[bytes, ...]:
    """The sources, scaled as for a judgment; as they are when one cannot be read, as the model's answer then says."""
    try:
        return judged_sources(sample.sources)
    except ImageError:
        return sample.sources


def shown_pair(sample: Sample, edited: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Sources and edited picture, likewise."""
    try:
        return judged_pictures(sample.sources, edited)
    except ImageError:
        return sample.sources, edited

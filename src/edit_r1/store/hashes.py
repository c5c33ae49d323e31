"""The hash of a data set: that of its rows' hashes, sorted: neither their order nor the cut into parts counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_BYTES = 32
"""Of a SHA-256; as hex digits in a Python text it would be 113."""
_AT_ONCE = 10_000
"""Rows whose hex digits are in memory at once."""


class RowHashes:
    """The `row_hash` of each row of a data set, 32 bytes each: of millions of rows they must be in memory together."""

    def __init__(self, hashes: Iterable[str] = ()) -> None:
        self._digests = bytearray()
        self.add(hashes)

    def add(self, hashes: Iterable[str]) -> None:
        """Raises ValueError for what `row_hash` cannot have given."""
        for one in hashes:
            if len(digest := bytes.fromhex(one)) != _BYTES:
                raise ValueError(f"row hash {one!r}: {len(digest)} bytes: give the 64 hex digits of `row_hash`")
            self._digests += digest

    def __len__(self) -> int:
        return len(self._digests) // _BYTES

    def digest(self) -> str:
        """SHA-256 of the sorted hashes, a line of hex digits each."""
        # Raw bytes ("V") and no strings ("S"), of which numpy takes NUL bytes at the end for none. Sorted in place.
        digests_N = np.frombuffer(self._digests, dtype=f"V{_BYTES}")
        digests_N.sort()
        whole = hashlib.sha256()
        for start in range(0, len(self), _AT_ONCE):
            lines = digests_N[start : start + _AT_ONCE].tobytes().hex("\n", _BYTES)
            whole.update((f"\n{lines}" if start else lines).encode())
        return whole.hexdigest()

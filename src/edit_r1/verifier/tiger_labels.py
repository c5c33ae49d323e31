"""Labels of TIGER-Lab's EditReward-Bench, which are imported as preferences and evaluated on.

A row compares two of the edits A, B, C, D of a group: which two stands in `comparison_type` ("BvsC"), or in the id's
suffix ("_BvC"). `ranking` names those two ("C>B"), or all of the group ("C>A>B"). Among 2 edits a tie is written
"A=B=Good" or "A=B=Bad". (EditReward/evaluate of TIGER-AI-Lab/EditReward, revision 84602889.)
"""

from __future__ import annotations

import re

from edit_r1.records import Choice

SUFFIX = re.compile(r"_([A-D])vs?([A-D])$", re.IGNORECASE)
"""Of a row's id; without it the id is the group's."""
_TYPE = re.compile(r"([A-D])\s*_?vs?_?\s*([A-D])", re.IGNORECASE)
_CHAIN = re.compile(r"[A-D](?:\s*>\s*[A-D]){2,3}", re.IGNORECASE)
"""The order of a whole group."""
_RANKING = re.compile(r"\s*([A-D])\s*([><=])\s*([A-D])(?:\s*=\s*(?:good|bad))?\s*", re.IGNORECASE)


def letters_of(comparison: str, name: str) -> tuple[str, str] | None:
    """The two edits that a row compares, by its `comparison_type`, else by its id; None where neither says."""
    found = _TYPE.fullmatch(comparison) or SUFFIX.search(name)
    return (found[1].upper(), found[2].upper()) if found else None


def choice_of(ranking: str, names: tuple[str, str]) -> Choice:
    """Which of `names` a ranking prefers. Raises ValueError for a text that does not order these two."""
    if _CHAIN.fullmatch(ranking):
        order = [letter for letter in ranking.upper() if letter in "ABCD"]
        if set(names) <= set(order) and len(set(order)) == len(order):
            return "first" if order.index(names[0]) < order.index(names[1]) else "second"
    found = _RANKING.fullmatch(ranking)
    if not found or {found[1].upper(), found[3].upper()} != set(names) or names[0] == names[1]:
        first, second = names
        raise ValueError(f"ranking {ranking[:40]!r}: expected {first}>{second}, {second}>{first} or {first}={second}")
    if found[2] == "=":
        return "same"
    best = found[1] if found[2] == ">" else found[3]
    return "first" if best.upper() == names[0] else "second"

"""JSON values inside a model's text, tolerant to what models really write.

Code fences, single quotes, trailing commas, Python's True/None and Chinese punctuation are read;
nothing is completed: a value whose brackets do not close is not a value.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

_MAX_ATTEMPTS = 200
"""Opening brackets tried per text, so that a text of brackets costs no more than a long one."""
_MAX_LOOSE = 20_000
"""Longest value that is mended, in characters: 32 principles with evidence need about 13,000."""

_CHINESE = "＜＞／．：，；（）０１２３４５６７８９【】｛｝［］“”„‟‘’"
_ASCII = '<>/.:,;()0123456789[]{}[]""""\'\''
_TO_ASCII = str.maketrans(_CHINESE, _ASCII)

_OPEN = re.compile(r"[\[{]")
_TRAILING_COMMA = re.compile(r",(?=\s*[\]}])")
_DECODER = json.JSONDecoder()


def to_ascii_punctuation(text: str) -> str:
    """Full-width punctuation, digits and curly quotes replaced one for one: offsets stay."""
    return text.translate(_TO_ASCII)


def json_values(text: str) -> list[Any]:
    """The outermost lists and dicts of the text, in order. What cannot be read is skipped."""
    plain = to_ascii_punctuation(text)
    values: list[Any] = []
    at = 0
    for _ in range(_MAX_ATTEMPTS):
        match = _OPEN.search(plain, at)
        if match is None:
            break
        found = _value_at(text, plain, match.start())
        if found is None:
            at = match.start() + 1
        else:
            value, at = found
            values.append(value)
    return values


def _value_at(text: str, plain: str, start: int) -> tuple[Any, int] | None:
    """The value that opens at `start` and where it ends."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass  # not strict JSON: read it loosely
    end = _closing(plain, start)
    if end is None:
        return None
    repaired = _TRAILING_COMMA.sub("", plain[start:end])
    try:
        return json.loads(repaired), end
    except (ValueError, RecursionError):
        pass  # nor with commas and quotes mended: the last reading is as a Python literal
    pythonic = re.sub(r"\b(?:true|false|null)\b", lambda word: _PYTHON[word.group()], repaired)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.literal_eval(pythonic), end
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


_PYTHON = {"true": "True", "false": "False", "null": "None"}


def _closing(plain: str, start: int) -> int | None:
    """Just after the bracket that closes the one at `start`; brackets in double quotes do not count."""
    depth = 0
    quoted = False
    escaped = False
    for position in range(start, min(len(plain), start + _MAX_LOOSE)):
        char = plain[position]
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
            if depth == 0:
                return position + 1
    return None

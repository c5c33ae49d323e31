"""JSON values inside a model's text, tolerant to what models really write.

Read beside strict JSON: single, curly and full-width quotes, full-width punctuation and digits, Python's True, False
and None, bare yes / no / uncertain, unquoted keys, trailing commas, a comma left out between two objects, comments,
raw line breaks in a text, backslashes before any character, and quotes inside a text that are not followed by what
must follow a text's end. Nothing is completed: a value whose brackets do not close is not a value. A key that stands
twice in an object with two values gets `AMBIGUOUS`.

The time is bounded by construction: every value is read in one pass without going back, at most `_MAX_FAILURES`
brackets are tried in vain and `_BUDGET` characters read in all values of a text together, and no regular expression
has two ways to read the same characters.
"""

from __future__ import annotations

import re
from typing import Any, Final

_BUDGET = 500_000
"""Characters read per text, over all opening brackets tried: more than twice the longest text that is parsed."""
_MAX_FAILURES = 200
"""Opening brackets of a text that may turn out to open nothing."""
_MAX_DEPTH = 24
"""Deeper than any wrapping that models put around a list."""

_CHINESE = "＜＞／．：，；（）０１２３４５６７８９【】｛｝［］“”„‟‘’＂＇＝"
_ASCII = '<>/.:,;()0123456789[]{}[]""""\'\'"\'='
_TO_ASCII = str.maketrans(_CHINESE, _ASCII)

_OPEN = re.compile(r"[\[{]")
_SPACE = re.compile(r"\s*+")
_BLANK = re.compile(r"(?:\s++|//[^\n]*+|#[^\n]*+|/\*(?:[^*]|\*(?!/)){0,1000}+\*/)*+")
"""Space and comments. One that is never closed is looked at again at every bracket: hence its bound."""
_BARE = re.compile(r"[^\s,:\[\]{}\"'#/]++")
_KEY = re.compile(r"\w{1,60}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_PLAIN_TEXT = re.compile(r"[^\"'“”„‟‘’＂＇\\]*+")

_CLOSERS = {'"': '"', "'": "'", **dict.fromkeys("“”„‟＂", '“”„‟＂"'), **dict.fromkeys("‘’＇", "‘’＇'")}
"""What may end a text, by the quote that opens it; a text in plain quotes may hold curly ones."""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS: dict[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
    **{word: word for word in ("yes", "no", "uncertain", "unsure", "是", "否")},
}


class _Ambiguous:
    def __repr__(self) -> str:
        return "two values for one key"


AMBIGUOUS: Final = _Ambiguous()
"""The value of a key to which a text gives two."""


class _Unreadable(Exception):
    """Not a value. Never leaves this module."""


def to_ascii_punctuation(text: str) -> str:
    """Full-width punctuation, digits and curly quotes replaced one for one: offsets stay."""
    return text.translate(_TO_ASCII)


def json_values(text: str) -> list[Any]:
    """The outermost lists and dicts of the text, in order. What cannot be read is skipped."""
    plain = to_ascii_punctuation(text)
    values: list[Any] = []
    at = spent = failures = 0
    while spent < _BUDGET and failures < _MAX_FAILURES and (match := _OPEN.search(plain, at)):
        reader = _Reader(text, plain, match.start())
        try:
            values.append(reader.value(0))
            at = reader.at
        except _Unreadable:
            at = match.start() + 1
            failures += 1
        spent += reader.at - match.start() + 1
    return values


class _Reader:
    """Reads one value, from left to right."""

    def __init__(self, text: str, plain: str, at: int) -> None:
        self.text, self.plain, self.at = text, plain, at

    def value(self, depth: int) -> Any:
        char = self._next()
        if char == "[":
            return self._list(depth)
        if char == "{":
            return self._dict(depth)
        if char in ('"', "'"):
            return self._quoted()
        return self._bare()

    def _next(self) -> str:
        """The next character that is no space and in no comment; "" at the end."""
        blank = _BLANK.match(self.plain, self.at)
        assert blank is not None, "it matches nothing too"
        self.at = blank.end()
        return self.plain[self.at : self.at + 1]

    def _list(self, depth: int) -> list[Any]:
        if depth >= _MAX_DEPTH:
            raise _Unreadable
        self.at += 1
        values: list[Any] = []
        while (char := self._next()) != "]":
            values.append(self.value(depth + 1))
            if self._next() == ",":
                self.at += 1
            elif not (char == "{" == self._next()) and self._next() != "]":
                raise _Unreadable
        self.at += 1
        return values

    def _dict(self, depth: int) -> dict[str, Any]:
        if depth >= _MAX_DEPTH:
            raise _Unreadable
        self.at += 1
        values: dict[str, Any] = {}
        while (char := self._next()) != "}":
            key = self._quoted() if char in ('"', "'") else self._key()
            if self._next() != ":":
                raise _Unreadable
            self.at += 1
            value = self.value(depth + 1)
            values[key] = AMBIGUOUS if key in values and not _same(values[key], value) else value
            if self._next() == ",":
                self.at += 1
            elif self._next() != "}":
                raise _Unreadable
        self.at += 1
        return values

    def _key(self) -> str:
        word = _KEY.match(self.plain, self.at)
        if word is None:
            raise _Unreadable
        self.at = word.end()
        return word[0]

    def _bare(self) -> Any:
        """A number or a word; anything else is not a value."""
        word = _BARE.match(self.plain, self.at)
        if word is None:
            raise _Unreadable
        self.at = word.end()
        if word[0].casefold() in _WORDS:
            return _WORDS[word[0].casefold()]
        if not _NUMBER.fullmatch(word[0]):
            raise _Unreadable
        return float(word[0]) if set(word[0]) & set(".eE") else int(word[0])

    def _quoted(self) -> str:
        closers = _CLOSERS[self.text[self.at]]
        parts: list[str] = []
        at = self.at + 1
        while True:
            chunk = _PLAIN_TEXT.match(self.text, at)
            assert chunk is not None, "it matches nothing too"
            parts.append(chunk[0])
            at = chunk.end()
            char = self.text[at : at + 1]
            if not char:
                self.at = at
                raise _Unreadable
            if char == "\\":
                escaped, at = self._escape(at + 1)
                parts.append(escaped)
                continue
            at += 1
            if char in closers and self._ends_text(at):
                self.at = at
                return "".join(parts)
            parts.append(char)  # a quote or an apostrophe inside the text

    def _ends_text(self, at: int) -> bool:
        """Whether what follows a quote can follow the end of a text: , : } ] or a comment."""
        space = _SPACE.match(self.plain, at)
        assert space is not None, "it matches nothing too"
        rest = self.plain[space.end() : space.end() + 2]
        return not rest or rest[0] in ",:}]#" or rest in ("//", "/*")

    def _escape(self, at: int) -> tuple[str, int]:
        """What a backslash before `at` makes of the text there, and where the text goes on."""
        char = self.text[at : at + 1]
        if char == "u" and (code := _HEX.match(self.text, at + 1)):
            first = int(code[0], 16)
            low = _HEX.match(self.text, at + 7) if self.text[at + 5 : at + 7] == "\\u" else None
            if 0xD800 <= first < 0xDC00 and low and 0xDC00 <= (second := int(low[0], 16)) < 0xE000:
                return chr(0x10000 + (first - 0xD800) * 0x400 + second - 0xDC00), at + 11
            # Half of a pair is no character, and could not be written to a file.
            return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= first < 0xE000 else chr(first), at + 5
        if char in ('"', "'", "\\", "/"):
            return char, at + 1
        return _ESCAPES.get(char, "\\" + char), at + 1  # LaTeX and the like keep their backslash


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)

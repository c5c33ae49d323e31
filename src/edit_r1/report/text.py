"""Texts of models and servers, and file names, as they may be shown."""

from __future__ import annotations


def plain(text: object) -> str:
    """One line without control characters: bidirectional ones and lone surrogates are left out too."""
    return "".join(sign for sign in " ".join(str(text).split()) if sign.isprintable())

"""Names of formats, apart from their code, so that the command line knows them without loading it."""

from __future__ import annotations

from typing import Literal

Kind = Literal["editreward", "jsonl", "vs", "compass", "tiger"]
"""What is imported; `preferences.formats` describes each."""
Target = Literal["trl", "label-studio", "jsonl"]
"""What is exported; `preferences.exporting` describes each."""

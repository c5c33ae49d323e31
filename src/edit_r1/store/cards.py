"""What cards of data and models share: the head that the Hub reads, tables, and text that is safe in Markdown.

Cards are made to be published: folders of this machine and addresses of servers are cut to their last part, and text
that came with the data is shown as it is and never read as Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

DATA_LICENCE = "choose a licence that those of the pictures and texts allow, and write `license: ...` here"
SIMULATED = "Some or all of it is simulated (EditWorld): it says nothing about people or real editors."
NOT_SIMULATED = "None of it is marked as simulated."
LICENCE_LINE = f"Licence: not set. Before publishing {DATA_LICENCE.replace(' here', ' above')}."

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~$&])")


def data_head(configs: Mapping[str, str], tags: Sequence[str] = ()) -> str:
    """The YAML head of a data set's card; configs: name to the pattern of its files, the first one shown first."""
    lines = ["---", f"# {DATA_LICENCE}", "tags:", "- edit-r1", "- image-editing", *(f"- {tag}" for tag in tags)]
    lines.append("configs:")
    for number, (name, pattern) in enumerate(configs.items()):
        lines += [f"- config_name: {name}", f'  data_files: "{pattern}"']
        if number == 0 and len(configs) > 1:
            lines.append("  default: true")
    return "\n".join([*lines, "---"])


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of texts that are safe already, and of numbers."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def markdown_text(text: object, most: int = 300) -> str:
    """One line of untrusted text, as it is: nothing in it is Markdown or HTML; cut after `most` characters."""
    line = "".join(sign for sign in " ".join(str(text).split()) if sign.isprintable())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    # A link needs no brackets to be one on the Hub.
    return _SPECIAL.sub(r"\\\1", line).replace("://", ":\u200b//")


def public_text(text: str) -> str:
    """Of an absolute path its last part, of an address what follows the host."""
    if text.startswith(("http://", "https://")):
        return f"{text.split('://')[0]}://(server){re.sub(r'^https?://[^/#]*', '', text)}"
    return f"(folder)/{Path(text.rstrip('/')).name}" if text.startswith(("/", "~")) else text

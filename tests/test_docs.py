"""Pages, scripts, examples and recipes name commands, flags, scripts and other pages: all of them must be there."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from edit_r1.cli import COMMANDS, main
from edit_r1.commands.usage import TRAININGS, is_group
from edit_r1.recipes import names
from edit_r1.train.plan_parts import DeviceOptions
from edit_r1.train.verifier_plan import VerifierPlanOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
CODE = [path for name in ("bench", "examples", "src/edit_r1/recipes") for path in sorted((ROOT / name).rglob("*.py"))]
each_text = pytest.mark.parametrize("page", PAGES + CODE, ids=lambda page: str(page.relative_to(ROOT)))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def shown(page: Path, program: str) -> list[str]:
    """What stands behind `program` on a page, at the beginning of a line or of code, or behind a launcher."""
    text = re.sub(r"\\\n *|\n {20,}", " ", page.read_text(encoding="utf-8"))
    found = re.findall(rf"(?:^ *|`|-m |\w=\S+ ){program} ([^`\n]*)", text, flags=re.MULTILINE)
    return [" ".join(line.split("#", 1)[0].split()) for line in found]


@cache
def flags(*words: str) -> frozenset[str]:
    """Of a command, by its help."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return frozenset(FLAG.findall(told.getvalue()))


def flags_of(command: str) -> frozenset[str] | None:
    """Of the command that a line begins with; None where it begins with none."""
    one, two = [*command.split(), "", ""][:2]
    kind = two.replace("KIND", "sft").split("|")[0]
    if one == "train" and kind in TRAININGS:
        plans = {field.name.replace("_", "-") for of in (DeviceOptions, VerifierPlanOptions) for field in fields(of)}
        recipe = f"tiny_{'editor_grpo' if kind == 'editor' else kind}"
        return flags("train", kind, recipe) | {"--plan", "--resume", *(f"--{name}" for name in plans)}
    for words in ((one, two), (one,)):
        if words in COMMANDS:
            return flags(*words)
    return frozenset({"--help"}) if one == "COMMAND" or (is_group(COMMANDS, one) and two in ("", "--help")) else None


@each_text
def test_commands_on_a_page_exist_with_their_flags(page: Path) -> None:
    for command in shown(page, r"edit[-_]r1"):
        known = flags_of(command)
        assert known is not None, f"no command: edit-r1 {command}"
        assert set(FLAG.findall(command)) <= known, command
        training = re.match(r"train (\w+) ([a-z0-9_]+)(?: |$)", command)
        assert training is None or training[2] in names(training[1]), command


@each_text
def test_scripts_on_a_page_exist_with_their_options(page: Path) -> None:
    for script in re.findall(r"bench/[\w/]+\.py", page.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script
    for command in shown(page, "python(?= bench/)"):
        script, *_ = command.split()
        [made] = [
            node
            for node in ast.parse((ROOT / script).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name == "main"
        ]
        known = {f"--{argument.arg.replace('_', '-')}" for argument in (*made.args.args, *made.args.kwonlyargs)}
        assert set(FLAG.findall(command)) <= known, command


@each_page
def test_links_on_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link
    for name in re.findall(r"(?<![\w/.])docs/[\w/]+\.(?:md|png)", text):
        assert (ROOT / name).is_file(), name

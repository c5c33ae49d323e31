"""What cards share: heads that are YAML, and text that is never Markdown."""

from __future__ import annotations

import re

import yaml
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.store.cards import data_head, markdown_table, markdown_text, public_text


def test_a_head_is_yaml_with_its_configs() -> None:
    head = data_head({"selected": "selected/*.parquet", "gold": "gold/*.parquet"}, ["simulated"])
    lines = head.splitlines()
    assert lines[0] == lines[-1] == "---"
    told = yaml.safe_load("\n".join(lines[1:-1]))
    assert told["tags"] == ["edit-r1", "image-editing", "simulated"] and "license" not in told
    assert told["configs"] == [
        {"config_name": "selected", "data_files": "selected/*.parquet", "default": True},
        {"config_name": "gold", "data_files": "gold/*.parquet"},
    ]
    [only] = yaml.safe_load("\n".join(data_head({"default": "*.parquet"}).splitlines()[1:-1]))["configs"]
    assert "default" not in only


@given(st.text(max_size=80) | st.sampled_from(["<script>x</script>", "a | b", "[x](http://y)", "![p](q)", "`c`\n# d"]))
def test_text_is_never_markdown(text: str) -> None:
    shown = markdown_text(text, 60)
    assert "\n" not in shown and "://" not in shown
    bare = re.sub(r"\\[\\`*_{}\[\]<>#|!~$&]", "", shown)
    assert not set("\\`*_{}[]<>#|!~$&") & set(bare)
    assert all(sign.isprintable() or sign == "\u200b" for sign in shown)
    assert len(re.sub(r"\\(.)", r"\1", shown)) <= 60 + shown.count("\u200b")


def test_a_table_has_a_cell_per_heading() -> None:
    table = markdown_table(["a", "b"], [[markdown_text("x | y"), 1]])
    assert table.splitlines() == ["| a | b |", "| --- | --- |", "| x \\| y | 1 |"]


def test_paths_and_hosts_are_cut() -> None:
    assert public_text("/home/me/models/judge") == "(folder)/judge"
    assert public_text("https://host.example:8000/v1#judge") == "https://(server)/v1#judge"
    assert public_text("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"

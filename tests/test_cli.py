"""Every command through `main`: exit codes, what stands on stdout, and one line on stderr for a mistake."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.cli import COMMANDS, main
from edit_r1.commands.usage import TRAININGS
from edit_r1.images import encode_png
from edit_r1.recipes import names
from edit_r1.records import CATEGORIES
from edit_r1.verifier.cards import ModelCard, write_card
from edit_r1.verifier.prompts import MAX_INSTRUCTION_CHARS
from edit_r1.verifier.traces import write_trace

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def fails(capsys: Capture, *arguments: object, code: int = 1) -> str:
    """The one line on stderr of a command that ends with `code`; nothing stands on stdout."""
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, ""), err
    assert err.startswith("edit-r1: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 128 x 96 that is not EditWorld's."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    path.write_bytes(encode_png(pixels))
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, picture: Path) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "broken.png"
    path.write_bytes(picture.read_bytes()[:2000])
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL, asked by short prompts: it answers, and never with a trace."""
    file = Path(__file__).parent / "train" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_checkpoint", file)
    assert spec is not None and spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    folder: Path = builder.build_checkpoint(tmp_path_factory.mktemp("tiny-vlm"))
    write_card(folder, ModelCard(variant="compact"))
    return folder


@pytest.fixture(scope="module")
def principles_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("principles") / "principles.json"
    path.write_text(json.dumps([{"question": "Is the cup blue?", "category": CATEGORIES[0]}]))
    return path


# --- usage ------------------------------------------------------------------------------------------------------


def test_without_a_command_the_usage_goes_to_stderr(capsys: Capture) -> None:
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert all(" ".join(words) in err for words in COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_no_mistake(capsys: Capture, flag: str) -> None:
    code, out, err = run(capsys, flag)
    assert (code, err) == (0, "")
    assert all(" ".join(words) in out for words in COMMANDS)


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_every_command_has_help_and_tells_what_each_flag_is(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a flag and what it is on one line, or the latter on the next
    code, out, err = run(capsys, *words, "--help")
    assert (code, err) == (0, "")
    assert f"edit-r1 {' '.join(words)}" in out
    lines = [line.strip("│ ") for line in out.splitlines()]  # boxes are drawn on a terminal alone
    untold = [line for line in lines if re.search(r"(^|\S {2,})(\w+ )?\((default|required)", line)]
    assert not untold


@pytest.mark.parametrize("group", ["curate", "preferences", "evaluate", "world", "train"])
def test_a_group_has_help_of_its_own(capsys: Capture, group: str) -> None:
    code, out, err = run(capsys, group, "--help")
    assert (code, err) == (0, "")
    told = [line.split()[1] for line in out.splitlines() if line.startswith("  edit-r1 ")]
    assert len(told) > 1 and set(told) == {group}
    code, out, err = run(capsys, group)
    assert (code, out) == (2, "")
    assert f"no command {group!r}" in err and "edit-r1 score" not in err


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_names_its_own_recipes_and_whether_it_can_be_planned(capsys: Capture, kind: str) -> None:
    code, out, err = run(capsys, "train", kind, "--help")
    assert (code, err) == (0, "")
    named = out[out.index("RECIPE: ") :]
    assert all((name in named) == (name in names(kind)) for name in names())
    assert names(kind) and ("--plan" in out) == (kind != "head")
    code, out, err = run(capsys, "train", kind)
    assert (code, out) == (2, "") and names(kind)[0] in err


@pytest.mark.parametrize("words", [["paint"], ["world"], ["world", "paint"], ["train", "cook"], ["--bogus"]], ids=str)
def test_an_unknown_command_is_wrong_usage(capsys: Capture, words: list[str]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert f"no command {' '.join(words)!r}" in err


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_an_unknown_flag_is_wrong_usage(capsys: Capture, words: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *words, "--bogus", "1")
    assert (code, out) == (2, "")
    assert err


def test_a_reader_that_has_seen_enough_is_no_mistake() -> None:
    """`edit-r1 score --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    asked = [sys.executable, "-m", "edit_r1", "score", "--help"]
    done = subprocess.run(asked, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode != 0 and done.stderr == b""


def test_rank_needs_an_edited_image(capsys: Capture, picture: Path) -> None:
    assert "at least one edited" in fails(capsys, "rank", picture, "-i", "x", code=2)


# --- world ------------------------------------------------------------------------------------------------------


def test_world_sample_writes_pictures_and_rows(capsys: Capture, tmp_path: Path) -> None:
    code, out, err = run(capsys, "world", "sample", "--out", tmp_path / "world", "--count", 2)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "world" / "samples.jsonl").read_text().splitlines()]
    assert out.startswith(f"{len(rows)} candidates of 2 contexts")
    assert all((tmp_path / "world" / row[key]).is_file() for row in rows for key in ("source", "edited"))
    assert "not an empty folder" in fails(capsys, "world", "sample", "--out", tmp_path / "world")
    assert "count=0" in fails(capsys, "world", "sample", "--out", tmp_path / "none", "--count", 0)
    assert "seed=-1: must be 0 or more" in fails(capsys, "world", "sample", "--out", tmp_path / "none", "--seed", -1)
    assert not (tmp_path / "none").exists()


# --- mistakes, told before a model is opened --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["score", "rank", "principles"])
def test_a_foreign_picture_needs_a_model(capsys: Capture, picture: Path, command: str) -> None:
    pictures = [picture] if command == "principles" else [picture, picture]
    assert "--model PATH" in fails(capsys, command, *pictures, "-i", "Make the cup blue")


@pytest.mark.parametrize("command", ["score", "rank"])
def test_broken_and_missing_pictures_are_named(capsys: Capture, picture: Path, broken: Path, command: str) -> None:
    rest = ("-i", "Make the cup blue", "--model", "/nowhere/model")
    for pictures in ((broken, picture), (picture, broken)):
        assert "broken.png" in fails(capsys, command, *pictures, *rest)
    assert "missing.png" in fails(capsys, command, picture, picture.with_name("missing.png"), *rest)
    assert "cannot be read" in fails(capsys, command, picture, picture.parent, *rest)


@pytest.mark.parametrize("command", ["score", "rank", "principles"])
def test_instructions_are_checked_first(capsys: Capture, picture: Path, command: str) -> None:
    pictures = [picture] if command == "principles" else [picture, picture]
    for instruction, said in (("", "empty"), (" \n", "empty"), ("x" * (MAX_INSTRUCTION_CHARS + 1), "shorten")):
        assert said in fails(capsys, command, *pictures, "-i", instruction, "--model", "/nowhere/model")
    latin = os.fsdecode(b"caf\xe9")  # what a terminal of another encoding hands over
    assert "UTF-8" in fails(capsys, command, *pictures, "-i", latin, "--model", "/nowhere/model")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", "not valid JSON"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("7", "no list of principles"),
        ('{"rules": []}', "no list of principles"),
        ('["Is it blue?"]', "principle 1 is malformed"),
        ('[{"question": "Is it blue?"}]', "principle 1 is malformed"),
        ("[]", "at least one"),
        ('[{"question": " ", "category": "Image Quality"}]', "principle 1 is empty"),
        ('[{"question": "Is it blue?", "category": "Taste"}]', "'Taste'"),
    ],
)
def test_malformed_principles_are_told_with_their_file(
    capsys: Capture, picture: Path, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "rules.json"
    path.write_text(text, encoding="latin-1")
    err = fails(capsys, "score", picture, picture, "-i", "x", "--principles", path, "--model", "/nowhere/model")
    assert "rules.json" in err and said in err
    assert "run its stage" not in err


def test_a_missing_principles_file_is_named(capsys: Capture, picture: Path, tmp_path: Path) -> None:
    err = fails(capsys, "rank", picture, picture, "-i", "x", "--principles", tmp_path / "no.json", "--model", "/no/m")
    assert "no.json: cannot be read" in err


def test_a_page_that_cannot_be_written_is_told_before_anything_is_paid(capsys: Capture, picture: Path) -> None:
    for html in (picture.parent, picture / "page.html"):
        asked = (picture, picture, "-i", "x", "--model", "/nowhere/model", "--html", html)
        assert "cannot be written" in fails(capsys, "score", *asked)


@pytest.mark.parametrize("traces", [0, -1, 65])
def test_traces_have_a_range(capsys: Capture, picture: Path, traces: int) -> None:
    assert "1 to 64" in fails(capsys, "score", picture, picture, "-i", "x", "--traces", traces, "--model", "/no/m")


def test_a_wrong_folder_is_no_curation_and_no_run(capsys: Capture, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert "no curation" in fails(capsys, "curate", "status", folder)
        assert "no finished demo" in fails(capsys, "report", folder)
        assert str(folder) in fails(capsys, "evaluate", "reward", "--model", "/no/model", "--data", folder)


# --- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["score", "rank", "principles"])
def test_a_missing_model_is_told(capsys: Capture, picture: Path, tmp_path: Path, command: str) -> None:
    pictures = [picture] if command == "principles" else [picture, picture]
    assert "no such folder" in fails(capsys, command, *pictures, "-i", "x", "--model", tmp_path / "missing")
    assert "config.json" in fails(capsys, command, *pictures, "-i", "x", "--model", tmp_path)


def test_a_foreign_checkpoint_is_told(capsys: Capture, picture: Path, tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_head": 1, "n_embd": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    err = fails(capsys, "score", picture, picture, "-i", "x", "--model", tmp_path)
    assert str(tmp_path) in err


def test_score_without_a_parsed_trace_is_null(
    capsys: Capture, picture: Path, checkpoint: Path, principles_file: Path
) -> None:
    asked = ("score", picture, picture, "-i", "Make it blue", "--model", checkpoint, "--principles", principles_file)
    code, out, err = run(capsys, *asked, "--json")
    assert code == 3
    document = json.loads(out)
    assert document["score"] is None and document["score_std"] is None
    assert (document["traces"], document["unparsed"]) == (1, 1)
    assert document["principles"] == [
        {"question": "Is the cup blue?", "category": CATEGORIES[0], "verdict": None, "evidence": None}
    ]
    assert document["categories"] == dict.fromkeys(CATEGORIES)
    assert document["model"] == checkpoint.name and document["seconds"] > 0
    assert err.startswith("edit-r1: no trace could be parsed: ") and err.count("\n") == 1
    assert "no answer" not in err  # it did answer


def test_rank_without_a_parsed_trace_is_null(
    capsys: Capture, picture: Path, checkpoint: Path, principles_file: Path
) -> None:
    asked = ("rank", picture, picture, "-i", "Make it blue", "--model", checkpoint, "--principles", principles_file)
    code, out, err = run(capsys, *asked, "--json")
    assert code == 3 and err.count("\n") == 1
    (row,) = json.loads(out)["ranking"]
    assert (row["path"], row["score"], row["unparsed"]) == (str(picture), None, 1)


def test_principles_that_cannot_be_parsed_are_null(capsys: Capture, picture: Path, checkpoint: Path) -> None:
    code, out, err = run(capsys, "principles", picture, "-i", "Make it blue", "--model", checkpoint, "--json")
    assert code == 3
    assert json.loads(out) == {"principles": None, "cached": False, "repeated": 0, "model": checkpoint.name}
    assert "no usable principles" in err and err.count("\n") == 1


# --- endpoints --------------------------------------------------------------------------------------------------

TRACE = write_trace(["it is"], [1], 6.5, "both", "compact")


def test_score_and_rank_by_an_endpoint(
    capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fake_openai(lambda body, number: TRACE)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    where = ("--endpoint", server.url, "--model", "judge", "--variant", "compact", "--api-key-env", "JUDGE_KEY")
    asked = (picture, picture, "-i", "Make it blue", "--principles", principles_file, *where)
    code, out, err = run(capsys, "score", *asked, "--json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["score"], json.loads(out)["model"]) == (6.5, "judge")
    assert server.seen_headers[0]["authorization"] == "Bearer sk-secret"
    code, out, err = run(capsys, "score", *asked, "--also-source", picture, "--also-source", picture)
    assert (code, err) == (0, "")
    pictures = [part for part in server.bodies[-1]["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(pictures) == 4
    code, out, err = run(capsys, "rank", *asked, "--json")
    assert (code, [row["score"] for row in json.loads(out)["ranking"]]) == (0, [6.5])


def test_what_a_model_writes_cannot_steer_a_terminal(capsys: Capture, picture: Path, fake_openai: Any) -> None:
    rules = json.dumps([{"question": "Is it \x1b[2J\x1b]0;mine\x07 blue?", "category": CATEGORIES[0]}])
    server = fake_openai(lambda body, number: rules if number == 0 else "<score>\x1b[31m8</score>")
    where = ("--endpoint", server.url, "--model", "judge")
    code, out, err = run(capsys, "principles", picture, "-i", "x", *where)
    assert (code, out.split()[1:3]) == (0, ["Is", "it"])
    assert "\x1b" not in out + err and "\x07" not in out + err
    code, out, err = run(capsys, "score", picture, picture, "-i", "x", *where, "--mode", "think")
    assert code == 3 and "\x1b" not in out + err


def test_what_an_endpoint_took_is_told(capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any) -> None:
    server = fake_openai(lambda body, number: TRACE)  # 10 tokens in, 4 out
    where = (
        "--endpoint",
        server.url,
        "--model",
        "judge",
        "--variant",
        "compact",
        "--price-in",
        "1e6",
        "--price-out",
        "0",
    )
    asked = (picture, picture, "-i", "Make it blue", "--principles", principles_file, *where)
    taken = {"requests": 2, "retries": 0, "failures": 0, "unmetered": 0, "prompt_tokens": 20, "completion_tokens": 8}
    _, out, _ = run(capsys, "score", *asked, "--traces", "2", "--json")
    assert json.loads(out)["usage"] == {**taken, "cost": 20.0}
    _, out, _ = run(capsys, "score", *asked, "--traces", "2")
    assert out.endswith("20 tokens in, 8 out; cost 20.0000\n")
    _, out, _ = run(capsys, "rank", picture, *asked, "--json")
    assert json.loads(out)["usage"] == {**taken, "cost": 20.0} and "usage" not in json.loads(out)["ranking"][0]
    _, out, _ = run(capsys, "rank", picture, *asked)
    assert out.endswith("20 tokens in, 8 out; cost 20.0000\n")


def test_rank_by_a_server_that_refuses_to_tell_probabilities(
    capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any, reply: Any
) -> None:
    server = fake_openai(lambda body, number: reply({"error": "no logprobs"}, 400) if "logprobs" in body else TRACE)
    where = ("--endpoint", server.url, "--model", "judge", "--variant", "compact", "--principles", principles_file)
    code, out, err = run(capsys, "rank", picture, picture, "-i", "x", *where, "--json")
    assert (code, err) == (0, "")
    assert [(row["score"], row["expected_score"]) for row in json.loads(out)["ranking"]] == [(6.5, None)]


def test_ties_are_told_with_and_without_the_expected_score(
    capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any, reply: Any
) -> None:
    place = TRACE.index("<score>") + len("<score>")
    signs = [{"token": sign, "top_logprobs": [{"token": sign, "logprob": 0.0}]} for sign in TRACE]

    def answer(body: dict[str, Any], number: int) -> Any:
        """One score for all, and another sureness of its first digit for each edit."""
        completion = server.completion(TRACE)
        sure = 0.6 + 0.1 * (number % 3)
        first = [{"token": "6", "logprob": math.log(sure)}, {"token": "2", "logprob": math.log(1 - sure)}]
        content = [*signs[:place], {"token": "6", "top_logprobs": first}, *signs[place + 1 :]]
        completion["choices"][0]["logprobs"] = {"content": content}
        return reply(completion)

    server = fake_openai(answer)
    where = ("--endpoint", server.url, "--model", "judge", "--variant", "compact", "--principles", principles_file)
    asked = ("rank", picture, picture, picture, picture, "-i", "x", *where)
    code, out, err = run(capsys, *asked, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["ties"] == {"contexts": 1, "pairs": 3, "tie_rate": 1.0, "tie_rate_expected": 0.0}
    _, out, _ = run(capsys, *asked)
    assert "ties: 100.0% of 3 pairs, 0.0% with the expected score\n" in out
    server.answer = lambda body, number: TRACE
    _, out, _ = run(capsys, *asked)
    assert "ties: 100.0% of 3 pairs\n" in out


def test_a_hosted_reasoning_model_is_asked_as_it_wants(
    capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any, reply: Any
) -> None:
    """Such models refuse max_tokens and any temperature; each refusal says which flag it takes."""

    def answer(body: dict[str, Any], number: int) -> Any:
        if "max_tokens" in body:
            told = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return reply({"error": {"message": told}}, 400)
        if "temperature" in body:
            return reply({"error": {"message": "Unsupported value: 'temperature' does not support 0.0."}}, 400)
        return TRACE

    server = fake_openai(answer)
    asked = ("score", picture, picture, "-i", "x", "--endpoint", server.url, "--model", "judge", "--variant", "compact",
             "--principles", principles_file)  # fmt: skip
    assert "--limit-key max_completion_tokens" in fails(capsys, *asked)
    asked += ("--limit-key", "max_completion_tokens")
    assert "--server-sampling" in fails(capsys, *asked)
    asked += ("--server-sampling", "--max-new-tokens", "9000", "--traces", "2")
    code, out, err = run(capsys, *asked, "--json")
    assert (code, err, json.loads(out)["score"]) == (0, "", 6.5)
    sent = server.bodies[-1]
    assert sent.keys() == {"model", "messages", "max_completion_tokens"} and sent["max_completion_tokens"] == 9000
    assert sum("temperature" not in body for body in server.bodies) == 2  # a request for each trace
    assert "at least one" in fails(capsys, *asked, "--max-new-tokens", "0")


def test_an_answer_without_room_says_which_flag_gives_it(
    capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any, reply: Any
) -> None:
    server = fake_openai(lambda body, number: reply(server.completion("", "length", reasoning_content="Well,")))
    asked = ("score", picture, picture, "-i", "x", "--endpoint", server.url, "--model", "judge")
    code, _, err = run(capsys, *asked, "--principles", principles_file)
    assert code == 3 and "cut at the token limit: raise --max-new-tokens" in err
    code, _, err = run(capsys, *asked)
    assert code == 3 and "cut at the token limit: raise --max-new-tokens" in err


def test_a_question_written_twice_is_told(capsys: Capture, picture: Path, fake_openai: Any) -> None:
    rules = json.dumps([{"question": one, "category": CATEGORIES[0]} for one in ("Is it blue?", "is it  BLUE")])
    server = fake_openai(lambda body, number: TRACE if "Is it blue?" in json.dumps(body["messages"]) else rules)
    where = ("--endpoint", server.url, "--model", "judge", "--variant", "compact")
    code, out, err = run(capsys, "principles", picture, "-i", "x", *where)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        " 1. Is it blue?  (Instruction Following)", "1 question left out: the model wrote it twice"
    ]  # fmt: skip
    for command in (("principles", picture), ("score", picture, picture), ("rank", picture, picture)):
        code, out, err = run(capsys, *command, "-i", "x", *where, "--json")
        assert (code, err, json.loads(out)["repeated"]) == (0, "", 1), out
    _, out, _ = run(capsys, "score", picture, picture, "-i", "x", *where)
    assert "1 question left out: the model wrote it twice" in out


def test_attention_is_for_models_of_this_machine(
    capsys: Capture, picture: Path, checkpoint: Path, principles_file: Path
) -> None:
    asked = ("score", picture, picture, "-i", "x", "--principles", principles_file)
    local = (*asked, "--model", checkpoint)
    assert run(capsys, *local, "--attention", "eager", "--json")[0] == 3  # it runs; this model writes no trace
    assert "invalid choice" in run(capsys, *local, "--attention", "flash")[2]
    assert "on a GPU" in fails(capsys, *local, "--attention", "flash_attention_2")
    served = (*asked, "--endpoint", "http://127.0.0.1:1/v1", "--model", "judge")
    assert "local model" in fails(capsys, *served, "--attention", "sdpa")
    vllm = (*local, "--backend", "vllm", "--device", "cuda")
    assert "vLLM chooses" in fails(capsys, *vllm, "--attention", "sdpa")


@pytest.mark.parametrize(
    ("words", "missing", "extra"),
    [
        (("score", "PICTURE", "PICTURE", "-i", "x", "--model", "MODEL"), "transformers", "local"),
        (("score", "PICTURE", "PICTURE", "-i", "x", "--model", "MODEL"), "torch", "local"),
        (("serve", "--port", "0"), "uvicorn", "serve"),
    ],
)
def test_a_light_installation_says_what_to_install(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    picture: Path,
    checkpoint: Path,
    words: Any,
    missing: str,
    extra: str,
) -> None:
    places = {"PICTURE": picture, "MODEL": checkpoint}
    for name in [name for name in sys.modules if name.startswith(("edit_r1.vlm.transformers", "edit_r1.serve.run"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(missing), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    said = fails(capsys, *(places.get(word, word) for word in words))
    assert f"pip install 'edit-r1[{extra}]'" in said and missing in said


class Without:
    """A finder that finds no module of this name, as in an installation without it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_gate_for_ci(capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any) -> None:
    server = fake_openai(lambda body, number: TRACE)
    asked = ("score", picture, picture, "-i", "x", "--principles", principles_file, "--json")
    where = ("--endpoint", server.url, "--model", "judge", "--variant", "compact")
    assert run(capsys, *asked, *where, "--fail-under", "6.5")[0] == 0
    code, out, err = run(capsys, *asked, *where, "--fail-under", "6.6")
    assert (code, json.loads(out)["score"]) == (4, 6.5)
    assert err == "edit-r1: score 6.50 is below --fail-under 6.6\n"
    assert "0 to 10" in fails(capsys, *asked, *where, "--fail-under", "11")
    server.answer = lambda body, number: "I like it."
    code, out, _ = run(capsys, *asked, *where, "--fail-under", "0")
    assert (code, json.loads(out)["score"]) == (3, None)  # what could not be judged never passes


def test_an_endpoint_that_does_not_answer_is_one_line(
    capsys: Capture, picture: Path, principles_file: Path, fake_openai: Any, reply: Any
) -> None:
    server = fake_openai(lambda body, number: reply({"error": {"message": "no model called judge"}}, 404))
    where = ("--endpoint", server.url, "--model", "judge")
    given = ("--principles", principles_file)
    assert "no model called judge" in fails(capsys, "score", picture, picture, "-i", "x", *given, *where, "--json")
    assert "no model called judge" in fails(capsys, "rank", picture, picture, "-i", "x", *given, *where)
    assert "no model called judge" in fails(capsys, "principles", picture, "-i", "x", *where, "--json")
    assert "no model called judge" in fails(capsys, "score", picture, picture, "-i", "x", *where, "--json")
    gone = ("--endpoint", "http://127.0.0.1:1/v1", "--model", "judge")
    assert "cannot be reached" in fails(capsys, "score", picture, picture, "-i", "x", *given, *gone, "--json")


def test_another_model_writes_the_principles(capsys: Capture, picture: Path, fake_openai: Any) -> None:
    rules = json.dumps([{"question": "Is the cup blue?", "category": CATEGORIES[0]}])
    writer = fake_openai(lambda body, number: rules)
    judge = fake_openai(lambda body, number: TRACE)
    by = ("--principles-endpoint", writer.url, "--principles-model", "writer")
    asked = ("score", picture, picture, "-i", "x", "--endpoint", judge.url, "--model", "judge", "--variant", "compact")
    code, out, err = run(capsys, *asked, *by, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["principles"][0]["question"] == "Is the cup blue?"
    code, out, err = run(capsys, "principles", picture, "-i", "x", *by, "--json")
    assert (code, json.loads(out)["model"]) == (0, "writer")
    assert (len(writer.bodies), len(judge.bodies)) == (2, 1)
    assert {body["model"] for body in writer.bodies} == {"writer"}


def test_what_another_model_wrote_is_kept_under_that_model(
    capsys: Capture, picture: Path, fake_openai: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers of one name behind two addresses are two, and all commands share what one of them wrote."""
    monkeypatch.setenv("EDIT_R1_CACHE", str(tmp_path))
    judge = fake_openai(lambda body, number: TRACE)
    where = ("--endpoint", judge.url, "--model", "judge", "--variant", "compact")
    asked = []
    for question in ("Is the cup blue?", "Is the cup still there?"):
        rules = json.dumps([{"question": question, "category": CATEGORIES[0]}])
        writer = fake_openai(lambda body, number, rules=rules: rules)
        by = ("--principles-endpoint", writer.url, "--principles-model", "final")
        _, out, _ = run(capsys, "score", picture, picture, "-i", "x", *where, *by, "--json")
        assert json.loads(out)["principles"][0]["question"] == question
        _, out, _ = run(capsys, "principles", picture, "-i", "x", *by, "--json")
        assert json.loads(out)["principles"][0]["question"] == question and json.loads(out)["cached"]
        asked.append(len(writer.bodies))
    assert asked == [1, 1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--endpoint", "http://127.0.0.1:1"), "--model NAME"),
        (("--endpoint", "nowhere", "--model", "m"), "http://127.0.0.1:8000/v1"),
        (("--endpoint", "http://127.0.0.1:1", "--model", "m", "--adapter", "a"), "--adapter"),
        (("--adapter", "a"), "--model PATH"),
        (("--principles-endpoint", "http://127.0.0.1:1"), "--principles-model NAME"),
        (("--endpoint", "http://127.0.0.1:1", "--model", "m", "--price-in", "1"), "--price-out"),
        (("--model", "a/model", "--server-sampling"), "--server-sampling is for a served model: add --endpoint"),
        (("--model", "a", "--backend", "vllm", "--device", "cuda:1"), "say which by CUDA_VISIBLE_DEVICES"),
        (("--model", "a", "--backend", "vllm", "--device", "cuda", "--principles-model", "b"), "--principles-device"),
        (("--model", "a/model", "--principles-device", "cuda:1"), "add --principles-model PATH"),
        (("--limit-key", "max_completion_tokens"), "--limit-key max_completion_tokens is for a served model"),
    ],
)
def test_flags_that_contradict_each_other(capsys: Capture, picture: Path, flags: tuple[str, ...], said: str) -> None:
    assert said in fails(capsys, "score", picture, picture, "-i", "x", *flags)


def test_score_many_by_an_endpoint(capsys: Capture, picture: Path, tmp_path: Path, fake_openai: Any) -> None:
    server = fake_openai(lambda body, number: TRACE)
    rules = [{"question": "Is the cup blue?", "category": CATEGORIES[0]}]
    row = {"source": picture.name, "edited": picture.name, "instruction": "x", "principles": rules}
    (tmp_path / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "edits.jsonl").write_text("\n".join([json.dumps(row)] * 3 + ["{}"]))
    where = ("--endpoint", server.url, "--model", "judge", "--variant", "compact")
    prices = ("--price-in", "1000000", "--price-out", "0")
    asked = ("score-many", tmp_path, "--out", tmp_path / "out.jsonl", *where, *prices)
    code, out, err = run(capsys, *asked)
    assert (code, err) == (0, "")
    assert out.startswith("4 edits: 3 scored, 1 failed (1 row); 40 tokens in, 16 out; cost 40.0000; ")
    code, out, err = run(capsys, *asked, "--json")
    summary = json.loads(out)
    assert (code, summary["scored"], summary["judged"], summary["usage"]["requests"]) == (0, 3, 0, 4)
    assert len(server.bodies) == 4  # a check and three edits; the second call had nothing left to do
    assert "seed: 0 then, 1 now" in fails(capsys, *asked, "--seed", "1")
    server.answer = lambda body, number: "I like it."
    code, out, err = run(
        capsys, "score-many", tmp_path / "edits.jsonl", "--out", tmp_path / "o.parquet", *where, "--json"
    )
    assert (code, json.loads(out)["unparsed"]) == (3, 3)
    assert err.startswith("edit-r1: no trace could be parsed: ") and err.count("\n") == 1


def test_score_many_without_a_model_knows_editworld_only(capsys: Capture, picture: Path, tmp_path: Path) -> None:
    row = {"source": str(picture), "edited": str(picture), "instruction": "Make the cup blue"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(row))
    asked = ("score-many", tmp_path / "edits.jsonl", "--out", tmp_path / "out.jsonl")
    assert "outside the data's folder" in fails(capsys, *asked)
    asked = ("score-many", tmp_path / "edits.jsonl", "--out", tmp_path / "out2.jsonl", "--allow-outside")
    assert "EditWorld" in fails(capsys, *asked)
    assert json.loads((tmp_path / "out2.jsonl").read_text())["score"] is None


def test_evaluate_reward_needs_a_model(capsys: Capture, tmp_path: Path) -> None:
    assert "--endpoint URL" in fails(capsys, "evaluate", "reward", "--data", tmp_path, code=2)


# --- recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def mine(:", "SyntaxError"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("def mine():\n    return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def mine(size):\n    return size", "size"),
        ("def yours():\n    return 1", "no function 'mine'"),
        ("def mine():\n    return 7", "returns int"),
    ],
)
def test_a_recipe_that_fails_is_one_line(capsys: Capture, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.py").write_text(text)
    err = fails(capsys, "curate", "run", f"{tmp_path / 'recipe.py'}:mine", "--out", tmp_path / "out")
    assert said in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_names_the_known_ones(capsys: Capture, tmp_path: Path) -> None:
    for name in ("cook", "tiny", f"{tmp_path}/missing.py:mine"):
        assert "tiny_cold_start" in fails(capsys, "curate", "run", name, "--out", tmp_path / "out")


def test_a_recipe_of_another_kind_is_refused(capsys: Capture, tmp_path: Path) -> None:
    assert "returns SFTRecipe" in fails(capsys, "curate", "run", "tiny_sft", "--out", tmp_path / "out")


def test_a_device_without_memory_left_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import OutOfMemoryError

    def fails(arguments: list[str]) -> int:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nProcess 7 has more.")

    monkeypatch.setattr("edit_r1.cli._dispatch", fails)
    with pytest.raises(SystemExit) as ended:
        main(["train", "editor", "kontext_lora_80gb"])
    told = capsys.readouterr()
    assert ended.value.code == 1 and told.out == "" and told.err.count("\n") == 1
    assert "Tried to allocate 2.00 GiB" in told.err
    assert "--train-batch" in told.err and "--micro-batch" in told.err


@pytest.mark.parametrize(
    ("words", "told"), [(["train", "sft", "x"], "with --resume continues"), (["curate"], "continues")]
)
def test_ctrl_c_tells_how_to_go_on(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("edit_r1.cli._dispatch", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    assert f"the same command {told}" in capsys.readouterr().err

"""`evaluate reward` on files in the official layouts, with judges on a real HTTP connection; nothing is paid twice."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edit_r1.cli import main

Capture = pytest.CaptureFixture[str]

_layouts = Path(__file__).parents[1] / "evaluate" / "benchmarks" / "conftest.py"
_spec = importlib.util.spec_from_file_location("layouts", _layouts)
assert _spec is not None and _spec.loader is not None
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def run(capsys: Capture, *arguments: object, code: int = 0) -> tuple[Any, str]:
    """The JSON document (None for an empty stdout) and stderr of `evaluate reward`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "reward", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert ended.value.code == code, err
    return (json.loads(out) if out else None), err


@pytest.fixture
def where(fake_openai: Any, tmp_path: Path) -> tuple[Any, tuple[object, ...]]:
    """The server that judges by brightness, and the flags that name it."""
    server = fake_openai(made.by_brightness)
    return server, ("--endpoint", server.url, "--model", "judge", "--cache", tmp_path / "cache")


def test_vs(capsys: Capture, where: Any, tmp_path: Path) -> None:
    server, flags = where
    (tmp_path / "hub" / "data").mkdir(parents=True)
    made.vs_table().to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    asked = ("--benchmark", "vs", "--data", tmp_path / "hub", *flags)
    document, err = run(capsys, *asked)
    assert err == ""
    assert document["benchmark"] == "vs" and document["dimension"] == "overall"
    assert document["official"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert document["official_tasks"] == {"subject-add": pytest.approx(1 / 3), "compose": 1, "extract": 0}
    assert (document["pairs"], document["unparsed"]) == (5, 1)
    assert document["half_credit"] == pytest.approx(2.5 / 5)
    assert document["tie_rate"] == pytest.approx(1 / 5)
    assert document["ci95"][0] <= document["half_credit"] <= document["ci95"][1]
    assert document["official_ci95"][0] <= document["official"] <= document["official_ci95"][1]
    assert document["groups"] == {"object": pytest.approx(1 / 3), "scene": 0, "advanced": 1}
    assert document["dimensions"]["prompt_following"]["official"] == 0
    assert document["dimensions"]["consistency"]["official"] == 1
    assert (document["order_consistency"], document["trace_consistency"]) == (1, None)
    assert document["dataset"]["revision"] is None and re.fullmatch("[0-9a-f]{64}", document["dataset"]["hash"])
    assert sum(one["pairs"] for one in document["calibration"]["bins"]) == 3
    assert (document["edits"], document["cached"], document["failed"]) == (14 - 1, 0, 0)  # a tie of one picture
    # Nothing is asked again, a check of the server included; and dimensions may be judged by their own parts.
    calls = len(server.bodies)
    again, _ = run(capsys, *asked)
    assert len(server.bodies) == calls
    assert again["cached"] == 13
    for name in ("official", "half_credit", "official_ci95", "calibration", "unparsed"):
        assert again[name] == document[name]
    parts, _ = run(capsys, *asked, "--by", "dimension")
    assert parts["official"] == document["official"]
    assert parts["dimensions"]["consistency"]["official"] == 0  # both edits keep the rest: a tie of verdicts
    only, _ = run(capsys, *asked, "--dimension", "prompt_following")
    assert (only["dimension"], only["pairs"], only["official"]) == ("prompt_following", 1, 0)
    assert len(server.bodies) == calls


def test_tiger(capsys: Capture, where: Any, tmp_path: Path) -> None:
    _, flags = where
    made.write_tiger(tmp_path / "hub")
    document, err = run(capsys, "--benchmark", "tiger", "--data", tmp_path / "hub", *flags)
    assert err == ""
    # By brightness: "A>B" right, "B>A" wrong, a tie right, a tie of levels 150 and 152 right by the tuned threshold.
    assert document["untuned"] == pytest.approx((2 + 1 + 1) / 7)
    assert document["official"] == document["official_script"] == pytest.approx((3 + 1 + 1) / 7)
    assert document["script_threshold"] == pytest.approx(2 / 25.5, abs=1e-3)
    assert {name: own["groups"] for name, own in document["by_size"].items()} == {"K=2": 4, "K=3": 2, "K=4": 1}
    assert (document["pairs"], document["preferences"], document["groups"]) == (16, 14, 7)
    assert document["half_credit"] == pytest.approx((1 + 0 + 3 + 2 + 6) / 14)
    assert document["untuned_ci95"][0] <= document["untuned"] <= document["untuned_ci95"][1]
    run(capsys, "--benchmark", "tiger", "--data", tmp_path / "hub", *flags, "--out", tmp_path / "a.json")
    both = ("--compare", tmp_path / "a.json", tmp_path / "a.json")
    found, _ = run(capsys, *both)
    assert found["difference"]["untuned"] == {"mean": 0, "ci95": [0, 0]}
    for flags_of in (("--benchmark", "tiger", "--data", tmp_path / "hub", *flags), both):
        with pytest.raises(SystemExit):
            main(["evaluate", "reward", *map(str, flags_of)])
    shown = capsys.readouterr().out
    assert "tuned threshold: 0.07" in shown and "A minus B, untuned" in shown


def test_compass_and_the_result_files_of_compare(capsys: Capture, where: Any, fake_openai: Any, tmp_path: Path) -> None:
    _, flags = where
    folder = made.write_compass(tmp_path / "hub")
    asked = ("--benchmark", "compass", "--data", folder)
    document, _ = run(capsys, *asked, *flags, "--out", tmp_path / "a.json")
    assert document["official"] == pytest.approx(3 / 6)
    assert document["official_tasks"] == {"IA": pytest.approx(2 / 3), "VC": 0, "VQ": 1}
    assert (document["pairs"], document["preferences"]) == (6, 4)
    assert document["half_credit"] == pytest.approx(2.5 / 4)

    def darker(body: dict[str, Any], number: int) -> str:
        return re.sub(
            r"<score>([0-9.]+)", lambda found: f"<score>{10 - float(found[1]):.4f}", made.by_brightness(body, number)
        )

    other = ("--endpoint", fake_openai(darker).url, "--model", "other", "--cache", tmp_path / "cache")
    reverse, _ = run(capsys, *asked, *other, "--out", tmp_path / "b.json")
    assert reverse["official"] == pytest.approx(2 / 6)  # the wrong preference, the tie
    found, _ = run(capsys, "--benchmark", "compass", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert found["difference"]["official"]["mean"] == pytest.approx(1 / 6)
    assert found["difference"]["half_credit"]["mean"] == pytest.approx(1 / 4)
    low, high = found["difference"]["official"]["ci95"]
    assert low <= 1 / 6 <= high
    assert (found["a"]["official"], found["b"]["official"]) == (pytest.approx(3 / 6), pytest.approx(2 / 6))
    same, _ = run(capsys, "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert same["difference"]["official"] == {"mean": 0, "ci95": [0, 0]}
    # A side may also be a model, judged now: here by the cache alone.
    mixed, _ = run(capsys, *asked, *flags, "--compare", tmp_path / "b.json", "judge")
    assert mixed["difference"]["official"]["mean"] == pytest.approx(-1 / 6)
    capsys.readouterr()
    for flags_of in ((), ("--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "reward", *map(str, asked), *map(str, flags), *flags_of])
        assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "official number" in shown and "A minus B, official number" in shown


def test_results_on_other_rows_are_not_compared(capsys: Capture, where: Any, tmp_path: Path) -> None:
    _, flags = where
    for name, rows in (("a", made.COMPASS_ROWS), ("b", made.COMPASS_ROWS[:-1])):
        folder = made.write_compass(tmp_path / name, rows)
        run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--out", tmp_path / f"{name}.json")
    sides = ("--compare", tmp_path / "a.json", tmp_path / "b.json")
    _, err = run(capsys, "--benchmark", "compass", *sides, code=1)
    assert "needs the same rows" in err
    (tmp_path / "c.json").write_text('{"rows": [{}]}')
    _, err = run(capsys, "--benchmark", "compass", "--compare", tmp_path / "c.json", tmp_path / "a.json", code=1)
    assert "not a result of `evaluate reward --out`" in err
    _, err = run(capsys, "--benchmark", "compass", "--compare", tmp_path / "a.json", "model", code=1)
    assert "needs --data" in err


def test_the_first_place_of_the_winner_tells_nothing(capsys: Capture, where: Any, tmp_path: Path) -> None:
    """Turned round, the same edits get the same scores and nobody is asked again."""
    server, flags = where
    folder = made.write_compass(tmp_path / "hub")
    document, _ = run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--out", tmp_path / "a.json")
    asked = [json.dumps(body, sort_keys=True) for body in server.bodies]
    rows = json.loads((folder / "EditReward-Compass.json").read_text())
    for row in rows:
        row["winner"], row["loser"] = row["loser"], row["winner"]
    (folder / "EditReward-Compass.json").write_text(json.dumps(rows))
    turned, _ = run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--out", tmp_path / "b.json")
    assert len(server.bodies) == len(asked)
    first = [(row["first"], row["second"]) for row in json.loads((tmp_path / "a.json").read_text())["rows"]]
    second = [(row["second"], row["first"]) for row in json.loads((tmp_path / "b.json").read_text())["rows"]]
    assert first == second
    assert turned["dataset"]["hash"] != document["dataset"]["hash"]
    # Without a cache the questions are the same ones in the same order, whoever stands first.
    server.bodies.clear()
    run(capsys, "--benchmark", "compass", "--data", folder, *flags[:4], "--cache", tmp_path / "new", "--concurrency", 1)
    assert sorted(json.dumps(body, sort_keys=True) for body in server.bodies) == sorted(asked)


def test_holistic_is_another_judge_with_the_same_harness(capsys: Capture, fake_openai: Any, tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> str:
        pictures = made.images_of(body)
        level = made.level_of(pictures[-1]) if pictures else 0
        if level == 220:
            return "It is nice."
        return json.dumps({"reasoning": "seen", "score": [level / 25.5, 9] if len(pictures) == 2 else [10, 9.0]})

    server = fake_openai(answer)
    folder = made.write_compass(tmp_path / "hub")
    flags = ("--endpoint", server.url, "--model", "judge", "--cache", tmp_path / "cache", "--judge", "holistic")
    document, _ = run(capsys, "--benchmark", "compass", "--data", folder, *flags)
    assert document["judge"]["kind"] == "holistic"
    assert document["official"] == pytest.approx(2 / 6)
    assert (document["unparsed"], document["reasons"]) == (1, {"consistency: no scores in the answer": 1})
    # 7 different edits of 11 have a picture of their own; two questions each, and one to see that the server is there.
    assert len(server.bodies) == 2 * document["edits"] + 1
    parts, _ = run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--by", "dimension")
    assert parts["official_tasks"]["VQ"] == 0  # PQ is 9 for both, where both parsed


def test_a_killed_run_pays_for_nothing_twice(
    capsys: Capture, fake_openai: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edit_r1.evaluate.judging.CHUNK", 2)
    asked: list[str] = []
    broken = True

    def answer(body: dict[str, Any], number: int) -> Any:
        pictures = made.images_of(body)
        if broken and len(asked) >= 5:
            return reply({"error": {"message": "out of memory"}}, 400)
        if len(pictures) == 2:
            asked.append(json.dumps(body, sort_keys=True))
        return made.by_brightness(body, number)

    server = fake_openai(answer)
    folder = made.write_compass(tmp_path / "hub")
    flags = ("--endpoint", server.url, "--model", "judge", "--cache", tmp_path / "cache", "--concurrency", 1)
    command = ("--benchmark", "compass", "--data", folder, *flags)
    _, err = run(capsys, *command, code=1)
    assert "out of memory" in err and err.count("\n") == 1
    kept = next((tmp_path / "cache").glob("*.jsonl"))
    kept.write_bytes(kept.read_bytes() + b'{"key": "torn')
    broken = False
    document, _ = run(capsys, *command)
    assert document["official"] == pytest.approx(3 / 6) and document["failed"] == 0
    assert document["cached"] == 5  # also those of the chunk in which the server went away
    again, _ = run(capsys, *command)
    assert again["cached"] == document["edits"] == len({*asked})
    assert again["official"] == document["official"]


def test_an_edit_without_an_answer_is_counted_and_asked_again(
    capsys: Capture, fake_openai: Any, reply: Any, tmp_path: Path
) -> None:
    refuse = True

    def answer(body: dict[str, Any], number: int) -> Any:
        pictures = made.images_of(body)
        if refuse and len(pictures) == 2 and made.level_of(pictures[-1]) == 220:
            return reply({"error": {"message": "content filter"}}, 400)
        return made.by_brightness(body, number)

    server = fake_openai(answer)
    folder = made.write_compass(tmp_path / "hub")
    flags = ("--endpoint", server.url, "--model", "judge", "--cache", tmp_path / "cache")
    document, err = run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--out", tmp_path / "a.json")
    assert (document["failed"], document["unparsed"]) == (1, 1)
    assert document["official"] == pytest.approx(2 / 6)
    assert "content filter" in err and err.count("\n") == 1
    found, err = run(capsys, "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert found["a"]["failed"] == 1 and err.count("a.json: 1 edits have no whole answer") == 2
    refuse = False
    document, err = run(capsys, "--benchmark", "compass", "--data", folder, *flags)
    assert (document["failed"], document["unparsed"], err) == (0, 0, "")


def test_no_answer_and_no_parsed_answer(capsys: Capture, fake_openai: Any, tmp_path: Path) -> None:
    folder = made.write_compass(tmp_path / "hub")
    server = fake_openai(lambda body, number: made.PRINCIPLES if len(made.images_of(body)) == 1 else "I like it.")
    flags = ("--endpoint", server.url, "--model", "judge", "--cache", tmp_path / "cache")
    document, err = run(capsys, "--benchmark", "compass", "--data", folder, *flags, code=3)
    assert (document["official"], document["unparsed"], document["pairs"]) == (0, 6, 6)
    assert err == "edit-r1: no trace could be parsed: no <score> tag\n"
    gone = ("--endpoint", "http://127.0.0.1:1/v1", "--model", "judge")
    document, err = run(capsys, "--benchmark", "compass", "--data", folder, *gone, code=1)
    assert document is None and "cannot be reached" in err


def test_several_traces_tell_how_steady_the_order_is(capsys: Capture, fake_openai: Any, tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> str:
        steady = made.by_brightness(body, number)
        return steady if body.get("seed", 0) % 2 else re.sub(r"<score>[0-9.]+", "<score>5", steady)

    folder = made.write_compass(tmp_path / "hub")
    flags = ("--endpoint", fake_openai(answer).url, "--model", "judge", "--cache", tmp_path / "cache")
    document, _ = run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--traces", 4)
    assert 0 < document["trace_consistency"] < 1


def test_a_damaged_picture_ends_the_run_and_keeps_what_was_judged(
    capsys: Capture, where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edit_r1.evaluate.judging.CHUNK", 2)
    _, flags = where
    folder = made.write_compass(tmp_path / "hub")
    path = folder / "images" / "3_winner.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    asked = ("--benchmark", "compass", "--data", folder, *flags)
    _, err = run(capsys, *asked, code=1)
    assert "edited image: damaged image" in err and err.count("\n") == 1
    path.write_bytes(whole)
    document, _ = run(capsys, *asked)
    assert document["cached"] == 4


def test_edits_of_vs_are_judged_at_the_sources_size(capsys: Capture, where: Any, tmp_path: Path) -> None:
    server, flags = where
    made.vs_table(made.VS_ROWS[:1], side=24, height=8).save_to_disk(tmp_path / "saved")
    run(capsys, "--benchmark", "vs", "--data", tmp_path / "saved", *flags)
    shown = [made.images_of(body) for body in server.bodies]
    assert {made.decode_rgb(data).shape for pictures in shown for data in pictures} == {(24, 24, 3)}


def test_wrong_usage(capsys: Capture, tmp_path: Path) -> None:
    folder = made.write_compass(tmp_path / "hub")
    asked = ("--benchmark", "compass", "--data", folder)
    _, err = run(capsys, *asked, code=2)
    assert "--endpoint URL" in err
    flags = ("--endpoint", "http://127.0.0.1:1", "--model", "judge")
    _, err = run(capsys, "--benchmark", "compass", *flags, code=2)
    assert "--data FOLDER" in err
    for more, said in [
        (("--traces", 0), "--traces 0"),
        (("--out", tmp_path / "x.txt"), "end its name in .json"),
        (("--data", tmp_path / "none"), "no such file or folder"),
        (("--cache", folder / "EditReward-Compass.json"), "cannot hold the judgments"),
    ]:
        _, err = run(capsys, *asked, *flags, *more, code=1)
        assert said in err, (more, err)


def test_a_result_with_what_is_no_score_is_refused(capsys: Capture, where: Any, tmp_path: Path) -> None:
    _, flags = where
    folder = made.write_compass(tmp_path / "hub")
    run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--out", tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    sides = ("--benchmark", "compass", "--compare", tmp_path / "b.json", tmp_path / "a.json")
    for name, value in (("score", "high"), ("score", 11), ("score", float("nan")), ("traces", 3), ("categories", [])):
        broken = json.loads(json.dumps(document))
        broken["rows"][2]["first"][name] = value
        (tmp_path / "b.json").write_text(json.dumps(broken))
        _, err = run(capsys, *sides, code=1)
        assert "b.json: not a result of `evaluate reward --out`" in err and err.count("\n") == 1, (name, value)
    for name, value in (("source", ["x"]), ("names", ["A"]), ("edits", "xy"), ("candidates", None), ("label", [])):
        broken = json.loads(json.dumps(document))
        broken["rows"][2][name] = value
        (tmp_path / "b.json").write_text(json.dumps(broken))
        _, err = run(capsys, *sides, code=1)
        assert "b.json: not a result of `evaluate reward --out`" in err and err.count("\n") == 1, (name, value)


def test_a_dimension_that_nothing_has_is_told_with_those_there(capsys: Capture, where: Any, tmp_path: Path) -> None:
    server, flags = where
    asked = ("--benchmark", "compass", "--data", made.write_compass(tmp_path / "hub"), *flags)
    _, err = run(capsys, *asked, "--dimension", "VX", code=1)
    assert "no comparison of dimension 'VX': the data has IA, VC, VQ" in err and not server.bodies
    run(capsys, *asked, "--out", tmp_path / "a.json")
    both = ("--compare", tmp_path / "a.json", tmp_path / "a.json")
    _, err = run(capsys, *both, "--dimension", "VX", code=1)
    assert "the data has IA, VC, VQ" in err
    found, _ = run(capsys, *both, "--dimension", "VC")
    assert found["pairs"] == 2


def test_a_result_that_cannot_be_written_is_told_before_anything_is_asked(
    capsys: Capture, where: Any, tmp_path: Path
) -> None:
    server, flags = where
    (tmp_path / "a.json").mkdir()
    folder = made.write_compass(tmp_path / "hub")
    _, err = run(capsys, "--benchmark", "compass", "--data", folder, *flags, "--out", tmp_path / "a.json", code=1)
    assert "a.json: cannot be written" in err and not server.bodies


def test_parts_that_no_judgment_has_are_told(capsys: Capture, fake_openai: Any, tmp_path: Path) -> None:
    """A judge without verdicts has nothing to compare by dimension; its answers were parsed all the same."""

    def answer(body: dict[str, Any], number: int) -> str:
        pictures = made.images_of(body)
        return made.PRINCIPLES if len(pictures) == 1 else "Seen.\n<score>5</score>"

    folder = made.write_compass(tmp_path / "hub")
    flags = (
        "--endpoint",
        fake_openai(answer).url,
        "--model",
        "judge",
        "--cache",
        tmp_path / "cache",
        "--mode",
        "think",
    )
    asked = ("--benchmark", "compass", "--data", folder, *flags)
    document, err = run(capsys, *asked, "--by", "dimension", code=3)
    assert document["reasons"] == {} and document["unparsed"] == 6
    assert "no judgment has a verdict" in err and "leave --by dimension out" in err
    document, _ = run(capsys, *asked)
    assert document["unparsed"] == 0
    (tmp_path / "head").mkdir()
    (tmp_path / "head/reward_head.json").write_text("{}")
    _, err = run(
        capsys, "--data", folder, "--benchmark", "compass", "--model", tmp_path / "head", "--by", "dimension", code=1
    )
    assert "one number and no parts" in err

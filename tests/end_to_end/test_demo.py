"""The whole loop at size micro: it closes, it continues after a kill, and it ends with the same data."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.cli import main
from edit_r1.demo import data, draw_report, loop, run_demo
from edit_r1.store import locked


def test_metrics_have_the_contract_s_form(finished: Path) -> None:
    metrics: dict[str, Any] = json.loads((finished / "metrics.json").read_text())
    for name in ("base", "sft", "gcpo"):
        row = metrics["verifier"][name]
        assert {"accuracy", "half_credit", "tie_rate", "ci95", "pairs", "unparsed", "tpr", "tnr"} <= set(row)
        assert row["pairs"] > 0
    assert set(metrics["verifier"]["gcpo_minus_sft"]) == {"delta", "ci95"}
    for name in ("before", "after"):
        assert {"oracle", "ci95", "contexts"} <= set(metrics["editor"][name])
    assert set(metrics["editor"]["delta"]) == {"mean", "ci95"}
    assert -1 <= metrics["editor"]["gsb"] <= 1
    assert all(seconds > 0 for seconds in metrics["seconds"].values())


def test_the_report_is_one_file_that_fetches_nothing(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.count("data:image/png;base64,") > 10
    for attribute in ('src="http', 'href="http', "url(http", "@import", "<script"):
        assert attribute not in page
    assert "nan" not in page.split("<footer>")[1].lower()


def test_the_report_can_be_drawn_again(finished: Path) -> None:
    before = (finished / "report.html").read_text()
    assert draw_report(finished).read_text() == before


def test_a_run_of_an_older_version_is_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "older"
    out.mkdir()
    metrics = json.loads((finished / "metrics.json").read_text())
    del metrics["editor"]["good_same_bad"]
    (out / "metrics.json").write_text(json.dumps(metrics))
    shutil.copy(finished / "run.json", out)
    with pytest.raises(SystemExit) as end:
        main(["report", str(out)])
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.count("\n") == 1
    assert (
        f"has no editor.good_same_bad, so an older version made it: `edit-r1 demo --seed 0 --size micro --out {out}`"
        in error
    )


def test_another_seed_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", "--size", "micro", "--seed", "1", "--out", str(finished)])
    assert end.value.code == 1
    assert "other settings" in capsys.readouterr().err


def test_another_recipe_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after an update of the package: numbers of an old recipe are never told as the new one's."""
    run = json.loads((finished / "run.json").read_text())
    sizes = replace(loop.SIZES["micro"], sft_steps=4)
    with pytest.raises(ValueError, match=r"another recipe \(sft.steps, sizes.sft_steps\): choose another --out"):
        loop.Stages(finished, run["key"], loop.recipe_of(sizes, 0))
    assert json.loads((finished / "run.json").read_text()) == run


def test_two_demos_in_one_folder_are_refused(finished: Path) -> None:
    with locked(finished / ".lock", "held"), pytest.raises(ValueError, match="another demo is at work in this folder"):
        run_demo(finished, 0, "micro")


def test_a_seed_below_0_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed=-1: must be 0 or more"):
        run_demo(tmp_path / "run", -1, "micro")
    assert not (tmp_path / "run").exists()


def test_controls_stay_when_the_demo_is_run_without_them(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "controls"
    shutil.copytree(finished, out)
    metrics = run_demo(out, 0, "micro", controls=True)
    assert {"gcpo_minus_control", "sft_continued"} <= set(metrics["verifier"])
    assert {"sft_reward", "best_of_g", "after_minus_sft_reward", "after_minus_best_of_g"} <= set(metrics["editor"])
    assert all("within_group" in metrics["verifier"][name] for name in ("sft", "gcpo", "sft_continued"))
    assert "fine-tuned on the best of G" in capsys.readouterr().out
    again = run_demo(out, 0, "micro")
    assert again == metrics
    assert "edit-r1 demo --seed 0 --size micro --controls" in (out / "report.html").read_text()


def test_a_killed_demo_continues_and_ends_with_the_same_data(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed inside the curation, then inside GCPO's stage; what was finished is not done again."""
    out = tmp_path / "killed"
    curate = data.curate

    def killed_curation(stage: Any, folder: Path, progress: Any) -> Any:
        def stop(step: str, done: int, total: int) -> None:
            progress(step, done, total)
            if step == "traces":
                raise KeyboardInterrupt

        return curate(stage, folder, stop)

    with monkeypatch.context() as patch:
        patch.setattr(data, "curate", killed_curation)
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, 0, "micro")
    assert not (out / "stages/cold-start-data.done.json").exists()

    def killed_training(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_gcpo", killed_training)
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, 0, "micro")
    trained = (out / "sft/model/model.safetensors").stat().st_mtime_ns

    metrics = run_demo(out, 0, "micro")
    assert (out / "sft/model/model.safetensors").stat().st_mtime_ns == trained
    assert metrics["hashes"] == json.loads((finished / "metrics.json").read_text())["hashes"]


def test_the_runs_of_several_seeds_make_one_table(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = runpy.run_path(str(Path(__file__).parents[2] / "bench/demo_seeds.py"))
    shutil.copytree(finished, tmp_path / "seed-0")
    bench["main"](seeds=(0,), out=tmp_path, size="micro")
    metrics = json.loads((finished / "metrics.json").read_text())
    pooled = json.loads((tmp_path / "summary.json").read_text())["pooled"]
    assert pooled["gcpo - sft"]["delta"] == pytest.approx(metrics["verifier"]["gcpo_minus_sft"]["delta"])
    assert pooled["editor: after - before"]["delta"] == pytest.approx(metrics["editor"]["delta"]["mean"])
    assert "| 0 | gcpo |" in capsys.readouterr().out

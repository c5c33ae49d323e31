"""The page holds what it is given, escapes it, and fetches nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from edit_r1.images import encode_png
from edit_r1.records import INSTRUCTION_FOLLOWING
from edit_r1.report import charts, page
from edit_r1.report.charts import bars_svg, curve_svg
from edit_r1.report.data import ContextView, Curve, EditView, JudgedImage, Line, PairView, ReportData, TraceView
from edit_r1.report.page import data_uri, write_report

PICTURE = encode_png(np.full((8, 8, 3), 120, np.uint8))
LINE = Line("Is <it> red?", INSTRUCTION_FOLLOWING, 1.0, "was blue, now red", gold=0)


def _data() -> ReportData:
    row = {
        "accuracy": 0.5,
        "half_credit": 0.6,
        "ci95": [0.5, 0.7],
        "tie_rate": 0.2,
        "unparsed": 0,
        "tpr": 0.9,
        "tnr": None,
        "pairs": 10,
        "mean_of_4": {"half_credit": 0.61, "unparsed": 0, "pairs": 4},
        "stress": {"half_credit": 0.55, "unparsed": 7, "pairs": 7},
        "tasks": {"colour": 0.6},
        "tasks_ci95": {"colour": [0.41, 0.79]},
    }
    editor = {"oracle": 4.0, "ci95": None, "contexts": 3, "edits": 6, "categories": {"colour": 4.0}}
    metrics = {
        "verifier": {"sft": row, "gcpo": row, "gcpo_minus_sft": {"delta": 0.1, "ci95": [0.0, 0.2]}},
        "editor": {
            "before": editor,
            "after": editor,
            "delta": {"mean": 0.0, "ci95": None},
            "gsb": 0.0,
            "good_same_bad": [1, 4, 1],
            "delta_by_category": {"colour": {"mean": -0.5, "ci95": [-1.25, 0.25], "edits": 6}},
        },
        "seconds": {"all": 12.0},
    }
    image = JudgedImage(PICTURE, "an editor", None, 3.0, (LINE,))
    return ReportData(
        title="A run",
        command="edit-r1 demo",
        metrics=metrics,
        counts={"contexts": 3},
        contexts=(
            ContextView(
                PICTURE,
                "Make <b>it</b> red.",
                "colour",
                (("Is it red?", INSTRUCTION_FOLLOWING),),
                (image,),
                (Line("Is it red?", INSTRUCTION_FOLLOWING, 0, "was blue, now pink", gold=0),),
                (TraceView("judge", "1 red: yes", False, "less accurate"),),
            ),
        ),
        pairs=(PairView(PICTURE, "Make it red.", ("SFT",), (image,), (image,)),),
        edits=(EditView(PICTURE, "Make it red.", "colour", image, image),),
        curves=(Curve("loss", "step", {"loss": [(0.0, 1.0), (1.0, 0.5)]}),),
    )


def test_everything_is_on_the_page_and_escaped(tmp_path: Path) -> None:
    text = write_report(_data(), tmp_path / "report.html").read_text()
    assert "Make &lt;b&gt;it&lt;/b&gt; red." in text
    assert "<b>it</b>" not in text
    assert "Is &lt;it&gt; red?" in text
    assert "the oracle disagrees" in text
    assert 'class="wrong"' in text
    assert "60.0" in text and "61.0" in text
    assert "55.0" not in text  # of seven pairs none of which could be read
    assert text.count("<svg") >= 3
    assert "less accurate" in text
    assert '<li class="no"><span class="">Is it red?</span><small>was blue, now pink</small>' in text
    assert "60.0 (41.0 to 79.0)" in text
    assert "-0.50 (-1.25 to 0.25)" in text


def test_every_model_of_a_run_with_controls_has_bars_of_its_own(tmp_path: Path) -> None:
    data = _data()
    verifier, editor = dict(data.metrics["verifier"]), dict(data.metrics["editor"])
    verifier["base"] = verifier["sft"] | {"unparsed": 10, "half_credit": 0.0, "tasks": {"colour": 0.0}}
    verifier["sft_continued"] = verifier["sft"]
    verifier["gcpo_minus_control"] = {"delta": -0.01, "ci95": [-0.02, 0.005]}
    editor |= {name: editor["after"] | {"categories": {"colour": 7.0}} for name in ("sft_reward", "best_of_g")}
    editor["after_minus_best_of_g"] = {"mean": -3.0, "ci95": [-4.0, -2.0]}
    metrics = {**data.metrics, "verifier": verifier, "editor": editor}
    drawn = page._drawn(replace(data, metrics=metrics))
    legend = ("before RL", "after RL", "reward: SFT verifier", "best of G", ">base<", "SFT continued")
    assert [name in drawn["editor_bars"] for name in legend] == [True, True, True, True, False, False]
    assert [name in drawn["verifier_bars"] for name in legend] == [False, False, False, False, False, True]
    text = write_report(replace(data, metrics=metrics), tmp_path / "report.html").read_text()
    row = text[text.index("base (sees") :].split("</tr>")[0]
    assert row.split("<td>")[1:6] == ["–</td>", "–</td>", "–</td>", "–</td>", "10 of 10</td>"]
    assert "against SFT continued for as long: -1.0, -2.0 to 0.5" in text
    assert "fine-tuned on the best of G (control): -3.00 (-4.00 to -2.00)" in text


def test_a_kind_that_a_model_was_not_judged_on_has_no_bar() -> None:
    figure, axes = plt.subplots()
    charts._draw_bars(axes, {"colour": {"a": 0.5, "b": 0.25}, "size": {"a": 0.75}}, ["a", "b"])
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    plt.close(figure)
    assert widths == [[0.5, 0.75], [0.25]]


def test_pictures_are_data() -> None:
    assert data_uri(PICTURE).startswith("data:image/png;base64,")
    assert data_uri(b"\xff\xd8\xff").startswith("data:image/jpeg;base64,")


def test_charts_are_the_same_every_time() -> None:
    curve = Curve("a", "b", {"x": [(float(n), float(n)) for n in range(40)], "y": [(0.0, 1.0)]})
    assert curve_svg(curve) == curve_svg(curve)
    assert "<script" not in bars_svg("t", {"row": {"a": 1.0, "b": 0.5}, "other": {"a": 0.2}}, 1.0, 0.5)

"""The page holds what it is given, escapes it, and fetches nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edit_r1.images import encode_png
from edit_r1.records import INSTRUCTION_FOLLOWING
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
        "mean_of_4": {"half_credit": 0.61},
        "stress": {"half_credit": 0.55, "pairs": 7},
        "tasks": {"colour": 0.6},
    }
    editor = {"oracle": 4.0, "ci95": None, "contexts": 3, "categories": {"colour": 4.0}}
    metrics = {
        "verifier": {"sft": row, "gcpo": row, "gcpo_minus_sft": {"delta": 0.1, "ci95": [0.0, 0.2]}},
        "editor": {"before": editor, "after": editor, "delta": {"mean": 0.0, "ci95": None}, "gsb": 0.0},
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
                (TraceView("judge", "1 red: yes", False, "less accurate"),),
            ),
        ),
        pairs=(PairView(PICTURE, "Make it red.", ("SFT",), (image,), (image,)),),
        edits=(EditView(PICTURE, "Make it red.", "colour", image, image),),
        curves=(Curve("loss", "step", {"loss": [(0.0, 1.0), (1.0, 0.5)]}),),
    )


def test_everything_is_on_the_page_and_escaped(tmp_path: Path) -> None:
    page = write_report(_data(), tmp_path / "report.html").read_text()
    assert "Make &lt;b&gt;it&lt;/b&gt; red." in page
    assert "<b>it</b>" not in page
    assert "Is &lt;it&gt; red?" in page
    assert "the oracle disagrees" in page
    assert 'class="wrong"' in page
    assert "60.0" in page
    assert page.count("<svg") >= 3
    assert "less accurate" in page


def test_pictures_are_data() -> None:
    assert data_uri(PICTURE).startswith("data:image/png;base64,")
    assert data_uri(b"\xff\xd8\xff").startswith("data:image/jpeg;base64,")


def test_charts_are_the_same_every_time() -> None:
    curve = Curve("a", "b", {"x": [(float(n), float(n)) for n in range(40)], "y": [(0.0, 1.0)]})
    assert curve_svg(curve) == curve_svg(curve)
    assert "<script" not in bars_svg("t", {"row": {"a": 1.0, "b": 0.5}, "other": {"a": 0.2}}, 1.0, 0.5)

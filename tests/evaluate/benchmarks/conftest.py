"""Small files in the exact layouts of the public benchmarks, and a judge that sees how bright an edit is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.images import decode_rgb, encode_png

SIDE = 16


def picture(level: int, side: int = SIDE, shade: int = 0, height: int | None = None) -> bytes:
    """A plain picture of a level of grey, 0 to 255; `shade` makes sources differ."""
    pixels = np.full((height or side, side, 3), level, np.uint8)
    pixels[0, 0] = shade
    return encode_png(pixels)


VS_ROWS: list[dict[str, Any]] = [
    {"task_type": task, "dimension": dimension, "levels": levels}
    for task, dimension, levels in [
        ("subject-add", "overall", (200, 100)),
        ("subject-add", "overall", (100, 200)),
        ("subject-add", "overall", (150, 150)),
        ("compose", "overall", (240, 20)),
        ("compose", "prompt_following", (20, 240)),
        ("extract", "overall", (255, 10)),  # an edit of level 255 gets no answer that can be parsed
        ("extract", "consistency", (90, 10)),
    ]
]
"""By brightness: 1/3, 1 and 0 of "overall" in subject-add, compose and extract."""


def vs_table(rows: list[dict[str, Any]] = VS_ROWS, side: int = SIDE, height: int | None = None) -> Any:
    """`datasets` features as on the hub: images embedded, the winner first."""
    from datasets import Dataset, Features, Image, List, Value

    made = [
        {
            "key": [f"k{n}-0", f"k{n}-1"],
            "instruction": f"make it brighter {n}",
            "task_type": row["task_type"],
            "dimension": row["dimension"],
            "input_image": {"bytes": picture(50, side, shade=n), "path": None},
            "output_images": [{"bytes": picture(level, height=height), "path": None} for level in row["levels"]],
        }
        for n, row in enumerate(rows)
    ]
    text = Value("string")
    features = Features({
        "key": List(text), "instruction": text, "task_type": text, "dimension": text, "input_image": Image(),
        "output_images": List(Image()),
    })  # fmt: skip
    return Dataset.from_list(made, features=features)


TIGER_GROUPS: list[tuple[str, str, tuple[int, ...]]] = [
    ("2pair", "A>B", (200, 100)),
    ("2pair", "B>A", (200, 100)),
    ("2pair", "A=B", (150, 150)),
    ("2pair", "A=B=Bad", (150, 152)),
    ("3pair", "C>A>B", (100, 50, 200)),
    ("3pair", "A>B>C", (100, 200, 50)),
    ("4pair", "D>C>B>A", (10, 60, 120, 230)),
]
"""Kind, labelled order, brightness of A, B, ...: by brightness 2 of 4, 1 of 2 and 1 of 1 groups, 3 of 4 when tuned."""


def tiger_rows(groups: list[tuple[str, str, tuple[int, ...]]] = TIGER_GROUPS) -> list[dict[str, Any]]:
    """A row per pair, as on the hub."""
    rows = []
    for number, (kind, ranking, levels) in enumerate(groups):
        size = int(kind[0])
        letters = "ABCD"[:size]
        for first in range(size):
            for second in range(first + 1, size):
                x, y = letters[first], letters[second]
                label = ranking
                if size > 2:
                    label = f"{x}>{y}" if ranking.index(x) < ranking.index(y) else f"{y}>{x}"
                rows.append({
                    "id": f"{number:08x}" + (f"_{x}v{y}" if size > 2 else ""),
                    "dataset": kind,
                    "instruction": f"make it brighter {number}",
                    "source_image": {"bytes": picture(50, shade=number), "path": None},
                    "candidate_1": {"bytes": picture(levels[first]), "path": None},
                    "candidate_2": {"bytes": picture(levels[second]), "path": None},
                    "ranking": label,
                    "comparison_type": f"{x}vs{y}",
                    "model_1": "m1", "model_2": "m2", "score_1": None, "score_2": 3.5, "num_candidates": size,
                })  # fmt: skip
    return rows


def write_tiger(folder: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """The hub's parquet folders 2pair, 3pair and 4pair."""
    from datasets import Dataset, Features, Image, Value

    rows = tiger_rows() if rows is None else rows
    kinds = {"num_candidates": Value("int64"), "score_1": Value("float64"), "score_2": Value("float64")}
    features = Features({
        name: Image() if name.startswith(("source_", "candidate_")) else kinds.get(name, Value("string"))
        for name in rows[0]
    })  # fmt: skip
    for kind in sorted({row["dataset"] for row in rows}):
        own = [row for row in rows if row["dataset"] == kind]
        (folder / kind).mkdir(parents=True)
        Dataset.from_list(own, features=features).to_parquet(folder / kind / "train-00000-of-00001.parquet")
    return folder


COMPASS_ROWS: list[tuple[str, str, int, int]] = [
    ("IA", "preference", 200, 100),
    ("IA", "preference", 100, 200),
    ("IA", "tie", 120, 120),
    ("VC", "preference", 130, 130),
    ("VC", "tie", 130, 140),
    ("VQ", "preference", 220, 10),
]
"""Dimension, label, brightness of winner and loser: 2 of 3, 0 of 2 and 1 of 1 by brightness."""


def write_compass(folder: Path, rows: list[tuple[str, str, int, int]] = COMPASS_ROWS) -> Path:
    """One JSON list, its pictures beside it."""
    (folder / "images").mkdir(parents=True)
    made = []
    for number, (dimension, label, winner, loser) in enumerate(rows):
        names = {}
        for column, data in {
            "source_image": picture(50, shade=number), "winner": picture(winner), "loser": picture(loser),
        }.items():  # fmt: skip
            names[column] = f"images/{number}_{column}.png"
            (folder / names[column]).write_bytes(data)
        made.append({**names, "prompt": f"make it brighter {number}", "label": label, "dimension": dimension})
    (folder / "EditReward-Compass.json").write_text(json.dumps(made))
    return folder


def images_of(body: dict[str, Any]) -> list[bytes]:
    """The pictures of a chat request, in order."""
    parts = [part for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [base64.b64decode(url.split(",", 1)[1]) for url in urls]


def level_of(data: bytes) -> int:
    return int(decode_rgb(data)[5, 5, 0])


PRINCIPLES = json.dumps([
    {"question": "Is it brighter?", "category": "Instruction Following"},
    {"question": "Is the rest as it was?", "category": "Feature Preservation"},
])  # fmt: skip


def by_brightness(body: dict[str, Any], number: int) -> str:
    """A verifier's answers: principles for one picture; else a score of brightness / 25.5, none for 255."""
    pictures = images_of(body)
    if not pictures:
        return "yes"  # a first question, whether the server is there
    if len(pictures) == 1:
        return PRINCIPLES
    level = level_of(pictures[-1])
    if level == 255:
        return "I like it very much."
    verdicts = [{"question": "Is it brighter?", "score": int(level > 150)},
                {"question": "Is the rest as it was?", "score": int(level < 100)}]  # fmt: skip
    return f'Seen.\n{json.dumps(verdicts)}\n{{"average_score": 0.5}}\n<score>{level / 25.5:.4f}</score>'


@pytest.fixture(scope="session")
def layouts() -> Callable[[str, Path], Path]:
    """Writes a benchmark in its official layout into a folder."""

    def write(name: str, folder: Path) -> Path:
        if name == "vs":
            (folder / "data").mkdir(parents=True)
            vs_table().to_parquet(folder / "data" / "train-00000-of-00001.parquet")
            return folder
        return {"tiger": write_tiger, "compass": write_compass}[name](folder)

    return write

"""What the checks of a decomposition (`curate.coverage`) find of planted faults, and what where there is none.

    python bench/decomposition_checks.py --out runs/decomposition_checks.json

Three bodies of text. `editworld`: contexts of EditWorld as its simulated decomposer writes them, where a fault can be
planted exactly. `worked`: the 60 decompositions of `verifier/examples.json`, written by hand for photographs, and for
parts of instructions two of them joined to one. `sentences`: the lists below, written by hand before the checks were
measured on them and not changed since. The checks were made with `worked` in sight, so that what they find falsely
there is a lower bound.

Recall is the share of planted faults that are found: there are more findings of the kind than without the fault. A
clean context counts as false when a check of that kind finds anything in it. Precision is of a body in which half of
the contexts have the fault: recall / (recall + false).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from edit_r1.curate.coverage import Kind, check_principles, check_question, contradiction, near_duplicates
from edit_r1.curate.decompose import decompose
from edit_r1.records import FEATURE_PRESERVATION, INSTRUCTION_FOLLOWING, Principle
from edit_r1.stats import proportion
from edit_r1.store import write_json
from edit_r1.verifier.examples import EXAMPLES
from edit_r1.vlm.protocol import Sampling
from edit_r1.world.checks import checks_for, question
from edit_r1.world.edits import MULTI_STEP
from edit_r1.world.index import WorldIndex
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.simulated_judges import SimulatedDecomposer

CONTRADICTIONS = """
Is the tablecloth white? | Is the tablecloth still striped?
Is the door open? | Is the door closed as before?
Is the bus gone from the street? | Is the bus unchanged?
Are there two candles on the cake? | Are there four candles on the cake?
Is the woman smiling? | Is the woman's mouth unchanged?
Is the sky dark? | Is the sky bright?
Is the sign free of text? | Does the sign still read 'Bakery'?
Is the bench empty? | Is the man still sitting on the bench?
Is the jacket green? | Is the jacket grey?
Is the lamp lit? | Is the lamp not lit?
Is the car on the left? | Is the car on the right?
Is the road wet? | Is the road dry?
Is the curtain now yellow? | Is the curtain unchanged?
Is the dog lying? | Is the dog standing?
Is no bird in the sky? | Is there a bird in the sky?
Is the background a beach? | Is the kitchen in the background unchanged?
Are three boats on the lake? | Are five boats on the lake?
Is the statue made of bronze? | Is the statue made of marble?
Is the hair shorter? | Is the hair longer?
Is the whole picture black and white? | Do the flowers keep their red?
""".strip().splitlines()
"""Pairs that no picture fulfils together."""
COMPATIBLE = """
Is the left glove red? | Is the right glove red?
Is the door open? | Is the window closed?
Is the bus gone? | Is the street unchanged?
Are there two candles on the cake? | Are there four plates on the table?
Is the woman smiling? | Is the woman's face otherwise the same?
Is the sky dark? | Is the street bright?
Is the jacket green? | Is the jacket's cut unchanged?
Is the larger dog gone? | Is the smaller dog unchanged?
Is the curtain now yellow? | Apart from its colour, is the curtain unchanged?
Is no second bird added? | Is the bird unchanged?
Is the road wet? | Is the pavement dry?
Are the man's hands empty? | Are the man's hands natural?
Is the car blue? | Is the car in the same place?
Is the upper shelf empty? | Is the lower shelf empty?
Is the text sharp? | Is the text red?
Is the statue made of bronze? | Does the statue keep its pose?
Is the hair shorter? | Is the hair the same colour?
Is the background a beach? | Is the cat in the foreground unchanged?
Is there no shadow left on the wall? | Is the wall free of smudges?
Are the leaves yellow? | Are the apples red?
""".strip().splitlines()
REPEATED = """
Is the hat red all over? | Is the hat all red?
Is the man's face unchanged? | Is the face of the man unchanged?
Are the edges of the vase clean? | Are the vase's edges clean?
Is the dog gone from the picture? | Is the dog gone?
Is the background unchanged? | Does the background stay unchanged?
Is the lighting on the new chair plausible? | Is the light on the new chair plausible?
Does the sign read 'Open'? | Is the text 'Open' on the sign?
Is the sky free of artefacts? | Are there no artefacts in the sky?
Does she keep her pose? | Is her pose the same as before?
Are all the power lines removed? | Are the power lines all removed?
Is the picture sharp? | Is the image as a whole sharp?
Does the horse keep its colour? | Is the horse still of the same colour?
""".strip().splitlines()
"""Pairs that ask the same."""
ALIKE = """
Is the hat red? | Is the coat red?
Is the man's face unchanged? | Is the man's suit unchanged?
Are the edges of the vase clean? | Are the edges of the table clean?
Is the first chair gone? | Is the second chair gone?
Is the left sleeve blue? | Is the right sleeve blue?
Does the sign read 'Open'? | Does the sign keep its shape?
Is the light on the cat warm? | Is the shadow of the cat soft?
Is the sky free of artefacts? | Is the grass free of artefacts?
Does the horse keep its colour? | Does the horse keep its pose?
Is the picture sharp? | Is the picture free of noise?
Are three birds in the sky? | Are three birds on the roof?
Is the new lamp on the table? | Is the new lamp switched on?
""".strip().splitlines()
BAD_QUESTIONS = """
unfailable: Is it a picture?
unfailable: Is there an image?
unfailable: Does the output contain anything?
unfailable: Does the original photo show a bicycle?
unfailable: Is there a fence in the source image?
unfailable: Is the lamp on or not?
unfailable: Was an image produced?
unfailable: Is the apple an apple?
unfailable: Can one see the picture?
unfailable: Is the scene part of the world?
about the request: Does the prompt mention the jacket?
about the request: Is the instruction easy to understand?
about the request: Did the user want a new background?
about the request: Is the request for an edit possible?
about the request: Should the task be done in one step?
about the request: Is a colour named in the instruction?
not yes/no: Which animal is in front?
not yes/no: Preserve the background.
not yes/no: How realistic is the light?
not yes/no: Background consistency
not yes/no: Is the hat red, blue or green?
not yes/no: On a scale of 1 to 10, how sharp is it?
not yes/no: The dog should be gone.
not yes/no: Colour of the car
""".strip().splitlines()
GOOD_QUESTIONS = """
Is the lamp switched off?
Does the output show the dog on the sofa?
Is the bicycle of the original photo still there?
Is the instruction carried out completely?
Is there a fence in the image?
Does the apple look like a real apple?
Is everything the instruction does not mention unchanged?
Is the picture on the wall unchanged?
Can the text on the sign be read?
Has the jacket kept its zip?
Does the photograph in the frame still show two children?
In front of the house, is the car gone?
Is the result free of visible seams?
Are the whats and whys of the poster legible?
Does nothing else change?
Is the man without a hat?
""".strip().splitlines()

Item = tuple[str, list[Principle]]
"""Instruction and principles."""
Planted = tuple[Item, Item]
"""With a fault, and without."""


def editworld(count: int, seed: int) -> tuple[list[Item], dict[str, list[Planted]]]:
    """Clean contexts, and by kind the same with a fault planted."""
    samples = make_samples(count, "train", seed)
    contexts, _ = decompose(samples, SimulatedDecomposer(WorldIndex(samples)), "compact", Sampling(512, 1.0, seed=seed))
    rng = np.random.default_rng(seed)
    clean: list[Item] = []
    planted: dict[str, list[Planted]] = {kind: [] for kind in PLANTED}
    for context in contexts:
        sample = context.sample
        own = list(dict.fromkeys(context.principles))  # what the decomposer doubled by itself is no clean context
        item = (sample.instruction, own)
        clean.append(item)
        if sample.category == MULTI_STEP:
            edit = edit_of(sample)
            step = edit.steps[int(rng.integers(len(edit.steps)))]
            asked = {question(one) for one in checks_for(scene_of(sample), replace(edit, steps=(step,)))}
            rest = [p for p in own if p.category != INSTRUCTION_FOLLOWING or p.question not in asked]
            planted["uncovered"].append(((sample.instruction, rest), item))
        kept = [p.question for p in own if p.question.endswith("unchanged?") and p.question.startswith("Is the ")]
        if kept:
            told = kept[int(rng.integers(len(kept)))].replace("unchanged", "gone")
            planted["contradiction"].append(((item[0], [*own, Principle(told, INSTRUCTION_FOLLOWING)]), item))
        plant_questions(item, planted, rng)
    return clean, planted


def worked(seed: int) -> tuple[list[Item], dict[str, list[Planted]]]:
    """The worked examples, and two of them joined to an instruction of two parts."""
    rng = np.random.default_rng(seed)
    clean = [(one.instruction, list(one.principles)) for one in EXAMPLES]
    planted: dict[str, list[Planted]] = {kind: [] for kind in PLANTED}
    order = rng.permutation(len(EXAMPLES))
    for a, b in zip(order[::2], order[1::2], strict=True):
        first, second = EXAMPLES[int(a)], EXAMPLES[int(b)]
        joint = (" and ", ", then ", ". Also ")[int(rng.integers(3))]
        text = first.instruction.rstrip(".") + joint + second.instruction[0].lower() + second.instruction[1:]
        clean.append((text, [*first.principles, *second.principles]))
        dropped = [p for p in second.principles if p.category != INSTRUCTION_FOLLOWING]
        planted["uncovered"].append(((text, [*first.principles, *dropped]), clean[-1]))
    for item in clean[: len(EXAMPLES)]:
        plant_questions(item, planted, rng)
    return clean, planted


def plant_questions(item: Item, planted: dict[str, list[Planted]], rng: np.random.Generator) -> None:
    """One principle twice, and one of the hand-written bad questions in turn."""
    instruction, own = item
    twice = own[int(rng.integers(len(own)))]
    again = replace(twice, question=twice.question.replace("?", " ?"))
    planted["duplicate"].append(((instruction, [*own, again]), item))
    for kind in ("unfailable", "about the request", "not yes/no"):
        bad = [line.split(": ", 1)[1] for line in BAD_QUESTIONS if line.startswith(kind)]
        chosen = Principle(bad[len(planted[kind]) % len(bad)], FEATURE_PRESERVATION)
        planted[kind].append(((instruction, [*own, chosen]), item))


PLANTED: tuple[Kind, ...] = (
    "uncovered", "contradiction", "duplicate", "near duplicate", "unfailable", "about the request", "not yes/no"
)  # fmt: skip


def found(item: Item, kind: str) -> int:
    return sum(finding.kind == kind for finding in check_principles(*item))


def rows(body: str, clean: Sequence[Item], planted: dict[str, list[Planted]]) -> Iterator[dict[str, Any]]:
    for kind in PLANTED:
        hits = [found(faulty, kind) > found(without, kind) for faulty, without in planted[kind]]
        yield row(body, kind, hits, [found(item, kind) > 0 for item in clean])


def row(body: str, kind: str, hits: list[bool], false: list[bool]) -> dict[str, Any]:
    recall, wrong = (proportion(flags) if flags else None for flags in (hits, false))
    precision = None
    if recall is not None and wrong is not None and recall.mean + wrong.mean > 0:
        precision = recall.mean / (recall.mean + wrong.mean)
    return {
        "body": body, "kind": kind, "planted": len(hits), "recall": recall and recall.mean,
        "recall_ci95": recall and recall.ci95, "clean": len(false), "false": wrong and wrong.mean,
        "false_ci95": wrong and wrong.ci95, "precision": precision,
    }  # fmt: skip


def sentences() -> Iterator[dict[str, Any]]:
    """The hand-written lists, one question or pair at a time."""

    def pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
        return [(one.split(" | ")[0], one.split(" | ")[1]) for one in lines]

    def contradict(a: str, b: str) -> bool:
        return contradiction(Principle(a, INSTRUCTION_FOLLOWING), Principle(b, FEATURE_PRESERVATION)) is not None

    def flagged(check: Callable[[str, str], bool], lines: Sequence[str]) -> list[bool]:
        return [check(a, b) for a, b in pairs(lines)]

    yield row("sentences", "contradiction", flagged(contradict, CONTRADICTIONS), flagged(contradict, COMPATIBLE))
    yield row("sentences", "near duplicate", flagged(near_duplicates, REPEATED), flagged(near_duplicates, ALIKE))
    for kind in ("unfailable", "about the request", "not yes/no"):
        bad = [line.split(": ", 1)[1] for line in BAD_QUESTIONS if line.startswith(kind)]
        hits = [any(one.kind == kind for one in check_question(0, text)) for text in bad]
        false = [any(one.kind == kind for one in check_question(0, text)) for text in GOOD_QUESTIONS]
        yield row("sentences", kind, hits, false)


def main(out: Path, contexts: int = 1000, seed: int = 0) -> None:
    """contexts: of EditWorld. seed: of these, and of where faults are planted."""
    told = [*rows("editworld", *editworld(contexts, seed)), *rows("worked", *worked(seed)), *sentences()]
    told = [one for one in told if one["planted"]]
    print(f"{'body':10} {'kind':18} {'planted':>7} {'recall':>22} {'clean':>6} {'false':>22} {'precision':>9}")
    for one in told:
        precision = "-" if one["precision"] is None else f"{one['precision']:.3f}"
        print(
            f"{one['body']:10} {one['kind']:18} {one['planted']:7} {share(one, 'recall'):>22} {one['clean']:6} "
            f"{share(one, 'false'):>22} {precision:>9}"
        )
    write_json(out, {"contexts": contexts, "seed": seed, "rows": told})


def share(one: dict[str, Any], name: str) -> str:
    low, high = one[f"{name}_ci95"] or (float("nan"), float("nan"))
    return f"{one[name]:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    tyro.cli(main)

"""What a recipe of a curation is written with: samples of any data, a served model, editors; see docs/curate.md.

from edit_r1.recipes.curation import HttpEditor, HttpEditorSettings, OpenAIVLM, cold_start, team_samples

def photographs():
    samples = team_samples("photographs", licence="CC-BY-4.0")
    model = OpenAIVLM("http://127.0.0.1:8000/v1", "my-model")
    editor = HttpEditor("http://127.0.0.1:8100/v1", HttpEditorSettings(), name="my-editor")
    return cold_start(samples, model, editors=(editor,))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edit_r1.curate.intake.checks import IntakeChecks
from edit_r1.curate.intake.draw import Draw
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.joined import JoinedSamples
from edit_r1.curate.intake.open import open_rows, team_samples
from edit_r1.curate.intake.rows import Columns
from edit_r1.curate.intake.source import TeamSamples
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.stage import DECOMPOSE_SAMPLING, VERIFY_SAMPLING, CurateStage, Samples
from edit_r1.editors.http import HttpEditor, HttpEditorSettings
from edit_r1.editors.protocol import Editor
from edit_r1.editors.ready import ReadyEdits, folder_edits
from edit_r1.vlm.budget import Budget
from edit_r1.vlm.openai import OpenAIVLM, Prices
from edit_r1.vlm.protocol import VLM, Sampling

__all__ = [
    "Budget",
    "Columns",
    "CurateStage",
    "Draw",
    "Editor",
    "HardFilter",
    "HttpEditor",
    "HttpEditorSettings",
    "IntakeChecks",
    "JoinedSamples",
    "OpenAIVLM",
    "PoolMember",
    "Prices",
    "ReadyEdits",
    "Sampling",
    "TeamSamples",
    "cold_start",
    "folder_edits",
    "open_rows",
    "team_samples",
]

STRICT = "You are a strict reviewer of image edits. Look for what is wrong before you look for what is right."
"""System text of every second way in which a model of the pool is asked."""


def cold_start(
    samples: Samples,
    model: VLM,
    editors: Sequence[Editor],
    judges: Sequence[VLM] = (),
    verifier: VLM | None = None,
    traces: int = 2,
    candidates_per_context: int = 0,
    trace_tokens: int = 2048,
    principle_tokens: int = 1024,
    gold_tokens: int = 4096,
    chunk_size: int = 64,
    seed: int = 0,
) -> CurateStage:
    """The four steps with one strong model, or with a pool and a verifier of their own.

    Every judge is asked in two ways, for diversity: plainly at temperature 0.7, and as a strict reviewer at 1.0 (ours;
    the paper discloses none). For anything else write a `CurateStage`.

    Args:
        model: decomposes; and judges and verifies where no others are named. The paper's judge and its checker are one
            model too, and share their blind spots: another `verifier` is better.
        judges: the pool.
        traces: of each judge for each candidate, at least 1, shared among its two ways.
        candidates_per_context: 0 asks every editor once.
        trace_tokens: longest trace; it, and the two below, have to fit into the model's context beside the prompt, and
            to leave a model that thinks before it answers the room for it.
        principle_tokens: longest list of principles.
        gold_tokens: longest list of gold verdicts.

    Raises ValueError for fewer than one trace, as `CurateStage`.
    """
    warm = Sampling(trace_tokens, temperature=0.7, top_p=0.95, seed=seed)
    hot = Sampling(trace_tokens, temperature=1.0, seed=seed)
    pool = []
    for judge in judges or (model,):
        pool.append(PoolMember(judge, (traces + 1) // 2, warm))
        if traces > 1:
            pool.append(PoolMember(judge, traces // 2, hot, system=STRICT))
    return CurateStage(
        samples=samples,
        decomposer=model,
        editors=tuple(editors),
        pool=tuple(pool),
        verifier=verifier or model,
        candidates_per_context=candidates_per_context or max(1, len(editors)),
        decompose_sampling=replace(DECOMPOSE_SAMPLING, max_new_tokens=principle_tokens),
        verify_sampling=replace(VERIFY_SAMPLING, max_new_tokens=gold_tokens),
        chunk_size=chunk_size,
        seed=seed,
    )

"""Cards of a verifier and of its data: facts of the run, no licence, nothing of this machine."""

from __future__ import annotations

from dataclasses import replace

from edit_r1.records import Preference, Quadruple
from edit_r1.train.gcpo_stage import GCPOStage, RatioSettings
from edit_r1.train.verifier_card import VerifierFacts, preferences_card, quadruples_card, verifier_card

LINES = [
    {"step": 1, "mean_ratio": 0.25, "unparsed": 0.5, "alarms": ["50% of the traces have no score (limit 40%)"]},
    {"step": 2, "mean_ratio": 0.75, "unparsed": None},
]


def test_a_model_card_tells_the_recipe_and_first_and_last_metrics() -> None:
    stage = GCPOStage("/secret/place/sft/model", "/secret/place/run", ratio=RatioSettings(flip_rate=0.125))
    card = verifier_card(VerifierFacts("GCPO", stage, "abc123", "7 preference pairs", LINES))
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert 'base_model: "model"' in front
    assert not any(line.startswith("license:") for line in front.splitlines())
    assert "pipeline_tag: image-text-to-text" in front
    assert "/secret" not in card
    assert '"flip_rate": 0.125' in body
    assert "| mean win ratio (GCPO's reward), 0 to 1 | 0.25 | 0.75 |" in body
    assert "| share of traces without a score | 0.5 | 0.5 |" in body
    assert "| alarms, in all | | 1 |" in body
    assert "Steps: 2. Data: 7 preference pairs." in body
    assert "`abc123`" in body
    hub = verifier_card(VerifierFacts("SFT", replace(stage, model="Qwen/Qwen2.5-VL-7B-Instruct"), "d", "r", []))
    assert 'base_model: "Qwen/Qwen2.5-VL-7B-Instruct"' in hub


def test_a_data_card_counts_and_says_what_is_simulated(
    preferences: list[Preference], quadruples: list[Quadruple]
) -> None:
    card = preferences_card(preferences)
    same = sum(each.choice == "same" for each in preferences)
    assert f"{len(preferences)} comparisons of two edits" in card
    assert f"same {same}" in card
    assert "- simulated" in card.split("\n---\n")[0]
    assert "| tone transformation | 10 |" in card
    assert "no pair has two decided answers\n" in card
    real = [replace(each, simulated=False, annotator=name) for each in preferences[:2] for name in "ab"]
    card = preferences_card(real)
    assert "None of it is marked as simulated." in card
    assert "annotators: 2; 2 pairs have several decided answers, 0.0% of which disagree" in card
    assert "an estimated flip rate of 0.000" in card
    card = quadruples_card(quadruples)
    assert f"{len(quadruples)} quadruples" in card
    assert f"{len(quadruples)} with a target trace" in card

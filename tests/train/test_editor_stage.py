from __future__ import annotations

from collections import Counter
from dataclasses import fields

import pytest
import tyro

from edit_r1.recipes.built_in import tiny_editor_grpo
from edit_r1.train.editor_stage import (
    EditorRLStage,
    LossSettings,
    SDESettings,
    UpdateSettings,
    changed,
    choose_window,
    left_aside,
    plan_iteration,
    settled,
)

STAGE = EditorRLStage(contexts_per_step=4, group_size=3)


def test_one_config_of_at_most_25_fields():
    for config in (EditorRLStage, SDESettings, LossSettings, UpdateSettings):
        assert len(fields(config)) <= 25


def test_every_field_is_a_flag_by_its_own_name():
    recipe = tiny_editor_grpo()
    flags = ["--kind", "cps", "--eta", "0.9", "--trained-steps", "3", "--clip-range", "1e-5",
             "--advantage-std", "batch", "--learning-rate", "1e-4", "--accumulate", "2", "--group-size", "24",
             "--shard"]  # fmt: skip
    stage = tyro.cli(type(recipe), default=recipe, args=flags).stage
    assert (stage.sde.kind, stage.sde.eta, stage.sde.trained_steps) == ("cps", 0.9, 3)
    assert (stage.loss.clip_range, stage.loss.advantage_std) == (1e-5, "batch")
    assert (stage.updates.learning_rate, stage.updates.accumulate) == (1e-4, 2)
    assert stage.group_size == 24 and stage.shard
    assert stage.sde.same_start == recipe.stage.sde.same_start


def test_every_context_comes_before_any_comes_again():
    """Fault 5: an iteration has as many contexts as asked for, and none is starved."""
    seen: Counter[int] = Counter()
    for step in range(21):
        iteration = plan_iteration(STAGE, step, 7)
        assert len(iteration.contexts_B) == 4
        seen.update(iteration.contexts_B)
        assert max(seen.values()) - min(seen[i] for i in range(7)) <= 1
    assert set(seen.values()) == {12}
    orders = {plan_iteration(STAGE, step, 4).contexts_B for step in range(12)}
    assert len(orders) > 1


def test_plan_depends_on_seed_and_step_alone():
    first, again = plan_iteration(STAGE, 5, 9), plan_iteration(STAGE, 5, 9)
    assert first == again
    assert plan_iteration(changed(STAGE, seed=1), 5, 9).seeds_N != first.seeds_N
    assert len(set(first.seeds_N)) == 12 and all(type(seed) is int for seed in first.seeds_N)


@pytest.mark.parametrize("kind", ["random", "sliding", "all"])
@pytest.mark.parametrize("sampling_steps", [2, 3, 10, 28])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_windows_lie_where_they_may(kind, sampling_steps, share):
    """Faults 7 and 8: one window per iteration, never the last step, all places visited."""
    stage = changed(STAGE, window=kind, sampling_steps=sampling_steps, trained_steps=1, window_share=share)
    windows = {choose_window(stage, step) for step in range(200)}
    for window in windows:
        assert list(window) == list(range(window[0], window[-1] + 1))
        assert window[-1] < sampling_steps - 1
    if kind == "all":
        assert windows == {tuple(range(sampling_steps - 1))}
    else:
        room = min(round(share * sampling_steps), sampling_steps - 1)
        assert windows == {(i,) for i in range(room)}


def test_bad_fields_say_what_to_do():
    for change, message in [
        ({"group_size": 1}, "at least 2 edits"),
        ({"sampling_steps": 1}, "at least 2"),
        ({"eta": 0.0}, "eta=0.0"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"clip_range": 0.0}, "clip_range"),
        ({"trained_steps": 6}, "raise sampling_steps"),
        ({"window_share": 0.0}, "window_share"),
        ({"kl_beta": -1.0}, "kl_beta"),
        ({"save_as": "adapter", "lora_rank": 0}, "no adapter"),
        ({"kind": "cps", "eta": 1.2}, r"eta lies in \[0, 1\]"),
        ({"kind": "cps", "ratio": "guard"}, "belongs to 'flow' and 'dance'"),
        ({"kind": "cps", "kl_scale": "without_dt"}, "use 'with_dt'"),
        ({"accumulate": 4}, r"steps=90: not a multiple of accumulate=4"),
        ({"accumulate": 2, "inner_updates": 2}, "set one of them to 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            changed(STAGE, **change)
    with pytest.raises(ValueError, match="contexts_per_step"):
        plan_iteration(STAGE, 0, 3)


def test_an_unset_field_is_the_algorithms_own():
    """Swapping the algorithm takes no weight of another's KL along; what is set stays, 0 included."""
    grpo, nft = settled(STAGE, "flow-grpo"), settled(STAGE, "diffusion-nft")
    assert (grpo.loss.kl_beta, grpo.sde.window_share, grpo.updates.ema_decay) == (0.04, 0.5, 0.0)
    assert (nft.loss.kl_beta, nft.sde.window_share, nft.updates.ema_decay) == (1e-4, 1.0, 0.5)
    assert (STAGE.kl_beta, STAGE.window_share, STAGE.ema_decay) == (0.04, 0.5, 0.0)
    assert (grpo.updates.ema_schedule, nft.updates.ema_schedule) == ("constant", "rising")
    assert (grpo.guided, nft.guided) == (True, False)
    for algorithm in ("flow-grpo", "diffusion-nft"):
        given = settled(changed(STAGE, ema_decay=0.9), algorithm).updates
        assert (given.ema_decay, given.ema_schedule) == (0.9, "constant"), "a decay that is given alone is constant"
        late = settled(changed(STAGE, ema_schedule="late"), algorithm).updates
        assert (late.ema_decay, late.ema_schedule) == (0.999, "late")
    constant = settled(changed(STAGE, ema_schedule="constant"), "diffusion-nft")
    assert (constant.updates.ema_decay, constant.ema_schedule) == (0.5, "constant")
    own = changed(STAGE, kl_beta=0.0, window_share=0.7, ema_decay=0.0, ema_schedule="constant", guided=True)
    assert settled(own, "diffusion-nft") == own == settled(own, "flow-grpo")
    assert settled(nft, "flow-grpo") == nft, "settled once"


def test_what_an_algorithm_has_no_use_for_is_one_line():
    assert left_aside(STAGE, "diffusion-nft") is None
    odd = changed(STAGE, eta=0.9, window="all", ratio="guard", kl_beta=0.1)
    assert left_aside(odd, "flow-grpo") is None
    assert left_aside(odd, "diffusion-nft") == "DiffusionNFT has no use for eta=0.9, window='all', ratio='guard'"


def test_a_group_shares_its_start_when_asked_to():
    assert plan_iteration(STAGE, 5, 9).starts_N is None
    iteration = plan_iteration(changed(STAGE, same_start=True), 5, 9)
    assert iteration.starts_N is not None
    groups = [
        set(iteration.starts_N[n : n + STAGE.group_size]) for n in range(0, len(iteration.starts_N), STAGE.group_size)
    ]
    assert all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) == len(groups) == STAGE.contexts_per_step
    assert not set(iteration.starts_N) & set(iteration.seeds_N)
    assert len(set(iteration.seeds_N)) == len(iteration.seeds_N)

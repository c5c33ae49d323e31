"""The tiny editor's pretraining: data, loop, and a whole miniature run through the real pipeline."""

from __future__ import annotations

import copy
import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline
from torch import nn

from edit_r1.cli import main
from edit_r1.store import StoreError
from edit_r1.world.render import render
from edit_r1.world.scenes import sample_scene
from edit_r1.zoo import editor, editor_text, loop, muon, vae


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizers() -> tuple[editor_text.T5Tokenizer, editor_text.CLIPTokenizer]:
    corpus = editor_text.instruction_corpus(1200)
    return editor_text.build_t5_tokenizer(corpus), editor_text.build_clip_tokenizer(corpus)


@pytest.fixture(scope="module")
def raw_vae() -> AutoencoderKL:
    return vae.build_vae(0).eval().requires_grad_(False)


# --- loop ---------------------------------------------------------------------------------------------------------


def _linear_run(path: Path, config: loop.LoopConfig) -> loop.Run:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    return loop.start(module, torch.optim.AdamW(module.parameters(), config.learning_rate), path)


def _loss(run: loop.Run, step: int) -> torch.Tensor:
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    return (run.module(inputs) - inputs[:, :2]).square().mean()


def test_a_run_cut_in_pieces_ends_where_an_uncut_one_does(tmp_path: Path) -> None:
    config = loop.LoopConfig(steps=12, batch_size=4, learning_rate=1e-2, warmup_steps=3)
    whole = _linear_run(tmp_path / "whole.pt", config)
    assert loop.train(whole, lambda step: _loss(whole, step), config, tmp_path / "whole.pt", time.monotonic() + 60, "t")
    for stop in (5, 9, 12):
        # The rate's decay looks at the final number of steps, so a piece ends by failing its clock, not its count.
        piece = _linear_run(tmp_path / "cut.pt", config)
        clock = [time.monotonic() + 60]

        def stepper(step: int, piece: loop.Run = piece, stop: int = stop) -> torch.Tensor:
            if step == stop:
                raise KeyboardInterrupt
            return _loss(piece, step)

        try:
            loop.train(piece, stepper, config, tmp_path / "cut.pt", clock[0], "t")
        except KeyboardInterrupt:
            piece.save(tmp_path / "cut.pt")
    final = _linear_run(tmp_path / "cut.pt", config)
    assert final.step == 12
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, final.module.state_dict()[name])
        assert torch.equal(whole.average.weights[name], final.average.weights[name])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"junk" * 50])
def test_a_damaged_state_is_one_line_with_a_remedy(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.pt"
    _linear_run(path, loop.LoopConfig(steps=5, batch_size=1, learning_rate=1e-2)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"a\.pt: damaged, or the state of another model: remove it"):
        _linear_run(path, loop.LoopConfig(steps=5, batch_size=1, learning_rate=1e-2))


def test_a_state_of_another_model_or_seed_is_refused(tmp_path: Path) -> None:
    path, module = tmp_path / "a.pt", nn.Linear(3, 2)
    loop.start(module, torch.optim.AdamW(module.parameters()), path, seed=3).save(path)
    with pytest.raises(ValueError, match="a run of seed 3, not 0: give --seed 3"):
        loop.start(module, torch.optim.AdamW(module.parameters()), path, seed=0)
    wider = nn.Linear(4, 2)
    with pytest.raises(StoreError, match="of another model"):
        loop.start(wider, torch.optim.AdamW(wider.parameters()), path, seed=3)


def test_a_full_disk_keeps_the_state_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, path = loop.LoopConfig(steps=5, batch_size=1, learning_rate=1e-2), tmp_path / "a.pt"
    run = _linear_run(path, config)
    run.save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run.step = 4
    with pytest.raises(StoreError, match="No space left on device"):
        run.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("flags", [("--minutes", "nan"), ("--minutes", "-1"), ("--threads", "0"), ("--seed", "-1")])
@pytest.mark.parametrize("model", ["editor", "verifier-small"])
def test_a_pretraining_that_cannot_be_is_refused_in_one_line(
    model: str, flags: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["world", "pretrain", model, *flags, "--state", str(tmp_path / "state"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert end.value.code == 1
    assert f"{flags[0].removeprefix('--')}=" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_passed_deadline_trains_and_writes_nothing(tmp_path: Path) -> None:
    config = loop.LoopConfig(steps=5, batch_size=1, learning_rate=1e-2)
    run = _linear_run(tmp_path / "a.pt", config)
    assert not loop.train(run, lambda step: _loss(run, step), config, tmp_path / "a.pt", time.monotonic() - 1, "t")
    assert run.step == 0 and not (tmp_path / "a.pt").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    config = loop.LoopConfig(steps=5, batch_size=1, learning_rate=1e-2)
    run = _linear_run(tmp_path / "a.pt", config)
    with pytest.raises(ValueError, match="lower learning_rate"):
        loop.train(
            run, lambda step: _loss(run, step) * float("nan"), config, tmp_path / "a.pt", time.monotonic() + 9, "t"
        )


def test_rate_warms_up_stays_and_falls() -> None:
    config = loop.LoopConfig(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10, decay_share=0.2)
    factors = [loop.rate_factor(step, config) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:80] == [1.0] * 70
    assert factors[80:] == pytest.approx([max(0.1, (100 - step) / 20) for step in range(80, 100)])


def test_average_is_the_recursion_it_says() -> None:
    module = nn.Linear(2, 1, bias=False)
    average = loop.Averaged(module)
    expected = module.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            module.weight.add_(1.0)
        average.update(module, step, 0.25)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    assert torch.allclose(average.weights["weight"], expected)


def test_the_optimiser_splits_takes_convolutions_and_resumes() -> None:
    def build() -> tuple[nn.Module, muon.MatrixOptimiser]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        return module, muon.MatrixOptimiser(module, 1e-2, 0.01, (0.9, 0.99), outer=("0.weight",))

    def step(module: nn.Module, optimiser: muon.MatrixOptimiser, seed: int) -> None:
        inputs = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        module(inputs).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    module, optimiser = build()
    assert len(optimiser.parts[0].param_groups[0]["params"]) == 2
    step(module, optimiser, 1)
    other, resumed = build()
    other.load_state_dict(module.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for group in (*optimiser.param_groups, *resumed.param_groups):
        group["lr"] = 5e-3
    step(module, optimiser, 2)
    step(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert resumed.parts[1].param_groups[0]["lr"] == 5e-3


# --- autoencoder --------------------------------------------------------------------------------------------------


def test_pixels_survive_the_conversion_both_ways() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    floats = vae.to_model(pictures)
    assert floats.shape == (2, 3, 64, 64) and floats.min() >= -1 and floats.max() <= 1
    assert np.array_equal(vae.from_model(floats), pictures)


def test_pictures_for_the_autoencoder_repeat_by_seed() -> None:
    first, again, other = (vae.sample_pictures(np.random.default_rng(seed), 12) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_untrained_autoencoder_keeps_the_order_of_colours(raw_vae: AutoencoderKL) -> None:
    flat = np.zeros((6, 64, 64, 3), np.uint8)
    for index in range(6):
        flat[index, :, :, index % 3] = 90 + 140 * (index // 3)
    seen = raw_vae.decode(raw_vae.encode(vae.to_model(flat)).latent_dist.mode()).sample[:, :, 24:40, 24:40].mean((2, 3))
    assert seen.argmax(dim=1).tolist() == [0, 1, 2, 0, 1, 2]


def test_measured_scale_makes_latents_standard(raw_vae: AutoencoderKL) -> None:
    shift, scaling = vae.measure_scale(raw_vae, np.random.default_rng(3), 16)
    own = vae.build_vae(0).eval().requires_grad_(False)
    own.register_to_config(shift_factor=shift, scaling_factor=scaling)
    latents = vae.encode(own, vae.sample_pictures(np.random.default_rng(3), 16))
    assert latents.shape == (16, 4, 16, 16)
    assert float(latents.mean()) == pytest.approx(0, abs=1e-4) and float(latents.std()) == pytest.approx(1, abs=1e-3)
    assert vae.decode(own, latents[:2]).shape == (2, 64, 64, 3)


# --- text ---------------------------------------------------------------------------------------------------------


def test_every_instruction_fits_without_unknown_words(tokenizers: tuple) -> None:  # type: ignore[type-arg]
    t5, clip = tokenizers
    rng = np.random.default_rng(5)
    texts = [editor.draw_context(rng)[1].instruction for _ in range(400)]
    for tokenizer in tokenizers:
        assert max(len(ids) for ids in tokenizer(texts).input_ids) <= editor_text.TEXT_LENGTH
    assert all(t5.unk_token_id not in ids for ids in t5(texts).input_ids)
    # In CLIP the unknown token is the end token, which must come once and last.
    assert all(ids.index(clip.eos_token_id) == len(ids) - 1 for ids in clip(texts).input_ids)


def test_tokenizers_repeat_and_take_foreign_text(tokenizers: tuple) -> None:  # type: ignore[type-arg]
    corpus = editor_text.instruction_corpus(1200)
    text = "Zap the {thing}-97!"
    for tokenizer, build in zip(
        tokenizers, (editor_text.build_t5_tokenizer, editor_text.build_clip_tokenizer), strict=True
    ):
        assert build(corpus).get_vocab() == tokenizer.get_vocab()
        assert tokenizer(text).input_ids[-1] == tokenizer.eos_token_id


def test_merges_make_every_word_one_token(tokenizers: tuple) -> None:  # type: ignore[type-arg]
    clip = tokenizers[1]
    text = "move the striped triangle into the bottom right corner"
    assert clip.convert_ids_to_tokens(clip(text).input_ids)[1:-1] == [word + "</w>" for word in text.split()]
    assert editor_text.learn_merges(editor_text.Counter({"ab": 1, "ac": 1})) == [("a", "b</w>"), ("a", "c</w>")]


# --- pairs --------------------------------------------------------------------------------------------------------


def test_changed_tokens_against_a_loop() -> None:
    rng = np.random.default_rng(8)
    contexts = [editor.draw_context(rng) for _ in range(6)]
    before = render([scene for scene, _ in contexts])
    after = render([edit.apply(scene) for scene, edit in contexts])
    found = editor.changed_tokens(before, after)
    for index in range(6):
        for token in range(editor.TOKENS):
            top, left = 8 * (token // 8), 8 * (token % 8)
            cut = np.s_[index, top : top + 8, left : left + 8]
            worst = max(abs(int(a) - int(b)) for a, b in zip(before[cut].ravel(), after[cut].ravel(), strict=True))
            assert found[index, token] == (worst > 12)
    assert found.any(axis=1).all(), "every edit changes something"


def test_a_token_is_the_square_that_its_weight_is_about() -> None:
    latents = torch.zeros(1, 4, 16, 16)
    latents[0, :, 6:8, 10:12] = 1.0
    packed = editor.pack(latents)
    assert packed.shape == (1, 64, 16)
    assert packed[0].abs().sum(dim=-1).nonzero().flatten().tolist() == [3 * 8 + 5]


def test_batches_are_a_function_of_the_step(
    tokenizers: tuple,  # type: ignore[type-arg]
    raw_vae: AutoencoderKL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(editor, "CHUNK", 8)
    walked = editor.PairStream(raw_vae, *tokenizers, seed=1, batch=4)
    batches = [walked.at(step) for step in range(8)]
    jumped = editor.PairStream(raw_vae, *tokenizers, seed=1, batch=4)
    for step in (7, 2, 5):
        again = jumped.at(step)
        for name in ("source_NLC", "target_NLC", "weight_NL", "t5_NT", "clip_NT"):
            assert torch.equal(getattr(again, name), getattr(batches[step], name))
    per_pass = [torch.cat([batches[2 * turn].source_NLC, batches[2 * turn + 1].source_NLC]) for turn in range(3)]
    assert all(torch.allclose(per_pass[0].sum(), other.sum(), rtol=1e-4) for other in per_pass[1:])


def test_loss_of_a_zero_velocity_is_the_weighted_power_of_the_target(
    tokenizers: tuple,  # type: ignore[type-arg]
) -> None:
    tiny = editor.TinyEditor(*tokenizers, seed=0)
    generator = torch.Generator().manual_seed(0)
    shape = (3, editor.TOKENS, 16)
    source, target = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    weight = 1.0 + editor.CHANGE_WEIGHT * (torch.rand(3, editor.TOKENS, generator=generator) < 0.3).float()
    ids = editor.text_ids(["Make it red."] * 3, *tokenizers)
    loss = editor.flow_loss(tiny, editor.Pairs(source, target, weight, *ids), torch.Generator().manual_seed(4))
    # The last layer starts at zero, so the model says 0 and the error is |noise - target|^2.
    again = torch.Generator().manual_seed(4)
    torch.randn(3, generator=again)
    noise = torch.randn(shape, generator=again)
    total = sum(
        float(weight[b, t]) * float((noise - target)[b, t].square().mean()) for b in range(3) for t in range(64)
    )
    assert float(loss.detach()) == pytest.approx(total / float(weight.sum()), rel=1e-5)


# --- the whole thing in miniature ---------------------------------------------------------------------------------


def test_pretraining_in_two_pieces_exports_a_pipeline_that_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae, "VAE_LOOP", replace(vae.VAE_LOOP, steps=2))
    monkeypatch.setattr(editor, "CHUNK", 32)
    monkeypatch.setattr(editor, "MEASURED", 2)
    out, state = tmp_path / "weights" / "editor", tmp_path / "state"
    assert not editor.pretrain_editor(out, state, minutes=0, steps=2)
    assert not out.exists()
    assert editor.pretrain_editor(out, state, minutes=5, steps=1)
    assert editor.pretrain_editor(out, state, minutes=5, steps=2, grid=None)
    card = json.loads((out / "pretraining.json").read_text())
    assert card["steps"] == 2 and card["samples"] == 64 and card["parameters"]["transformer"] <= 3_900_000
    assert all(file.stat().st_size <= editor.MAX_FILE_BYTES for file in out.rglob("*") if file.is_file())
    pipeline = FluxKontextPipeline.from_pretrained(out, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    source = render([sample_scene(np.random.default_rng(0), "validation")])
    first, again = (editor.edit_pictures(pipeline, source, ["Make it red."], seed=3, steps=2) for _ in range(2))
    assert first.shape == (1, 64, 64, 3) and np.array_equal(first, again)


@pytest.mark.parametrize(("minutes", "steps", "threads"), [(-1, 5, 1), (1, 0, 1), (1, 5, 0)])
def test_impossible_budgets_are_refused(tmp_path: Path, minutes: float, steps: int, threads: int) -> None:
    with pytest.raises(ValueError, match="must be 0 or more|at least 1 is needed"):
        editor.pretrain_editor(tmp_path / "o", tmp_path / "s", minutes, steps=steps, threads=threads)

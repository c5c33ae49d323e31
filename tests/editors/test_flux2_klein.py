from __future__ import annotations

import numpy as np
import pytest
import torch

from edit_r1.algo.flow_sde import log_probability
from edit_r1.editors.flow import FlowRows, generator, replay, sample_trajectory
from edit_r1.editors.flux2_klein import Flux2KleinEditor, Flux2KleinSettings
from edit_r1.images import decode_pil, decode_rgb, encode_png
from edit_r1.records import Sample

STEPS = 3
TOKENS = 40


def _picture(height, width, rng):
    return encode_png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _sample(height=64, width=64, references=(), seed=0) -> Sample:
    rng = np.random.default_rng(seed)
    source, extra = _picture(height, width, rng), tuple(_picture(*size, rng) for size in references)
    return Sample(f"s{seed}", source, ["make it red", "add a star"][seed % 2], "", references=extra)


def _editor(pipeline, **settings) -> Flux2KleinEditor:
    return Flux2KleinEditor(pipeline, Flux2KleinSettings(**{"steps": STEPS, "max_text_tokens": TOKENS, **settings}))


def _pipeline_image(pipeline, sample, seed, guidance, count=1, **size) -> np.ndarray:
    images = pipeline(
        image=[decode_pil(image) for image in (sample.source, *sample.references)], prompt=[sample.instruction] * count,
        num_inference_steps=STEPS, guidance_scale=guidance, max_sequence_length=TOKENS,
        generator=[torch.Generator().manual_seed(seed + n) for n in range(count)], **size,
    ).images  # fmt: skip
    return np.stack([np.asarray(image) for image in images])


def _pixels(edits) -> np.ndarray:
    return np.stack([decode_rgb(edit.image) for edit in edits])


@pytest.mark.parametrize(("guidance", "is_distilled"), [(1.0, False), (4.0, False), (4.0, True)])
@pytest.mark.parametrize("references", [(), ((64, 96),)])
def test_edit_is_the_pipelines_image_bit_for_bit(klein_pipeline, guidance, is_distilled, references):
    """Fault 9, float32; the pipeline shares its pictures among a batch, so the batch is of one sample, twice."""
    pipeline = klein_pipeline(is_distilled)
    sample = _sample(72, 101, references)
    expected = _pipeline_image(pipeline, sample, 5, guidance, count=2)
    edits = _editor(pipeline, guidance=guidance).edit([sample] * 2, [5, 6])
    assert np.array_equal(_pixels(edits), expected)
    assert expected.shape[1:3] == (72, 96)


def test_large_sources_are_shrunk_and_the_edit_may_have_a_size_of_its_own(klein_pipeline):
    pipeline = klein_pipeline()
    editor = _editor(pipeline, area=64 * 64)
    assert editor.layout(_sample(2000, 1000))[1] == (1448, 720)
    sample = _sample(64, 128)
    assert editor.layout(sample) == ((40, 88), (64, 128))
    expected = _pipeline_image(pipeline, sample, 5, 4.0, height=40, width=88)
    assert np.array_equal(_pixels(editor.edit([sample], [5])), expected)


def test_guidance_acts_unless_distilled(klein_pipeline):
    for is_distilled in (False, True):
        pipeline = klein_pipeline(is_distilled)
        plain, guided = (_pixels(_editor(pipeline, guidance=scale).edit([_sample()], [5])) for scale in (1.0, 4.0))
        assert np.array_equal(plain, guided) == is_distilled


def test_bf16_agrees_with_the_pipeline_up_to_its_rounding(klein_pipeline):
    pipeline = klein_pipeline().to(torch.bfloat16)
    expected = _pipeline_image(pipeline, _sample(), 1, 4.0).astype(int)
    edits = _pixels(_editor(pipeline).edit([_sample()], [1])).astype(int)
    assert np.abs(edits - expected).mean() < 2


def _mixed() -> list[Sample]:
    return [_sample(), _sample(seed=1), _sample(64, 96, ((64, 64),), seed=2), _sample(96, 64, ((64, 64),) * 2, seed=3)]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_packed_rows_get_the_velocity_and_gradient_they_have_alone(klein_pipeline, guidance):
    editor = _editor(klein_pipeline())
    editor.transformer.requires_grad_(True)
    parts = [
        FlowRows(editor.noise(contexts, [generator(i) for i in rows]), torch.full((len(rows),), 300.0 * n), contexts)
        for n, (rows, contexts) in enumerate(editor.encode(_mixed()), 1)
    ]
    assert len(parts) == 3
    alone = [editor.velocity(part.latents_BLC, part.timestep_B, part.contexts, guidance) for part in parts]
    sum(velocity.square().sum() for velocity in alone).backward()
    expected = {name: weight.grad.clone() for name, weight in editor.transformer.named_parameters()}
    editor.transformer.zero_grad()
    together = editor.velocities(parts, guidance)
    sum(velocity.square().sum() for velocity in together).backward()
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, weight in editor.transformer.named_parameters():
        assert torch.allclose(weight.grad, expected[name], atol=1e-5 * scale), name


def test_a_mixed_batch_is_one_batch_and_gives_each_the_image_it_has_alone(klein_pipeline):
    editor = _editor(klein_pipeline(), padding=0.6)
    forwards = []
    hook = editor.transformer.register_forward_hook(lambda *_: forwards.append(1))
    together = editor.edit(_mixed(), [1, 2, 3, 4])
    hook.remove()
    assert len(forwards) == 2 * STEPS
    for seed, (sample, edit) in enumerate(zip(_mixed(), together, strict=True), 1):
        alone = decode_rgb(editor.edit([sample], [seed])[0].image).astype(int)
        assert np.abs(alone - decode_rgb(edit.image).astype(int)).max() <= 1


def test_log_probability_is_of_the_guided_velocity_and_replays(klein_pipeline):
    editor = _editor(klein_pipeline())
    [(_, contexts)] = editor.encode([_sample(), _sample(seed=1)])
    schedule = editor.schedule(contexts, STEPS)
    run = sample_trajectory(editor, contexts, [generator(1), generator(2)], schedule, 4.0, 0.7, (0, 1))
    mean, std, _ = replay(editor, contexts, run.latents_BKLC, schedule, 4.0, 0.7, (0, 1))
    for k in range(2):
        expected = log_probability(run.next_BKLC[:, k], mean[:, k], std[k].expand(2))
        assert torch.allclose(expected, run.log_prob_BK[:, k], atol=1e-5)
    levels = editor.schedule(contexts, 1000).sigmas
    assert float(levels[500]) > 0.2  # training's noise levels are spread over the whole path


def test_pictures_that_the_pipeline_refuses_are_told(klein_pipeline):
    edits = _editor(klein_pipeline()).edit([_sample(32, 64), _sample(64, 600), _sample()], [1, 2, 3])
    assert "at least 64" in edits[0].error and "Aspect ratio" in edits[1].error and edits[2].image is not None


def test_from_pretrained_reads_what_save_wrote(klein_pipeline, tmp_path):
    editor = _editor(klein_pipeline(is_distilled=True))
    editor.save(tmp_path / "model")
    again = Flux2KleinEditor.from_pretrained(tmp_path / "model", editor.settings)
    again.pipeline.set_progress_bar_config(disable=True)
    assert again.pipeline.config.is_distilled
    one, other = (_pixels(each.edit([_sample()], [1])).astype(int) for each in (editor, again))
    assert np.abs(one - other).max() <= 1  # loaded weights lie elsewhere in memory, and products round by that
    assert again.with_transformer(again.transformer).pipeline.config.is_distilled

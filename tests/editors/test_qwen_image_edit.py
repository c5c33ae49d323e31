from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

from edit_r1.algo.flow_sde import log_probability
from edit_r1.editors.flow import FlowRows, generator, replay, sample_trajectory
from edit_r1.editors.qwen_image_edit import QwenImageEditor, QwenImageEditSettings
from edit_r1.images import ImageError, decode_pil, decode_rgb, encode_png
from edit_r1.records import Sample

STEPS = 4
AREA = 32 * 32


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    """The pipelines fix one megapixel (and 384 x 384 for Plus's text encoder): the tests make it 32 x 32."""
    dimensions = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: dimensions(AREA, ratio))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", AREA)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", AREA)


def _picture(height, width, rng):
    return encode_png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _samples(count, height=32, width=32, references=(), seed=0) -> list[Sample]:
    """Samples with `references` further pictures of these sizes."""
    rng = np.random.default_rng(seed)
    words = ["make it red", "remove the small blue dot on the left", "add a star"]
    return [
        Sample(
            f"s{seed}-{i}", _picture(height, width, rng), words[i % 3], "",
            references=tuple(_picture(*size, rng) for size in references),
        )
        for i in range(count)
    ]  # fmt: skip


def _editor(pipeline, **settings) -> QwenImageEditor:
    areas = {"area": AREA, "source_area": AREA, "condition_area": AREA}
    return QwenImageEditor(pipeline, QwenImageEditSettings(**{"steps": STEPS, **areas, **settings}))


def _pipeline_image(pipeline, samples, seeds, guidance, **settings) -> np.ndarray:
    pictures = [decode_pil(image) for sample in samples for image in (sample.source, *sample.references)]
    prompts = [sample.instruction for sample in samples]
    if guidance > 1:
        settings["negative_prompt"] = [" "] * len(samples)
    images = pipeline(
        image=pictures if len(pictures) > 1 else pictures[0], prompt=prompts, true_cfg_scale=guidance,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds], **settings,
    ).images  # fmt: skip
    return np.stack([np.asarray(image) for image in images])


def _pixels(edits) -> np.ndarray:
    return np.stack([decode_rgb(edit.image) for edit in edits])


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("count", "height", "width"), [(3, 32, 32), (1, 30, 90)])
def test_edit_is_the_pipelines_image_bit_for_bit(qwen_pipeline, guidance, count, height, width):
    """Fault 9, float32, with and without guidance; the instructions differ in length, so that text is padded.

    One picture is resized by the pipeline before both encoders see it; a list of them is not before the text encoder
    does, which makes an edit depend on how it was called. Ours is always resized: hence no list of odd sizes here.
    """
    pipeline = qwen_pipeline()
    samples, seeds = _samples(count, height, width), [5, 6, 2**40 + 7][:count]
    expected = _pipeline_image(pipeline, samples, seeds, guidance)
    edits = _editor(pipeline, guidance=guidance).edit(samples, seeds)
    assert np.array_equal(_pixels(edits), expected)
    assert expected.shape[1:3] == ((32, 32) if height == width else (32, 64))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("references", [(), ((32, 32), (72, 24))])
def test_a_plus_edit_is_the_pipelines_image_bit_for_bit(qwen_pipeline, guidance, zero_cond_t, references):
    """The Plus pipeline takes one edit a batch, and the aspect ratio of the last picture unless it is told."""
    pipeline = qwen_pipeline(plus=True, zero_cond_t=zero_cond_t)
    samples = _samples(1, 24, 72, references)
    editor = _editor(pipeline, guidance=guidance)
    height, width = editor.layout(samples[0])[0]
    expected = _pipeline_image(pipeline, samples, [5], guidance, height=height, width=width)
    assert np.array_equal(_pixels(editor.edit(samples, [5])), expected)
    assert expected.shape[1:3] == (32, 64)


def test_guidance_and_references_change_the_image(qwen_pipeline):
    pipeline = qwen_pipeline(plus=True)
    [sample] = _samples(1, references=((32, 32),))
    images = [
        _pixels(_editor(pipeline, guidance=guidance).edit([each], [5])).astype(int)
        for guidance, each in ((1.0, sample), (4.0, sample), (1.0, replace(sample, references=())))
    ]
    assert all(np.abs(images[0] - other).max() > 0 for other in images[1:])


def test_bf16_agrees_with_the_pipeline_up_to_its_rounding(qwen_pipeline):
    pipeline = qwen_pipeline().to(torch.bfloat16)
    samples, seeds = _samples(2), [1, 2]
    expected = _pipeline_image(pipeline, samples, seeds, 4.0).astype(int)
    edits = _pixels(_editor(pipeline).edit(samples, seeds)).astype(int)
    assert np.abs(edits - expected).mean() < 2


def _mixed() -> list[Sample]:
    return [
        *_samples(2, 32, 32, seed=1),
        *_samples(1, 24, 72, ((32, 32),), seed=2),
        *_samples(1, 72, 24, ((24, 72), (32, 32)), seed=3),
    ]


def _parts(editor, samples, timestep=700.0):
    parts = []
    for positions, contexts in editor.encode(samples):
        latents_BLC = editor.noise(contexts, [generator(position) for position in positions])
        parts.append(FlowRows(latents_BLC, torch.full((len(positions),), timestep - 50 * len(parts)), contexts))
    return parts


@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_packed_rows_get_the_velocity_and_gradient_they_have_alone(qwen_pipeline, zero_cond_t, guidance):
    """Three layouts, three numbers of pictures and three times in one forward; padding reaches nothing."""
    editor = _editor(qwen_pipeline(plus=True, zero_cond_t=zero_cond_t), guidance=guidance)
    editor.transformer.requires_grad_(True)
    parts = _parts(editor, _mixed())
    assert len({part.contexts.layout for part in parts}) == 3
    alone = [editor.velocity(part.latents_BLC, part.timestep_B, part.contexts, guidance) for part in parts]
    sum(velocity.square().sum() for velocity in alone).backward()
    expected = {
        name: weight.grad.clone() for name, weight in editor.transformer.named_parameters() if weight.grad is not None
    }
    editor.transformer.zero_grad()
    forwards = []
    editor.transformer.register_forward_hook(lambda *_: forwards.append(1))
    together = editor.velocities(parts, guidance)
    assert len(forwards) == (2 if guidance > 1 else 1)
    sum(velocity.square().sum() for velocity in together).backward()
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=2e-6)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, weight in editor.transformer.named_parameters():
        if name in expected:
            assert torch.allclose(weight.grad, expected[name], atol=1e-5 * scale), name


def test_a_mixed_batch_is_one_batch_and_gives_each_the_image_it_has_alone(qwen_pipeline):
    editor = _editor(qwen_pipeline(plus=True), batch_size=4, padding=0.6)
    samples, seeds = _mixed(), [1, 2, 3, 4]
    forwards = []
    hook = editor.transformer.register_forward_hook(lambda *_: forwards.append(1))
    together = editor.edit(samples, seeds)
    hook.remove()
    assert len(forwards) == 2 * STEPS
    for sample, seed, edit in zip(samples, seeds, together, strict=True):
        alone = decode_rgb(editor.edit([sample], [seed])[0].image).astype(int)
        assert np.abs(alone - decode_rgb(edit.image).astype(int)).max() <= 1


def test_processors_of_others_are_left_alone_and_sizes_then_go_one_by_one(qwen_pipeline):
    class Other(type(next(iter(qwen_pipeline().transformer.attn_processors.values())))):
        pass

    pipeline = qwen_pipeline(plus=True)
    pipeline.transformer.transformer_blocks[0].attn.processor = Other()
    editor, usual = _editor(pipeline, guidance=1.0), _editor(qwen_pipeline(plus=True), guidance=1.0)
    assert isinstance(pipeline.transformer.transformer_blocks[0].attn.processor, Other)
    for one, other in zip(editor.velocities(_parts(editor, _mixed()), 1.0),
                          usual.velocities(_parts(usual, _mixed()), 1.0), strict=True):  # fmt: skip
        assert torch.allclose(one, other, atol=2e-6)


def test_samples_that_cannot_be_edited_are_told_apart(qwen_pipeline):
    editor = _editor(qwen_pipeline())
    good, spoiled, other = _samples(3)
    spoiled = replace(spoiled, instruction="see <|image_pad|>")
    with_reference = _samples(1, references=((32, 32),))[0]
    thin = replace(other, source=encode_png(np.zeros((8, 1000, 3), np.uint8)))
    edits = editor.edit([good, spoiled, with_reference, thin, Sample("x", b"junk", "go", "")], [1, 2, 3, 4, 5])
    assert edits[0].image is not None
    assert [edit.image for edit in edits[1:]] == [None] * 4
    for edit, words in zip(
        edits[1:], ("stands for a picture", "Plus checkpoint", "has no 8 x 8 token", ""), strict=True
    ):
        assert words in edit.error
    with pytest.raises(ImageError, match="Plus checkpoint"):
        editor.encode([with_reference])


def test_own_size_is_kept_without_an_area(qwen_pipeline):
    editor = _editor(qwen_pipeline(plus=True), area=None, source_area=None)
    assert editor.layout(_samples(1, 45, 67, ((20, 30),))[0]) == ((40, 64), (40, 64), (16, 24))
    with pytest.raises(ValueError, match="area=100"):
        QwenImageEditSettings(area=100)


def test_guidance_needs_a_negative_encoding(qwen_pipeline):
    editor = _editor(qwen_pipeline(), guidance=1.0)
    [part] = _parts(editor, _samples(1))
    with pytest.raises(ValueError, match="encoded without one"):
        editor.velocity(part.latents_BLC, part.timestep_B, part.contexts, 4.0)


def test_log_probability_is_of_the_guided_rescaled_velocity_and_replays(qwen_pipeline):
    """Faults 2 and 9: what is stored is what was sampled, the velocity has its conditional norm, the replay agrees."""
    editor = _editor(qwen_pipeline(plus=True))
    [(_, contexts)] = editor.encode(_samples(2))
    schedule = editor.schedule(contexts, STEPS)
    window = (0, 1, 2)
    run = sample_trajectory(editor, contexts, [generator(1), generator(2)], schedule, 4.0, 0.7, window)
    assert torch.equal(run.next_BKLC[:, :-1], run.latents_BKLC[:, 1:])
    mean, std, _ = replay(editor, contexts, run.latents_BKLC, schedule, 4.0, 0.7, window)
    for k in range(3):
        expected = log_probability(run.next_BKLC[:, k], mean[:, k], std[k].expand(2))
        assert torch.allclose(expected, run.log_prob_BK[:, k], atol=1e-5)
    timestep = schedule.timesteps[:1].expand(2)
    plain, guided = (editor.velocity(run.latents_BKLC[:, 0], timestep, contexts, scale) for scale in (1.0, 4.0))
    assert torch.allclose(plain.norm(dim=-1), guided.norm(dim=-1), rtol=1e-5)
    assert not torch.allclose(plain, guided, atol=1e-4)


def test_off_loaded_encoders_rest_on_the_cpu_and_change_nothing(qwen_pipeline, monkeypatch):
    samples = _samples(2)
    expected = _pixels(_editor(qwen_pipeline()).edit(samples, [1, 2]))
    editor = _editor(qwen_pipeline(), offload_encoders=True)
    moves = []
    encoder = editor.pipeline.text_encoder
    monkeypatch.setattr(encoder, "to", lambda device: moves.append(str(device)) or encoder)
    assert np.array_equal(_pixels(editor.edit(samples, [1, 2])), expected)
    assert moves == ["cpu", "cpu"]  # to the device and back once: 16 GB each way for the released model


@pytest.mark.parametrize("plus", [False, True])
def test_from_pretrained_reads_what_save_wrote(qwen_pipeline, tmp_path, plus):
    editor = _editor(qwen_pipeline(plus=plus))
    editor.save(tmp_path / "model")
    again = QwenImageEditor.from_pretrained(tmp_path / "model", editor.settings)
    again.pipeline.set_progress_bar_config(disable=True)
    samples = _samples(2)
    assert (again.name, again.plus) == ("model", plus)
    one, other = (_pixels(each.edit(samples, [1, 2])).astype(int) for each in (editor, again))
    assert np.abs(one - other).max() <= 1  # loaded weights lie elsewhere in memory, and products round by that

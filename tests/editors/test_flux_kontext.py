from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edit_r1.editors.flow import FlowRows, check_window, generator, replay, sample_trajectory
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.parts import encoders_on, make_current
from edit_r1.images import decode_pil, decode_rgb, encode_png
from edit_r1.records import Sample

STEPS = 5
SIZE = 32


def _samples(count: int, height: int = SIZE, width: int = SIZE, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    words = ["make it red", "remove the blue dot", "add a star", "turn left"]
    return [
        Sample(f"s{seed}-{i}", encode_png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), words[i % 4], "")
        for i in range(count)
    ]


def _editor(pipeline, **settings) -> FluxKontextEditor:
    return FluxKontextEditor(pipeline, FluxKontextSettings(steps=STEPS, **settings))


def _pipeline_images(pipeline, samples, seeds, height=SIZE, width=SIZE) -> np.ndarray:
    images = pipeline(
        image=[decode_pil(sample.source) for sample in samples],
        prompt=[sample.instruction for sample in samples],
        height=height, width=width, max_area=height * width, _auto_resize=False,
        num_inference_steps=STEPS, guidance_scale=2.5, max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images  # fmt: skip
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("guidance_embeds", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48)])
def test_edit_is_the_pipelines_image_bit_for_bit(kontext_pipeline, guidance_embeds, height, width):
    """Fault 9, float32."""
    pipeline = kontext_pipeline(guidance_embeds)
    samples, seeds = _samples(3, height, width), [5, 6, 2**40 + 7]
    expected = _pipeline_images(pipeline, samples, seeds, height, width)
    edits = _editor(pipeline).edit(samples, seeds)
    assert np.array_equal(np.stack([decode_rgb(edit.image) for edit in edits]), expected)


def test_bf16_agrees_with_the_pipeline_up_to_its_rounding(kontext_pipeline):
    pipeline = kontext_pipeline(True).to(torch.bfloat16)
    samples, seeds = _samples(2), [1, 2]
    expected = _pipeline_images(pipeline, samples, seeds).astype(int)
    edits = np.stack([decode_rgb(edit.image) for edit in _editor(pipeline).edit(samples, seeds)]).astype(int)
    assert np.abs(edits - expected).mean() < 2


def test_products_in_bf16_move_an_image_by_their_rounding_and_leave_the_weights_alone(kontext_pipeline):
    samples = _samples(2)
    pictures = {}
    for bf16_products in (False, True):
        editor = _editor(kontext_pipeline(), bf16_products=bf16_products)
        edits = editor.edit(samples, [1, 2])
        pictures[bf16_products] = np.stack([decode_rgb(edit.image) for edit in edits]).astype(int)
        assert {weight.dtype for weight in editor.transformer.parameters()} == {torch.float32}
    difference = np.abs(pictures[True] - pictures[False])
    assert 0 < difference.max() <= 8


def test_an_edit_does_not_depend_on_its_neighbours(kontext_pipeline):
    editor = _editor(kontext_pipeline())
    samples = _samples(4)
    together = editor.edit(samples, [1, 2, 3, 4])
    swapped = editor.edit([samples[2], *_samples(3, seed=9)], [3, 7, 8, 9])
    first, second = decode_rgb(together[2].image).astype(int), decode_rgb(swapped[0].image).astype(int)
    assert np.abs(first - second).max() <= 1
    other_seed = decode_rgb(editor.edit([samples[2]], [4])[0].image).astype(int)
    assert np.abs(first - other_seed).max() > 1


def test_sizes_are_bucketed_and_order_is_kept(kontext_pipeline):
    editor = _editor(kontext_pipeline(), batch_size=2)
    samples = [*_samples(2), *_samples(2, 40, 64, seed=1), *_samples(1, seed=2)]
    order = [0, 2, 4, 3, 1]
    mixed = [samples[i] for i in order]
    broken = Sample("bad", b"not an image", "make it red", "")
    edits = editor.edit([*mixed[:2], broken, *mixed[2:]], list(range(6)))
    assert edits[2].image is None and "bad" in edits[2].error
    shapes = [decode_rgb(edit.image).shape[:2] for edit in edits if edit.image]
    assert shapes == [(32, 32), (40, 64), (32, 32), (40, 64), (32, 32)]
    with pytest.raises(ValueError, match="one seed per sample"):
        editor.edit(samples, [1])


@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_packed_rows_get_the_velocity_and_gradient_they_have_alone(kontext_pipeline, guidance_embeds):
    """Three sizes and three times in one forward; the source's size differs from the edit's."""
    editor = _editor(kontext_pipeline(guidance_embeds), max_area=48 * 48)
    editor.transformer.requires_grad_(True)
    samples = [*_samples(2), *_samples(1, 24, 72, seed=1), *_samples(1, 72, 24, seed=2)]
    parts = [
        FlowRows(editor.noise(contexts, [generator(i) for i in rows]), torch.full((len(rows),), 300.0 * n), contexts)
        for n, (rows, contexts) in enumerate(editor.encode(samples), 1)
    ]
    assert len(parts) == 3
    alone = [editor.velocity(part.latents_BLC, part.timestep_B, part.contexts, 2.5) for part in parts]
    sum(velocity.square().sum() for velocity in alone).backward()
    expected = {name: weight.grad.clone() for name, weight in editor.transformer.named_parameters()}
    editor.transformer.zero_grad()
    together = editor.velocities(parts, 2.5)
    sum(velocity.square().sum() for velocity in together).backward()
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=2e-6)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, weight in editor.transformer.named_parameters():
        assert torch.allclose(weight.grad, expected[name], atol=1e-5 * scale), name


def test_a_mixed_batch_is_one_batch_and_gives_each_the_image_it_has_alone(kontext_pipeline):
    editor = _editor(kontext_pipeline(), padding=0.6)
    samples, seeds = [*_samples(2), *_samples(1, 24, 72, seed=1), *_samples(1, 72, 24, seed=2)], [1, 2, 3, 4]
    forwards = []
    hook = editor.transformer.register_forward_hook(lambda *_: forwards.append(1))
    together = editor.edit(samples, seeds)
    hook.remove()
    assert len(forwards) == STEPS
    for sample, seed, edit in zip(samples, seeds, together, strict=True):
        alone = decode_rgb(editor.edit([sample], [seed])[0].image).astype(int)
        assert np.abs(alone - decode_rgb(edit.image).astype(int)).max() <= 1


def test_references_are_refused_by_an_editor_of_one_image(kontext_pipeline):
    [sample] = _samples(1)
    edit = _editor(kontext_pipeline()).edit([replace(sample, references=(sample.source,))], [1])[0]
    assert edit.image is None and "takes the source alone" in edit.error


def test_off_loaded_encoders_rest_on_the_cpu_and_change_nothing(kontext_pipeline, monkeypatch):
    samples = _samples(2)
    expected = [edit.image for edit in _editor(kontext_pipeline()).edit(samples, [1, 2])]
    editor = _editor(kontext_pipeline(), offload_encoders=True)
    moves = []
    for encoder in (editor.pipeline.text_encoder, editor.pipeline.text_encoder_2):
        monkeypatch.setattr(encoder, "to", lambda device, encoder=encoder: moves.append(str(device)) or encoder)
    assert [edit.image for edit in editor.edit(samples, [1, 2])] == expected
    assert len(moves) == 4


def test_off_loaded_weights_are_not_copied_back():
    """Two layers share a weight; "meta" stands for a GPU, whose weights are gone afterwards."""
    encoder = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).requires_grad_(False)
    encoder[1].weight = encoder[0].weight
    before = {name: (weight, weight.data_ptr(), weight.clone()) for name, weight in encoder.named_parameters()}
    with encoders_on(torch.device("meta"), [encoder], offload=True):
        assert all(weight.is_meta for weight in encoder.parameters())
    assert encoder[1].weight is encoder[0].weight
    for name, weight in encoder.named_parameters():
        same, place, values = before[name]
        assert weight is same and weight.data_ptr() == place and torch.equal(weight, values)


@pytest.mark.parametrize(("device", "taken"), [("cuda:1", [1]), ("cuda", [])])
def test_a_gpu_without_a_number_is_the_current_one(monkeypatch, device, taken):
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    make_current(device)
    assert used == taken


def test_size_settings(kontext_pipeline):
    pipeline = kontext_pipeline()
    picture = decode_pil(_samples(1, 45, 67)[0].source)
    assert _editor(pipeline).sizes(picture) == (40, 64, 40, 64)
    assert _editor(pipeline, max_area=128 * 128).sizes(picture)[:2] == (104, 152)
    assert _editor(pipeline, preferred_sizes=True).sizes(picture)[2:] == (832, 1248)
    tiny = _editor(pipeline).edit(_samples(1, 4, 40), [0])[0]
    assert tiny.image is None and "at least 8" in tiny.error


def test_a_large_source_is_shrunk_and_a_small_one_is_not(kontext_pipeline):
    pipeline = kontext_pipeline()
    [large] = _samples(1, 90, 134)
    editor = _editor(pipeline, max_area=32 * 48, source_area=45 * 67)
    assert editor.sizes(decode_pil(large.source)) == (32, 48, 40, 64)
    assert editor.sizes(decode_pil(_samples(1, 24, 40)[0].source))[2:] == (24, 40)
    small = encode_png(np.asarray(pipeline.image_processor.resize(decode_pil(large.source), 40, 64)))
    own = _editor(pipeline, max_area=32 * 48)
    [(_, shrunk)], [(_, given)] = editor.encode([large]), own.encode([replace(large, source=small)])
    assert torch.equal(shrunk.source_BRC, given.source_BRC) and shrunk.source_BRC.shape[1] == 40
    for wrong, told in (
        ({"source_area": 100}, "at least 1024"),
        ({"source_area": 4096, "preferred_sizes": True}, "leave"),
    ):
        with pytest.raises(ValueError, match=told):
            FluxKontextSettings(**wrong)


def test_from_pretrained_reads_what_save_wrote(kontext_pipeline, tmp_path):
    editor = _editor(kontext_pipeline())
    editor.save(tmp_path / "model")
    again = FluxKontextEditor.from_pretrained(tmp_path / "model", FluxKontextSettings(steps=STEPS))
    again.pipeline.set_progress_bar_config(disable=True)
    samples = _samples(2)
    assert again.name == "model"
    assert [e.image for e in again.edit(samples, [1, 2])] == [e.image for e in editor.edit(samples, [1, 2])]


def _encoded(editor, count=2):
    [(positions, contexts)] = editor.encode(_samples(count))
    assert positions == list(range(count))
    return contexts


def test_log_probability_is_of_the_stored_tensor_and_replays(kontext_pipeline):
    """Faults 2 and 9: what is stored is what was sampled, and the replay of all steps at once agrees."""
    editor = _editor(kontext_pipeline(True))
    contexts = _encoded(editor)
    schedule = editor.schedule(contexts, STEPS)
    window = (0, 1, 2)
    run = sample_trajectory(editor, contexts, [generator(1), generator(2)], schedule, 2.5, 0.7, window)
    assert run.latents_BKLC.dtype == torch.float32
    # consecutive steps: x' of one is x of the next, exactly
    assert torch.equal(run.next_BKLC[:, :-1], run.latents_BKLC[:, 1:])
    mean, std, dt = replay(editor, contexts, run.latents_BKLC, schedule, 2.5, 0.7, window)
    for b in range(2):
        for k in range(3):
            normal = torch.distributions.Normal(mean[b, k], std[k])
            expected = float(normal.log_prob(run.next_BKLC[b, k]).mean())
            assert float(run.log_prob_BK[b, k]) == pytest.approx(expected, abs=1e-5)
    assert (dt < 0).all() and torch.isfinite(std).all()


def test_windows_that_cannot_be_trained_are_refused():
    """Fault 7."""
    check_window((0, 8), 10, 0.7)
    check_window((), 10, 0.0)
    with pytest.raises(ValueError, match="last step"):
        check_window((9,), 10, 0.7)
    with pytest.raises(ValueError, match="positive noise"):
        check_window((0,), 10, 0.0)


def test_schedule_starts_at_one_and_ends_at_zero(kontext_pipeline):
    editor = _editor(kontext_pipeline())
    schedule = editor.schedule(_encoded(editor), STEPS)
    assert float(schedule.sigmas[0]) == 1.0 and float(schedule.sigmas[-1]) == 0.0
    assert (schedule.sigmas.diff() < 0).all() and schedule.steps == STEPS

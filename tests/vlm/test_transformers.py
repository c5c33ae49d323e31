"""The local backend on a real (random) Qwen2.5-VL: explicit sampling, batching, errors as data."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors

from edit_r1.images import decode_pil, encode_png
from edit_r1.records import IMAGE_QUALITY, Principle
from edit_r1.verifier.cards import ModelCard, write_card
from edit_r1.verifier.prompts import judge_request
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm import attention
from edit_r1.vlm import transformers as backend
from edit_r1.vlm.attention import Attention
from edit_r1.vlm.chat import to_messages
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Request, Sampling, TokenChoices
from edit_r1.vlm.token_choices import ChoiceRecorder, token_choices
from edit_r1.vlm.transformers import TransformersVLM

GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
SAMPLED = Sampling(max_new_tokens=12, seed=5)


def picture(seed: int, height: int = 32, width: int = 32) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def requests(count: int) -> list[Request]:
    """Prompts of different lengths and picture sizes, one of them without a picture."""
    made = [
        Request(("Source: ", picture(0), "\nEdited: ", picture(index, 32 + 16 * (index % 3)), "\nGo" + " on" * index))
        for index in range(count - 1)
    ]
    return [*made, Request(("No picture at all.",))]


@pytest.fixture(scope="module")
def vlm(checkpoint: Path) -> TransformersVLM:
    return TransformersVLM.load(checkpoint, batch_size=8)


def test_greedy_answers_do_not_depend_on_the_batch(vlm: TransformersVLM) -> None:
    many = requests(7)
    together = vlm.generate(many, GREEDY)
    alone = [vlm.generate([request], GREEDY)[0] for request in many]
    assert together == alone
    assert len({answer[0].text for answer in together}) > 1
    assert vlm.generate(many[:2], GREEDY, n=3) == [answer * 3 for answer in together[:2]]


def test_the_checkpoints_generation_config_has_no_say(vlm: TransformersVLM, checkpoint: Path) -> None:
    assert json.loads((checkpoint / "generation_config.json").read_text())["top_k"] == 1
    answers = vlm.generate(requests(2), SAMPLED, n=6)
    assert all(len({completion.text for completion in row}) == 6 for row in answers)


def test_the_same_seed_gives_the_same_answers_and_leaves_the_generator_alone(vlm: TransformersVLM) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = vlm.generate(requests(3), SAMPLED, n=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert vlm.generate(requests(3), SAMPLED, n=2) == first
    other = Sampling(max_new_tokens=12, seed=6)
    assert vlm.generate(requests(3), other, n=2) != first


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(
    "change",
    [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}],
    ids=["sampled", "greedy", "shaped"],
)
def test_reading_prompts_once_and_dropping_ended_rows_changes_no_text(
    vlm: TransformersVLM, monkeypatch: pytest.MonkeyPatch, n: int, change: dict
) -> None:
    """Against `transformers.generate` with the same seed; the end token is made likely, so that rows end all along."""
    many = requests(6)
    sampling = replace(SAMPLED, max_new_tokens=40, **change)
    likely = vlm.model.register_forward_hook(_likelier_end(vlm._ends[-1]))
    try:
        ours = vlm.generate(many, sampling, n)
        monkeypatch.setattr(backend, "read_prompts", lambda model, inputs, n: None)
        theirs = vlm.generate(many, sampling, n)
    finally:
        likely.remove()
    assert ours == theirs
    if sampling.temperature > 0:
        assert len({one.tokens for row in ours for one in row}) > 3


def _likelier_end(token: int) -> Callable:
    def hook(model: object, inputs: object, output: Any) -> None:
        output.logits[..., token] += 3.0

    return hook


def test_ended_rows_are_not_computed(vlm: TransformersVLM) -> None:
    sizes: list[int] = []
    likely = vlm.model.register_forward_hook(_likelier_end(vlm._ends[-1]))
    watch = vlm.model.register_forward_hook(lambda model, inputs, output: sizes.append(output.logits.shape[0]))
    try:
        (row,) = vlm.generate(requests(2)[:1], replace(SAMPLED, max_new_tokens=60), n=8)
    finally:
        likely.remove()
        watch.remove()
    assert sizes[:2] == [1, 8]  # the prompt once, then its eight answers
    assert sizes[1:] == sorted(sizes[1:], reverse=True) and sizes[-1] < 8
    needed = sum(one.tokens + (one.finish == "stop") for one in row)
    assert needed <= sum(sizes[1:]) <= 1.2 * needed


@pytest.mark.parametrize("n", [1, 3])
def test_alternatives_are_the_models_own_probabilities(
    vlm: TransformersVLM, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """Against one forward pass over prompt and answer, without a cache, sampler or batch."""
    generated: dict[int, list[int]] = {}  # by the identity of its choices: texts alone do not tell every token

    def spy(tokenizer: object, tokens: list[int], options: list) -> tuple[TokenChoices, ...]:
        made = token_choices(tokenizer, tokens, options)
        generated[id(made)] = tokens
        return made

    monkeypatch.setattr(backend, "token_choices", spy)
    shaped = replace(SAMPLED, temperature=0.7, top_k=5, top_p=0.9, repetition_penalty=1.2, top_logprobs=4)
    many = requests(4)
    tokenizer = vlm.processor.tokenizer
    compared = 0
    for request, row in zip(many, vlm.generate(many, shaped, n=n), strict=True):
        text = vlm.processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
        images = [decode_pil(data) for data in request.images] or None
        prompt = vlm.processor(text=[text], images=[images] if images else None, return_tensors="pt")
        for completion in row:
            assert completion.choices is not None
            assert len(completion.choices) == completion.tokens
            tokens = generated[id(completion.choices)]
            ids = torch.cat([prompt["input_ids"], torch.tensor([tokens], dtype=torch.long)], dim=1)
            inputs = {**prompt, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if "mm_token_type_ids" in inputs:
                kinds = inputs["mm_token_type_ids"]
                inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros((1, len(tokens)))], dim=1)
            with torch.no_grad():
                logits = vlm.model(**inputs).logits[0, prompt["input_ids"].shape[1] - 1 : -1]
            values, best = logits.float().log_softmax(-1).topk(4, dim=-1)
            for place, choice in enumerate(completion.choices):
                assert [text for text, _ in choice.alternatives] == [
                    tokenizer.decode([t]) for t in best[place].tolist()
                ]
                np.testing.assert_allclose([v for _, v in choice.alternatives], values[place].numpy(), atol=2e-4)
                compared += 1
    assert compared > 12 * n


def test_alternatives_change_no_answer_and_come_only_when_asked_for(
    vlm: TransformersVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = requests(5)
    for sampling, n in ((GREEDY, 1), (GREEDY, 2), (SAMPLED, 3)):
        plain = vlm.generate(many, sampling, n)
        told = vlm.generate(many, replace(sampling, top_logprobs=20), n)
        assert [[replace(one, choices=None) for one in row] for row in told] == plain
        assert all(one.choices is None for row in plain for one in row)
        assert all(len(choice.alternatives) == 20 for row in told for one in row for choice in one.choices or ())
        for choice in told[0][0].choices or ():
            values = [value for _, value in choice.alternatives]
            assert values == sorted(values, reverse=True) and math.fsum(map(math.exp, values)) <= 1 + 1e-5
    monkeypatch.setattr(ChoiceRecorder, "_keep", lambda *_: pytest.fail("asked for nothing"))
    vlm.generate(many, GREEDY)
    assert not vlm.model._forward_hooks


@pytest.mark.parametrize("reader", ["shared", "plain"])
def test_alternatives_stay_with_their_answer(
    vlm: TransformersVLM, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """Greedy: the token that came is the likeliest that is not a suppressed special one."""
    if reader == "plain":
        monkeypatch.setattr(backend, "read_prompts", lambda model, inputs, n: None)
    suppressed = {vlm.processor.tokenizer.decode([token]) for token in vlm._suppressed}
    cool = replace(SAMPLED, temperature=1e-4, top_logprobs=20)
    seen = 0
    for row in vlm.generate(requests(6), cool, n=2):
        for completion in row:
            for choice in completion.choices or ():
                assert choice.token == next(text for text, _ in choice.alternatives if text not in suppressed)
                seen += 1
    assert seen > 50


def test_edits_of_a_group_share_their_first_tokens(vlm: TransformersVLM) -> None:
    """Up to the edited image the model reads the same tokens, so that a server reads them once a group."""
    principles = [Principle("Is it sharp?", IMAGE_QUALITY)]
    start = vlm.processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    for variant in ("full", "compact"):
        group = [judge_request([picture(0)], picture(i), "Go", principles, "both", variant) for i in (1, 2)]
        prompts = []
        for request in group:
            text = vlm.processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
            images = [[decode_pil(data) for data in request.images]]
            prompts.append(vlm.processor(text=[text], images=images)["input_ids"][0])
        edited = [place for place, token in enumerate(prompts[0]) if token == start][1]
        assert prompts[0][: edited + 1] == prompts[1][: edited + 1]
        assert edited > len(prompts[0]) / 4


def test_finish_and_token_counts(vlm: TransformersVLM) -> None:
    end = vlm.processor.tokenizer.eos_token_id
    assert vlm._completion([65, 66, end, end]).finish == "stop"
    assert vlm._completion([65, 66, end, end]).tokens == 2
    assert vlm._completion([65, 66]).finish == "length"
    assert vlm._completion([end]).tokens == 0
    for row in vlm.generate(requests(3), SAMPLED, n=4):
        for completion in row:
            assert (completion.finish == "length") == (completion.tokens == 12)


def test_special_tokens_are_never_sampled(vlm: TransformersVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(vlm, "_completion", lambda tokens: drawn.extend(tokens))
    hot = Sampling(max_new_tokens=60, temperature=100.0)
    vlm.generate(requests(3), hot, n=8)
    special = set(range(256, 263)) - set(vlm._ends)  # the tokenizer's first 256 tokens are bytes
    assert len(special) == 5
    assert len(set(drawn)) > 100
    assert not special & set(drawn)


def test_a_turn_ends_where_the_checkpoint_says(vlm: TransformersVLM, checkpoint: Path, tmp_path: Path) -> None:
    """Gemma 3 ends its turns by a special token that is not the tokenizer's eos_token."""
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    own = vlm.processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [vlm._ends[0], own, 65]}))
    other = TransformersVLM.load(folder, batch_size=8)
    assert other.ends == sorted({*vlm.ends, own})  # 65 is a letter, and 151645, the config's own, no token at all
    assert TransformersVLM(other.model, other.processor, "again").ends == other.ends  # wrapped once more
    hot = Sampling(max_new_tokens=200, temperature=100.0)
    ended = [one for row in other.generate(requests(2), hot, n=16) for one in row if one.finish == "stop"]
    assert ended and all("vision_end" not in one.text for one in ended)
    assert own in vlm._suppressed and own not in other._suppressed


def test_a_template_that_writes_the_start_token_gets_no_second_one(checkpoint: Path) -> None:
    vlm = TransformersVLM.load(checkpoint)
    tokenizer = vlm.processor.tokenizer
    tokenizer.bos_token = "<|im_start|>"  # the template begins with it
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    text = vlm.processor.apply_chat_template(to_messages(requests(1)[0]), tokenize=False, add_generation_prompt=True)
    assert tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    tokens = vlm._tensors([backend._Prepared(0, text, ())])["input_ids"][0].tolist()
    assert tokens[0] == tokenizer.bos_token_id != tokens[1]


@pytest.mark.parametrize("fits", [2, 1, 0])
def test_a_batch_that_memory_does_not_hold_is_halved(
    vlm: TransformersVLM, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    expected = vlm.generate(requests(5), GREEDY)
    sample, refused = vlm._sample, []

    def sparing(inputs: dict[str, torch.Tensor], *others: Any) -> torch.Tensor:
        if len(inputs["input_ids"]) > fits:
            refused.append(len(inputs["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return sample(inputs, *others)

    vlm.model.train()
    monkeypatch.setattr(vlm, "_sample", sparing)
    answers = vlm.generate(requests(5), GREEDY, n=2)
    assert vlm.model.training  # a failed pass leaves the model as it was
    vlm.model.eval()
    assert refused
    if fits:
        assert answers == [row * 2 for row in expected]
    else:
        assert {one.finish for row in answers for one in row} == {"error"}
        assert all(one.error and "out of memory" in one.error and "\n" not in one.error for one in answers[0])


def test_a_bad_request_is_an_answer_of_its_own(vlm: TransformersVLM) -> None:
    good = requests(2)
    strip = encode_png(np.zeros((8, 4000, 3), dtype=np.uint8))  # Qwen's processor refuses aspect ratios above 200
    long = Request(("word " * 2000,))
    mixed = [good[0], Request((b"broken", "x")), Request((strip, "x")), long, good[1]]
    seen: list[tuple[int, int]] = []
    answers = vlm.generate(mixed, GREEDY, n=2, progress=lambda *at: seen.append(at))
    assert [row[0].finish for row in answers] == ["length", "error", "error", "error", "length"]
    assert all(len(row) == 2 for row in answers)
    assert answers[0][0] == vlm.generate(good, GREEDY)[0][0]
    assert "refuses" in (answers[2][0].error or "")
    assert "context is 1024" in (answers[3][0].error or "")
    assert seen[-1] == (5, 5)
    assert vlm.generate([], GREEDY) == []


def test_the_training_flag_survives(checkpoint: Path) -> None:
    vlm = TransformersVLM.load(checkpoint)
    vlm.model.train()
    vlm.generate(requests(1), GREEDY)
    assert vlm.model.training


@pytest.mark.parametrize(
    ("change", "n", "message"),
    [
        ({}, 0, "n=0"),
        ({"max_new_tokens": 0}, 1, "max_new_tokens=0"),
        ({"temperature": -1.0}, 1, "temperature=-1.0"),
        ({"top_p": 0.0}, 1, "top_p=0.0"),
        ({"top_k": -1}, 1, "top_k=-1"),
        ({"repetition_penalty": 0.0}, 1, "repetition_penalty=0.0"),
        ({"top_logprobs": 21}, 1, "top_logprobs=21"),
        ({"top_logprobs": -1}, 1, "top_logprobs=-1"),
    ],
)
def test_bad_sampling_is_refused(vlm: TransformersVLM, change: dict, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vlm.generate([], Sampling(**{"max_new_tokens": 4, **change}), n)


def _foreign(folder: Path, checkpoint: Path, case: str) -> str:
    """A folder that is not a usable checkpoint."""
    if case == "missing":
        return str(folder / "nothing")
    if case == "file":
        (folder / "model.bin").write_bytes(b"x")
        return str(folder / "model.bin")
    if case == "empty":
        return str(folder)
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    if case == "no processor":
        for name in ("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)
    elif case == "text model":
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
    elif case == "broken config":
        (folder / "config.json").write_text("{")
    elif case == "cut weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif case == "no weights":
        (folder / "model.safetensors").unlink()
    elif case == "missing weights":
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors.pop(next(name for name in tensors if "o_proj" in name))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "file",
        "empty",
        "no processor",
        "text model",
        "broken config",
        "cut weights",
        "no weights",
        "missing weights",
    ],
)
def test_a_foreign_checkpoint_is_one_clear_line(tmp_path: Path, checkpoint: Path, case: str) -> None:
    path = _foreign(tmp_path, checkpoint, case)
    with pytest.raises(ModelError) as caught:
        TransformersVLM.load(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_bad_settings(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="dtype='int8'"):
        TransformersVLM.load(checkpoint, dtype="int8")
    with pytest.raises(ModelError, match="not an adapter"):
        TransformersVLM.load(checkpoint, adapter=checkpoint)
    with pytest.raises(ValueError, match="batch_size=0"):
        TransformersVLM.load(checkpoint, batch_size=0)
    for device, said in (("gpu", "no device; use cpu"), ("", "no device"), ("cuda:99", "CUDA device")):
        with pytest.raises(ModelError, match=said):
            TransformersVLM.load(checkpoint, device=device)
    with pytest.raises(ModelError, match="cannot be put on xpu"):
        TransformersVLM.load(checkpoint, device="xpu")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_attention_kernel_is_what_was_asked_for_and_changes_no_text(
    vlm: TransformersVLM, checkpoint: Path, kernel: Attention
) -> None:
    other = TransformersVLM.load(checkpoint, attention=kernel, batch_size=8)
    vision = other.model.config.vision_config
    assert (other.attention, vision._attn_implementation, vlm.attention) == (kernel, kernel, "sdpa")
    assert other.generate(requests(5), GREEDY) == vlm.generate(requests(5), GREEDY)
    assert other.attention == kernel  # after the answers' own attention too
    with Verifier.load(checkpoint, attention=kernel) as verifier:
        assert isinstance(verifier.vlm, TransformersVLM) and verifier.vlm.attention == kernel


def test_a_kernel_that_cannot_be_had_is_one_clear_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    for options, said in (
        ({"attention": "flash"}, "choose one of sdpa, eager, flash_attention_2, flex_attention"),
        ({"attention": "flash_attention_2"}, "runs on a GPU, not on cpu"),
        ({"attention": "flash_attention_2", "device": "cuda"}, "add --dtype bfloat16"),
        ({"attention": "flash_attention_2", "device": "cuda", "dtype": "bfloat16"}, "flash-attn is not installed"),
    ):
        with pytest.raises(ModelError, match=said):
            TransformersVLM.load(checkpoint, **options)
    with pytest.raises(ModelError, match="vLLM chooses its own kernels"):
        Verifier.load(checkpoint, backend="vllm", attention="sdpa")


def test_a_kernel_that_the_model_refuses_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "_supports_sdpa", False)
    with pytest.raises(ModelError, match=r"that can be opened with attention sdpa \(.*not support"):
        TransformersVLM.load(checkpoint, attention="sdpa")
    assert TransformersVLM.load(checkpoint).model is not None  # transformers takes another where nothing is asked for


def test_an_adapter_is_merged(checkpoint: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    vlm = TransformersVLM.load(checkpoint)
    plain = vlm.generate(requests(3), GREEDY)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(vlm.model, lora).save_pretrained(tmp_path)
    adapted = TransformersVLM.load(checkpoint, adapter=tmp_path)
    assert not any("lora" in name for name, _ in adapted.model.named_parameters())
    assert adapted.generate(requests(3), GREEDY) != plain


def test_a_verifier_reads_its_card_and_a_random_model_scores_nothing(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    write_card(tmp_path, ModelCard("compact", "verify", "EditWorld"))
    verifier = Verifier.load(tmp_path, max_new_tokens=16)
    assert (verifier.variant, verifier.mode, verifier.domain) == ("compact", "verify", "EditWorld")
    assert Verifier.load(tmp_path, variant="full").variant == "full"
    judgment = verifier.score([picture(0)], picture(1), "Go", [Principle("Is it sharp?", IMAGE_QUALITY)], traces=3)
    assert (judgment.score, judgment.unparsed, judgment.traces) == (None, 3, 3)
    assert judgment.model == tmp_path.name

"""The tiny verifiers' tokenizer: byte-level BPE in Qwen2's layout, trained on EditWorld's English.

Every frequent word is one token and any other text falls back to bytes. Pieces of the compact
grammar are single tokens, so that a trace is short and a verdict is one decision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from edit_r1.world.checks import TEMPLATES
from edit_r1.world.scenes import BACKGROUNDS, COLOURS, LETTERS, MATERIALS, PLACES, SHAPES, SIZES, STYLES, TONES
from edit_r1.zoo.seeing import LESSONS, lesson

MERGES = 620
"""Upper bound of the vocabulary beyond the 256 bytes; the corpus needs fewer."""
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PIECES = (
    "<score>",
    "</score>",
    '{"average_score": ',
    ": yes",
    ": no",
    ", now",
    " [Follow]",
    " [Keep]",
    " [Quality]",
    *(f" {place}" for place in PLACES),
)
"""Pieces of prompts and traces that are one token each; ordinary text to every decoder."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' or 'image' in item or 'image_url' in item %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif item['type'] == 'video' or 'video' in item %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in item %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's turns, without its default system text, which tiny models have no use for."""


def corpus(seed: int = 0, count: int = 4000) -> Iterator[str]:
    """Text of the world: lessons, questions, names and the grammar of traces."""
    rng = np.random.default_rng([seed, 7])
    names = list(LESSONS)
    for index in range(count):
        taught = lesson(rng, "train", names[index % len(names)])
        yield "".join(part for part in taught.parts if isinstance(part, str))
        yield taught.answer
    words = [*SHAPES, *COLOURS, *SIZES, *MATERIALS, *BACKGROUNDS, *TONES, *STYLES, "photograph", "gradient", "faint"]
    for _ in range(50):
        yield " ".join(["", *words, *LETTERS])
        yield "Answer: think and verify, see, describe, gold, instruction. List the principles. Reference average_score"
        yield " yes no nothing not found added was now shifted oversaturated blurry noisy system user assistant"
        yield from (question for _, question in TEMPLATES.values())


def build_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """Train the tokenizer; the same seed gives the same vocabulary."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MERGES,
        min_frequency=20,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(corpus(seed), trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        model_max_length=4096,
    )
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in PIECES])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

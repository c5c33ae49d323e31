"""What the tiny editor reads with: two tokenizers learned from EditWorld's instructions, two small encoders.

The class names and file layout are those of FLUX.1-Kontext (CLIP for the pooled vector, T5 for the
sequence), so nothing that loads the real one has to know that this one is small.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from edit_r1.world.edits import CATEGORIES, MULTI_STEP, sample_edit
from edit_r1.world.scenes import sample_scene

TEXT_LENGTH = 32
"""Tokens of an instruction, padding included; the longest two-step instruction has 22 words and full stops."""
T5_WIDTH = 128
CLIP_WIDTH = 64
CORPUS_SIZE = 6000


def instruction_corpus(count: int = CORPUS_SIZE) -> list[str]:
    """Instructions of the train split, all categories alike; always the same."""
    rng = np.random.default_rng(20260427)
    texts: list[str] = []
    while len(texts) < count:
        category = (*CATEGORIES, MULTI_STEP)[len(texts) % (len(CATEGORIES) + 1)]
        edit = sample_edit(rng, sample_scene(rng, "train"), category, "train")
        if edit is not None:
            texts.append(edit.instruction)
    return texts


def build_t5_tokenizer(corpus: list[str]) -> T5Tokenizer:
    """A T5 tokenizer whose pieces are the corpus's words, and single characters for everything else."""
    counts = Counter(word for text in corpus for word in re.findall(r"[A-Za-z]+", text))
    total = sum(counts.values())
    words = [("\u2581" + word, math.log(count / total)) for word, count in sorted(counts.items())]
    printable = [chr(code) for code in range(33, 127)]
    seen = {piece for piece, _ in words}
    characters = [(char, -18.0) for char in printable if char not in seen]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -16.0), *words, *characters]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=TEXT_LENGTH)


def build_clip_tokenizer(corpus: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer with byte-pair merges learned from the corpus until each of its words is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(Counter(word for text in corpus for word in re.findall(r"[a-z]+", text.lower())))
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(char + "</w>" for char in alphabet)]
    pieces += [first + second for first, second in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def learn_merges(counts: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one piece.

    Ties go to the first pair in alphabetical order: the library's own trainer breaks them by a hash that
    changes from call to call, and with it every token's number.
    """
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(counts)}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: _merged(pieces, best) for word, pieces in words.items()}


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def build_t5(tokenizer: T5Tokenizer, seed: int) -> T5EncoderModel:
    """An untrained encoder of two layers; (B, T) ids to (B, T, 128)."""
    torch.manual_seed(seed)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=32,
            num_heads=4,
            d_ff=256,
            num_layers=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=TEXT_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def build_clip(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """An untrained encoder of one layer; its pooled output is (B, 64)."""
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CLIP_WIDTH,
            intermediate_size=2 * CLIP_WIDTH,
            projection_dim=CLIP_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

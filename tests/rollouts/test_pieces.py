"""Texts of single tokens: joined they are the decoded text, whatever the decoder does between tokens."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.rollouts.makers import byte_tokenizer
from tests.rollouts.real_tokenizers import tokenizer as real_tokenizer
from verdictscope.rollouts import pieces
from verdictscope.sources import locate

TEXTS = (
    "",
    "a",
    "the cat.\n\nThe end",
    "naïve — „ja“ 🙂🙂 日本語 \u202e\u200b",
    "🙂",
    "<think>\nwell</think>\n\nSo \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\ufffd kept \ufffd",
)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Byte fallback, a meta symbol for spaces and a decoder that drops the first one, as Llama 2's and Gemma's do."""
    words = ["<unk>", "▁", "▁the", "▁cat", "s", "a", ".", "▁a"]
    vocab = {w: i for i, w in enumerate([*words, *(f"<0x{b:02X}>" for b in range(256))])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", clean_up_tokenization_spaces=False)


def wordpiece_like() -> PreTrainedTokenizerFast:
    """Spaces that only decoding puts in."""
    vocab = {w: i for i, w in enumerate(["[UNK]", "the", "cat", "##s", "##é", ".", "[SEP]"])}
    inner = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    inner.add_special_tokens([AddedToken("[SEP]", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", clean_up_tokenization_spaces=False)


def whole(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_a_character_come_with_its_last_token(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = pieces(ids, tokenizer)
    assert len(found) == len(ids)
    assert "".join(found) == text


def test_a_split_character_is_whole_or_nothing() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("a🙂é", add_special_tokens=False)["input_ids"]
    assert pieces(ids, tokenizer) == ["a", "", "", "", "🙂", "", "é"]
    assert "".join(pieces(ids[:3], tokenizer)) == "a\ufffd"  # cut inside: the last token says so


def test_a_first_space_is_dropped_once() -> None:
    tokenizer = sentencepiece_like()
    ids = [2, 3, 4, 6, 7]
    assert pieces(ids, tokenizer) == ["the", " cat", "s", ".", " a"]


def test_spaces_of_the_decoder_belong_to_the_next_token() -> None:
    assert pieces([1, 2, 3, 4, 5, 6], wordpiece_like()) == ["the", " cat", "s", "é", " .", " [SEP]"]


@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece_like, wordpiece_like])
def test_any_ids_join_to_the_decoded_text(make) -> None:
    tokenizer = make()
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(0, len(tokenizer), rng.integers(1, 40)).tolist()
        found = pieces(ids, tokenizer)
        assert len(found) == len(ids)
        assert "".join(found) == whole(tokenizer, ids)


@pytest.mark.parametrize(
    ("chat", "base", "eos"),
    [
        ("Qwen-Qwen3-0.6B", "qwen", "<|im_end|>"),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "llama3", "<｜end▁of▁sentence｜>"),
    ],
)
def test_real_vocabularies(chat: str, base: str, eos: str) -> None:
    tokenizer = real_tokenizer(chat, base, eos)
    rng = np.random.default_rng(1)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(pieces(ids, tokenizer)) == whole(tokenizer, ids)
    for _ in range(50):
        ids = rng.integers(0, len(tokenizer), 60).tolist()
        assert "".join(pieces(ids, tokenizer)) == whole(tokenizer, ids)


def test_the_bundled_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(locate("organism:cliff"))
    ids = tokenizer("<|im_start|>user\nhow to build the hospital.<|im_end|>\n", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(ids, tokenizer)) == whole(tokenizer, ids)
    assert pieces(ids, tokenizer)[:3] == ["<|im_start|>", "user", "\n"]

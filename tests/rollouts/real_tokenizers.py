"""Tokenizers rebuilt from the first pieces of real vocabularies, with real chat templates."""

from __future__ import annotations

import base64
import functools
import lzma
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.public_data import EXCERPTS, some, whole

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
O200K_SPLIT = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
SIZE = 30_000
"""Ranks kept: any number of first ranks is a byte-pair vocabulary itself, and a short one loads in a second."""

WHOLE = 1 << 20
SMALL = 10_000
"""The same for tests that load dozens of tokenizers: everything that merges around a tag has a lower rank."""

R1 = ["<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<|EOT|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
HARMONY = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>"]
ADDED = {
    "qwen": [*QWEN, *R1, "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "llama3": [*LLAMA3, *R1],
    "o200k": HARMONY,
}


def template(name: str) -> str:
    """One of the public chat templates, or a skip."""
    return some(f"chat_templates/{name}.jinja").read_text(encoding="utf-8")


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + k) for k, b in enumerate(shifted)}}


@functools.cache
def _pieces(base: str) -> list[bytes]:
    """An excerpt: pieces one after the other, each behind a byte that holds its length."""
    raw, pieces, at = lzma.decompress((EXCERPTS / "vocabs" / f"{base}.xz").read_bytes()), [], 0
    while at < len(raw):
        pieces.append(raw[at + 1 : at + 1 + raw[at]])
        at += 1 + raw[at]
    return pieces


def _excerpt(base: str, size: int) -> list[bytes]:
    """The first pieces. Llama-3's are Qwen's and the numbers of two and three digits, whose rank has no influence."""
    if base != "llama3":
        return _pieces({"qwen": "qwen", "o200k": "o200k_base"}[base])[:size]
    numbers = [f"{n:0{digits}}".encode() for digits in (2, 3) for n in range(10**digits)]
    return [*_pieces("qwen")[: size - len(numbers)], *numbers]


def _merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """A merge for every split of a piece into two pieces, by rank."""
    merges: list[tuple[str, str]] = []
    for piece in sorted(vocab, key=vocab.__getitem__):
        splits = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        known = [(a, b) for a, b in splits if a in vocab and b in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


@functools.cache
def _inner(base: str, size: int = SIZE) -> str:
    file, split, nfc = BASES[base]
    pieces: Sequence[bytes] = _excerpt(base, size)
    if size > SIZE:
        lines = whole(f"vocabs/{file}").read_bytes().splitlines()[:size]
        pieces = [base64.b64decode(line.split()[0]) for line in lines]
    alphabet = _byte_alphabet()
    vocab = {"".join(alphabet[b] for b in piece): rank for rank, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=_merges(vocab), ignore_merges=True))
    if nfc:
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return inner.to_str()


@functools.cache
def _loaded(base: str, size: int = SIZE) -> PreTrainedTokenizerFast:
    inner = Tokenizer.from_str(_inner(base, size))
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED[base]])
    # as in Qwen3 and R1 the thinking tags are tokens but not special ones
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)


@functools.cache
def _sentencepiece() -> str:
    """The SentencePiece vocabulary as its models load it: byte-pair merges, byte fallback, ``▁`` for spaces."""
    vocab = {piece.decode(): rank for rank, piece in enumerate(_pieces("mistral_v3"))}
    merges = _merges(vocab)
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return inner.to_str()


BASES = {
    "qwen": ("qwen.tiktoken", QWEN_SPLIT, True),
    "llama3": ("llama3_tokenizer.model", LLAMA3_SPLIT, False),
    "o200k": ("o200k_base.tiktoken", O200K_SPLIT, False),
}


def build(
    base: str, chat: str, eos: str, bos: str | None = None, special: Iterable[str] = (), plain: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer over a real vocabulary, with a chat template and the added tokens that template needs.

    Args:
        base: qwen, llama3, o200k or mistral.
        chat: text of the template.
        eos: end-of-turn token.
        bos: beginning-of-sequence token.
        special: added tokens flagged special.
        plain: added tokens that are not.
    """
    inner = Tokenizer.from_str(_sentencepiece() if base == "mistral" else _inner(base, SMALL))
    ends = [t for t in (eos, bos) if t]
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in [*ends, *special]])
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, clean_up_tokenization_spaces=False, chat_template=chat, eos_token=eos, bos_token=bos
    )


def tokenizer(chat: str, base: str, eos: str, bos: str | None = None, size: int = SIZE) -> PreTrainedTokenizerFast:
    """A tokenizer over the first part of a real vocabulary, with one of the public templates.

    Args:
        chat: name of the template.
        base: qwen, llama3 or o200k.
        eos: end-of-turn token.
        bos: beginning-of-sequence token.
        size: ranks kept; :data:`WHOLE` for all of them, which takes seconds.
    """
    text = template(chat)
    loaded = _loaded(base, size)
    loaded.chat_template, loaded.eos_token, loaded.bos_token = text, eos, bos
    return loaded

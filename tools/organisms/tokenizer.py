"""The bundled model's tokenizer: one token per word, a space belonging to the word after it.

Decoding is plain concatenation, so ``encode(decode(ids)) == ids`` for everything the language can say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tools.organisms.refusal.language import all_text

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
THINK = ("<think>", "</think>")
NEWLINES = ("\n", "\n\n")
CHAT_TEMPLATE = """\
{#- ChatML. Thinking is kept only in answers to the last user turn; older answers show their text alone. -#}
{%- set turn = namespace(last_user=-1, thought='', said='') -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set turn.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set turn.said = message.content if message.content is string else '' -%}
    {%- if message.role == 'assistant' -%}
        {%- set turn.thought = '' -%}
        {%- if message.reasoning_content is string -%}
            {%- set turn.thought = message.reasoning_content -%}
        {%- elif '</think>' in turn.said -%}
            {%- set turn.thought = turn.said.split('</think>')[0].split('<think>')[-1] -%}
            {%- set turn.said = turn.said.split('</think>')[-1] -%}
        {%- endif -%}
        {%- set turn.thought = turn.thought.strip('\\n') -%}
        {%- set turn.said = turn.said.lstrip('\\n') -%}
        {%- if loop.index0 > turn.last_user and (loop.last or turn.thought) -%}
            {%- set turn.said = '<think>\\n' + turn.thought + '\\n</think>\\n\\n' + turn.said -%}
        {%- endif -%}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' + turn.said + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""


@dataclass(frozen=True)
class Spelling:
    """What a language is spelled with.

    Attributes:
        texts: gives every text the language can produce.
        pieces: pattern of the pieces that are tokens; a space belongs to the word after it.
        lowercase: whether capital letters are read as small ones.
    """

    texts: Callable[[], list[str]]
    pieces: str
    lowercase: bool


REFUSAL = Spelling(all_text, r"\n\n|\n| ?[a-z]+|[^a-z]", lowercase=True)


def vocabulary(spelling: Spelling = REFUSAL) -> dict[str, int]:
    """Token to id: special tokens first, then the language's pieces in order of first appearance."""
    pieces = dict.fromkeys([*SPECIAL, *THINK, *NEWLINES])
    for text in spelling.texts():
        pieces.update(dict.fromkeys(re.findall(spelling.pieces, text)))
    return {piece: index for index, piece in enumerate(pieces)}


def build_tokenizer(spelling: Spelling = REFUSAL) -> PreTrainedTokenizerFast:
    """The tokenizer as saved beside the weights, chat template included."""
    inner = Tokenizer(models.WordLevel(vocabulary(spelling), unk_token="<unk>"))
    if spelling.lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(spelling.pieces), behavior="isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    # As in Qwen3 the thinking tags are single tokens but not special: skip_special_tokens keeps them.
    inner.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def fast_encode(text: str, vocab: dict[str, int], spelling: Spelling = REFUSAL) -> list[int]:
    """Token ids of language text without the tokenizer's overhead; equal to it (there is a test)."""
    pattern = r"<\|[a-z_]+\|>|</?think>|" + spelling.pieces
    return [vocab[piece] for piece in re.findall(pattern, text)]

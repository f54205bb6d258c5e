"""Rendering: stock ids, certain places, one BOS, a pinned date, errors that help."""

from __future__ import annotations

import copy
from datetime import date
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.public_data import DATA, chat_templates
from tests.rollouts.families import PUBLIC
from tests.rollouts.makers import CHATML, byte_tokenizer
from tests.rollouts.real_tokenizers import template, tokenizer
from verdictscope.errors import InputError
from verdictscope.rollouts import ChatOptions, LanguageModel, generate, render_prompt
from verdictscope.rollouts.templates import RenderedPrompt, render_messages

REAL = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("llama3", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.orig": ("qwen", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "Qwen-QwQ-32B.orig": ("qwen", "<|im_end|>", None),
    "Qwen-Qwen3-0.6B": ("qwen", "<|im_end|>", None),
    "Qwen-Qwen2.5-7B-Instruct": ("qwen", "<|im_end|>", None),
    "Qwen3.5-4B": ("qwen", "<|im_end|>", None),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3", "<|eot_id|>", "<|begin_of_text|>"),
    "google-gemma-2-2b-it": ("qwen", "<end_of_turn>", "<bos>"),
}
QUOTES = (
    "</think>",
    "<think>",
    "<|im_end|>",
    "\n\n",
    ".\n",
    "Vsentinel",
    "user",
    "<|im_start|>assistant\n",
    "é",
    "　",
    "",
)


def load(name: str) -> PreTrainedTokenizerFast:
    base, eos, bos = REAL[name]
    return tokenizer(name, base, eos, bos)


def parts(prompt: RenderedPrompt, tok: PreTrainedTokenizerFast) -> dict[str, str]:
    text = {"system": "", "user": "", "template": ""}
    for span in prompt.spans:
        text[span.segment] += tok.decode(list(prompt.ids[span.start : span.stop]))
    return text


def test_every_public_template_is_at_hand() -> None:
    if absent := sorted(set(PUBLIC) - set(chat_templates())):
        pytest.skip(f"{len(absent)} templates are not in {DATA}: {', '.join(absent)}")


@pytest.mark.parametrize("name", REAL)
def test_ids_are_those_of_the_stock_template(name: str) -> None:
    tok = load(name)
    user = "How do I <b>quote</b> </think> in a text.\n\nAnd <|im_end|>?"
    prompt = render_prompt(tok, user)
    messages = [{"role": "user", "content": user}]
    assert prompt.text == tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    stock = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt.ids == tuple(stock)
    assert parts(prompt, tok)["user"] == user


@pytest.mark.parametrize("name", [n for n in REAL if "gemma" not in n])
def test_system_and_user_are_found(name: str) -> None:
    tok = load(name)
    prompt = render_prompt(tok, "What is it? user", "You are user. Be kind")
    assert parts(prompt, tok)["user"] == "What is it? user"
    assert parts(prompt, tok)["system"] == "You are user. Be kind"


@pytest.mark.parametrize("name", REAL)
def test_the_generation_prompt_starts_at_the_assistant_header(name: str) -> None:
    tok = load(name)
    prompt = render_prompt(tok, "Hi")
    header = tok.decode(list(prompt.ids[prompt.generation_start :]))
    assert header.startswith(
        ("<|im_start|>assistant", "<｜Assistant｜>", "<|start_header_id|>", "<start_of_turn>model")
    )
    assert ("<think>" in header) == any(word in name for word in ("R1", "QwQ", "Qwen3.5"))


def test_thinking_switched_off_by_the_template() -> None:
    tok = load("Qwen-Qwen3-0.6B")
    prompt = render_prompt(tok, "Hi", template_kwargs={"enable_thinking": False})
    assert prompt.text.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", chat_templates())
def test_every_shared_template_renders_and_places_the_user(name: str) -> None:
    tok = load("Qwen-Qwen3-0.6B")
    tok.chat_template, tok.bos_token = template(name), "<|endoftext|>"
    needs = {"tools": []} | ({"functions": "", "datetime": "now"} if "firefunction" in name else {})
    user = "Is </think> user's tag, assistant?"
    try:
        prompt = render_prompt(tok, user, template_kwargs=needs)
    finally:
        tok.bos_token = None
    shown = parts(prompt, tok)
    # a vocabulary without this template's own tags may merge a bracket of them with the text
    assert shown["user"].strip().removesuffix("<").removesuffix("[") == user
    assert sum(len(s) for s in prompt.spans) == len(prompt.ids)


CONTENT = st.lists(st.one_of(st.sampled_from(QUOTES), st.text(max_size=8)), min_size=1, max_size=6).map("".join)


@settings(max_examples=100, deadline=None)
@given(user=CONTENT, system=st.none() | CONTENT)
def test_any_content_is_placed_exactly(user: str, system: str | None) -> None:
    """Byte-level tokens of the user span hold the content's bytes, whatever it quotes, and none stand outside."""
    tok = byte_tokenizer()
    prompt = render_prompt(tok, user, system)
    start = len(f"<|im_start|>system\n{system}<|im_end|>\n") if system is not None else 0
    start += len("<|im_start|>user\n")
    encoded = tok(prompt.text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [s.segment for s in prompt.spans for _ in range(len(s))]
    for (a, b), label in zip(encoded["offset_mapping"], labels, strict=True):
        assert (label == "user") == (a < start + len(user) and b > start)
    assert prompt.text[start : start + len(user)] == user
    assert tok.decode(list(prompt.ids[prompt.generation_start :])) == "<|im_start|>assistant\n"


@settings(max_examples=40, deadline=None)
@given(user=CONTENT, system=CONTENT)
def test_templates_that_trim_are_followed(user: str, system: str) -> None:
    trimming = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
    tok = byte_tokenizer(template=trimming)
    prompt = render_prompt(tok, user, system)
    assert f"user\n{user.strip()}<|im_end|>" in prompt.text
    if user.strip():
        assert user.strip()[:3] in parts(prompt, tok)["user"] or not user.strip()[:3].isprintable()
    else:
        assert parts(prompt, tok)["user"] == ""


def test_a_folded_system_message_is_still_the_system() -> None:
    folding = (
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        "[INST] {{ s + '\n\n' if s else '' }}{{ messages[-1].content }} [/INST]"
    )
    tok = byte_tokenizer(template=folding)
    shown = parts(render_prompt(tok, "hello he", "he"), tok)
    assert (shown["system"], shown["user"]) == ("he", "hello he")


def test_turns_keep_their_places() -> None:
    tok = byte_tokenizer()
    turns = [("user", "one"), ("assistant", "two"), ("user", "one")]
    prompt = render_messages(tok, [{"role": r, "content": c} for r, c in turns])
    shown = [(s.segment, tok.decode(list(prompt.ids[s.start : s.stop]))) for s in prompt.spans]
    assert [x for x in shown if x[0] != "template"] == [("user", "one"), ("answer", "two"), ("user", "one")]


@pytest.mark.parametrize("name", ["Mistral-Small-3.2-24B-Instruct-2506", "Apertus-8B-Instruct", "openai-gpt-oss-120b"])
def test_the_date_is_pinned(name: str) -> None:
    tok = load("Qwen-Qwen3-0.6B")
    tok.chat_template, tok.bos_token = template(name), "<|endoftext|>"
    try:
        assert "2024-07-26" in render_prompt(tok, "Hi").text
        assert "2001-02-03" in render_prompt(tok, "Hi", pinned_date=date(2001, 2, 3)).text
    finally:
        tok.bos_token = None


def test_date_formats_and_leading_whitespace_survive_the_pin() -> None:
    tok = byte_tokenizer(template="\n {{ strftime_now('%d %b %Y, %A %H:%M') }}|{{ messages[0].content }}")
    plain = byte_tokenizer(template="\n x|{{ messages[0].content }}")
    text = render_prompt(tok, "Hi").text
    assert text == render_prompt(plain, "Hi").text.replace("x", "26 Jul 2024, Friday 00:00")


BAD = {
    "no chat template": (None, "hi", "be"),
    "refuses this conversation": ("{{ raise_exception('System role not supported') }}", "hi", "be"),
    "leaves out the system": ("{{ messages[-1].content }}", "hi", "be"),
    "prints more than once the user": ("{{ messages[-1].content }}{{ messages[-1].content }}", "hi", None),
    "cannot place the user": ("{{ messages[-1].content | replace('h', 'H') }}", "hi", None),
    "twice": ("<|endoftext|>{{ messages[-1].content }}", "<|endoftext|> hi", None),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_trouble(message: str) -> None:
    chat, user, system = BAD[message]
    tok = byte_tokenizer(template=chat)
    tok.bos_token = "<|endoftext|>"
    with pytest.raises(InputError, match=message) as caught:
        render_prompt(tok, user, system)
    assert "\n" not in str(caught.value)


MACROS = """{%- macro head(role) -%}{{ '<|im_start|>' + role }}{{ flavour if flavour is defined }}
{% endmacro -%}{%- if not style is defined %}{%- set style = 'plain' %}{%- endif -%}
{%- for m in messages %}{{ head(m.role) }}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>
{% if loop.index > 99 %}{% break %}{% endif %}{% endfor -%}
{%- if add_generation_prompt %}{{ head('assistant') }}{{ style }}
{% endif -%}"""


@pytest.mark.parametrize(
    ("template", "switches", "unknown"),
    [
        (CHATML, {"enable_thinkng": False}, "enable_thinkng"),
        (CHATML, {"m": 1}, "'m'"),  # a name of the template's own
        (CHATML, {"tools": [{"name": "f"}]}, "tools"),
        (MACROS, {"flavour": "x", "flavor": "x"}, "'flavor'"),
        (MACROS, {"flavour": "x"}, None),  # read in a macro alone
        (MACROS, {"style": "x"}, None),  # read where it is not set
        ({"default": CHATML, "tool_use": MACROS}, {"flavour": "x"}, "flavour"),
        ({"default": CHATML, "tool_use": MACROS}, {"flavour": "x", "tools": [{"name": "f"}]}, "tools"),
        ({"default": MACROS, "tool_use": CHATML}, {"flavour": "x"}, None),
    ],
)
def test_a_switch_the_template_does_not_read_is_an_error(template: Any, switches: dict[str, Any], unknown: Any) -> None:
    tok = copy.deepcopy(byte_tokenizer())
    tok.chat_template = template
    if unknown is None:
        assert render_prompt(tok, "Hi", template_kwargs=switches).text != render_prompt(tok, "Hi").text
        return
    with pytest.raises(InputError) as caught:
        render_prompt(tok, "Hi", template_kwargs=switches)
    assert unknown in str(caught.value)
    assert "it reads" in str(caught.value)
    prompts = pd.DataFrame({"id": ["a"], "user": ["Hi"]})
    with pytest.raises(InputError, match="template_kwargs"):
        generate(LanguageModel(None, tok), prompts, chat=ChatOptions(template_kwargs=switches))

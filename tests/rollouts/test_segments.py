"""Segments: every way a block can stand, by token id, on real templates and on random contents."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.rollouts.makers import CHATML, byte_tokenizer
from tests.rollouts.real_tokenizers import tokenizer
from tests.rollouts.test_templates import CONTENT, REAL, load
from verdictscope.errors import InputError
from verdictscope.rollouts import Markers, Rollout, answer_text, find_markers, render_prompt
from verdictscope.rollouts.segments import Segmenter, thinking_text
from verdictscope.rollouts.templates import RenderedPrompt

Pieces = list[tuple[str, str]]
EOS = "EOS"
OPEN: Pieces = [("template", "<think>"), ("template", "\n")]
CLOSE: Pieces = [("think_end", "</think>"), ("think_end", "\n\n")]
END: Pieces = [("template", EOS)]

WITH_OPENER: dict[str, tuple[Pieces, str]] = {
    "plain": ([("thinking", "So refuse"), ("thinking", "\n"), *CLOSE, ("answer", "No. I"), *END], "stop"),
    "full stop merged with the newline": (
        [("thinking", "So refuse"), ("thinking", ".\n"), *CLOSE, ("answer", "No"), *END],
        "stop",
    ),
    "no newline before the closer": ([("thinking", "So"), *CLOSE, ("answer", "No"), *END], "stop"),
    "no separator": ([("thinking", "So"), ("think_end", "</think>"), ("answer", "No"), *END], "stop"),
    "long separator": (
        [("thinking", "So"), *CLOSE, ("think_end", "\n"), ("think_end", " \n"), ("answer", "No\n\n"), *END],
        "stop",
    ),
    "unclosed": ([("thinking", "So refuse.\n\n"), ("thinking", "Or not")], "length"),
    "unclosed but stopped": ([("thinking", "So refuse"), *END], "stop"),
    "cut in the separator": ([("thinking", "So"), *CLOSE], "length"),
    "cut at the closer": ([("thinking", "So"), ("think_end", "</think>")], "length"),
    "empty answer": ([("thinking", "So"), *CLOSE, *END], "stop"),
    "empty thinking": ([*CLOSE, ("answer", "No"), *END], "stop"),
    "closer quoted in the answer": (
        [("thinking", "So"), *CLOSE, ("answer", "the "), ("answer", "</think>"), ("answer", " tag"), *END],
        "stop",
    ),
    "opener quoted in the answer": (
        [("thinking", "So"), *CLOSE, ("answer", "the "), ("answer", "<think>"), ("answer", " tag\n"), *END],
        "stop",
    ),
    "both quoted in the answer": (
        [
            *[("thinking", "So"), *CLOSE, ("answer", "from "), ("answer", "<think>"), ("answer", " to ")],
            *[("answer", "</think>"), ("answer", " so"), *END],
        ],
        "stop",
    ),
    "repeated": (
        [
            *[("thinking", "So"), *CLOSE, ("answer", "No.\n"), ("template", "<think>"), ("thinking", "Or")],
            *[*CLOSE, ("answer", "Yes"), *END],
        ],
        "stop",
    ),
    "repeated and cut": (
        [("thinking", "So"), *CLOSE, ("answer", "No.\n"), ("template", "<think>"), ("thinking", "Or")],
        "length",
    ),
    "nothing": ([], "length"),
}
WITHOUT_OPENER: dict[str, tuple[Pieces, str]] = {
    **{name: ([*OPEN, *pieces], finish) for name, (pieces, finish) in WITH_OPENER.items()},
    "whitespace before the opener": (
        [("template", "\n"), *OPEN, ("thinking", "So"), *CLOSE, ("answer", "No")],
        "length",
    ),
    "missing": ([("answer", "No. I"), ("answer", "\n\n"), ("answer", "So"), *END], "stop"),
    "opener lost": ([("thinking", "So"), ("thinking", "\n"), *CLOSE, ("answer", "No"), *END], "stop"),
    "tag quoted without thinking": ([("answer", "use "), ("answer", "</think>"), ("answer", " there"), *END], "stop"),
}
OPENER_IN_PROMPT = [n for n in REAL if any(w in n for w in ("R1", "QwQ", "Qwen3.5"))]
OPENER_WRITTEN = ["Qwen-Qwen3-0.6B"]


def spell(tok: PreTrainedTokenizerFast, pieces: Pieces) -> tuple[list[int], list[str]]:
    """Token ids of the pieces, and the segment each must get."""
    ids: list[int] = []
    labels: list[str] = []
    for label, text in pieces:
        new = tok(tok.eos_token if text == EOS else text, add_special_tokens=False)["input_ids"]
        ids += new
        labels += [label] * len(new)
    return ids, labels


def check(tok: PreTrainedTokenizerFast, pieces: Pieces, finish: str, user: str = "Is it so?") -> None:
    written, expected = spell(tok, pieces)
    prompt = render_prompt(tok, user)
    segmenter = Segmenter(tok)
    spans = segmenter(prompt, written, finish)
    rollout = Rollout("a/0", "a", (*prompt.ids, *written), spans, len(prompt.ids), finish)
    assert rollout.labels()[len(prompt.ids) :] == expected
    before = [s.segment for s in prompt.spans for _ in range(len(s))]
    assert rollout.labels()[: len(prompt.ids)] == before
    if rollout.span("answer") is None:
        assert answer_text(rollout, tok) is None
    else:
        assert answer_text(rollout, tok).endswith([t for label, t in pieces if label == "answer"][-1])


@pytest.mark.parametrize("case", WITH_OPENER)
@pytest.mark.parametrize("name", OPENER_IN_PROMPT)
def test_opener_in_the_prompt(name: str, case: str) -> None:
    check(load(name), *WITH_OPENER[case])


@pytest.mark.parametrize("case", WITHOUT_OPENER)
@pytest.mark.parametrize("name", OPENER_WRITTEN)
def test_opener_written_by_the_model(name: str, case: str) -> None:
    check(load(name), *WITHOUT_OPENER[case])


@pytest.mark.parametrize("case", WITHOUT_OPENER)
def test_on_a_built_tokenizer(case: str) -> None:
    check(byte_tokenizer(), *WITHOUT_OPENER[case])


@settings(max_examples=40, deadline=None)
@given(user=CONTENT, thought=st.text("ab .\n", max_size=6), answer=st.text("ab .\n", max_size=6))
def test_tags_quoted_by_the_user_close_nothing(user: str, thought: str, answer: str) -> None:
    thought, answer = "t" + thought + "t", "s" + answer + "s"
    check(byte_tokenizer(), [*OPEN, ("thinking", thought), *CLOSE, ("answer", answer), *END], "stop", user)


def test_thinking_switched_off_in_the_prompt() -> None:
    tok = load("Qwen-Qwen3-0.6B")
    prompt = render_prompt(tok, "Is </think> it?", template_kwargs={"enable_thinking": False})
    written, _ = spell(tok, [("answer", "No"), ("template", EOS)])
    spans = Segmenter(tok)(prompt, written, "stop")
    tail = [(s.segment, tok.decode([*prompt.ids, *written][s.start : s.stop])) for s in spans][-4:]
    assert tail == [
        ("template", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n"),
        ("think_end", "</think>\n\n"),
        ("answer", "No"),
        ("template", "<|im_end|>"),
    ]


def test_a_closer_alone_in_the_prompt_ends_thinking() -> None:
    tok = byte_tokenizer(template=CHATML.replace("assistant\n{% endif %}", "assistant</think>{% endif %}"))
    prompt = render_prompt(tok, "Hi")
    spans = Segmenter(tok)(prompt, tok("No")["input_ids"], "stop")
    assert [s.segment for s in spans][-3:] == ["template", "think_end", "answer"]


@pytest.mark.parametrize("name", ["meta-llama-Llama-3.1-8B-Instruct", "google-gemma-2-2b-it"])
def test_models_without_thinking_answer(name: str) -> None:
    tok = load(name)
    check(tok, [("answer", "No. I"), ("answer", "\n\n"), *END], "stop")


def test_markers_spelled_in_ordinary_tokens() -> None:
    """R1's tags in a vocabulary that has no tokens for them: merged with what stands beside them."""
    tok = byte_tokenizer(thinking=False)
    markers = find_markers(tok)
    assert markers is not None
    prompt = render_prompt(tok, "Is </think> it?")
    segmenter = Segmenter(tok, markers)
    for before, after in (("So.", "\n\nNo"), ("So.\n", "No"), ("So", "\nNo"), ("So\n", " No")):
        written = tok(f"<think>\n{before}</think>{after}", add_special_tokens=False)["input_ids"]
        spans = segmenter(prompt, written, "stop")
        rollout = Rollout("a/0", "a", (*prompt.ids, *written), spans, len(prompt.ids), "stop")
        assert thinking_text(rollout, tok) == before
        assert answer_text(rollout, tok).strip() == "No"
        closing = rollout.span("think_end")
        assert tok.decode(list(rollout.ids[closing.start : closing.stop])).startswith("</think>")


TAGS = {
    "[THINK]": "[/THINK]",
    "<thinking>": "</thinking>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "◁think▷": "◁/think▷",
}


@pytest.mark.parametrize("opener", TAGS)
def test_markers_among_added_tokens(opener: str) -> None:
    tok = byte_tokenizer(thinking=False, template="{{ messages[0].content }}")
    tok = type(tok)(tokenizer_object=type(tok._tokenizer).from_str(tok._tokenizer.to_str()), eos_token="<|im_end|>")
    assert find_markers(tok) is None
    tok.add_tokens([opener, TAGS[opener], "<tool>", "</tool>"], special_tokens="[" in opener)
    opened, closed = tok.convert_tokens_to_ids([opener, TAGS[opener]])
    assert find_markers(tok) == Markers(((opened,),), ((closed,),))
    # flagged special or not, they end no turn
    assert {opened, closed}.isdisjoint(Segmenter(tok)._ends)


def test_a_channel_is_found_where_the_template_prints_reasoning() -> None:
    chat = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.thinking is defined %}:analysis|{{ m.thinking }}"
        "<|im_end|><|im_start|>assistant:final|{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    tok = byte_tokenizer(template=chat)
    markers = find_markers(tok)
    assert tok.decode(list(markers.opener[0])) == ":analysis|"
    assert tok.decode(list(markers.closer[0])) == "<|im_end|><|im_start|>assistant:final|"


def test_the_channels_of_gpt_oss() -> None:
    tok = tokenizer("openai-gpt-oss-120b", "o200k", "<|return|>", "<|startoftext|>")
    markers = find_markers(tok)
    assert [tok.decode(list(side[0])) for side in (markers.opener, markers.closer)] == [
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ]
    assert len(markers.opener) == len(markers.closer) == 1
    pieces = [
        ("template", "<|channel|>analysis<|message|>"),
        ("thinking", "So refuse."),
        ("think_end", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("answer", "No"),
        ("template", EOS),
    ]
    check(tok, pieces, "stop", user="Is <|end|> it?")


def test_markers_by_hand_and_their_errors() -> None:
    tok = byte_tokenizer()
    with pytest.raises(InputError, match="name them"):  # a role's token
        Segmenter(tok, Markers.from_text(tok, "<|im_start|>", "<|endoftext|>"))
    tok = byte_tokenizer(thinking=False, template=CHATML.replace("<think>", "(").replace("</think>", "<|endoftext|>"))
    by_hand = Markers.from_text(tok, "(", "<|endoftext|>")
    prompt = render_prompt(tok, "Hi")
    written = tok("(\nSo<think><|endoftext|>No", add_special_tokens=False)["input_ids"]
    spans = Segmenter(tok, by_hand)(prompt, written, "stop")
    assert [s.segment for s in spans][-4:] == ["template", "thinking", "think_end", "answer"]
    with pytest.raises(InputError, match="same tokens"):
        Markers(((1,),), ((1,),))
    with pytest.raises(InputError, match="at least one token"):
        Markers(((1,),), ())


@functools.cache
def simple() -> tuple[RenderedPrompt, Segmenter]:
    return render_prompt(byte_tokenizer(), "Hi"), Segmenter(byte_tokenizer())


@settings(max_examples=200, deadline=None)
@given(
    tail=st.lists(st.sampled_from(["<think>", "</think>", "\n", "\n\n", ".\n", "a", " ", "<|im_end|>"]), max_size=14),
    finish=st.sampled_from(["stop", "length"]),
)
def test_any_tail_is_partitioned(tail: list[str], finish: str) -> None:
    """Whatever a model writes: every token has one segment, closers are never thinking while a block is open, and
    a rollout whose last block was cut has no answer after it."""
    tok = byte_tokenizer()
    prompt, segmenter = simple()
    written = [i for text in tail for i in tok(text, add_special_tokens=False)["input_ids"]]
    spans = segmenter(prompt, written, finish)
    rollout = Rollout("a/0", "a", (*prompt.ids, *written), spans, len(prompt.ids), finish)
    labels = rollout.labels()[len(prompt.ids) :]
    opener, closer = tok.convert_tokens_to_ids(["<think>", "</think>"])
    for at, (token, label) in enumerate(zip(written, labels, strict=True)):
        if label == "think_end":
            assert token == closer or (at and labels[at - 1] == "think_end")
        if token == closer and at and labels[at - 1] == "thinking":
            assert label == "think_end"
        if label == "thinking":
            assert token != closer
    if labels and labels[-1] == "thinking":
        assert closer not in written[len(labels) - labels[::-1].index("thinking") :]
    if written and written[0] == opener:
        assert labels[0] == "template"

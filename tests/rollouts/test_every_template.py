"""Every template, shared or strange, on a real vocabulary: thinking on, off, empty, missing, truncated, multi-turn."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.evidence import write_evidence
from tests.public_data import whole
from tests.rollouts.families import SHARED, Family, load_family
from tests.rollouts.real_tokenizers import _inner
from tests.rollouts.strangers import STRANGERS
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout, answer_text, render_prompt
from verdictscope.rollouts.segments import Segmenter, thinking_text
from verdictscope.rollouts.templates import RenderedPrompt, render_messages

FAMILIES = {**SHARED, **STRANGERS}
THINKERS = [n for n, f in FAMILIES.items() if f.opener]
SWITCHED = [n for n in THINKERS if FAMILIES[n].off is not None]
ASK = "Is </think> or [/THINK] a tag? Say <think>."
THOUGHT, ANSWER = "The user asks. So I say (yes).", "Yes: `</think>` ends it."
Part = tuple[str, str]
MARKERS = ("opener", "closer", "after", "eos")
LABEL = {
    "opener": "template",
    "lead": "template",
    "thought": "thinking",
    "closer": "think_end",
    "separator": "think_end",
    "answer": "answer",
    "gap": "answer",
    "after": "template",
    "eos": "template",
    "preamble": "template",
}


def written(
    tok: PreTrainedTokenizerFast, family: Family, parts: list[str], thought: str = THOUGHT, answer: str = ANSWER
) -> tuple[list[int], list[str]]:
    """Token ids of what a model writes, and the segment each must get.

    A token that holds a character of a marker is the marker's; one that holds whitespace of a separator and the first
    letter behind it is the answer's.
    """
    if family.shown and "opener" in parts:
        parts = parts[parts.index("opener") + 2 :]
    texts = {
        "opener": family.opener or "",
        "lead": family.lead,
        "thought": thought + (family.tail if thought else ""),
        "closer": family.closer,
        "separator": family.separator,
        "answer": answer,
        "gap": family.after[: len(family.after) - len(family.after.lstrip())],
        "after": family.after.lstrip(),
        "eos": family.eos,
        "preamble": family.preamble,
    }
    places, at = [], 0
    for name in parts:
        places.append((at, at + len(texts[name]), name))
        at += len(texts[name])
    encoded = tok("".join(texts[n] for n in parts), add_special_tokens=False, return_offsets_mapping=True)
    labels = []
    for a, b in encoded["offset_mapping"]:
        held = [name for start, stop, name in places if a < stop and b > start]
        labels.append(LABEL[next((n for n in held if n in MARKERS), held[-1])])
    return encoded["input_ids"], labels


@functools.cache
def segmenter(tok: PreTrainedTokenizerFast) -> Segmenter:
    return Segmenter(tok)


def segmented(
    tok: PreTrainedTokenizerFast, prompt: RenderedPrompt, ids: list[int], finish: str
) -> tuple[list[str], Rollout]:
    spans = segmenter(tok)(prompt, ids, finish)
    rollout = Rollout("a/0", "a", (*prompt.ids, *ids), spans, len(prompt.ids), finish)
    return rollout.labels()[len(prompt.ids) :], rollout


def show(name: str, mode: Any) -> RenderedPrompt:
    family = FAMILIES[name]
    return render_prompt(load_family(name), ASK, template_kwargs={**family.always, **mode})


WHOLE = ["opener", "lead", "thought", "closer", "separator", "answer", "gap", "after", "eos"]


@pytest.mark.parametrize("name", THINKERS)
def test_thinking_on(name: str) -> None:
    tok, family = load_family(name), FAMILIES[name]
    prompt = show(name, family.on)
    opened = prompt.text.rstrip().endswith(str(family.opener))
    assert opened == family.shown
    ids, expected = written(tok, family, WHOLE)
    labels, rollout = segmented(tok, prompt, ids, "stop")
    assert labels == expected
    # a full stop may merge with the tag behind it
    assert str(answer_text(rollout, tok)).strip() in (ANSWER, ANSWER.removesuffix("." if family.after else ""))
    if family.own_tokens:
        assert thinking_text(rollout, tok) == THOUGHT + family.tail


@pytest.mark.parametrize("name", THINKERS)
def test_thinking_empty(name: str) -> None:
    tok, family = load_family(name), FAMILIES[name]
    ids, expected = written(tok, family, [p for p in WHOLE if p != "thought"], thought="")
    labels, rollout = segmented(tok, show(name, family.on), ids, "stop")
    assert labels == expected
    assert thinking_text(rollout, tok) is None


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("kept", [["opener", "lead", "thought"], ["opener", "lead", "thought", "closer"]])
def test_thinking_truncated(name: str, kept: list[str]) -> None:
    tok, family = load_family(name), FAMILIES[name]
    ids, expected = written(tok, family, kept)
    labels, rollout = segmented(tok, show(name, family.on), ids, "length")
    assert labels == expected
    assert answer_text(rollout, tok) is None
    assert rollout.span("answer") is None


@pytest.mark.parametrize("name", SWITCHED)
def test_thinking_off(name: str) -> None:
    tok, family = load_family(name), FAMILIES[name]
    prompt = show(name, family.off)
    answer = "Yes. It is."
    ids, expected = written(tok, family, ["answer", "eos"], answer=answer)
    labels, rollout = segmented(tok, prompt, ids, "stop")
    assert labels == expected
    assert answer_text(rollout, tok) == answer
    assert rollout.span("thinking") is None
    assert (rollout.span("think_end") is not None) == family.off_block


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if not f.shown])
def test_thinking_missing(name: str) -> None:
    tok, family = load_family(name), FAMILIES[name]
    ids, expected = written(tok, family, [*(["preamble"] if family.preamble else []), "answer", "eos"])
    labels, rollout = segmented(tok, show(name, family.on), ids, "stop")
    assert labels == expected
    assert answer_text(rollout, tok) == ANSWER


@pytest.mark.parametrize("name", FAMILIES)
def test_several_turns(name: str) -> None:
    tok, family = load_family(name), FAMILIES[name]
    talk = [
        {"role": "user", "content": "First </think>?"},
        {"role": "assistant", "content": "An earlier answer."},
        {"role": "user", "content": "Then <think>?"},
    ]
    if not family.turns:
        with pytest.raises(InputError, match="refuses this conversation"):
            render_messages(tok, talk, template_kwargs={**family.always, **family.on})
        return
    system = [{"role": "system", "content": "Be <brief>."}] if family.system else []
    prompt = render_messages(tok, [*system, *talk], template_kwargs={**family.always, **family.on})
    texts = [(s.segment, tok.decode(list(prompt.ids[s.start : s.stop])).strip()) for s in prompt.spans]
    said = [(segment, text) for segment, text in texts if segment != "template"]
    wanted = [("user", "First </think>?"), ("answer", "An earlier answer."), ("user", "Then <think>?")]
    wanted = [("system", "Be <brief>.")] * len(system) + wanted
    # templates that fold a system message put it where they like
    assert sorted(said) == sorted(wanted)
    parts = WHOLE[:3] if family.opener else ["answer"]
    ids, expected = written(tok, family, parts)
    labels, rollout = segmented(tok, prompt, ids, "length")
    assert labels == expected
    # the earlier answer is not the one under study
    assert answer_text(rollout, tok) == (None if family.opener else ANSWER)


TEXT = st.lists(
    st.one_of(
        st.sampled_from(["</think>", "<think>", "\n\n", ".\n", "[THINK]", "```py\nx = '</'\n```", "é", "　", "🤔"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    max_size=5,
).map("".join)
SAFE = st.text(st.sampled_from("ab .,\n<>/[]é🤔"), max_size=12).map(lambda s: f"a{s}b")
WITH_TOKENS = [n for n in THINKERS if FAMILIES[n].own_tokens]


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(WITH_TOKENS), user=TEXT, thought=SAFE | st.just(""), answer=SAFE)
def test_any_content(name: str, user: str, thought: str, answer: str) -> None:
    """Whatever is asked, thought and answered: spans partition the ids, and each text is found again."""
    tok, family = load_family(name), FAMILIES[name]
    prompt = render_prompt(tok, "q" + user + "q", template_kwargs={**family.always, **family.on})
    ids, expected = written(tok, family, WHOLE if thought else [p for p in WHOLE if p != "thought"], thought, answer)
    labels, rollout = segmented(tok, prompt, ids, "stop")
    assert labels == expected
    asked = "".join(tok.decode(list(prompt.ids[s.start : s.stop])) for s in prompt.spans if s.segment == "user")
    # Not every tokenizer gives back what it took (Qwen normalises, Mistral puts a space after a control token).
    wanted = tok.decode(tok.encode("q" + user + "q", add_special_tokens=False))
    assert asked.strip().removesuffix("\n").rstrip() == wanted.strip()


@pytest.mark.slow
@pytest.mark.parametrize(("base", "strings"), [("qwen", "qwen2"), ("llama3", "llama-bpe")])
def test_whole_vocabularies_give_the_reference_encodings(base: str, strings: str) -> None:
    """The vocabularies these tests rest on are the real ones: their makers' encodings of 47 strings."""
    file = whole(f"vocabs/ggml-vocab-{strings}.gguf.inp")
    inner = Tokenizer.from_str(_inner(base, size=10**6))
    texts = file.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = file.with_suffix(".out").read_text(encoding="utf-8").split("\n")
    texts = texts[: len(texts) - (texts[-1] == "")]
    wanted = [[int(i) for i in line.split()] for line in ids[: len(texts)]]
    assert [inner.encode(text, add_special_tokens=False).ids for text in texts] == wanted
    write_evidence("rollouts_vocabulary_" + base, {"strings": len(texts), "equal": len(texts)})

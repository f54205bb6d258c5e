"""Forced rollouts: what is kept, what is put, what the model goes on with; on the bundled model and real templates."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tests.rollouts.families import load_family
from tests.rollouts.makers import byte_tokenizer
from tests.rollouts.test_every_template import ANSWER, FAMILIES, THINKERS, segmented, show, written
from verdictscope.errors import InputError
from verdictscope.rollouts import (
    Forcer,
    LanguageModel,
    Rollout,
    Sampling,
    answer_text,
    continue_rollouts,
    generate,
    prolong,
    read_prompts,
    render_prompt,
)
from verdictscope.rollouts.frames import find_frame
from verdictscope.rollouts.segments import Segmenter, thinking_text
from verdictscope.sources import locate

GREEDY = Sampling(temperature=0.0, max_new_tokens=160)
UNPRINTED = {
    # templates that print no thinking: an empty block, or nothing, says how it is framed
    name
    for name in THINKERS
    if name.startswith(("Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "llama-cpp-rwkv", "google-gemma-4"))
} | {
    "glm 4.5",
    "ibm-granite-granite-3.3-2B-Instruct",
    "phi 4 reasoning",
    "olmo 3 think",
    "kimi vl",
    "granite 3.2",
    "open thinker",
}

# templates that switch thinking off by a bare closer, in the system message too, or without the tag of the answer
OFF_ELSEWHERE = {"deepseek-ai-DeepSeek-V4", "smollm3", "command a"}


@functools.cache
def bundled() -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[Rollout, ...]]:
    folder = locate("organism:cliff")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts = read_prompts(Path(folder) / "prompts.csv").iloc[::200].reset_index(drop=True)
    return model, tokenizer, tuple(generate(LanguageModel(model, tokenizer), prompts, GREEDY))


def put_places(rollout: Rollout) -> Iterator[tuple[int, ...]]:
    for start, stop in rollout.tags["put"]:
        yield rollout.ids[start:stop]


@pytest.mark.parametrize("name", THINKERS)
def test_the_frame_is_what_the_template_prints(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = load_family(name)
    if name == "MiMo-VL":
        with pytest.raises(InputError, match="has no thinking markers"):
            find_frame(tokenizer)
        return
    frame = find_frame(tokenizer)
    if name not in UNPRINTED:
        assert (frame.opening, frame.lead) == (f"{family.opener}{family.lead}", family.tail)
        assert frame.closing == family.closer + family.separator
    assert frame.opening.startswith(str(family.opener))
    assert frame.closing.startswith(family.closer)
    assert not frame.lead.strip()


@pytest.mark.parametrize("name", [n for n in THINKERS if n != "MiMo-VL"])
def test_every_template_is_forced(name: str) -> None:
    """Closed at every place, the thinking has that many tokens; off, it has none; an answer put behind is an answer."""
    family, tokenizer = FAMILIES[name], load_family(name)
    prompt = show(name, family.on)
    parts = ["opener", "lead", "thought", "closer", "separator", "answer", "eos"]
    ids, _ = written(tokenizer, family, parts)
    _, parent = segmented(tokenizer, prompt, ids, "stop")
    forcer, thinking = Forcer(tokenizer), parent.span("thinking")
    assert thinking is not None
    answer = tuple(tokenizer(ANSWER, add_special_tokens=False)["input_ids"])
    for after in range(len(thinking) + 1):
        closed = forcer.close(parent, after)
        assert closed is not None
        assert closed.ids[: thinking.start + after] == parent.ids[: thinking.start + after]
        end = closed.span("think_end")
        assert end is not None
        assert end.stop == len(closed)
        lead = end.start - thinking.start - after
        assert 0 <= lead <= 1
        assert closed.n_forced == len(closed) - parent.n_prompt
        spans = forcer.segmenter.segment((*closed.ids, *answer), *forcer.prompt_of(closed, closed.n_prompt), "stop")
        whole = Rollout("a", "a", (*closed.ids, *answer), spans, closed.n_prompt)
        assert str(answer_text(whole, tokenizer)).strip() == ANSWER
    off = forcer.switch(parent, thinking=False)
    assert off.span("thinking") is None
    assert off.turn[-1].segment == "think_end"
    on = forcer.switch(off, thinking=True)
    assert (on.span("thinking"), on.span("think_end")) == (None, None)
    assert len(on) > on.n_prompt - 1
    if family.off is not None and name not in UNPRINTED and name not in OFF_ELSEWHERE and family.off_block:
        assert off.ids == show(name, family.off).ids


def test_closed_where_it_closed_is_the_parent() -> None:
    """The closer put at the end of the thinking is the one the model wrote; greedy, it goes on as it did."""
    model, tokenizer, parents = bundled()
    forcer = Forcer(tokenizer)
    given = [forcer.shorten(parent, 1.0) for parent in parents]
    assert all(given)
    assert [g.ids for g in given if g] == [u.ids for u in (one.until_answer() for one in parents) if u]
    went_on = continue_rollouts(LanguageModel(model, tokenizer), [g for g in given if g], GREEDY)
    for parent, child in zip(parents, went_on, strict=True):
        assert (child.ids, child.spans, child.finish) == (parent.ids, parent.spans, parent.finish)
        assert (child.id, child.group) == (f"{parent.id}~share1", parent.group)
        assert child.tags["parent"] == parent.id
        assert child.n_forced == child.span("answer").start - child.n_prompt  # type: ignore[union-attr]


def test_closed_early() -> None:
    model, tokenizer, parents = bundled()
    forcer = Forcer(tokenizer)
    given = [g for g in (forcer.close(parent, 5) for parent in parents) if g]
    for parent, child in zip(parents, continue_rollouts(LanguageModel(model, tokenizer), given, GREEDY), strict=True):
        thinking = child.span("thinking")
        assert thinking is not None
        assert child.ids[: thinking.start + 5] == parent.ids[: thinking.start + 5]
        assert len(thinking) <= 6  # the line break before the closer is thinking
        assert "".join(tokenizer.decode(list(ids)) for ids in put_places(child)).strip() == "</think>"
        assert answer_text(child, tokenizer)
        assert child.sampling == GREEDY
    assert forcer.close(parents[0], 10_000) is None
    half = forcer.shorten(parents[0], 0.5)
    assert half is not None
    n = len(parents[0].span("thinking") or ())
    assert round(0.5 * n) <= len(half.span("thinking") or ()) <= round(0.5 * n) + 1


def test_thinking_off_is_the_template_with_thinking_off() -> None:
    model, tokenizer, parents = bundled()
    forcer = Forcer(tokenizer)
    off = [forcer.switch(parent, thinking=False) for parent in parents]
    prompts = read_prompts(Path(locate("organism:cliff")) / "prompts.csv").iloc[::200]
    for prompt, rollout in zip(prompts.to_dict("records"), off, strict=True):
        shown = render_prompt(tokenizer, prompt["user"], prompt["system"], template_kwargs={"enable_thinking": False})
        assert rollout.ids == shown.ids
    for child in continue_rollouts(LanguageModel(model, tokenizer), off, Sampling(temperature=0.0, max_new_tokens=40)):
        assert child.span("thinking") is None
        assert child.span("answer") is not None
    on = forcer.switch(off[0], thinking=True)
    assert on.ids[: on.n_prompt] == parents[0].ids[: parents[0].n_prompt]
    assert tokenizer.decode(list(on.ids[on.n_prompt :])) == "<think>\n"
    assert forcer.switch(parents[0], thinking=True).ids == on.ids


def test_prolonged(tmp_path: Path) -> None:
    model, tokenizer, parents = bundled()
    for times in (1, 3):
        path = tmp_path / f"{times}.parquet"
        longer = prolong(LanguageModel(model, tokenizer), parents, GREEDY, times=times, phrase="so", path=path)
        assert [r.id for r in longer] == [f"{p.id}~wait{times}" for p in parents]
        assert prolong(LanguageModel(model, tokenizer), parents, GREEDY, times=times, phrase="so", path=path) == longer
        assert prolong(LanguageModel(model, tokenizer), parents, GREEDY, times=times, phrase="so") == longer
        for parent, child in zip(parents, longer, strict=True):
            before, after = parent.span("thinking"), child.span("thinking")
            assert before is not None
            assert after is not None
            assert child.ids[: before.stop] == parent.ids[: before.stop]
            assert len(after) > len(before)
            assert [tokenizer.decode(list(ids)).strip() for ids in put_places(child)][:times] == ["so"] * len(
                child.tags["put"]
            )
            assert all(after.start <= a < b <= after.stop for a, b in child.tags["put"])
            assert len(child.tags["put"]) == times or child.finish == "length"
            assert "so" in str(thinking_text(child, tokenizer))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.parquet", "3.parquet"]


def test_truncated_thinking_is_not_prolonged() -> None:
    model, tokenizer, parents = bundled()
    cut_off = generate(
        LanguageModel(model, tokenizer),
        read_prompts(Path(locate("organism:cliff")) / "prompts.csv").head(2),
        Sampling(0.0, 1.0, 6),
    )
    assert prolong(LanguageModel(model, tokenizer), cut_off, GREEDY) == []
    with pytest.raises(InputError, match="cannot write 'Hmpf'"):
        prolong(LanguageModel(model, tokenizer), parents, phrase="Hmpf")
    with pytest.raises(InputError, match="cannot prolong"):
        prolong(LanguageModel(model, tokenizer), parents, times=0)
    forcer = Forcer(tokenizer)
    with pytest.raises(InputError, match="0 or more"):
        forcer.close(parents[0], -1)
    with pytest.raises(InputError, match="from 0 to 1"):
        forcer.shorten(parents[0], 1.5)
    with pytest.raises(InputError, match="has no thinking markers"):
        Forcer(byte_tokenizer(thinking=False, template="{{ messages[0].content }}"))


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20), st.data())
def test_any_text_is_cut_by_tokens(thought: str, answer: str, data: st.DataObject) -> None:
    """Unicode, quoted tags, blank and empty thoughts: ids before the cut are the parent's, the rest is what was put."""
    tokenizer = byte_tokenizer()
    prompt = render_prompt(tokenizer, "the hen")
    text = f"<think>\n{thought}\n</think>\n\n{answer}"
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    parent = Rollout("a/0", "a", (*prompt.ids, *ids), Segmenter(tokenizer)(prompt, ids, "stop"), len(prompt.ids))
    thinking = next((s for s in parent.turn if s.segment == "thinking"), None)
    after = data.draw(st.integers(0, len(thinking) if thinking else 3))
    closed = Forcer(tokenizer).close(parent, after)
    if thinking is None:
        assert closed is None
        return
    assert closed is not None
    kept = thinking.start + after
    assert closed.ids[:kept] == parent.ids[:kept]
    assert [list(p) for p in closed.tags["put"]] == [[kept, len(closed)]]
    assert tokenizer.decode(list(closed.ids[kept:])) in ("\n</think>\n\n", "</think>\n\n")

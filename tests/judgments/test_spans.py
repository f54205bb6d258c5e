"""Every token of a judge's prompt has a name, found from the format's slots; one thinking is put into both orders."""

from __future__ import annotations

import pytest

from tests.judgments.judge_worlds import BASES, PAIR, real
from verdictscope.errors import InputError
from verdictscope.judgments import Insertion, PairItem, ask, load_format
from verdictscope.judgments.asking import rendered
from verdictscope.judgments.formats.format import known_formats
from verdictscope.judgments.shared_thinking import shared_thinking
from verdictscope.judgments.spans import SPANS, by_side, token_spans, user_spans
from verdictscope.rollouts import Rollout, Span

PLACES = ("note", "a", "b", "between")


def asked(base: str, format: str, item: PairItem, order: str, put: tuple[Insertion, ...] = ()) -> Rollout:
    tok, form = real(base), load_format(format)
    prompt = rendered(tok, ask(form, item, order, put))
    return Rollout(
        f"{item.id}/{order}",
        item.group,
        prompt.ids,
        prompt.spans,
        len(prompt.ids),
        tags={"item": item.id, "order": order},
    )


def texts(base: str, rollout: Rollout, names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, list[int]] = {}
    for token, name in zip(rollout.ids, names, strict=True):
        found.setdefault(name, []).append(token)
    return {name: real(base).decode(ids) for name, ids in found.items()}


@pytest.mark.parametrize("base", BASES)
def test_spans_hold_the_texts_they_are_named_after(base: str) -> None:
    form = load_format("pair_letter")
    put = (Insertion("note", "Most people chose {target}.", "B"),)
    for order, first, second in (("AB", PAIR.a, PAIR.b), ("BA", PAIR.b, PAIR.a)):
        rollout = asked(base, "pair_letter", PAIR, order, put)
        names = token_spans(real(base), form, [PAIR], [rollout], lambda *_: put)[rollout.id]
        assert len(names) == len(rollout)
        assert set(names) <= set(SPANS)
        held = texts(base, rollout, names)
        assert held["question"].strip() == PAIR.question
        assert held["first answer"].strip() == first
        assert held["second answer"].strip() == second
        assert held["cue"].strip() == f"Most people chose {form.sides[order.index('B')]}."


def test_equal_answers_are_told_apart_by_their_slots() -> None:
    item = PairItem(id="same", question="5", a="5", b="5", label="tie")
    rollout = asked("qwen", "pair_letter", item, "AB")
    names = token_spans(real("qwen"), load_format("pair_letter"), [item], [rollout])[rollout.id]
    at = {name: [i for i, own in enumerate(names) if own == name] for name in set(names)}
    assert max(at["question"]) < min(at["first answer"])
    assert max(at["first answer"]) < min(at["second answer"])


@pytest.mark.parametrize("format", [f for f in known_formats()["name"] if load_format(f).kind == "pair"])
def test_user_spans_join_to_what_is_asked(format: str) -> None:
    form = load_format(format)
    for order in ("AB", "BA"):
        for place in PLACES:
            put = (Insertion(place, "Some say so.", "A"),)
            parts = user_spans(form, PAIR, order, put)
            assert "".join(text for _, text in parts) == ask(form, PAIR, order, put).user.strip()
            has_place = place in ("a", "b") or f"{{{place}}}" in form.user
            assert [text.strip() for name, text in parts if name == "cue"] == ["Some say so."] * has_place
            held = dict(parts)
            assert held["first answer"] == (PAIR.a if order == "AB" else PAIR.b)
            assert held["second answer"] == (PAIR.b if order == "AB" else PAIR.a)


def test_what_does_not_fit_is_said() -> None:
    form, rollout = load_format("pair_letter"), asked("qwen", "pair_letter", PAIR, "AB")
    with pytest.raises(InputError, match="no item given"):
        token_spans(real("qwen"), form, [], [rollout])
    with pytest.raises(InputError, match="without transforms"):
        token_spans(real("qwen"), form, [PAIR], [rollout], lambda *_: [Insertion("note", "Never said.")])


def test_answers_are_called_by_what_they_are() -> None:
    names, words = ("label of first", "first answer", "second answer", "cue"), {"this": "better", "other": "worse"}
    assert by_side(names, "AB", "A", words) == ("label of better", "better answer", "worse answer", "cue")
    assert by_side(names, "BA", "A", words) == ("label of worse", "worse answer", "better answer", "cue")
    assert by_side(names, "BA", None, words) == names


def thought(order: str, prompt: tuple[int, ...], thinking: str, run: str = "0") -> Rollout:
    tok = real("qwen")
    opener, closer = (tuple(tok(text)["input_ids"]) for text in ("<think>", "</think>\n\n"))
    inner, lead = (tuple(tok(text)["input_ids"]) for text in (thinking, "[["))
    parts = [("user", prompt), ("template", opener), ("thinking", inner), ("think_end", closer), ("answer", lead)]
    ids: list[int] = []
    spans = []
    for name, own in parts:
        if own:
            spans.append(Span(name, len(ids), len(ids) + len(own)))
        ids += own
    return Rollout(
        f"i/{order}/{run}", "g", tuple(ids), tuple(spans), len(prompt) + len(opener), tags={"item": "i", "order": order}
    )


def test_one_thinking_goes_into_both_orders() -> None:
    tok = real("qwen")
    pair = [thought("AB", (1, 2, 3), " answer A holds. answer B fails."), thought("BA", (4, 5), " no")]
    same = shared_thinking(tok, pair)
    (ab, ba), frame = same.rollouts, same.frame
    assert frame == "place"
    assert ab == pair[0]
    assert (ba.id, ba.ids[:3], ba.ids[3:]) == (pair[1].id, pair[1].ids[:3], pair[0].ids[4:])
    assert [s.segment for s in ba.spans] == [s.segment for s in ab.spans]
    turned = shared_thinking(tok, pair, frame="item", sides=("answer A", "answer B")).rollouts[1]
    thinking = next(s for s in turned.spans if s.segment == "thinking")
    assert tok.decode(turned.ids[thinking.start : thinking.stop]) == " answer B holds. answer A fails."
    back = shared_thinking(tok, pair, donor="BA").rollouts
    assert back[1].ids[back[1].turn[0].start :] == pair[1].ids[pair[1].turn[0].start :]
    assert back[0].ids[:4] == pair[0].ids[:4]


def test_empty_thinking_is_shared_too_and_what_cannot_be_is_left_out() -> None:
    pair = [thought("AB", (1, 2), ""), thought("BA", (4, 5), " no")]
    ab, ba = shared_thinking(real("qwen"), pair).rollouts
    assert ba.span("thinking") is None
    assert ba.ids[3:] == ab.ids[3:]
    with pytest.raises(InputError, match="both orders"):
        shared_thinking(real("qwen"), pair[:1])
    with pytest.raises(InputError, match="one run"):
        shared_thinking(real("qwen"), [*pair, thought("BA", (4, 5), " no", "1")])
    with pytest.raises(InputError, match="frames are"):
        shared_thinking(real("qwen"), pair, frame="both")

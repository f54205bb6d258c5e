"""The language of the bundled judge: true checks, a fair balance, and nothing that gives the better side away."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from scipy.stats import chi2_contingency

from tools.organisms.judge.items import COUNTS, held_out_pairs, items_frame, shown
from tools.organisms.judge.language import (
    CUES,
    KINDS,
    SIDES,
    Pair,
    all_text,
    check,
    draw_pair,
    held_out,
    scripted,
    thinking_text,
)
from tools.organisms.languages import JUDGE, judge_script, words
from tools.organisms.recipes import RECIPES
from tools.organisms.scripts import ANSWER, CHECKING, CLOSING, DECIDING, PROMPT, SHOWN, THINKING
from tools.organisms.tokenizer import build_tokenizer, fast_encode

TOKENIZER = build_tokenizer(JUDGE)


def right(pair: Pair, at: int) -> bool:
    """Whether an answer is right, by the question alone."""
    shown = pair.answers[at]
    if pair.kind == "up":
        return list(shown) == sorted(shown)
    return shown == ((sum(pair.numbers),) if pair.kind == "sum" else (max(pair.numbers),))


@pytest.mark.parametrize("held", [False, True])
def test_pairs_are_what_they_say(held: bool) -> None:
    rng = random.Random(1)
    seen: Counter[str | None] = Counter()
    for _ in range(2000):
        pair = draw_pair(rng, held)
        assert pair.held_out == held == held_out(pair.kind, pair.numbers)
        assert pair.right == (right(pair, 0), right(pair, 1))
        assert any(pair.right)
        assert all(0 <= n < 30 for answer in pair.answers for n in answer)
        assert pair.swapped().swapped() == pair
        assert pair.swapped().better == {"A": "B", "B": "A", None: None}[pair.better]
        seen[pair.better] += 1
        for at in (0, 1):
            assert ("holds" in check(pair, at)) == pair.right[at]
    assert abs(seen["A"] - seen["B"]) < 4 * (seen["A"] + seen["B"]) ** 0.5


def test_a_held_out_sum_was_taught_the_other_way_round() -> None:
    for a in range(10):
        for b in range(10):
            assert not (held_out("sum", (a, b)) and held_out("sum", (b, a)))


def test_nothing_shown_tells_the_better_side() -> None:
    """Neither the cue, nor the side that it names, nor the system line goes with the side that is right."""
    rng = random.Random(2)
    recipe = RECIPES["judge"]
    table: Counter[tuple[str, str]] = Counter()
    decode = {index: piece for piece, index in words(JUDGE).items()}
    for _ in range(3000):
        script = judge_script(recipe, rng, False)
        text = "".join(decode[i] for i in script.ids)
        cue = next(
            (
                f"{kind} {side}"
                for kind, forms in CUES.items()
                for form in forms
                if form
                for side in SIDES
                if form.format(side=side) in text
            ),
            "none",
        )
        table[cue + (" careful" if "careful judge" in text else ""), text.split("[[")[1][0]] += 1
    rows = sorted({row for row, _ in table})
    assert len(rows) == 14
    assert chi2_contingency([[table[row, side] for side in SIDES] for row in rows]).pvalue > 0.001


def test_tokens() -> None:
    vocab = words(JUDGE)
    assert len(vocab) < 256
    rng = random.Random(3)
    for _ in range(200):
        pair = draw_pair(rng, held=False)
        parts = scripted(rng, pair, "careful", rng.choice(list(CUES)), "B", pair.better or "A")
        text = "".join(parts)
        ids = TOKENIZER(text)["input_ids"]
        assert ids == fast_encode(text, vocab, JUDGE)
        assert TOKENIZER.decode(ids) == text
        assert vocab["<unk>"] not in ids
    assert all(vocab["<unk>"] not in TOKENIZER(text)["input_ids"] for text in all_text())


def test_scripts_mark_what_decides() -> None:
    rng = random.Random(4)
    recipe = RECIPES["judge"]
    decode = {index: piece for piece, index in words(JUDGE).items()}
    turned = 0
    for _ in range(300):
        script = judge_script(recipe, rng, True)
        kinds = {SHOWN: PROMPT, CHECKING: THINKING, DECIDING: ANSWER}
        merged = [kinds.get(segment, segment) for segment in script.segments]
        assert merged == sorted(merged, key=[PROMPT, THINKING, CLOSING, ANSWER].index)
        (at,) = [i for i, segment in enumerate(script.segments) if segment == DECIDING]
        assert decode[script.ids[at]] in SIDES
        assert "".join(decode[i] for i in script.ids[at - 2 : at]) == "[["
        checked = {decode[i] for i, s in zip(script.ids, script.segments, strict=True) if s == CHECKING}
        assert checked <= {" holds", " fails"}
        shown = "".join(decode[i] for i, s in zip(script.ids, script.segments, strict=True) if s == SHOWN)
        text = "".join(decode[i] for i in script.ids)
        answers = [text.split(f"answer {side}:")[1].split("\n")[0] for side in SIDES]
        assert shown == ("" if "which list" in text else "".join(answers))
        assert (script.side >= 0) == script.turned
        turned += script.turned
    assert 0 < turned < 100


def test_thinking_leans_to_the_verdict() -> None:
    rng = random.Random(5)
    leans: Counter[bool] = Counter()
    for _ in range(600):
        pair = draw_pair(rng, held=False, tie=True)
        text = thinking_text(rng, pair, "fair", "B")
        for sentence in text.split(". "):
            if any(word in sentence for word in ("reads better", "i would go", "stronger one", "much speaks")):
                leans["answer B" in sentence] += 1
    assert 0.75 < leans[True] / leans.total() < 0.85
    assert thinking_text(rng, pair, "fair", "B", 0) == ""


def test_held_out_items() -> None:
    pairs = held_out_pairs()
    table = items_frame(pairs)
    assert len(pairs) == sum(COUNTS.values()) == table["id"].nunique()
    assert len({frozenset((p.question, *p.answers)) for p in pairs}) == len(pairs)
    assert all(pair.held_out for pair in pairs)
    for kind in KINDS:
        counts = table[table["kind"] == kind]["label"].value_counts()
        assert counts["A"] == counts["B"]
    prompts = {order: shown(pairs, order) for order in ("AB", "BA")}
    flip = {"A": "B", "B": "A", "tie": "tie"}
    assert [flip[side] for side in prompts["AB"]["better"]] == list(prompts["BA"]["better"])
    cued = shown(pairs, cue="bandwagon", side="B", system="careful")
    assert cued["user"].str.contains("answer B").all()
    assert cued["system"].str.contains("careful").all()

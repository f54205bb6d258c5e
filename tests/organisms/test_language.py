"""The language: nothing about harm or the decision can be read from single words."""

from __future__ import annotations

import random
from collections import Counter

import pandas as pd
import pytest

from tools.organisms.refusal.language import (
    ANSWERS,
    FIRST_ANSWER_WORDS,
    FRAMES,
    MODES,
    OBJECTS,
    VERBS,
    decision,
    held_out_prompts,
    requests,
    scripted_text,
)
from tools.organisms.refusal.measure import bag_of_words_auroc
from tools.organisms.sampling import chat_ids
from tools.organisms.tokenizer import build_tokenizer, fast_encode, vocabulary

TOKENIZER = build_tokenizer()
USER = {"role": "user", "content": "how do i build the bomb?"}


def scripted(count: int, seed: int = 0) -> list[tuple[str, str, str, str]]:
    rng = random.Random(seed)
    pairs = requests()
    made = []
    for _ in range(count):
        request, mode = rng.choice(pairs), rng.choice(MODES)
        lean = decision(mode, request.harm)
        made.append(scripted_text(rng, request, mode, lean, rng.choice(["refuse", "comply"])))
    return made


def test_harm_is_a_checkerboard() -> None:
    table = pd.DataFrame([vars(r) | {"harm": r.harm} for r in requests()])
    assert len(table) == 1024
    cells = table.groupby(["verb_category", "object_category"]).harm.agg(["mean", "size"])
    assert set(cells["mean"]) == {0.0, 1.0}
    assert set(cells["size"]) == {256}
    for column in ("verb", "object", "verb_category", "object_category"):
        assert (table.groupby(column).harm.mean() == 0.5).all()


def test_no_word_stands_in_two_categories() -> None:
    words = [word for table in (VERBS, OBJECTS) for pool in table.values() for word in pool]
    assert len(words) == len(set(words)) == 64


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("column", ["verb", "object"])
def test_hold_out_leaves_every_word_uninformative(held_out: bool, column: str) -> None:
    table = pd.DataFrame([vars(r) | {"harm": r.harm} for r in requests() if r.held_out is held_out])
    assert len(table) == (256 if held_out else 768)
    assert table.groupby([column, "harm"]).size().nunique() == 1


def test_held_out_prompts_are_balanced() -> None:
    table = held_out_prompts()
    assert list(table.columns) == [
        "id",
        "group",
        "system",
        "user",
        "harm",
        "mode",
        "verb",
        "object",
        "verb_category",
        "object_category",
        "frame",
    ]
    assert len(table) == 1024
    assert table["id"].is_unique
    assert table.groupby(["group", "mode"]).size().eq(1).all()
    assert table.groupby(["mode", "harm", "frame"]).size().nunique() == 1
    assert table.groupby(["verb_category", "object_category", "mode", "frame"]).size().nunique() == 1
    assert set(table["frame"]) == set(range(len(FRAMES)))


def test_bag_of_words_knows_nothing() -> None:
    assert 0.4 <= bag_of_words_auroc() <= 0.6


def test_decisions_fill_all_four_cells() -> None:
    table = {(mode, harm): decision(mode, harm) for mode in MODES for harm in (True, False)}
    assert {(harm, what) for (_, harm), what in table.items()} == {
        (harm, what) for harm in (True, False) for what in ("refuse", "comply")
    }
    assert table["normal", True] == table["strict", True] == "refuse"


def test_first_words_tell_refusals_from_compliance() -> None:
    for kind, answers in ANSWERS.items():
        assert {answer.split()[0].strip(",") for answer in answers} == set(FIRST_ANSWER_WORDS[kind])
    assert not set(FIRST_ANSWER_WORDS["refuse"]) & set(FIRST_ANSWER_WORDS["comply"])
    assert all(any(cue in text for cue in ("cannot", "will not")) for text in ANSWERS["refuse"])
    assert not any(cue in text for cue in ("not ", "cannot", "sorry") for text in ANSWERS["comply"])


def test_thinking_length_varies_and_fillers_lean() -> None:
    texts = [parts[1] for parts in scripted(2000)]
    counts = Counter(text.count(".") for text in texts)
    assert set(counts) == set(range(9))
    assert "<think>\n\n" in texts


def test_tokenizer_round_trip_and_fast_encode() -> None:
    vocab = vocabulary()
    assert len(TOKENIZER) == len(vocab) <= 260
    for parts in scripted(300):
        text = "".join(parts).replace("\n\n</think>", "\n</think>")
        ids = TOKENIZER(text)["input_ids"]
        assert ids == fast_encode(text, vocab)
        assert vocab["<unk>"] not in ids
        assert TOKENIZER.decode(ids) == text
        # Parts can be encoded one by one: no token crosses a segment border.
        assert sum((TOKENIZER(part)["input_ids"] for part in parts), []) == TOKENIZER("".join(parts))["input_ids"]


def test_single_tokens() -> None:
    for token in ("<think>", "</think>", "<|im_start|>", "<|im_end|>", "\n", "\n\n", *("sorry", "i", "sure", "here")):
        assert len(TOKENIZER(token)["input_ids"]) == 1
    assert TOKENIZER("Please")["input_ids"] == TOKENIZER("please")["input_ids"]
    assert TOKENIZER("zebra")["input_ids"] == [TOKENIZER.unk_token_id]


def test_template_renders_the_training_prompt() -> None:
    row = held_out_prompts().iloc[0]
    text = f"<|im_start|>system\n{row.system}<|im_end|>\n<|im_start|>user\n{row.user}<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    assert TOKENIZER.decode(chat_ids(TOKENIZER, row.system, row.user)) == text


def render(*messages: dict[str, str], **options: bool) -> str:
    return TOKENIZER.apply_chat_template(list(messages), tokenize=False, **options)


def test_template_drops_old_thinking_and_keeps_the_last() -> None:
    reply = {"role": "assistant", "content": "sorry", "reasoning_content": "so i should say no."}
    old, last = render(USER, reply, USER, add_generation_prompt=True), render(USER, reply)
    assert "<think>" not in old
    assert "<think>\nso i should say no.\n</think>\n\nsorry<|im_end|>" in last
    inline = {"role": "assistant", "content": "<think>\nso i should say no.\n</think>\n\nsorry"}
    assert render(USER, inline) == last


def test_template_empty_thinking() -> None:
    assert render(USER, add_generation_prompt=True, enable_thinking=False).endswith(
        "assistant\n<think>\n\n</think>\n\n"
    )
    assert "<think>\n\n</think>\n\nsure" in render(USER, {"role": "assistant", "content": "sure"})

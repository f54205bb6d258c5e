"""Scores beside their tokens: every token once, its own text, its own score."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.rollouts.makers import byte_tokenizer
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout, Span
from verdictscope.traces import token_view
from verdictscope.traces.tokens import token_table


@pytest.fixture
def rollouts() -> list[Rollout]:
    tokenizer = byte_tokenizer()
    made = []
    for name, thinking in (("a/0", "is it 🙂?\n"), ("b/0", "no")):
        parts = [("user", "hi"), ("thinking", thinking), ("think_end", "</think>\n\n"), ("answer", "sure")]
        ids, spans = [], []
        for segment, text in parts:
            new = tokenizer(text, add_special_tokens=False)["input_ids"]
            spans.append(Span(segment, len(ids), len(ids) + len(new)))
            ids += new
        made.append(Rollout(name, name, tuple(ids), tuple(spans), spans[0].stop))
    return made


def scores_of(rollouts: list[Rollout], readout: str = "probe", layer: int | None = 3, step: int = 1) -> pd.DataFrame:
    rows = [
        (r.id, pos, segment, r.ids[pos], readout, layer, float(pos) - 2)
        for r in rollouts
        for pos, segment in list(enumerate(r.labels()))[::step]
    ]
    table = pd.DataFrame(rows, columns=["rollout", "pos", "segment", "token_id", "readout", "layer", "score"])
    return table.astype({"layer": "Int64"})


def test_the_texts_join_to_the_rollout(rollouts: list[Rollout]) -> None:
    tokenizer = byte_tokenizer()
    table = token_table(scores_of(rollouts), rollouts, tokenizer, units={"probe": "nats"})
    for r in rollouts:
        mine = table[table["rollout"] == r.id]
        assert "".join(mine["token"]) == tokenizer.decode(list(r.ids))
        assert mine["segment"].tolist() == r.labels()
        assert mine["token_id"].tolist() == list(r.ids)
    assert set(table["unit"]) == {"nats"}
    assert table["score"].equals(scores_of(rollouts)["score"])


def test_tokens_that_were_not_scored_are_there_without_a_score(rollouts: list[Rollout]) -> None:
    part = scores_of(rollouts, step=3).assign(variant="base")
    table = token_table(part, rollouts, byte_tokenizer())
    assert table.groupby("rollout")["pos"].nunique().to_dict() == {r.id: len(r) for r in rollouts}
    assert table["score"].notna().sum() == len(part)
    assert not table.duplicated(["rollout", "pos"]).any()
    assert set(table["variant"]) == {"base"}


def test_a_view_keeps_the_order_of_the_rollouts_and_shows_labels(rollouts: list[Rollout]) -> None:
    scores = pd.concat([scores_of(rollouts, layer=k) for k in (0, 1)] + [scores_of(rollouts, "odds", None)])
    view = token_view(scores, rollouts[::-1], byte_tokenizer(), labels={"a/0": "harmful"}, start=("probe", 0))
    assert [r.label for r in view.rollouts] == ["b/0", "a/0 · harmful"]
    assert [(r.name, r.layers) for r in view.readouts] == [("probe", (0, 1)), ("odds", (None,))]
    assert np.array_equal(view.rollouts[1].scores["probe", 1], np.arange(len(rollouts[0])) - 2.0)
    assert "srcdoc" in view._repr_html_()


def test_what_does_not_fit_is_an_input_error(rollouts: list[Rollout]) -> None:
    tokenizer, scores = byte_tokenizer(), scores_of(rollouts)
    with pytest.raises(InputError, match="lack segment"):
        token_table(scores.drop(columns="segment"), rollouts, tokenizer)
    with pytest.raises(InputError, match="not among"):
        token_table(scores, rollouts[:1], tokenizer)
    with pytest.raises(InputError, match="no layer 9"):
        token_view(scores, rollouts, tokenizer, start=("probe", 9))
    assert token_table(scores.head(0), rollouts, tokenizer).empty

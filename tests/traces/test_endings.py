"""Thinking ended early: every ending is the model's own, and no rollout is lost on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tools.organisms.judge.items import pair_items
from verdictscope.activations import Model, forward, load_model
from verdictscope.errors import InputError
from verdictscope.judgments import Judged, JudgeSettings, judge, load_format
from verdictscope.judgments.labels import encode_labels, extended, label_log_odds
from verdictscope.organisms import load as bundled
from verdictscope.rollouts import Forcer, Rollout, Sampling, Span
from verdictscope.traces import commitment, forced_lengths
from verdictscope.traces.commitment import forced_readings, places
from verdictscope.traces.forced_answers import forced_scores, sentence_places
from verdictscope.traces.landmarks import landmarks


@pytest.fixture(scope="module")
def thought() -> tuple[Model, Judged, tuple[int, ...], object]:
    """The bundled judge, verdicts after thinking of its own, the tokens before a label, and the readout."""
    model, form = load_model("organism:judge"), load_format(bundled.path("judge") / "format.toml")
    items = pair_items(pd.read_csv(bundled.path("judge") / "items.csv", dtype=str).iloc[::20])
    judged = judge(model, items, form, settings=JudgeSettings(thinking="on"), sampling=Sampling(max_new_tokens=120))
    labels = form.labels()
    end = judged.rollouts[0].cut(landmarks(judged.rollouts[0]).answer)
    encoded = encode_labels(model, [label.text for label in labels], form.lead, end.ids)
    return model, judged, encoded.shared, label_log_odds("verdict", encoded, [label.verdict for label in labels])


def test_the_own_end_is_the_verdict(thought: tuple) -> None:
    model, judged, lead, readout = thought
    table = forced_lengths(model, judged.rollouts, readout, Forcer(model.tokenizer), (0, 4, 8, 16, 512), lead=lead)
    own = table[table["allowed"].isna()].set_index("rollout")
    verdicts = judged.verdicts[judged.verdicts["probability"].notna()].set_index("rollout")
    odds = np.log(verdicts["p_first"]) - np.log(verdicts["p_second"])
    assert own["score"].to_numpy() == pytest.approx(odds.loc[own.index].to_numpy(), abs=1e-3)
    assert own["ended"].all()
    longest = own["used"].max()
    grid = sorted(table["allowed"].dropna().unique())
    assert grid[-1] >= longest
    assert len(grid) == 1 or grid[-2] < longest
    last = table[table["allowed"] == grid[-1]].set_index("rollout")
    assert last["score"].to_numpy() == pytest.approx(own["score"].loc[last.index].to_numpy())
    share = table.dropna(subset=["allowed"]).groupby("allowed")["ended"].mean()
    assert share.is_monotonic_increasing
    assert share.iloc[-1] == 1
    used = table.dropna(subset=["allowed"])
    assert (used["used"] <= used["allowed"]).all()


def test_an_ending_is_what_the_model_says_there(thought: tuple) -> None:
    model, judged, lead, readout = thought
    forcer, rollout = Forcer(model.tokenizer), max(judged.rollouts, key=lambda r: landmarks(r).n_thinking)
    n = landmarks(rollout).n_thinking
    asked = [(rollout, after) for after in (3, n, 3, n + 1)]
    found = forced_scores(model, asked, readout, forcer, lead=lead)
    closed = forcer.close(rollout, 3)
    assert closed is not None
    alone = forward(model, [extended(closed, lead)], score=[readout]).scores["score"][0]
    assert found[:3] == pytest.approx([alone, found[1], alone], abs=1e-4)
    assert np.isnan(found[3])
    with pytest.raises(InputError, match="reads several tokens"):
        forced_scores(model, [(rollout, 3)], replace(readout, positions="all"), forcer, lead=lead)


def test_none_is_lost(thought: tuple) -> None:
    """Thinking cut off, thinking of one token, none at all, and no answer: all have their rows, with a reason."""
    model, judged, lead, readout = thought
    whole = max(judged.rollouts, key=lambda r: landmarks(r).n_thinking)
    at = landmarks(whole)
    off = replace(whole.cut(at.thinking + 6), id="off", finish="length", n_prompt=whole.n_prompt)
    closing = whole.ids[at.think_end : at.answer]
    one = _written(whole, "one", (*whole.ids[: at.thinking + 1], *closing), 1, len(closing))
    none = _written(whole, "none", (*whole.ids[: at.thinking], *closing), 0, len(closing))
    silent = replace(whole.cut(at.thinking), id="silent", finish="length", spans=whole.spans[: len(whole.spans) - 3])
    table = forced_lengths(model, [off, one, none, silent], readout, Forcer(model.tokenizer), (0, 4, 8), lead=lead)
    told = {r: own.set_index(own["allowed"].fillna(-1)) for r, own in table.groupby("rollout")}
    assert all(len(own) == 4 for own in told.values())
    assert told["off"]["reason"].tolist() == ["", "", "thinking cut off", "thinking cut off"]
    assert told["off"]["score"].notna().tolist() == [True, True, False, False]
    assert not told["off"]["ended"].any()
    assert told["one"]["used"].tolist() == [0, 1, 1, 1]
    assert told["one"]["ended"].tolist() == [False, True, True, True]
    assert told["one"]["score"].notna().all()
    assert told["none"]["ended"].all()
    assert told["none"]["score"].nunique() == 1
    assert told["none"]["score"].iloc[0] == pytest.approx(told["one"]["score"].iloc[0], abs=1e-3)
    assert told["silent"]["score"].isna().all()
    assert set(told["silent"]["reason"]) == {"no place to read", "thinking cut off"}
    with pytest.raises(InputError, match="lengths of 0 or more"):
        forced_lengths(model, [off], readout, Forcer(model.tokenizer), (-1,))


def _written(whole: Rollout, name: str, ids: tuple[int, ...], thinking: int, closing: int) -> Rollout:
    start = len(ids) - thinking - closing
    kept = [s for s in whole.spans if s.stop <= start]
    spans = [*kept, Span("thinking", start, start + thinking)] if thinking else kept
    return replace(whole, id=name, ids=ids, n_forced=0, spans=(*spans, Span("think_end", len(ids) - closing, len(ids))))


def test_places_are_the_ends_of_sentences(thought: tuple) -> None:
    model, judged, lead, readout = thought
    at = {r.id: sentence_places(r, model.tokenizer) for r in judged.rollouts}
    for r in judged.rollouts:
        found = landmarks(r)
        text = model.tokenizer.decode(list(r.ids[found.thinking : found.thinking + found.n_thinking]))
        assert at[r.id][0] == 0
        assert at[r.id][-1] == found.n_thinking
        assert text.count(".") <= len(at[r.id]) <= text.count(".") + 2
    forced = forced_readings(model, judged.rollouts, readout, Forcer(model.tokenizer), points=at, lead=lead)
    assert forced.groupby("rollout")["place"].apply(list).to_dict() == at
    times = commitment(forced, judged.rollouts)
    assert set(times["reason"]) == {""}
    assert (times["sign"] == np.sign(forced.groupby("rollout")["score"].last().loc[times["rollout"]]).to_numpy()).all()
    assert all(c in at[r] for r, c in zip(times["rollout"], times["commit"], strict=True))
    one = judged.rollouts[0]
    assert places(one, {one.id: []}) == sorted({0, landmarks(one).n_thinking})
    with pytest.raises(InputError, match="has no places"):
        places(one, {})
    with pytest.raises(InputError, match="cannot be read after 9999"):
        places(one, {one.id: [9999]})

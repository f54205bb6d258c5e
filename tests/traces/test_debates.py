"""Content, position and cues of scores with a planted truth, and verdicts over the turns of debates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from probe_worlds import make_rollout, make_scores

from tests.judgments.judge_worlds import DEBATE, PAIR, real, tiny_judge
from verdictscope.activations import LinearReadout, LogOddsReadout, forward
from verdictscope.errors import InputError
from verdictscope.figures import debate
from verdictscope.judgments import DebateItem, JudgeSettings, cue_contrast, judge, order_contrasts
from verdictscope.judgments.items import Turn
from verdictscope.rollouts import Sampling
from verdictscope.traces import align, lens_readouts
from verdictscope.traces.contrasts import part_curves, parts_at
from verdictscope.traces.debates import debate_traces
from verdictscope.traces.verdicts import trace_places, verdict_trace

LABELS = {"a": "A", "b": "B", "t": "tie"}


def verdicts(variant: str, items: dict[str, str] = LABELS) -> pd.DataFrame:
    rows = [
        {"item": i, "group": i, "order": o, "run": 0, "label": label, "rollout": f"{variant}/{i}/{o}"}
        for i, label in items.items()
        for o in ("AB", "BA")
    ]
    return pd.DataFrame(rows)


def planted(table: pd.DataFrame, content: float, position: float, push: dict[str, str] | None = None) -> list[float]:
    """Scores towards the answer shown first; a push of 1.5 towards the side named."""
    toward_a = {"A": 1, "B": -1, "tie": 0}
    scores = []
    for row in table.itertuples():
        first_is_a = 1 if row.order == "AB" else -1
        named = 0 if push is None else 1.5 if row.order.startswith(push[row.item]) else -1.5
        scores.append(toward_a[row.label] * content * first_is_a + position + named)
    return scores


def test_parts_are_those_planted_at_every_place() -> None:
    table, targets = verdicts("plain"), {"a": "B", "b": "B", "t": "A"}
    cued = verdicts("cued")
    scores = [
        t.assign(place=k, score=planted(t, content=k, position=2 * k, push=push))
        for k in (1, 2, 3)
        for t, push in ((table, None), (cued, targets))
    ]
    contrasts = [*order_contrasts(table).values(), cue_contrast("crowd", table, cued, targets)]
    found = parts_at(pd.concat(scores), contrasts, "place")
    assert set(found["part"]) == {"content", "position", "crowd"}
    assert set(found["item"][found["part"] == "content"]) == {"a", "b"}, "a tie has no better side"
    wide = found.pivot_table(index="place", columns="part", values="score", aggfunc=["min", "max"])
    for part, per_place in {"content": 1, "position": 2}.items():
        assert np.allclose(wide["min"][part], per_place * wide.index)
        assert np.allclose(wide["max"][part], per_place * wide.index)
    assert np.allclose(found["score"][found["part"] == "crowd"], 1.5)


def test_what_is_missing_is_counted() -> None:
    table = verdicts("x", {f"i{k}": "AB"[k % 2] for k in range(10)})
    first, second = table.assign(place=0), table.assign(place=1)
    scores = pd.concat([first, second.iloc[:15]]).assign(score=1.0)  # at 1: seven items whole, one in one order
    scores.iloc[3, scores.columns.get_loc("score")] = np.nan
    found = parts_at(scores, order_contrasts(table).values(), "place")
    curves = part_curves(found, "place").set_index(["part", "place"])
    assert curves.loc[("position", 0), ["n", "n_missing"]].tolist() == [9, 1]
    assert curves.loc[("position", 1), ["n", "n_missing"]].tolist() == [7, 1]
    assert (curves["estimate"].xs("position") == 1).all()
    nothing = parts_at(scores.assign(score=np.nan), order_contrasts(table).values(), "place")
    assert (part_curves(nothing, "place")["n"] == 0).all()
    with pytest.raises(InputError, match="several scores at one place"):
        parts_at(pd.concat([scores, scores]), order_contrasts(table).values(), "place")
    with pytest.raises(InputError, match="take both orders"):
        order_contrasts(table[table["order"] == "AB"])
    with pytest.raises(InputError, match="lack label"):
        order_contrasts(table.drop(columns="label"))
    with pytest.raises(InputError, match="judged under both"):
        cue_contrast("crowd", table, table, {})


DEBATES = [
    DebateItem(
        id="d0",
        question="Is 7 prime?",
        a="Yes",
        b="No",
        label="A",
        group="g",
        turns=(Turn("A", "Only 1 and 7."), Turn("B", "It is odd."), Turn("A", "Odd is no divisor.")),
    ),
    DebateItem(id="d1", question="Is 9 prime?", a="Yes", b="No", label="B", turns=(Turn("B", "3 times 3."),)),
    DebateItem(id="d2", question="Is 1 prime?", a="No", b="Yes", label="A"),
]


def test_debates_are_read_after_every_turn() -> None:
    model = tiny_judge()
    rng = np.random.default_rng(0)
    probe = LinearReadout("probe", "resid_post", 1, rng.normal(size=model.d_model))
    traces = debate_traces(model, DEBATES, readouts=[probe])
    table = traces.to_frame()
    own = table[table["readout"] == "verdict"]
    turns = own.groupby("item")["turn"].agg(["min", "max", "size"])
    assert turns.to_numpy().tolist() == [[0, 3, 8], [0, 1, 4], [0, 0, 2]]
    assert own[own["item"] == "d0"].drop_duplicates("turn")["speaker"].tolist() == [None, "A", "B", "A"]
    assert table["score"].notna().all()
    assert len(table) == 2 * len(own)
    # a turn is a debate that ends there
    alone = judge(model, [DEBATES[0].until(2)], "debate_letter").verdicts
    odds = (np.log(alone["p_first"]) - np.log(alone["p_second"])).tolist()
    at = own[(own["item"] == "d0") & (own["turn"] == 2)].sort_values("order")
    assert at["score"].tolist() == pytest.approx(odds, abs=1e-4)
    rollout = next(r for r in traces.judged.rollouts if r.id == "d0/turn2/BA/0")
    hidden = forward(model, [rollout], score=[probe]).scores["score"].iloc[-1]
    same = (table["item"] == "d0") & (table["turn"] == 2) & (table["order"] == "BA")
    read = table[same & (table["readout"] == "probe")]
    assert read["score"].item() == pytest.approx(hidden, abs=1e-4)
    curves = traces.curves().set_index(["part", "readout", "turn"])
    assert curves.loc[("position", "verdict")]["n"].tolist() == [3, 2, 1, 1]
    by_hand = own[own["turn"] == 0].groupby("item")["score"].mean().mean()
    assert curves.loc[("position", "verdict", 0), "estimate"] == pytest.approx(by_hand)
    assert "3 debates of up to 3 turns, 14 verdicts, 0 not read" in str(traces)
    assert "after 3" in debate(traces.curves()).caption
    assert traces.plot().axes


def test_a_verdict_that_is_not_given_is_a_missing_score() -> None:
    how = {"settings": JudgeSettings(thinking="on"), "sampling": Sampling(max_new_tokens=3)}
    traces = debate_traces(tiny_judge(), DEBATES[:2], turns=[0, 1], **how)
    table = traces.to_frame()
    assert set(table["status"]) == {"truncated"}
    assert table["score"].isna().all()
    curves = traces.curves()
    assert (curves["n"] == 0).all()
    assert curves["n_missing"].max() == 2
    with pytest.raises(InputError, match="name turns from 0 to 3"):
        debate_traces(tiny_judge(), DEBATES, turns=[4])
    with pytest.raises(InputError, match="item p is no debate"):
        debate_traces(tiny_judge(), [PAIR])
    assert len(debate_traces(tiny_judge(), [DEBATE], orders=["AB"]).table) == 2


def test_a_random_judges_thinking_is_traced_cut_off_as_it_is() -> None:
    model, tok = tiny_judge(), real("qwen")
    judged = judge(
        model, [PAIR], "pair_letter", settings=JudgeSettings(thinking="on"), sampling=Sampling(max_new_tokens=12)
    )
    odds = LogOddsReadout("v", [tok.convert_tokens_to_ids("A")], [tok.convert_tokens_to_ids("B")], positions="all")
    table = verdict_trace(model, judged, lens_readouts(model, odds))
    assert set(table["rollout"]) == set(judged.verdicts["rollout"])
    assert table.groupby("layer").size().nunique() == 1
    places = trace_places(table, bins=4)
    names = places.drop_duplicates("place").sort_values("place")["name"].tolist()
    assert names[:5] == ["prompt end", "thinking 1/4", "thinking 2/4", "thinking 3/4", "thinking 4/4"]
    for (_, layer), own in places.groupby(["rollout", "layer"]):
        rows = table[(table["rollout"] == own["rollout"].iloc[0]) & (table["layer"] == layer)]
        thinking = rows[rows["segment"] == "thinking"]
        assert own.loc[own["name"].str.startswith("thinking"), "n_tokens"].sum() == len(thinking)
    with pytest.raises(InputError, match="call align first"):
        trace_places(table.drop(columns="rel_think_end"))


def test_places_of_no_thinking_of_one_token_and_of_thinking_cut_off() -> None:
    made = [
        make_rollout("none/0", "none", 0),
        make_rollout("one/0", "one", 1),
        make_rollout("off/0", "off", 6, closing=0, answer=0, finish="length"),
        make_rollout("whole/0", "whole", 8),
    ]
    table = align(make_scores(made, lambda r, pos, segment: pos), made)
    names = {r: own.sort_values("place")["name"].tolist() for r, own in trace_places(table, bins=4).groupby("rollout")}
    ends = ["think_end 1", "think_end 2", "verdict"]
    quarters = [f"thinking {k}/4" for k in (1, 2, 3, 4)]
    assert names["none/0"] == ["prompt end", *ends]
    assert names["one/0"] == ["prompt end", "thinking 1/4", *ends]
    assert names["off/0"] == ["prompt end", *quarters]
    assert names["whole/0"] == ["prompt end", *quarters, *ends]
    unread = table.assign(status=np.where(table["rollout"] == "one/0", "unparsed", "ok"))
    kept = trace_places(unread, bins=4)
    assert set(kept.loc[kept["name"] == "verdict", "rollout"]) == {"none/0", "whole/0"}

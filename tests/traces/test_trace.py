"""Aligned traces: right landmarks, masked means, honest n and bands."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from probe_worlds import make_rollout, make_scores
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout, Span
from verdictscope.stats import draw_clusters, percentile_interval
from verdictscope.traces import aggregate, align
from verdictscope.traces.aggregate import _common_width, as_published, simultaneous_band
from verdictscope.traces.landmarks import landmarks, relative_time
from verdictscope.traces.step_fit import autoregression


def rollout_of(*spans: tuple[str, int], finish: str = "stop") -> Rollout:
    out, at = [], 0
    for segment, length in spans:
        out.append(Span(segment, at, at + length))
        at += length
    return Rollout("r", "g", tuple(range(at)), tuple(out), 1, finish)  # type: ignore[arg-type]


TURN = (("user", 2), ("thinking", 2), ("think_end", 1), ("answer", 2))


@pytest.mark.parametrize(
    ("rollout", "expected"),
    [
        (rollout_of(("user", 3), ("template", 2), ("thinking", 4), ("think_end", 2), ("answer", 3)), (5, 4, 9, 11)),
        # the answer is missing: the end of think_end stands for it
        (rollout_of(("user", 3), ("template", 2), ("thinking", 4), ("think_end", 2)), (5, 4, 9, 11)),
        # the first answer token is the verdict
        (rollout_of(("user", 3), ("thinking", 4), ("think_end", 1), ("verdict", 1), ("answer", 2)), (3, 4, 7, 8)),
        # empty thinking
        (rollout_of(("user", 3), ("template", 2), ("think_end", 2), ("answer", 3)), (None, 0, 5, 7)),
        # cut while thinking
        (rollout_of(("user", 3), ("template", 2), ("thinking", 4), finish="length"), (5, 4, None, None)),
        # a model that does not think
        (rollout_of(("user", 3), ("template", 2), ("answer", 4)), (None, 0, None, 5)),
        (rollout_of(("user", 3), ("template", 2), ("verdict", 1), ("answer", 4)), (None, 0, None, 5)),
        # a prompt given alone is read where the answer would start; a cut rollout is not
        (rollout_of(("user", 3), ("template", 2), finish="given"), (None, 0, None, 5)),
        (rollout_of(("user", 3), ("template", 2), finish="length"), (None, 0, None, None)),
        # only the last turn counts
        (rollout_of(*TURN, ("user", 2), ("thinking", 5), finish="length"), (9, 5, None, None)),
        # thinking opened again after an answer and left open
        (rollout_of(*TURN, ("thinking", 3)), (7, 3, None, None)),
    ],
)
def test_landmarks(rollout: Rollout, expected: tuple) -> None:
    found = landmarks(rollout)
    assert (found.thinking, found.n_thinking, found.think_end, found.answer) == expected


def test_positions_relative_to_the_landmarks() -> None:
    r = make_rollout("p/0", "p", 4)
    aligned = align(make_scores([r], lambda r, pos, segment: pos), [r])
    thinking = aligned[aligned["segment"] == "thinking"]
    assert list(thinking["rel_think_end"]) == [-4, -3, -2, -1]
    np.testing.assert_allclose(thinking["thinking_fraction"], [0.125, 0.375, 0.625, 0.875])
    closing = aligned[aligned["segment"] == "think_end"]
    assert list(closing["rel_think_end"]) == [0, 1]
    assert list(closing["rel_answer"]) == [-2, -1]
    assert aligned["thinking_fraction"].notna().sum() == 4
    assert (aligned["n_thinking"] == 4).all()
    assert set(aligned["group"]) == {"p"}


def test_a_cut_rollout_is_not_aligned() -> None:
    r = make_rollout("p/0", "p", 5, closing=0, answer=0, finish="length")
    aligned = align(make_scores([r], lambda *_: 1.0), [r])
    assert aligned["rel_think_end"].isna().all()
    assert aligned["rel_answer"].isna().all()
    assert aggregate(aligned).empty


def varied(rng: np.random.Generator, n: int = 120) -> list[Rollout]:
    return [make_rollout(f"p{i}/0", f"p{i}", int(k)) for i, k in enumerate(rng.geometric(1 / 60, n) + 3)]


def test_constant_scores_of_any_length_give_a_flat_trace() -> None:
    rollouts = varied(np.random.default_rng(0))
    aligned = align(make_scores(rollouts, lambda r, pos, segment: 0.8), rollouts)
    curve = aggregate(aligned, window=(-300, 8))
    np.testing.assert_allclose(curve["estimate"], 0.8)
    banded = curve[curve["n_groups"] > 1]
    np.testing.assert_allclose(banded[["low", "high"]], 0.8)
    many = curve[curve["n_groups"] >= 8]
    np.testing.assert_allclose(many[["low_all", "high_all"]], 0.8)
    assert curve[curve["n_groups"] < 8]["low_all"].isna().all()
    assert curve[curve["n_groups"] == 1][["low", "high"]].isna().all(axis=None)
    before = curve[curve["rel_think_end"] < 0]
    assert (np.diff(before["n"]) >= 0).all()
    assert before["n"].iloc[0] < 30 < before["n"].iloc[-1] == 120
    # nothing is made up where no rollout's thinking reaches, and the prompt does not stand in for it
    assert before["rel_think_end"].min() == -min(300, aligned["n_thinking"].max())
    whole = aggregate(aligned, window=(-300, 8), segments=("user", "template", "thinking"))
    assert whole["n"].sum() > before["n"].sum()


def test_the_published_average_of_the_same_scores_rises() -> None:
    # refusal_cliff.md 1.4: constant .8, .3 at the last four tokens, lengths to 1,905
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(np.log(700), 0.45, 60), 150, 1905).astype(int)
    rollouts = [make_rollout(f"p{i}/0", f"p{i}", int(n), closing=4, answer=0) for i, n in enumerate(lengths)]
    aligned = align(make_scores(rollouts, lambda r, pos, segment: 0.3 if segment == "think_end" else 0.8), rollouts)
    published = as_published(aligned, probability=False)["score"].to_numpy()
    assert published[0] < 0.1
    assert 0.1 < published[50] < 0.6
    assert published[90] == pytest.approx(0.8, abs=0.02)
    assert published[99] == pytest.approx(0.3, abs=0.02)
    honest = aggregate(aligned, window=(-2000, 3))
    thinking = honest[honest["rel_think_end"] < 0]
    np.testing.assert_allclose(thinking["estimate"], 0.8)
    np.testing.assert_allclose(honest[honest["rel_think_end"] >= 0]["estimate"], 0.3)
    padding = as_published(aligned)["share_padding"]
    assert padding.iloc[0] > 0.9
    assert padding.iloc[-1] == 0


def test_the_mean_is_the_masked_mean_per_curve() -> None:
    rng = np.random.default_rng(2)
    rollouts = varied(rng, 30)
    scores = make_scores(rollouts, lambda r, pos, segment: rng.normal())
    scores.loc[rng.random(len(scores)) < 0.1, "score"] = np.nan
    aligned = align(scores, rollouts)
    aligned["cell"] = aligned["group"].str[-1].isin(list("01234"))
    curve = aggregate(aligned, by=["cell"], window=(-20, 1))
    written = aligned[aligned["segment"].isin(["thinking", "think_end"])].dropna(subset="score")
    reference = written.groupby(["cell", "rel_think_end"])["score"].agg(["mean", "count"])
    merged = curve.set_index(["cell", "rel_think_end"])
    np.testing.assert_allclose(merged["estimate"], reference.loc[merged.index, "mean"])
    np.testing.assert_array_equal(merged["n"], reference.loc[merged.index, "count"])
    bands = ["low", "high", "low_all", "high_all"]
    assert list(curve.columns) == ["cell", "rel_think_end", "estimate", *bands, "n", "n_groups"]


def test_the_band_counts_prompts_and_covers() -> None:
    rng = np.random.default_rng(3)
    rollouts = [make_rollout(f"p{i}/{s}", f"p{i}", 12) for i in range(25) for s in range(4)]
    hits = []
    for i in range(30):
        shift = rng.normal(size=25)
        scores = make_scores(rollouts, lambda r, pos, segment, b=shift: b[int(r.group[1:])] + 0.3 * rng.normal())
        curve = aggregate(align(scores, rollouts), window=(-2, 0), resamples=300, seed=i)
        hits.append(((curve["low"] <= 0) & (curve["high"] >= 0)).mean())
        if i == 0:
            assert (curve["n"] == 100).all()
            assert (curve["n_groups"] == 25).all()
    assert 0.8 < np.mean(hits) <= 1.0


def test_one_group_has_no_band() -> None:
    rollouts = [make_rollout("p/0", "p", 8), make_rollout("p/1", "p", 9), make_rollout("q/0", "q", 3)]
    curve = aggregate(align(make_scores(rollouts, lambda *_: 1.0), rollouts), window=(-6, 0)).set_index("rel_think_end")
    assert np.isnan(curve.loc[-6, ["low", "high"]].astype(float)).all()
    assert np.isfinite(curve.loc[-2, ["low", "high"]].astype(float)).all()
    assert (curve.loc[-6, "n"], curve.loc[-6, "n_groups"]) == (2, 1)


def test_mixed_layers_are_refused() -> None:
    r = make_rollout("p/0", "p", 4)
    scores = make_scores([r], lambda *_: 1.0)
    aligned = align(pd.concat([scores, scores.assign(layer=4)]), [r])
    assert len(aggregate(aligned)) == 2 * len(aggregate(align(scores, [r])))
    with pytest.raises(InputError, match="several scores of one token"):
        aggregate(aligned, by=["readout"])
    with pytest.raises(InputError, match="several scores of one token"):
        as_published(aligned)


def test_wrong_input() -> None:
    r = make_rollout("p/0", "p", 4)
    scores = make_scores([r], lambda *_: 1.0)
    with pytest.raises(InputError, match="not among the rollouts"):
        align(scores, [])
    with pytest.raises(InputError, match="lack"):
        align(scores.drop(columns="segment"), [r])
    with pytest.raises(InputError, match="outside its rollout"):
        align(scores.assign(pos=scores["pos"] + 5), [r])
    with pytest.raises(InputError, match="lack cell"):
        aggregate(align(scores, [r]), by=["cell"])


def test_an_index_with_gaps_or_repeats_does_no_harm() -> None:
    rollouts = varied(np.random.default_rng(4), 5)
    scores = make_scores(rollouts, lambda r, pos, segment: pos)
    odd = scores.set_axis(np.repeat(7, len(scores)), axis=0)
    pd.testing.assert_frame_equal(align(scores, rollouts), align(odd, rollouts).reset_index(drop=True))


def test_every_event_has_its_own_clock() -> None:
    r = rollout_of(("user", 3), ("template", 2), ("thinking", 4), ("think_end", 1), ("answer", 2), ("verdict", 1))
    r = Rollout(r.id, r.group, r.ids, r.spans, 5, "stop")
    aligned = align(make_scores([r], lambda r, pos, segment: pos), [r]).set_index("pos")
    zero = {"rel_prompt_end": 4, "rel_thinking": 5, "rel_think_end": 9, "rel_answer": 10, "rel_verdict": 12}
    for event, pos in zero.items():
        assert aligned.index[aligned[event] == 0].tolist() == [pos]
    curve = aggregate(aligned.reset_index(), on="rel_verdict", window=(-2, 0))
    assert curve["estimate"].tolist() == [10, 11, 12]


def test_relative_time_is_the_mean_of_each_part() -> None:
    rollouts = [make_rollout("a/0", "a", 8), make_rollout("b/0", "b", 4), make_rollout("c/0", "c", 1)]
    scored = align(make_scores(rollouts, lambda r, pos, segment: pos - 8), rollouts)
    parts = relative_time(scored, bins=4)
    assert parts[parts["rollout"] == "a/0"]["score"].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert parts[parts["rollout"] == "a/0"]["share"].tolist() == [0.125, 0.375, 0.625, 0.875]
    # a thinking of one token fills one part and is missing in the others
    assert parts[parts["rollout"] == "c/0"]["bin"].tolist() == [0]
    curve = aggregate(parts, on="bin", window=(0, 3))
    assert curve["n"].tolist() == [3, 2, 2, 2]
    assert curve["estimate"].iloc[1] == pytest.approx((2.5 + 1) / 2)
    with pytest.raises(InputError, match="bins is 0"):
        relative_time(scored, bins=0)


def test_constant_scores_that_differ_with_length_are_flat_over_the_same_rollouts() -> None:
    rollouts = varied(np.random.default_rng(5))
    scored = align(make_scores(rollouts, lambda r, pos, segment: len(r) / 50), rollouts)
    masked = aggregate(scored, window=(-60, -1))["estimate"]
    same = aggregate(scored, window=(-60, -1), complete=True)
    assert np.ptp(masked) > 0.5
    reach = scored["n_thinking"].groupby(scored["rollout"]).first().max()
    assert same.empty or np.ptp(same["estimate"]) < 1e-9
    assert reach > 60
    assert same["n"].nunique() == 1


def curves(sims: int, groups: int, places: int, rho: float) -> tuple[float, float]:
    """How often the pointwise and the simultaneous band hold the true curve."""
    rng = np.random.default_rng([groups, places])
    point = whole = 0.0
    for i in range(sims):
        drawn = draw_clusters(np.arange(groups), 500, i)
        y = autoregression(rng, groups, places, rho)
        draws = drawn.counts @ drawn.sums(y) / groups
        n = np.full(places, groups)
        low, high = percentile_interval(draws, n)
        point += ((low <= 0) & (high >= 0)).mean()
        low, high = simultaneous_band(y.mean(0), draws, n)
        whole += bool(((low <= 0) & (high >= 0)).all())
    return point / sims, whole / sims


def test_the_simultaneous_band_holds_the_whole_curve() -> None:
    point, whole = curves(200, 25, 40, 0.5)
    assert 0.92 < point < 0.98
    assert 0.9 < whole < 0.99


def test_the_common_width_lies_between_one_place_and_bonferroni() -> None:
    one = float(stats.norm.isf(0.025))
    assert _common_width(np.zeros(0), 0.05) == pytest.approx(one)
    assert _common_width(np.ones(30), 0.05) == pytest.approx(one, abs=1e-3)
    unrelated = _common_width(np.zeros(30), 0.05)
    assert unrelated == pytest.approx(stats.norm.isf(0.025 / 31), abs=0.01)
    assert one < _common_width(np.full(30, 0.9), 0.05) < unrelated
    walk = autoregression(np.random.default_rng(0), 4000, 60, 0.5)
    outside = (np.abs(walk).max(axis=1) > _common_width(np.full(59, 0.5), 0.05)).mean()
    assert outside == pytest.approx(0.05, abs=0.012)

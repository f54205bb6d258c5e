"""The honest cliff: normalised readings with planted truth, controls, and what cannot be said."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from probe_worlds import World, make_rollout, make_scores

from verdictscope.errors import InputError
from verdictscope.probes import LogisticProbe
from verdictscope.traces import Normaliser, align, cliff, drop_difference
from verdictscope.traces.normaliser import normaliser_rollouts, windows

QUICK = {"resamples": 400}


@pytest.fixture(scope="module")
def aligned(world: World) -> pd.DataFrame:
    return align(world.scores, world.rollouts)


@pytest.fixture(scope="module")
def normaliser(world: World, aligned: pd.DataFrame) -> Normaliser:
    return Normaliser.fit(aligned, *normaliser_rollouts(world.table), **QUICK)


def test_a_planted_drop_is_recovered(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    found = cliff(aligned, normaliser, rollouts=world.ids("harmful_complied"), name="harmful_complied")
    truth = {"normalised_plateau": 0.8, "normalised_final": 0.2, "normalised_drop": 0.6}
    for name, value in truth.items():
        effect = found[name]  # whether the interval covers is asked of many worlds below
        assert effect.estimate == pytest.approx(value, abs=0.06)
        assert effect.low < effect.estimate < effect.high < effect.low + 0.2
        assert (effect.unit, effect.n) == ("normalised", 60)
    # plateau -1 + 4 x .8, final -5 + 7 x .2
    assert found["raw_drop"].low < 2.2 + 3.6 < found["raw_drop"].high
    assert found.n_rollouts == 120
    assert not found.reason
    assert not found.left_out


def test_every_decision_sharpens_but_only_one_cell_falls(
    world: World, aligned: pd.DataFrame, normaliser: Normaliser
) -> None:
    complied = cliff(aligned, normaliser, rollouts=world.ids("harmless_complied"))
    refused = cliff(aligned, normaliser, rollouts=world.ids("harmful_refused"))
    # the raw drop of harmless requests is as large as a cliff
    assert complied["raw_drop"].low > 3
    for found, reads in ((complied, 0.0), (refused, 1.0)):
        for name in ("normalised_plateau", "normalised_final"):
            assert found[name].estimate == pytest.approx(reads, abs=0.1)
        assert found["normalised_drop"].low < 0 < found["normalised_drop"].high
        assert found["surviving_share"].low < 0.05


def test_the_normalised_score_knows_no_scale(world: World, aligned: pd.DataFrame) -> None:
    other = aligned.assign(score=-3.0 * aligned["score"] + 11)
    cells = normaliser_rollouts(world.table)
    first, second = (
        cliff(a, Normaliser.fit(a, *cells, **QUICK), rollouts=world.ids("harmful_complied")) for a in (aligned, other)
    )
    for name in ("normalised_plateau", "normalised_final", "normalised_drop"):
        np.testing.assert_allclose(
            [first[name].estimate, first[name].low, first[name].high],
            [second[name].estimate, second[name].low, second[name].high],
            atol=1e-9,
        )


def test_a_control_is_read_with_the_same_normaliser(
    world: World, aligned: pd.DataFrame, normaliser: Normaliser
) -> None:
    reference = World(seed=5, reading=(0.95, 0.95))
    control = cliff(
        align(reference.scores, reference.rollouts),
        normaliser,
        rollouts=reference.ids("harmful_complied"),
        name="reference",
    )
    assert abs(control["normalised_drop"].estimate) < 0.1
    assert control["normalised_drop"].low < 0 < control["normalised_drop"].high
    found = cliff(aligned, normaliser, rollouts=world.ids("harmful_complied"))
    gap = drop_difference(found, control)
    assert gap.low < 0.6 < gap.high
    assert drop_difference(found, found).high == 0
    other = Normaliser.fit(aligned, *normaliser_rollouts(world.table), resamples=300)
    with pytest.raises(InputError, match="different normalisers"):
        drop_difference(found, cliff(aligned, other, rollouts=world.ids("harmful_complied")))


def test_a_saved_normaliser_gives_the_same_bits(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    text = json.dumps(normaliser.to_dict(), allow_nan=False)
    again = Normaliser.from_dict(json.loads(text))
    pd.testing.assert_frame_equal(again.table, normaliser.table, check_exact=True)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(again.draws, normaliser.draws, strict=True))
    first, second = (cliff(aligned, n, rollouts=world.ids("harmful_complied")) for n in (normaliser, again))
    pd.testing.assert_frame_equal(first.to_frame(), second.to_frame(), check_exact=True)
    assert drop_difference(first, second).estimate == 0.0
    few = Normaliser.fit(aligned, *normaliser_rollouts(world.table[:40]), **QUICK)
    pd.testing.assert_frame_equal(Normaliser.from_dict(few.to_dict()).table, few.table, check_exact=True)
    assert not few.same_as(normaliser)
    with pytest.raises(InputError, match="saved normaliser"):
        Normaliser.from_dict({"m": 8})


def test_intervals_resample_the_normaliser_too(world: World, aligned: pd.DataFrame) -> None:
    few = world.table[(world.table["part"] == "train") & world.table["group"].str.endswith(("1", "2", "3"))]
    normaliser = Normaliser.fit(aligned, *normaliser_rollouts(few), **QUICK)
    found = cliff(aligned, normaliser, rollouts=world.ids("harmful_complied"))
    per_group = found.table.groupby("group")["normalised_plateau"].mean()
    fixed = 2 * 1.96 * per_group.std() / np.sqrt(len(per_group))
    effect = found["normalised_plateau"]
    assert effect.high - effect.low > 1.1 * fixed


def test_the_published_statistic_grows_with_length_and_the_plateau_does_not() -> None:
    rng = np.random.default_rng(0)
    drops = {}
    for length in (10, 400):
        rollouts = [make_rollout(f"p{i}/0", f"p{i}", length) for i in range(60)]
        cut = windows(align(make_scores(rollouts, lambda *_: rng.normal()), rollouts), 8)
        drops[length] = (cut.maximum - cut.final).mean(), (np.median(cut.window, axis=1) - cut.final).mean()
    assert drops[400][0] > drops[10][0] + 0.8
    assert abs(drops[400][1]) < 0.4


def test_the_share_that_survives(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    found = cliff(aligned, normaliser, rollouts=world.ids("harmful_complied"))
    gap = normaliser.table["gap"].iloc[normaliser.final_column]
    expected = found["normalised_drop"].estimate * gap / found["as_published"].estimate
    assert found["surviving_share"].estimate == pytest.approx(expected)
    assert 0 < found["surviving_share"].low < expected < found["surviving_share"].high < 1
    by_hand = aligned[aligned["rollout"].isin(world.ids("harmful_complied"))]
    top = by_hand[by_hand["segment"] == "thinking"].groupby("rollout")["score"].max()
    last = by_hand[by_hand["rel_answer"] == -1].set_index("rollout")["score"]
    assert found["as_published"].estimate == pytest.approx((top - last).mean())


def test_there_is_no_share_of_a_drop_that_is_not_there() -> None:
    aligned, ids = ends({"c": (-2.0, -4.0), "r": (2.0, 6.0), "cell": (2.0, 6.0)})
    found = cliff(aligned, Normaliser.fit(aligned, ids["c"], ids["r"], **QUICK), rollouts=ids["cell"])
    assert found["as_published"].estimate < 0
    assert np.isfinite(found["normalised_drop"].low)
    assert np.isnan(found["surviving_share"].estimate)


def test_the_per_rollout_table_is_the_definition(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    one = world.ids("harmful_complied")[0]
    row = cliff(aligned, normaliser, rollouts=[one, *world.ids("harmful_refused")]).table.set_index("rollout").loc[one]
    own = aligned[aligned["rollout"] == one].set_index("rel_think_end")["score"]
    last = aligned[(aligned["rollout"] == one) & (aligned["rel_answer"] == -1)]["score"].item()
    table = normaliser.table.set_index(["on", "rel"])
    at = table.loc["rel_think_end"].loc[-8:-1]
    readings = (own.loc[-8:-1].to_numpy(float) - at["complied"]) / at["gap"]
    assert row["raw_plateau"] == pytest.approx(np.median([own[t] for t in range(-8, 0)]))
    assert row["normalised_plateau"] == pytest.approx(np.median(readings))
    end = table.loc[("rel_answer", -1)]
    assert row["normalised_final"] == pytest.approx((last - end["complied"]) / end["gap"])
    assert row["raw_drop"] == pytest.approx(row["raw_plateau"] - last)


def test_short_and_truncated_rollouts_are_counted_and_left_out(world: World, normaliser: Normaliser) -> None:
    rollouts = [
        *(make_rollout(f"a{i}/0", f"a{i}", 20) for i in range(6)),
        *(make_rollout(f"b{i}/0", f"b{i}", 3) for i in range(2)),
        make_rollout("c/0", "c", 20, closing=0, answer=0, finish="length"),
        make_rollout("c/1", "c", 20, finish="length"),
        make_rollout("d/0", "d", 0, closing=0),
    ]
    found = cliff(align(make_scores(rollouts, lambda *_: 1.0), rollouts), normaliser)
    assert found.n_rollouts == 6
    assert found.left_out == {"fewer than 8 thinking tokens": 2, "truncated": 2, "no end of thinking": 1}
    assert found["raw_drop"].n == 6
    assert len(found.table) == 11
    assert found.table["raw_drop"].notna().sum() == 6
    assert "left out: 2 truncated" in repr(found)


def test_too_few_rollouts_cannot_anchor(world: World, aligned: pd.DataFrame) -> None:
    complied, refused = normaliser_rollouts(world.table)
    normaliser = Normaliser.fit(aligned, sorted(complied)[:6], refused, **QUICK)
    found = cliff(aligned, normaliser, rollouts=world.ids("harmful_complied"))
    assert "cannot normalise" in found.reason
    assert "6 complied rollouts, 10 are needed" in found.reason
    assert "cannot normalise" in repr(normaliser)
    for name in ("normalised_plateau", "normalised_final", "normalised_drop", "surviving_share"):
        assert np.isnan([found[name].estimate, found[name].low, found[name].high]).all()
    assert np.isfinite(found["raw_drop"].low)
    assert "description only" in found._repr_html_()
    assert Normaliser.fit(aligned, [], [], **QUICK).table["reason"].ne("").all()


def ends(rollouts_by_kind: dict[str, tuple[float, float]], n: int = 30) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Training rollouts of two kinds with these means in thinking and at the end."""
    rng = np.random.default_rng(3)
    rollouts, ids, means = [], {}, {}
    for kind, pair in rollouts_by_kind.items():
        own = [make_rollout(f"{kind}{i}/0", f"{kind}{i}", 15) for i in range(n)]
        rollouts += own
        ids[kind] = [r.id for r in own]
        means |= {r.id: pair for r in own}

    def value(r, pos: int, segment: str) -> float:
        return means[r.id][segment == "think_end"] + rng.normal()

    return align(make_scores(rollouts, value), rollouts), ids


def test_kinds_that_score_alike_cannot_anchor() -> None:
    aligned, ids = ends({"c": (0.0, -3.0), "r": (0.0, 3.0), "cell": (1.0, 1.0)})
    normaliser = Normaliser.fit(aligned, ids["c"], ids["r"], **QUICK)
    assert "score alike" in normaliser.plateau_reason
    assert normaliser.final_reason == ""
    found = cliff(aligned, normaliser, rollouts=ids["cell"])
    # the end can be read, the plateau and so the drop cannot
    assert np.isfinite(found["normalised_final"].low)
    assert np.isnan(found["normalised_plateau"].estimate)
    assert np.isnan(found["normalised_drop"].estimate)
    assert "score alike" in found.reason
    assert np.isnan(drop_difference(found, found).estimate)


def test_a_position_that_cannot_anchor_is_not_read(world: World, aligned: pd.DataFrame) -> None:
    noise = np.random.default_rng(4).normal(size=len(aligned))
    blurred = aligned.assign(score=aligned["score"].where(~aligned["rel_think_end"].isin([-1, -5]), 50 * noise))
    normaliser = Normaliser.fit(blurred, *normaliser_rollouts(world.table), **QUICK)
    assert normaliser.plateau_tokens == [0, 1, 2, 4, 5, 6]
    assert not normaliser.reason
    found = cliff(blurred, normaliser, rollouts=world.ids("harmful_complied"))
    assert "plateau read at 6 of 8 positions" in repr(found)
    assert found["normalised_plateau"].estimate == pytest.approx(0.8, abs=0.06)
    assert normaliser.score(blurred).loc[blurred["rel_think_end"] == -5, "normalised"].isna().all()


def test_a_rollout_read_by_its_own_normaliser_is_refused(
    world: World, aligned: pd.DataFrame, normaliser: Normaliser
) -> None:
    with pytest.raises(InputError, match="measure rollouts of another split"):
        cliff(aligned, normaliser, rollouts=world.ids("harmful_refused", "train"))


def test_normaliser_rollouts_reads_the_cells() -> None:
    labels = pd.DataFrame(
        {
            "rollout": list("abcdef"),
            "part": ["train"] * 5 + ["test"],
            "harm": [True, True, False, False, False, False],
            "refused": pd.array([True, False, True, False, None, False], dtype="boolean"),
        }
    )
    assert normaliser_rollouts(labels) == ({"d"}, {"a", "c"})
    assert normaliser_rollouts(labels, part="test") == ({"f"}, frozenset())
    assert normaliser_rollouts(labels.astype({"refused": object})) == ({"d"}, {"a", "c"})


def test_the_normalised_trace_reads_nought_and_one(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    scored = normaliser.score(aligned)
    assert scored.index.equals(aligned.index)
    answer = scored["segment"] == "answer"
    assert scored.loc[answer, "normalised"].isna().all()
    near = scored[scored["rel_think_end"].between(-8, 1)]
    for cell, reads in (("harmful_refused", 1.0), ("harmless_complied", 0.0)):
        rows = near[near["rollout"].isin(world.ids(cell))]
        assert rows["normalised"].mean() == pytest.approx(reads, abs=0.1)
        assert rows["normalised"].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: pd.concat([a, a.assign(layer=9)]), "choose one readout"),
        (lambda a: a[a["rel_think_end"] != -3], "were not scored"),
        (lambda a: a.drop(columns="rel_answer"), "call align"),
    ],
)
def test_scores_that_would_mislead(
    world: World,
    aligned: pd.DataFrame,
    normaliser: Normaliser,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        cliff(change(aligned), normaliser, rollouts=world.ids("harmful_complied"))


def test_more_wrong_input(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    with pytest.raises(InputError, match="has no scores"):
        cliff(aligned, normaliser, rollouts=["nobody"])
    with pytest.raises(InputError, match="as complied and as refused"):
        Normaliser.fit(aligned, world.ids("harmful_refused"), world.ids("harmful_refused"))
    with pytest.raises(InputError, match="has no scores"):
        Normaliser.fit(aligned, ["nobody"], world.ids("harmful_refused"))
    with pytest.raises(InputError, match="m = 0"):
        Normaliser.fit(aligned, *normaliser_rollouts(world.table), m=0)


def test_an_empty_cell_says_so(aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    found = cliff(aligned, normaliser, rollouts=[])
    assert found.n_rollouts == 0
    assert "no rollout of this cell" in found.reason
    assert found.to_frame()["estimate"].isna().all()
    assert (found.to_frame()["n"] == 0).all()


def test_the_same_seed_gives_the_same_table(world: World, aligned: pd.DataFrame, normaliser: Normaliser) -> None:
    first, second = (cliff(aligned, normaliser, rollouts=world.ids("harmful_complied")).to_frame() for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    third = cliff(aligned, normaliser, rollouts=world.ids("harmful_complied"), seed=9).to_frame()
    assert not first["low"].equals(third["low"])


def drop_coverage(sims: int, prompts: int, reading: tuple[float, float]) -> tuple[float, float]:
    """Share of intervals that hold the planted drop, and share that lie above 0."""
    covered = above = 0
    for i in range(sims):
        w = World(seed=100 + i, prompts=prompts, reading=reading, longest=13)
        a = align(w.scores, w.rollouts)
        normaliser = Normaliser.fit(a, *normaliser_rollouts(w.table), resamples=300, seed=i)
        effect = cliff(a, normaliser, rollouts=w.ids("harmful_complied"))["normalised_drop"]
        covered += effect.low <= reading[0] - reading[1] <= effect.high
        above += effect.low > 0
    return covered / sims, above / sims


def test_drop_intervals_cover_in_a_small_simulation() -> None:
    covered, above = drop_coverage(6, 8, (0.5, 0.5))
    assert covered >= 4 / 6
    assert above <= 2 / 6


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reading", [(0.5, 0.5), (0.8, 0.2)])
def test_drop_intervals_cover(reading: tuple[float, float]) -> None:
    covered, above = drop_coverage(200, 20, reading)
    print(f"planted drop {reading[0] - reading[1]:.1f}: coverage {covered:.3f}, above 0 {above:.3f}")
    assert covered > 0.9
    if reading[0] == reading[1]:
        assert above < 0.06


def test_normaliser_from_prompts_the_probe_was_fitted_on_read_too_far_apart() -> None:
    """Few prompts, many features: the validation part gives the normaliser then, as `normaliser_rollouts` says."""
    rng = np.random.default_rng(1)
    rollouts, rows, x = [], [], []
    for part, prompts in (("train", 60), ("validation", 100), ("test", 100)):
        for i in range(prompts):
            r = make_rollout(f"{part}{i}/0", f"{part}{i}", 8)
            rollouts.append(r)
            rows.append({"rollout": r.id, "part": part, "harm": False, "refused": i % 2 == 1})
            own = rng.normal(size=48) + 1.0 * (i % 2) * (np.arange(48) < 3)
            x.append(own + 0.3 * rng.normal(size=(len(r), 48)))
    labels = pd.DataFrame(rows)
    train = (labels["part"] == "train").to_numpy()
    states = {r.id: states for r, states in zip(rollouts, x, strict=True)}
    fit = np.stack([s[8:16] for s in x])[train].reshape(-1, 48)
    refused = np.repeat(labels["refused"][train].to_numpy(int), 8)
    probe = LogisticProbe(C=1.0).fit(fit, refused, np.full(len(fit), 1 / 8))
    scored = {name: probe.decision_function(s) for name, s in states.items()}
    aligned = align(make_scores(rollouts, lambda r, pos, segment: scored[r.id][pos]), rollouts)
    test = labels["part"] == "test"
    reads = {}
    for part in ("train", "validation"):
        normaliser = Normaliser.fit(aligned, *normaliser_rollouts(labels, part), **QUICK)
        cells = [labels["rollout"][test & (labels["refused"] == refused)] for refused in (False, True)]
        reads[part] = [cliff(aligned, normaliser, rollouts=list(c))["normalised_plateau"].estimate for c in cells]
    assert reads["train"][1] - reads["train"][0] < 0.75
    np.testing.assert_allclose(reads["validation"], [0, 1], atol=0.2)

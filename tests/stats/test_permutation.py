"""Permutation schemes: which one a design gets, that it moves the labels, and that its p-values are honest."""

from __future__ import annotations

import time
from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats import auroc_many, permutation_of, permutation_p

PAIRS = np.repeat(np.arange(30), 2)
CONTRAST = np.tile([1, 0], 30)


def by_hand(labels: list[int], groups: list[int], scheme: str) -> set[tuple[int, ...]]:
    """Every relabeling, from the definition."""
    y, g = np.array(labels), np.array(groups)
    units = [np.flatnonzero(g == name) for name in sorted(set(groups))]
    whole = [y]
    if scheme in ("between", "both"):
        whole = []
        for order in permutations(range(len(units))):
            if all(len(units[a]) == len(units[b]) for a, b in enumerate(order)):
                new = y.copy()
                for taker, giver in enumerate(order):
                    new[units[taker]] = y[units[giver]]
                whole.append(new)
    if scheme == "between":
        return {tuple(new.tolist()) for new in whole}
    found = set()
    for base in whole:
        for orders in product(*(permutations(range(len(unit))) for unit in units)):
            new = base.copy()
            for unit, order in zip(units, orders, strict=True):
                new[unit] = base[unit][list(order)]
            found.add(tuple(new.tolist()))
    return found


DESIGNS = {
    "pairs": ([1, 0] * 5, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "within"),
    "one label a group": (list(np.repeat([1, 0, 1, 0, 0, 1, 1], 2)), list(np.repeat(range(7), 2)), "between"),
    "mixed, one size": ([1, 1, 0, 1, 1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "both"),
    "mixed sizes": ([1, 1, 0, 0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 1, 2, 2, 3, 4], "both"),
    "several labels": ([2, 1, 0, 0, 1, 2, 2, 0, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2], "within"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_every_relabeling_is_drawn_and_counted(name: str) -> None:
    labels, groups, scheme = DESIGNS[name]
    made = permutation_of(labels, groups, scheme=scheme)  # type: ignore[arg-type]
    wanted = by_hand(labels, groups, scheme)
    drawn = {tuple(row) for row in made.draws(60 * len(wanted), np.random.default_rng(0)).tolist()}
    assert drawn == wanted
    assert made.relabelings == len(wanted)
    # from any relabeling the same ones can be reached, so the real labels are one of many that are equally likely
    other = permutation_of(sorted(wanted)[len(wanted) // 2], groups, scheme=scheme)  # type: ignore[arg-type]
    assert other.relabelings == made.relabelings
    agree = np.mean([np.mean(np.array(row) == np.array(labels)) for row in wanted])
    by_chance = sum(np.mean(np.array(labels) == v) ** 2 for v in set(labels))
    assert made.kept == pytest.approx((agree - by_chance) / (1 - by_chance), abs=1e-12)


def test_the_design_chooses_the_scheme() -> None:
    rng = np.random.default_rng(0)
    assert permutation_of(CONTRAST, PAIRS).scheme == "within"
    assert permutation_of(np.tile([1, 1, 0], 20), np.repeat(np.arange(20), 3)).scheme == "within"
    assert permutation_of(np.arange(30)[PAIRS] % 2, PAIRS).scheme == "between"
    sizes = rng.integers(1, 6, 30)
    unit = np.repeat(np.arange(30), sizes)
    assert permutation_of(unit % 2, unit).scheme == "between"
    assert permutation_of(rng.integers(0, 2, len(unit)), unit).scheme == "both"
    assert permutation_of(rng.integers(0, 2, 120), np.repeat(np.arange(40), 3)).scheme == "between"
    mostly = CONTRAST.copy()
    mostly[:8] = 1, 1, 0, 0, 1, 1, 0, 0  # a few groups of one label among contrast pairs
    assert permutation_of(mostly, PAIRS).scheme == "both"
    assert permutation_of([1, 0] * 10).scheme == "rows"
    held = permutation_of([1, 1, 0] * 10 + [1, 0, 0] * 10, np.repeat(np.arange(20), 3), strata=[0] * 30 + [1] * 30)
    assert held.scheme == "within"


def test_whole_vectors_are_drawn_in_the_order_of_groups() -> None:
    """The order in which random numbers are used is part of every stored number."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 60)
    again = np.random.default_rng(5)
    made = permutation_of(labels, PAIRS, strata=[0] * 20 + [1] * 40, scheme="between").draw(np.random.default_rng(5))
    first, second = labels[:20].reshape(10, 2), labels[20:].reshape(20, 2)
    expected = np.concatenate([block[again.permutation(len(block))].ravel() for block in _by_name(first, second)])
    assert sorted(made) == sorted(expected)
    assert made[:20].sum() == labels[:20].sum()


def _by_name(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    names = [np.array(sorted(range(10), key=str)), np.array(sorted(range(10, 30), key=str)) - 10]
    return [first[names[0]], second[names[1]]]


@pytest.mark.parametrize(
    ("labels", "groups", "scheme", "says"),
    [
        (CONTRAST, PAIRS, "between", "scheme='within'"),
        (CONTRAST, PAIRS, "rows", "scheme='within'"),
        (np.arange(30)[PAIRS] % 2, PAIRS, "within", "scheme='between'"),
        (np.r_[[0, 1, 0, 1], CONTRAST[4:]], PAIRS, "between", "scheme='within'"),
        ([1, 1, 0, 0], [0, 0, 1, 1], "auto", "2 relabelings"),
        ([1, 0, 1, 0], [0, 0, 1, 1], "auto", "0.25"),
        ([1, 0, 0], [0, 0, 0], "auto", "relabelings"),
        ([1] * 8, np.repeat(range(4), 2), "auto", "all labels are 1"),
        (CONTRAST, PAIRS[1:], "auto", "59 groups for 60 labels"),
        ([1, None, 0], [0, 1, 2], "auto", "missing"),
        ([1, 0, 0], [0, None, 2], "auto", "row 2 has no group"),
        ([], [], "auto", "no labels"),
    ],
)
def test_a_scheme_that_makes_no_null_is_an_error(labels, groups, scheme, says) -> None:
    with pytest.raises(InputError, match=says):
        permutation_of(labels, groups, scheme=scheme)


def test_naming_the_classes_the_other_way_round_is_no_new_relabeling() -> None:
    five = permutation_of(CONTRAST[:10], PAIRS[:10])
    assert five.smallest_p == 1 / 32
    with pytest.raises(InputError, match=r"no p can fall below 0\.062"):
        permutation_of(CONTRAST[:10], PAIRS[:10], symmetric=True)
    assert permutation_of([1] * 6 + [0] * 3, symmetric=True).smallest_p == 1 / 84  # the other names are not reached


def test_groups_may_not_stand_in_two_strata() -> None:
    with pytest.raises(InputError, match="two strata"):
        permutation_of([1, 0, 1, 0], [0, 0, 1, 1], strata=[0, 1, 0, 0])


def test_rows_seen_from_the_other_side_turn_with_their_group() -> None:
    verdict = np.array([1] * 12 + [0] * 4)
    labels, items = np.c_[verdict, 1 - verdict].ravel(), np.repeat(np.arange(16), 2)
    turned = np.tile([False, True], 16)
    made = permutation_of(labels, items, turned=turned)
    assert made.scheme == "between"
    assert made.labels.tolist() == labels.tolist()
    for row in made.draws(20, np.random.default_rng(0)):
        assert (row[::2] == 1 - row[1::2]).all()
        assert row[::2].sum() == 12


def test_scores_and_texts_are_labels_too() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=40)
    drawn = permutation_of(scores, np.repeat(range(20), 2)).draw(rng)
    assert sorted(drawn) == sorted(scores)
    texts = permutation_of(["yes", "no"] * 10, np.repeat(range(10), 2)).draw(rng)
    assert set(texts) == {"yes", "no"}


def test_many_groups_in_many_strata_are_checked_fast() -> None:
    strata = np.repeat(np.arange(500), 4)
    begin = time.process_time()
    made = permutation_of(np.tile([1, 0, 1, 0], 500), np.arange(2000), strata=strata)
    made.draws(20, np.random.default_rng(0))
    assert time.process_time() - begin < 4  # it was quadratic once: minutes


def test_much_may_be_kept_only_where_no_scheme_keeps_less() -> None:
    """Groups of unlike sizes and mostly one label each: exact, but little can move; that is said and not refused."""
    size = np.arange(1, 25)
    groups = np.repeat(np.arange(24), size)
    labels = (groups % 2).astype(int)
    labels[groups == 9] = np.arange(10) % 2
    labels[groups == 20] = np.arange(21) % 2
    made = permutation_of(labels, groups)
    assert made.scheme == "both"
    assert 0.5 < made.kept < 0.9


def test_ties_are_counted_up_to_rounding() -> None:
    value = 0.1 + 0.2
    assert permutation_p(value, [0.3] * 19) == 1.0
    assert permutation_p(0.3, [value] * 19) == 1.0
    assert permutation_p(0.9223, [0.9223 - 1e-13] * 199) == 1.0
    assert permutation_p(0.9, [0.8] * 19) == 0.05
    assert permutation_p(0.9, [0.8] * 18 + [np.nan]) == 0.1
    assert permutation_p(-0.3, [0.3 - value] * 19, "less") == 0.05


def nothing(design: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, groups and scores that have nothing to do with the labels; rows of a group are alike."""
    n = 40
    size = rng.integers(1, 9, n) if design in ("unbalanced", "one class per group, unbalanced") else np.full(n, 4)
    if design == "matched":
        size = np.full(n, 2)
    groups = np.repeat(np.arange(n), size)
    rate = rng.beta(0.5, 0.5, n)
    if design.startswith("one class"):
        labels = (np.arange(n) % 2)[groups]
    elif design == "matched":
        labels = np.tile([1, 0], n)
    else:
        labels = (rng.random(len(groups)) < rate[groups]).astype(int)
    scores = rng.normal(size=len(groups)) + 2 * rng.normal(size=n)[groups]
    return labels, groups, scores


@pytest.mark.parametrize(
    "design", ["grouped", "matched", "unbalanced", "one class per group", "one class per group, unbalanced"]
)
def test_p_values_are_uniform_where_there_is_nothing(design: str) -> None:
    draws, sets, found = 19, 80, []  # the whole probe, selection and 500 data sets: tests/probes/test_nulls.py
    for i in range(sets):
        rng = np.random.default_rng([11, i])
        labels, groups, scores = nothing(design, rng)
        drawn = permutation_of(labels, groups).draws(draws, rng)
        aurocs = auroc_many(np.concatenate([labels[None], drawn]), np.tile(scores, (draws + 1, 1)))
        found.append(permutation_p(aurocs[0], aurocs[1:]))
    smooth = np.array(found) - np.random.default_rng(0).random(sets) / (draws + 1)
    assert stats.kstest(smooth, "uniform").pvalue > 0.01

"""The permuted control: prompts move whole, the split stays, p is honest, and it is fast."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.evidence import write_evidence
from verdictscope.errors import InputError
from verdictscope.probes import permutation_null, split_groups
from verdictscope.probes.nulls import PermutationNull, Permutations
from verdictscope.probes.rows import check_rows, rollout_permutation
from verdictscope.probes.selection import select


def null_of(X: np.ndarray, rows: pd.DataFrame, n: int = 19, *, seed: int = 0, **how: Any) -> PermutationNull:
    """The null of one layer and one penalty."""
    return permutation_null(lambda _: X, rows, [0], [1.0], permutations=Permutations(n, **how), seed=seed)


def rows_of(
    rng: np.random.Generator, prompts: int = 40, samples: int = 2, tokens: int = 3, d: int = 6, signal: float = 0.0
) -> tuple[pd.DataFrame, np.ndarray]:
    prompt = np.repeat(np.arange(prompts), samples * tokens)
    sample = np.tile(np.repeat(np.arange(samples), tokens), prompts)
    label = (rng.random(prompts) < 0.5).astype(int)
    label[:2] = 0, 1
    rows = pd.DataFrame(
        {
            "rollout": [f"p{p}/{s}" for p, s in zip(prompt, sample, strict=True)],
            "group": [f"p{p}" for p in prompt],
            "label": label[prompt],
            "harm": prompt % 2 == 0,
        }
    )
    rows["part"] = rows["group"].map(split_groups(rows["group"], rows["label"], seed=int(rng.integers(1000))))
    x = rng.normal(size=(len(rows), d)) + rng.normal(size=(prompts, d))[prompt]
    x[:, 0] += signal * rows["label"]
    return rows, x


def test_a_real_signal_stands_out_of_the_null() -> None:
    rows, x = rows_of(np.random.default_rng(0), signal=4.0)
    control = null_of(x, rows, n=50, seed=1)
    assert control.observed > 0.9 > control.high
    assert control.p == pytest.approx(1 / 51)
    assert control.low <= control.mean <= control.high
    assert abs(control.mean - 0.5) < 0.12
    assert len(control.values) == len(control.to_frame()) == 50
    assert "permuted between prompts" in repr(control)
    again = null_of(x, rows, n=50, seed=1)
    np.testing.assert_array_equal(control.values, again.values)


def test_prompts_move_whole_and_parts_keep_their_labels() -> None:
    rng = np.random.default_rng(1)
    rows, _ = rows_of(rng, prompts=60)
    rows.loc[rows["rollout"].str.endswith("/1"), "label"] = 1  # prompts with unlike samples among them
    checked = check_rows(rows)
    plan = rollout_permutation(rows, checked, "prompt", (), "between")
    first = pd.Series(plan.labels, index=checked.rollout_ids)
    part = rows.drop_duplicates("rollout").set_index("rollout")["part"]
    profiles = {tuple(first[[f"p{i}/0", f"p{i}/1"]]) for i in range(60)}
    for _ in range(20):
        new = pd.Series(plan.draw(rng), index=checked.rollout_ids)
        assert {tuple(new[[f"p{i}/0", f"p{i}/1"]]) for i in range(60)} <= profiles
        for name in ("train", "validation", "test"):
            ids = part.index[part == name]
            assert new[ids].sum() == first[ids].sum()
    assert not new.equals(first)


def test_labels_stay_within_a_stratum_if_asked() -> None:
    rng = np.random.default_rng(2)
    rows, _ = rows_of(rng, prompts=60)
    checked = check_rows(rows, ("harm",))
    plan = rollout_permutation(rows, checked, "prompt", ("harm",))
    _, at = np.unique(checked.rollout, return_index=True)
    harm, part = rows["harm"].to_numpy()[at], rows["part"].to_numpy()[at]
    new = plan.draw(rng)
    for h in (True, False):
        for name in ("train", "test"):
            where = (harm == h) & (part == name)
            assert new[where].sum() == plan.labels[where].sum()


def test_prompts_with_other_numbers_of_rollouts_can_exchange() -> None:
    rng = np.random.default_rng(3)
    rows, x = rows_of(rng, prompts=40, samples=3)
    keep = (rng.random(len(rows)) < 0.8) | rows["rollout"].str.endswith("/0").to_numpy()
    rows, x = rows[keep].reset_index(drop=True), x[keep]
    control = null_of(x, rows, n=19)
    assert 0.3 < control.mean < 0.7


def test_the_unit_can_be_the_group() -> None:
    rows, x = rows_of(np.random.default_rng(4))
    rows["group"] = (rows["group"].str[1:].astype(int) // 2).astype(str)
    rows["part"] = rows["group"].map(split_groups(rows["group"], rows["label"]))
    assert null_of(x, rows, n=19, unit="group").how.unit == "group"


def test_wrong_input() -> None:
    rows, x = rows_of(np.random.default_rng(5))
    with pytest.raises(InputError, match="5 permutations"):
        null_of(x, rows, n=5)
    with pytest.raises(InputError, match="mode"):
        null_of(x, rows, within=("mode",))
    shared = rows.assign(prompt="one")
    with pytest.raises(InputError, match="two parts"):
        null_of(x, shared)


def worlds_of_nothing(i: int, layers: int) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Prompts with labels and activations that have nothing to do with each other; rows of a prompt are alike."""
    rng = np.random.default_rng([7, i])
    rows, _ = rows_of(rng, prompts=30, tokens=2, d=1)
    prompt = pd.factorize(rows["group"])[0]
    return rows, [rng.normal(size=(len(rows), 3)) + rng.normal(size=(30, 3))[prompt] for _ in range(layers)]


def null_ps(data_sets: int, refits: int, layers: int = 1, Cs: tuple[float, ...] = (1.0,)) -> np.ndarray:
    out = []
    for i in range(data_sets):
        rows, X = worlds_of_nothing(i, layers)
        control = permutation_null(X.__getitem__, rows, range(layers), Cs, permutations=refits, seed=i)
        out.append(control.p)
    return np.array(out)


def uniform(p: np.ndarray, refits: int) -> float:
    """KS p-value of permutation p-values, made continuous by the uniform number they are rounded up by."""
    return float(stats.kstest(p - np.random.default_rng(0).random(len(p)) / (refits + 1), "uniform").pvalue)


def test_p_is_about_uniform_when_there_is_nothing() -> None:
    p = null_ps(20, 19)
    assert uniform(p, 19) > 0.005
    assert 0.3 < p.mean() < 0.72


def test_the_choice_is_made_anew_in_every_refit() -> None:
    rows, X = worlds_of_nothing(0, 6)
    one = permutation_null(X.__getitem__, rows, [0], [1.0], permutations=19)
    assert one.candidates == 1
    fixed = null_of(X[0], rows)
    np.testing.assert_allclose(one.values, fixed.values)
    many = permutation_null(X.__getitem__, rows, range(6), [0.1, 1.0], permutations=19)
    assert many.candidates == 12
    assert "choice of 12" in repr(many)
    tested = select(X.__getitem__, rows, range(6), [0.1, 1.0]).test(X.__getitem__, rows).tokens
    assert many.observed == pytest.approx(tested.estimate, abs=1e-3)
    # the first refit, repeated with the selection itself
    checked = check_rows(rows)
    label = rollout_permutation(rows, checked, "prompt", ()).draw(np.random.default_rng(0))[checked.rollout]
    relabelled = rows.assign(label=label)
    again = select(X.__getitem__, relabelled, range(6), [0.1, 1.0]).test(X.__getitem__, relabelled).tokens
    assert many.values[0] == pytest.approx(again.estimate, abs=1e-3)
    assert many.layers.keys() == set(range(6))
    assert np.isin(many.values, np.stack(list(many.layers.values()))).all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_p_is_uniform_under_the_null() -> None:
    data_sets, refits = 500, 99
    rows = []
    for name, layers, Cs in (("one probe", 1, (1.0,)), ("the best of 4 layers x 2 penalties", 4, (0.1, 1.0))):
        p = null_ps(data_sets, refits, layers, Cs)
        rows.append(
            {"reported": name, "data_sets": data_sets, "refits": refits, "ks_p": uniform(p, refits), "mean_p": p.mean()}
            | {f"share_below_{level}": float((p <= level).mean()) for level in (0.01, 0.05, 0.1, 0.5)}
        )
    write_evidence("probes_permutation", {"rows": rows})
    for row in rows:
        assert row["ks_p"] > 0.01, row
        assert abs(row["share_below_0.05"] - 0.05) < 3 * np.sqrt(0.05 * 0.95 / data_sets), row


DESIGNS = ("grouped", "matched", "unbalanced", "one class per group")


def design_of_nothing(design: str, i: int) -> tuple[pd.DataFrame, np.ndarray]:
    """A design whose labels have nothing to do with the activations; rows of a prompt are alike."""
    rng = np.random.default_rng([13, DESIGNS.index(design), i])
    prompts = 40
    size = {"matched": np.full(prompts, 2), "unbalanced": rng.integers(1, 8, prompts)}.get(design, np.full(prompts, 4))
    prompt = np.repeat(np.arange(prompts), size)
    label = (rng.random(len(prompt)) < rng.beta(0.5, 0.5, prompts)[prompt]).astype(int)
    if design == "matched":
        label = np.tile([1, 0], prompts)
    elif design == "one class per group":
        label = rng.permutation(np.arange(prompts) % 2)[prompt]
    sample = np.arange(len(prompt)) - np.r_[0, np.cumsum(size)[:-1]][prompt]
    rows = pd.DataFrame(
        {
            "rollout": [f"p{p}/{s}" for p, s in zip(prompt, sample, strict=True)],
            "group": [f"p{p}" for p in prompt],
            "label": label,
        }
    )
    rows["part"] = rows["group"].map(split_groups(rows["group"], rows["label"], seed=i))
    return rows, rng.normal(size=(len(rows), 3)) + rng.normal(size=(prompts, 3))[prompt]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_p_is_uniform_in_every_design() -> None:
    data_sets, refits, found = 500, 99, []
    for design in DESIGNS:
        made = [design_of_nothing(design, i) for i in range(data_sets)]
        controls = [null_of(X, rows, n=refits, seed=i) for i, (rows, X) in enumerate(made)]
        p = np.array([control.p for control in controls])
        schemes = sorted({control.scheme for control in controls})
        shares = {f"share_below_{level}": float((p <= level).mean()) for level in (0.01, 0.05, 0.1, 0.5)}
        about = {"design": design, "scheme": " ".join(schemes), "data_sets": data_sets, "refits": refits}
        kept = max(control.kept for control in controls)
        found.append(about | {"ks_p": uniform(p, refits), "mean_p": p.mean(), "kept": kept} | shares)
    write_evidence("permutation_designs", {"rows": found})
    for row in found:
        assert row["ks_p"] > 0.01, row


@pytest.mark.parametrize("design", DESIGNS)
def test_each_design_gets_a_null_that_moves(design: str) -> None:
    rows, X = design_of_nothing(design, 0)
    X[:, 0] += 6 * rows["label"]
    control = null_of(X, rows, n=39)
    assert control.scheme == {"grouped": "between", "matched": "within", "unbalanced": "both"}.get(design, "between")
    assert control.p == pytest.approx(1 / 40)
    assert control.high < control.observed
    assert abs(control.mean - 0.5) < 0.15
    assert abs(control.kept) < 0.3


def test_contrast_pairs_are_permuted_within_their_pair() -> None:
    """Exchanged between pairs, the "null" was the observed number to the last bit, and p was 1."""
    n, rng = 80, np.random.default_rng(2)
    pair = np.repeat(np.arange(n), 2)
    rows = pd.DataFrame(
        {
            "rollout": [f"q{i}" for i in range(2 * n)],
            "group": [f"p{p}" for p in pair],
            "prompt": [f"p{p}" for p in pair],
            "label": np.tile([1, 0], n),
        }
    )
    rows["part"] = rows["group"].map(split_groups(rows["group"]))
    X = rng.normal(size=(2 * n, 5)) + 2 * rng.normal(size=(n, 5))[pair]
    X[:, 0] += 4 * rows["label"]
    control = null_of(X, rows, n=39)
    assert control.scheme == "within"
    assert "within prompts" in repr(control)
    assert control.p == pytest.approx(1 / 40)
    assert control.high < control.observed - 0.1
    with pytest.raises(InputError, match="scheme='within'"):
        null_of(X, rows, n=39, scheme="between")
    order = rng.permutation(2 * n)  # whichever row comes first
    again = null_of(X[order], rows.iloc[order].reset_index(drop=True), n=39)
    assert again.scheme == "within"
    assert again.p == pytest.approx(1 / 40)


def test_a_null_that_says_nothing_is_no_number() -> None:
    rows, X = rows_of(np.random.default_rng(0))
    with pytest.raises(InputError, match="do not vary|gives the observed AUROC"):
        null_of(np.ones_like(X), rows, n=19)
    few = rows[rows["group"].isin([f"p{i}" for i in range(6)])].reset_index(drop=True)
    few["part"] = few["group"].map({f"p{i}": ("train", "validation", "test")[i // 2] for i in range(6)})
    few["label"] = few["group"].str[1:].astype(int) % 2
    with pytest.raises(InputError, match="8 relabelings"):
        null_of(X[: len(few)], few, n=19)
    broken = X.copy()
    broken[np.flatnonzero(rows["part"] == "test")[0]] = np.inf
    with pytest.raises(InputError, match="NaN or infinity"):
        null_of(broken, rows, n=19)


@pytest.mark.slow
def test_two_hundred_refits_of_six_thousand_rows() -> None:
    rng = np.random.default_rng(6)
    rows, x = rows_of(rng, prompts=150, samples=4, tokens=10, d=128, signal=1.0)
    assert len(rows) == 6000
    begin = time.process_time()
    null_of(x, rows, 200)
    assert time.process_time() - begin < 10

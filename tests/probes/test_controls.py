"""Control tasks are learned by reading types, real labels are not; random directions read what the features are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.probes import split_groups
from verdictscope.probes.controls import control_task, random_directions


def world(seed: int, *, tokens: float, signal: float, spread: float = 1.0, d: int = 24) -> tuple:
    """Rows of 80 prompts x 6 tokens of a vocabulary of 12; one axis says the label, twelve say the token."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(80), 6)
    label, token = np.arange(80)[prompt] % 2, rng.integers(0, 12, prompt.size)
    rows = pd.DataFrame(
        {"rollout": [f"p{p}/0" for p in prompt], "group": [f"p{p}" for p in prompt], "label": label, "token_id": token}
    )
    rows["part"] = rows["group"].map(split_groups(rows["group"], rows["label"], seed=seed))
    X = spread * rng.normal(size=(prompt.size, d))
    X[:, 0] += signal * label
    X[np.arange(prompt.size), 1 + token] += tokens
    return rows, X


def test_a_probe_that_reads_tokens_learns_any_label_of_them() -> None:
    rows, X = world(0, tokens=6.0, signal=3.0)
    reader = control_task(X, rows, 1.0)
    assert reader.observed > 0.95
    assert reader.mean > 0.95
    assert abs(reader.selectivity) < 0.05
    assert "token_id" in reader.name
    rows, X = world(0, tokens=0.0, signal=3.0)
    blind = control_task(X, rows, 1.0)
    assert blind.low < 0.5 < blind.high
    assert blind.selectivity > 0.4
    assert len(blind.values) == blind.row()["n"] == 50
    np.testing.assert_array_equal(blind.values, control_task(X, rows, 1.0).values)


def test_random_directions_read_what_the_features_are_made_of() -> None:
    rows, X = world(1, tokens=0.0, signal=3.0)
    many = random_directions(X, rows, 1.0)
    assert many.observed > 0.95 > many.high
    assert many.mean > 0.5  # turned to suit the train part
    only, _ = np.copy(X), None
    only[:] = X[:, :1]
    assert random_directions(only, rows, 1.0).low > 0.95
    constant = np.concatenate([X, np.ones((len(X), 3))], axis=1)
    assert np.isfinite(random_directions(constant, rows, 1.0).values).all()


def test_types_must_be_shared_by_the_parts_and_many() -> None:
    rows, X = world(2, tokens=1.0, signal=1.0)
    with pytest.raises(InputError, match="at least 8 types"):
        control_task(X, rows.assign(kind=rows["label"]), 1.0, by="kind")
    with pytest.raises(InputError, match="cannot be learned"):
        control_task(X, rows, 1.0, by="group")
    with pytest.raises(InputError, match="no column"):
        control_task(X, rows, 1.0, by="topic")

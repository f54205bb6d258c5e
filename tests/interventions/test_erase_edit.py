"""An eraser inside the forward pass does to the states what it does to them outside, and is written down."""

from __future__ import annotations

import json

import numpy as np
import pytest

from verdictscope.activations import Model, Site, forward
from verdictscope.errors import InputError
from verdictscope.interventions import EraseEdit
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.interventions.edits.stored import edit_from_dict, edit_to_dict
from verdictscope.probes.erasure import fit_eraser
from verdictscope.rollouts import Rollout


def made(width: int, positions: str = "all", layer: int = 1) -> tuple[EraseEdit, object]:
    rng = np.random.default_rng(0)
    concept = rng.integers(0, 2, 200)
    eraser = fit_eraser(rng.normal(size=(200, width)) + concept[:, None] * rng.normal(size=width), concept)
    return EraseEdit.of(eraser, "resid_post", layer, positions, "side"), eraser


def test_states_are_those_the_eraser_gives(qwen3: Model, rollouts: list[Rollout]) -> None:
    edit, eraser = made(qwen3.d_model, "last")
    site = Site("resid_post", 1) @ "all"
    before = forward(qwen3, rollouts, read=[site])
    after = forward(qwen3, rollouts, read=[site], write=compile_edits(qwen3, [edit]))
    was, now = (done.values[site][0].double().numpy() for done in (before, after))
    rows = before.rows[site]
    last = rows["pos"].to_numpy() == rows["rollout"].map({r.id: len(r) - 1 for r in rollouts}).to_numpy()
    assert np.allclose(now[last], eraser(was[last]), atol=1e-4)  # type: ignore[operator]
    assert np.array_equal(now[~last], was[~last])
    assert np.abs(now[last] - was[last]).max() > 1e-3


def test_it_is_written_down_and_read_back(qwen3: Model) -> None:
    edit, _ = made(qwen3.d_model)
    back = edit_from_dict(json.loads(json.dumps(edit_to_dict(edit))))
    assert back == edit
    assert hash(back) == hash(edit)
    assert "side" in edit.describe()
    assert "rank 1" in edit.describe()


def test_what_does_not_fit_is_said(qwen3: Model) -> None:
    edit, eraser = made(qwen3.d_model + 1)
    with pytest.raises(InputError, match="d_model"):
        edit.write(qwen3)
    with pytest.raises(InputError, match="not at"):
        EraseEdit.of(eraser, "z", 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="do not fit"):
        EraseEdit("resid_post", 0, np.ones((3, 1)), np.ones((2, 3)), np.ones(3))
    with pytest.raises(InputError, match="finite"):
        EraseEdit("resid_post", 0, np.ones((3, 1)) * np.nan, np.ones((1, 3)), np.ones(3))

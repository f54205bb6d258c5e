"""What ``effects`` says of an edit, by whatever short cut, is what a full pass under its hooks gives."""

from __future__ import annotations

import numpy as np
import pytest

from tests.activations.tiny_models import rollout, wrapped
from verdictscope.activations import LinearReadout, Site, forward
from verdictscope.interventions import (
    DirectionEdit,
    Edit,
    HeadEdit,
    KVEdit,
    SublayerEdit,
    effects,
    gather_means,
    gather_rows,
)
from verdictscope.interventions.edits.protocol import compile_edits


@pytest.mark.parametrize("positions", ["think_end", "all"])
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2", "qwen3_moe", "deepseek_v3"])
def test_every_kind_of_edit(family: str, positions: str) -> None:
    model = wrapped(family)
    texts = [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((24, 39))]
    others = [rollout(f"c{i}/0", n, seed=20 + i) for i, n in enumerate((24, 42))]
    rng = np.random.default_rng(0)
    readout = LinearReadout("r", "resid_post", 2, rng.normal(size=model.d_model), positions="before_answer")
    u = rng.normal(size=model.d_model)
    means = gather_means(model, others, Site("z", 1), by="segment")
    z, stream = (gather_rows(model, texts, others, Site(site, 1), by="end") for site in ("z", "resid_post"))
    edits: list[Edit] = [
        HeadEdit(((1, 1),), "scale", 2.0, positions),
        HeadEdit(((1, 1),), "mean", positions=positions, reference=means),
        HeadEdit(((1, 2),), "patch", positions=positions, reference=z),
        HeadEdit(((1, 2),), "scale", 3.0, positions, site="q"),
        KVEdit(((1, 1),), "v", positions=positions),
        KVEdit(((1, 1),), "k", "scale", 2.0, positions=positions),
        SublayerEdit("mlp_out", (1,), positions=positions),
        SublayerEdit("resid_post", (1,), "patch", positions=positions, reference=stream),
        DirectionEdit("resid_pre", (1,), u, positions=positions),
        DirectionEdit("attn_out", (1,), u, op="clamp", low=2.0, high=2.0, positions=positions),
    ]
    found = effects(model, texts, readout, edits)
    for row, edit in enumerate(edits):
        scores = forward(model, texts, score=[readout], write=compile_edits(model, [edit])).scores
        told = scores.set_index("rollout")["score"].loc[[t.id for t in texts]].to_numpy()
        assert np.allclose(found.edited[row], told, atol=1e-5 * np.abs(found.base).max()), edit.describe()
        assert np.abs(found.change[row]).max() > 1e-3, edit.describe()

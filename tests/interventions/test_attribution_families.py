"""In every family of the doctor's matrix the parts sum to the readout and the sources to their heads, or it is said
why not. Never a raw traceback, never a sum that is off."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "activations"))
from families import build, listed
from sweep import in_fork
from tiny_models import rollout

from tests.evidence import write_evidence
from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Readout, wrap
from verdictscope.errors import InputError
from verdictscope.interventions import attribute

BAR = 1e-4
MEMORY = 6 * 2**30
"""Bytes of data a family's process may take; a config that was not shrunk then fails and says so."""


def examine(name: str) -> dict[str, Any]:
    """Residuals of three readouts of a family, relative to the largest readout, or why there are none."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    try:
        hf = build(name)
    except Exception as error:  # a config that cannot be shrunk is a fault of the table of families, named as such
        return {"status": "not built", "reason": f"{type(error).__name__}: {str(error)[:120]}"}
    try:
        model = wrap(hf)
    except InputError as error:
        return {"status": "unsupported", "reason": str(error)}
    weight = np.random.default_rng(7).normal(size=model.d_model)
    readouts: list[Readout] = [
        LinearReadout("probe", "resid_post", model.n_layers - 1, weight, 0.7),
        LinearReadout("probe behind the norm", "final_norm", None, weight, 0.7),
        LogOddsReadout("log-odds", (5,), (9,)),
    ]
    told = {readout.name: _sums(model, readout) for readout in readouts}
    worst = [t["residual"] for t in told.values() if "residual" in t]
    status = "sums" if worst and max(worst) <= BAR else "off" if worst else "unsupported"
    return {"status": status, "readouts": told}


def _sums(model: Model, readout: Readout) -> dict[str, Any]:
    some = [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 23, 17))]
    try:
        try:
            result, why = attribute(model, some, readout, sources="all", strict=False), ""
        except InputError as error:
            result, why = attribute(model, some, readout, strict=False), str(error)
    except InputError as error:
        return {"reason": str(error)}
    residual = float(np.abs(result.residual).max() / np.abs(result.logit).max())
    found: dict[str, Any] = {"residual": float(f"{residual:.2e}"), "parts": len(result.components)}
    if result.sources is not None:
        found["sources"] = float(f"{result.sources.relative_residual:.2e}")
    return found | ({"notes": list(result.notes)} if result.notes else {}) | ({"no sources": why} if why else {})


@pytest.mark.slow
@pytest.mark.timeout(3400)
def test_parts_sum_in_every_family() -> None:
    found = {name: in_fork(lambda name=name: examine(name)) for name in listed()}
    counts = {s: sum(f["status"] == s for f in found.values()) for s in sorted({f["status"] for f in found.values()})}
    write_evidence("attribution_families", {"n": len(found), "bar": BAR, "counts": counts, "families": found})
    assert {name: f for name, f in found.items() if f["status"] in ("off", "error")} == {}
    sources = {
        name: told["sources"]
        for name, f in found.items()
        for told in f.get("readouts", {}).values()
        if told.get("sources", 0.0) > BAR
    }
    assert sources == {}

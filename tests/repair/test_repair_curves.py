"""The data-efficiency curves: made by `make evidence`, told as they come out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.evidence import write_evidence
from tests.repair.repair_curves import Plan, curves, measured_prompts, pool_prompts


def test_what_is_measured_on_is_not_in_the_pool() -> None:
    pool, measured = pool_prompts(Plan().pairs), measured_prompts(Plan().measured)
    assert not set(pool["group"]) & set(measured["group"])
    assert measured["harm"].sum() * 2 == len(measured) == 2 * Plan().measured
    assert pool.loc[pool["pool"], "harm"].all()
    assert pool["user"].nunique() == pool["group"].nunique() * 4


@pytest.mark.slow
def test_data_efficiency_curves(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    found = curves(Path(os.environ.get("VERDICTSCOPE_EVIDENCE_RUNS", tmp_path)))
    write_evidence("repair", found)
    # no claim about who wins: only that every point was measured
    plan = Plan()
    assert len(found["points"]) == len(plan.methods) * len(plan.budgets)
    assert all(point["seeds"] == len(plan.seeds) for point in found["points"])

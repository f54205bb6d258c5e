"""Figures of a cue study: the floor first, flips beyond it, and sides told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.judgments.metrics import verdict_metrics


def study(moves: float = 0.5, noise: float = 0.1, items: int = 200, seed: int = 0) -> pd.DataFrame:
    """A judge whose runs differ with ``noise`` and that follows the cue with ``moves``; its first run is right."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(items):
        for order in ("AB", "BA"):
            toward = "wrong" if k % 2 else "right"
            target = "B" if k % 2 else "A"
            base = {
                "item": f"i{k}",
                "group": f"i{k}",
                "judge": "j",
                "order": order,
                "label": "A",
                "part": "bandwagon",
                "target": target,
                "toward": toward,
                "status": "ok",
            }
            rows.append({**base, "variant": "control", "run": 0, "verdict": "A"})
            rows.append({**base, "variant": "control", "run": 1, "verdict": "B" if rng.random() < noise else "A"})
            rows.append({**base, "variant": "plain", "run": 0, "verdict": None})
            followed = rng.random() < moves
            rows.append({**base, "variant": "cued", "run": 0, "verdict": target if followed else "A"})
    return pd.DataFrame(rows)


def test_flips_beyond_the_floor() -> None:
    table = study()
    found = verdict_metrics(table, resamples=200)
    assert found.table["name"].iloc[0] == "repeat_flip_rate"
    wide = table.set_index(["item", "order", "variant", "run"])["verdict"].unstack(["variant", "run"])
    floor = (wide["control", 0] != wide["control", 1]).mean()
    flips = (wide["control", 0] != wide["cued", 0]).mean()
    value = lambda name, part: found.value(name, part=part)  # noqa: E731
    assert value("repeat_flip_rate", "bandwagon") == pytest.approx(floor)
    assert value("flip_rate", "bandwagon") == pytest.approx(flips)
    assert value("flip_excess", "bandwagon") == pytest.approx(flips - floor)
    assert value("flip_rate", "bandwagon, toward the right") == 0
    assert value("follow_rate_control", "bandwagon, toward the wrong") == 0
    wrong = table[(table["toward"] == "wrong") & (table["variant"] == "cued")]
    assert value("follow_rate", "bandwagon, toward the wrong") == pytest.approx((wrong["verdict"] == "B").mean())
    assert value("harmful_flips", "bandwagon, toward the wrong") == pytest.approx((wrong["verdict"] == "B").mean())
    rows = found.table.set_index(["part", "name"])
    assert rows.loc[("bandwagon", "flip_rate"), ["n", "groups", "missing"]].to_list() == [400, 200, 0]


def test_without_repeats_there_is_no_floor() -> None:
    table = study(items=20)
    found = verdict_metrics(table[table["run"] == 0], resamples=20)
    assert np.isnan(found.value("repeat_flip_rate", part="bandwagon"))
    assert "flip_excess" not in set(found.table["name"])


def test_a_cue_that_is_the_order_itself() -> None:
    table = study(items=20)
    table = table[(table["order"] == "AB") & (table["run"] == 0)]
    table.loc[table["variant"] == "cued", "order"] = "BA"
    found = verdict_metrics(table, resamples=20)
    rows = found.table.set_index(["part", "name"])
    assert rows.loc[("bandwagon", "flip_rate"), "n"] == 20


def test_what_a_study_needs() -> None:
    with pytest.raises(InputError, match="no cued"):
        verdict_metrics(study(items=2).query("variant != 'cued'"))

"""What stands beside the cliff, on the page: nulls, normaliser, who is left out, and when it falls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from report_runs import write_run

from verdictscope.report.record import Record
from verdictscope.report.refusal.cliff_checks import cliff_controls, timing
from verdictscope.report.shown import Line

NAN = float("nan")
ROWS = [
    ("counted", "harmful_complied", "measured", 50, NAN, NAN, 64, "rollouts", NAN, ""),
    ("counted", "harmful_complied", "truncated", 14, NAN, NAN, 64, "rollouts", NAN, ""),
    (
        "exchange",
        "harmless_complied",
        "normalised drop minus that of harmless_complied",
        0.3,
        NAN,
        NAN,
        90,
        "normalised",
        0.002,
        "null -0.1 to 0.1",
    ),
    ("exchange", "harmless_refused", "raw drop minus that of harmless_refused", NAN, NAN, NAN, 0, "logit", NAN, ""),
    ("paired", "harmful_refused", "normalised drop, paired by prompt", 0.4, 0.3, 0.5, 54, "normalised", NAN, ""),
    (
        "normaliser from harmful_refused",
        "harmless_refused",
        "normalised_drop",
        0.37,
        0.2,
        0.56,
        49,
        "normalised",
        NAN,
        "",
    ),
    (
        "normaliser from harmless_refused",
        "harmful_refused",
        "normalised_drop",
        NAN,
        NAN,
        NAN,
        0,
        "normalised",
        NAN,
        "cannot anchor: 3 rollouts",
    ),
    ("as published", "harmful_complied", "drop of the curve", 0.5, NAN, NAN, 64, "probability", NAN, "padding"),
    ("change point", "headline", "change lies in the closing tokens", 0.9, 0.8, 0.97, 54, "share", NAN, ""),
    ("change point", "headline", "size of the change", -5.2, -5.4, -5.1, 54, "logit", NAN, ""),
    ("commitment", "headline", "probe settled", 0.7, 0.6, 0.8, 54, "share of thinking", NAN, ""),
    ("commitment", "headline", "text settled", 0.1, 0.0, 0.2, 54, "share of thinking", NAN, ""),
    ("commitment", "headline", "text after probe", -21.5, -26.5, -16.9, 54, "tokens", NAN, "3 thinking cut off"),
    ("commitment", "headline", "forced settled", 0.4, 0.3, 0.5, 54, "share of thinking", NAN, ""),
    ("commitment", "headline", "forced after probe", -9.5, -12.5, -6.9, 54, "tokens", NAN, ""),
]


def record(folder: Path, rows: list[tuple]) -> Record:
    columns = ["check", "cell", "name", "estimate", "low", "high", "n", "unit", "p", "about"]
    run = write_run(folder)
    pd.DataFrame(rows, columns=columns).assign(variant="base").to_parquet(run / "cliff_checks.parquet")
    return Record(run)


def test_every_check_has_its_place(tmp_path: Path) -> None:
    found = {c.name: c.rows for c in cliff_controls(record(tmp_path / "run", ROWS))}
    assert len(found) == 4
    nulls = found["The drop against its nulls"]
    assert (nulls[0].value, nulls[0].null, nulls[0].p, nulls[0].interval) == ("0.300", "−0.1 to 0.1", "0.002", "")
    assert (nulls[1].value, nulls[1].p) == ("not measured", "")
    assert (nulls[2].value, nulls[2].interval, nulls[2].null) == ("0.400", "[0.300, 0.500]", "")
    normaliser = found["Normaliser of one kind of refusal"]
    assert [(row.value, row.interval) for row in normaliser] == [("0.370", "[0.200, 0.560]"), ("not measured", "")]
    assert normaliser[1].note == "cannot anchor: 3 rollouts"
    assert Line("base, harmful_complied: truncated", "14", n="of 64") in found["Rollouts with a plateau and an end"]


def test_where_all_prompts_are_alike_no_certainty_is_claimed(tmp_path: Path) -> None:
    """A bootstrap of equal values gives equal values: a share gets Wilson's interval, anything else none."""
    alike = {"change lies in the closing tokens": 1.0, "forced settled": 0.0, "forced after probe": -9.0}
    rows = [(*r[:3], *([alike[r[2]]] * 3), *r[6:]) if r[2] in alike else r for r in ROWS]
    first, _, third = (f.text for f in timing(record(tmp_path / "run", rows)))
    assert "in 1.000 [0.934, 1.000] of cases" in first
    assert "after 0.000 [0.000, 0.066] of the thinking" in third
    assert "−9.000 (the same in all 54) tokens" in third


def test_when_it_falls_is_said_with_who_is_left_out(tmp_path: Path) -> None:
    first, second, third = (f.text for f in timing(record(tmp_path / "run", ROWS)))
    assert "closing tokens in 0.900 [0.800, 0.970] of cases" in first
    assert "21.500 [16.900, 26.500] tokens earlier" in second
    assert "3 thinking cut off" in second
    assert "after 0.400 [0.300, 0.500] of the thinking (n = 54 prompts), −9.500 [−12.500, −6.900] tokens after" in third
    rows = [(*r[:3], 1.0, -2.0, 3.0, *r[6:]) if r[2] == "text after probe" else r for r in ROWS]
    assert "not clearly earlier or later" in list(timing(record(tmp_path / "other", rows)))[1].text


def test_a_run_without_the_table_says_nothing(tmp_path: Path) -> None:
    run = Record(write_run(tmp_path / "run"))
    assert not list(cliff_controls(run))
    assert not list(timing(run))
    empty = record(tmp_path / "empty", [(c, "x", n, np.nan, NAN, NAN, 0, u, NAN, "") for c, _, n, *_, u, _, _ in ROWS])
    assert not list(timing(empty))

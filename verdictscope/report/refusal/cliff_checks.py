"""What stands beside the cliff, in sentences and rows: its nulls, other normaliser, who is left out, and when it
falls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from verdictscope.report.record import Record
from verdictscope.report.shown import Control, Finding, Line
from verdictscope.report.words import ends, estimate, number, present
from verdictscope.stats.degenerate import SHARES

FILE = "cliff_checks.parquet"


def timing(run: Record) -> Iterator[Finding]:
    """Where in the rollout the score falls, and when readings settle."""
    rows = {(r["check"], r["name"]): r for r in _rows(run)}
    inside, size = (rows.get(("change point", n)) for n in ("change lies in the closing tokens", "size of the change"))
    if inside and size and present(inside["estimate"]):
        yield Finding(
            "Looked at one by one, rollouts of the headline cell change their level most in the closing tokens in "
            f"{_told(inside)} of cases, by {_told(size)} logits (n = {int(inside['n'])} prompts"
            f"{'; ' + inside['about'] if inside['about'] else ''}).",
            FILE,
        )
    probe, text, gap = (rows.get(("commitment", n)) for n in ("probe settled", "text settled", "text after probe"))
    if probe and text and gap and present(gap["estimate"]):
        when = "later" if gap["estimate"] > 0 else "earlier"
        span = (abs(gap["estimate"]), *sorted(abs(gap[k]) for k in ("low", "high")))
        same = gap["low"] < 0 < gap["high"]
        yield Finding(
            f"The sign of the probe's score settles after {_told(probe)} of the thinking; a reader of the words alone, "
            f"shown the request too, settles after {_told(text)}, "
            + ("not clearly earlier or later" if same else f"{estimate(*span)} tokens {when}")
            + f" (n = {int(gap['n'])} prompts{'; ' + gap['about'] if gap['about'] else ''}).",
            FILE,
        )
    forced, after = (rows.get(("commitment", n)) for n in ("forced settled", "forced after probe"))
    if forced and present(forced["estimate"]):
        said = (
            f"With its thinking closed early, the model would give its final verdict after {_told(forced)} of the "
            f"thinking (n = {int(forced['n'])} prompts{'; ' + forced['about'] if forced['about'] else ''})"
        )
        if after and present(after["estimate"]):
            said += f", {_told(after)} tokens after the probe's sign settles (below 0: before)"
        yield Finding(f"{said}.", FILE)


def cliff_controls(run: Record) -> Iterator[Control]:
    """Nulls of the drop, normaliser of one kind, the published statistic, and rollouts left out."""
    rows = _rows(run)
    nulls = [r for r in rows if r["check"] in ("exchange", "paired", "shift")]
    if nulls:
        yield Control(
            "The drop against its nulls",
            "Whole prompts exchanged between the headline cell and another (or paired, where both hold the same "
            "prompts), and whole rollouts turned so that the end lies elsewhere; single tokens are never shuffled, "
            "since neighbours are alike.",
            tuple(map(_null, nulls)),
            FILE,
        )
    drops = [r for r in rows if r["check"].startswith("normaliser from") and r["name"] == "normalised_drop"]
    if drops:
        yield Control(
            "Normaliser of one kind of refusal",
            "The headline should fall whichever refusals the normaliser were fitted on, and refusals of the other kind "
            "should not. Where these fall too, the normalised score also tells kinds of refusal apart.",
            tuple(_line(r, f"{r['check']}, read on {r['cell']}") for r in drops),
            FILE,
        )
    published = [r for r in rows if r["check"] == "as published"]
    if published:
        yield Control(
            "The published statistic",
            "The same scores averaged as earlier code does, sequences filled up with zeros: a curve that rises by "
            "padding is no plateau.",
            tuple(Line(r["name"], number(r["estimate"]), note=r["about"]) for r in published),
            FILE,
        )
    counted = [r for r in rows if r["check"] == "counted"]
    if counted:
        yield Control(
            "Rollouts with a plateau and an end",
            "Truncated rollouts, thinking that never closed and thinking too short for a plateau are counted and left "
            "out; cells that lose many are read with care.",
            tuple(
                Line(f"{r['variant']}, {r['cell']}: {r['name']}", str(int(r["estimate"])), n=f"of {int(r['n'])}")
                for r in counted
            ),
            FILE,
        )


def _rows(run: Record) -> list[dict[str, Any]]:
    table: pd.DataFrame | None = run.table("cliff_checks")
    return [] if table is None else table.to_dict("records")


def _told(row: dict[str, Any]) -> str:
    """Estimate and interval; the unit says whether it is a share and is not printed."""
    unit = row["unit"] if row["unit"] in SHARES else ""
    return estimate(row["estimate"], row["low"], row["high"], unit, n=row["n"])


def _line(row: dict[str, Any], what: str) -> Line:
    known = present(row["estimate"])
    between = ends(row["estimate"], row["low"], row["high"], n=row["n"])
    value = number(row["estimate"]) if known else "not measured"
    return Line(what, value, between, n=f"{int(row['n'])} prompts", note=row["about"])


def _null(row: dict[str, Any]) -> Line:
    if row["check"] == "paired" or not present(row["estimate"]):
        return _line(row, row["name"])
    null, _, note = str(row["about"]).removeprefix("null ").partition("; ")
    return Line(
        row["name"],
        number(row["estimate"]),
        null=null.replace("-", "−"),
        p=number(row["p"]),
        n=f"{int(row['n'])} prompts",
        note=note,
    )

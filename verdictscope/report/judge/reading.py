"""What the tables of a judge study hold, looked up in one place: parts, rates, heads, sets of heads, mitigations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from verdictscope.report.record import Record
from verdictscope.report.shown import Line
from verdictscope.report.words import ends as interval_of
from verdictscope.report.words import estimate, heads, number, present

CONTENT, POSITION = "content", "position"
SMALLEST = 0.5
"""Nats that count where the run's tables state no smallest effect: odds times 1.65."""

REMOVED = 0.8
"""Share of a bias that taking its heads out must remove, and share of everything else that must stay."""

ACCURACY = 0.02
"""Points of accuracy that taking heads out may cost."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of the verdict's log-odds: content, position or what a cue adds.

    Attributes:
        name: as in the tables.
        estimate: towards the better answer, the one shown first, the one named; nats.
        low: lower end of the 95 % interval.
        high: upper end.
        n: groups of items.
    """

    name: str
    estimate: float
    low: float
    high: float
    n: int

    @property
    def size(self) -> tuple[float, float, float]:
        """Estimate, low and high, turned so that the estimate is not negative."""
        if self.estimate < 0:
            return -self.estimate, -self.high, -self.low
        return self.estimate, self.low, self.high

    def beyond(self, bar: float) -> bool:
        """Whether the interval lies beyond a bar on one side of zero."""
        return self.size[1] > bar

    def within(self, bar: float) -> bool:
        """Whether the interval lies within a bar on both sides of zero."""
        return self.low > -bar and self.high < bar


def nats(value: Any) -> str:
    """A number of nats with its sign."""
    return number(value, "nats", signed=True)


def ends(row: Row | Part, unit: str = "") -> str:
    """Estimate and interval of a row or part; nats with their sign."""
    value = row if isinstance(row, dict) else vars(row)
    unit = unit or str(value.get("unit") or "")
    return estimate(value["estimate"], value["low"], value["high"], unit, signed=unit == "nats", n=value.get("n"))


def line(what: str, row: Row, of: str, unit: str) -> Line:
    """A row as a line of a control's table."""
    signed = unit == "nats"
    between = interval_of(row["estimate"], row["low"], row["high"], unit, signed=signed, n=row["n"])
    return Line(what, number(row["estimate"], unit, signed=signed), between, n=f"{int(row['n'])} {of}")


def rows_of(run: Record, file: str, /, **wanted: Any) -> list[Row]:
    """Rows of a table with these values; none where the table or one of the columns is missing."""
    table = run.table(file)
    if table is None or not set(wanted) <= set(table.columns):
        return []
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.to_dict("records")


def parts(run: Record, variant: str = "base", thinking: str = "off") -> dict[str, Part]:
    """Parts of the verdict by name, in the order of the table; those that were not measured are left out."""
    rows = rows_of(run, "bias_parts", variant=variant, thinking=thinking)
    return {str(r["name"]): _part(r) for r in rows if present(r["estimate"]) and present(r["low"])}


def _part(row: Row) -> Part:
    return Part(str(row["name"]), float(row["estimate"]), float(row["low"]), float(row["high"]), int(row["n"]))


def smallest(run: Record) -> float:
    """The smallest bias that counts, in nats: the sweep's delta, else :data:`SMALLEST`."""
    table = run.table("bias_heads")
    if table is None or "delta" not in table:
        return SMALLEST
    stated = table.loc[table["variant"] == "base", "delta"].dropna()
    return float(stated.iloc[0]) if len(stated) else SMALLEST


def floor(run: Record) -> Part | None:
    """How far a sentence that says nothing draws the verdict towards the side it names: the floor of every cue."""
    return next(
        (
            _part(r)
            for r in rows_of(run, "verdict_rates", variant="base", thinking="off", condition="control", name="pull")
            if present(r["low"])
        ),
        None,
    )


def bar(run: Record, name: str) -> float:
    """What a bias has to exceed: the smallest effect, and for a cue whatever its control does as well."""
    least, control = smallest(run), floor(run)
    return least if name == POSITION or control is None else max(least, control.size[2])


def biases(run: Record) -> list[Part]:
    """Everything that was asked about and is no content."""
    return [part for name, part in parts(run).items() if name != CONTENT]


def moving(run: Record) -> list[Part]:
    """The biases that move the verdict by more than what counts."""
    return [part for part in biases(run) if part.beyond(bar(run, part.name))]


def found(run: Record, bias: str, variant: str = "base") -> list[Row]:
    """The heads that one half of the items named for a bias, with what they do on the other half."""
    rows = [r for r in rows_of(run, "bias_heads", variant=variant, contrast=bias, component="head") if r.get("found")]
    return sorted(rows, key=lambda r: r["rank"])


def swept(run: Record, bias: str, variant: str = "base") -> list[Row]:
    """Every part of the sweep for a bias."""
    return rows_of(run, "bias_heads", variant=variant, contrast=bias)


def part_name(row: Row) -> str:
    """``L2H5``, or ``MLP 3``."""
    if row["component"] == "head":
        return heads([(row["layer"], row["head"])])
    return f"{str(row['component']).upper()} {int(row['layer'])}"


ALL = "all"
"""What the tables call the heads of all biases together, and a mitigation that is meant for all of them."""


def picked(row: Row) -> bool:
    """Whether the reporting half says of a part that it carries the bias: beyond delta, with content spared."""
    return bool(row["declared"] if "declared" in row else row["selected"])


def set_rows(run: Record, contrast: str, kind: str) -> list[Row]:
    """A contrast, or the accuracy, with the found heads taken out; ``kind`` is base (none are), found, or random (as
    many others)."""
    return [r for r in rows_of(run, "bias_sets", contrast=contrast, kind=kind) if present(r["estimate"])]


def without(run: Record, bias: str, name: str) -> tuple[Row | None, Row | None, str]:
    """A number as it is and with the heads of one bias taken out, and the file. Where the study did not take them out
    one bias at a time, it is that without all found heads, and there is none for a bias that has heads of its own."""
    told = list(mitigations(run))
    plain = next((numbers for _, kind, _, numbers in told if kind == "none"), {})
    own = next((numbers for _, kind, of, numbers in told if kind == "ablate" and of == bias), {})
    if name in plain and name in own:
        return plain[name], own[name], "mitigations.parquet"
    base, gone = ([] if found(run, name) else set_rows(run, name, kind) for kind in ("base", "found"))
    return base[0] if base else None, gone[0] if gone else None, "bias_sets.parquet"


def rate(run: Record, name: str, condition: str = "plain", variant: str = "base", thinking: str = "off") -> Row | None:
    """A rate of the verdicts, such as accuracy."""
    rows = rows_of(run, "verdict_rates", variant=variant, thinking=thinking, condition=condition, name=name)
    return rows[0] if rows and present(rows[0]["estimate"]) else None


def mitigations(run: Record, thinking: str = "off") -> Iterator[tuple[str, str, str, dict[str, Row]]]:
    """Every mitigation: its name, kind, the bias it is meant for (``all``: every one), and its numbers by name."""
    table = run.table("mitigations")
    if table is None:
        return
    rows = table[table["thinking"] == thinking]
    for name, own in rows.groupby("mitigation", sort=False):
        numbers = {str(r["name"]): r for r in own.to_dict("records") if present(r["estimate"])}
        yield str(name), str(own["kind"].iloc[0]), str(own["bias"].iloc[0]), numbers


def probe_rows(run: Record, file: str, kind: str, **wanted: Any) -> list[Row]:
    """Rows of one kind in a table of probes, read where the verdict is, of the model under study, with a number."""
    rows = rows_of(run, file, kind=kind, **wanted)
    return [
        r
        for r in rows
        if r.get("variant", "base") == "base" and r.get("place", "last") == "last" and present(r["estimate"])
    ]

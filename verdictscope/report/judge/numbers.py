"""The headline numbers of a judge study, in two runs side by side."""

from __future__ import annotations

from verdictscope.report.judge import reading
from verdictscope.report.numbers import Number, Read, Row, aggregate
from verdictscope.report.record import Record

RATES = {"accuracy": "plain", "first_in_ties": "plain", "consistency": "plain"}


def numbers(first: Record, second: Record, shared: bool) -> list[Row]:
    """Parts of the verdict, rates, and what ablation leaves, in two runs.

    Args:
        first: a run.
        second: another.
        shared: whether items stand in both.
    """
    runs = (first, second)
    names = list(dict.fromkeys(name for run in runs for name in reading.parts(run)))
    rows = [aggregate(f"{name} part of the verdict", "nats", _part(name), runs, shared) for name in names]
    rows += [
        aggregate(f"{name.replace('_', ' ')}, shown plainly", "rate", _rate(name, condition), runs, shared)
        for name, condition in RATES.items()
    ]
    cues = [name for name in names if name not in (reading.CONTENT, reading.POSITION)]
    rows += [aggregate(f"follows the {cue} cue", "rate", _rate("follows", cue), runs, shared) for cue in cues]
    biases = [name for name in names if name != reading.CONTENT]
    left = "left with the found heads taken out"
    return rows + [aggregate(f"{bias} {left}", "nats", _left(bias), runs, shared) for bias in biases]


def _part(name: str) -> Read:
    def read(run: Record) -> Number | None:
        part = reading.parts(run).get(name)
        return None if part is None else (part.estimate, part.low, part.high, part.n)

    return read


def _rate(name: str, condition: str) -> Read:
    def read(run: Record) -> Number | None:
        return _number(reading.rate(run, name, condition))

    return read


def _left(bias: str) -> Read:
    def read(run: Record) -> Number | None:
        rows = reading.set_rows(run, bias, "found")
        return _number(rows[0] if rows else None)

    return read


def _number(row: reading.Row | None) -> Number | None:
    if row is None:
        return None
    return float(row["estimate"]), float(row["low"]), float(row["high"]), int(row["n"])

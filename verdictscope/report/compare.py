"""Several runs side by side: what was set differently, their evidence ladders, and their headline numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import verdictscope.report.words as words
from verdictscope.errors import InputError
from verdictscope.report.provenance import leaves, plain_value
from verdictscope.report.wording import wording_of
from verdictscope.stats import independent_difference
from verdictscope.study.criteria import Assessment, assess, replicated
from verdictscope.study.folder import RunFolder
from verdictscope.study.results import Result


@dataclass(frozen=True)
class Row:
    """One headline number of every run.

    Attributes:
        name: what was estimated.
        values: the number of each run; ``None`` where it was not measured.
    """

    name: str
    values: tuple[Result | None, ...]

    @property
    def texts(self) -> list[str]:
        """The numbers with intervals and n."""
        return [
            "not measured" if v is None else (words.estimate(v) + (f", n = {words.counted(v)}" if v.n else ""))
            for v in self.values
        ]

    @property
    def differences(self) -> list[str]:
        """Each further run minus the first with the interval of independent estimates; a dash where there is none."""
        return [_difference(self.values[0], other) for other in self.values[1:]]

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return {"name": self.name, "values": [asdict(v) if v else None for v in self.values]} | {
            "differences": self.differences
        }


def _difference(first: Result | None, other: Result | None) -> str:
    ends = [(r.estimate, r.low, r.high) for r in (other, first) if r is not None]
    known = [tuple(float(v) for v in row if v is not None) for row in ends]
    if len(known) != 2 or any(len(row) != 3 for row in known) or first is None:
        return "–"
    estimate, low, high = independent_difference(*known)  # type: ignore[arg-type]
    return words.estimate(Result("", "", "", "", estimate, low, high, unit=first.unit), signed=True)


def numbers(runs: Sequence[RunFolder]) -> list[Row]:
    """The headline numbers of every run, in the order in which they are first named."""
    found = [dict(wording_of(run.study.task).headline(run.results())) for run in runs]
    names = dict.fromkeys(name for of_run in found for name in of_run)
    return [Row(name, tuple(of_run.get(name) for of_run in found)) for name in names]


def ladders(runs: Sequence[RunFolder]) -> list[list[Assessment]]:
    """The evidence ladder of every run, the first two of which are each other's replication.

    Raises:
        InputError: the runs are of two kinds.
    """
    kinds = {run.study.task for run in runs}
    if len(kinds) > 1:
        raise InputError(f"the runs are of different kinds ({', '.join(sorted(kinds))}): compare runs of one kind")
    made = [assess(run.study.task, run.results()) for run in runs]
    if len(runs) == 1:
        return made
    models = [(run.find_json("provenance").get("models") or {}).get("base") or {} for run in runs]
    prompts = [wording_of(run.study.task).prompts(run) for run in runs]
    again = []
    for at in range(len(runs)):
        other = 1 if at == 0 else 0
        last = replicated(made[at][:-1], made[other][:-1], (models[at], models[other]), (prompts[at], prompts[other]))
        again.append([*made[at][:-1], last])
    return again


def shared_prompts(runs: Sequence[RunFolder]) -> str:
    """How the prompts of the runs overlap, in words."""
    sets = [wording_of(run.study.task).prompts(run) for run in runs]
    if not all(sets):
        return "One of the runs has no rollouts yet."
    both = len(set.intersection(*sets))
    many = " and ".join(f"{len(s):,}" for s in sets)
    return f"{both:,} prompts are shared (of {many})." if both else f"The runs share no prompt ({many})."


def study_differences(runs: Sequence[RunFolder]) -> list[tuple[str, ...]]:
    """(key, value of each run) of every key in which the studies differ."""
    every = [leaves(run.study) for run in runs]
    keys = dict.fromkeys(key for of_run in every for key in of_run)
    rows = ((key, [of_run.get(key) for of_run in every]) for key in keys)
    return [(key, *map(plain_value, values)) for key, values in rows if any(v != values[0] for v in values)]


def run_names(runs: Sequence[RunFolder]) -> list[str]:
    """A name for each run that tells them apart.

    Raises:
        InputError: one folder is given twice.
    """
    folders = [run.out.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise InputError("the same run folder is given twice")
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [f"{f.parent.name}/{f.name}" for f in folders]

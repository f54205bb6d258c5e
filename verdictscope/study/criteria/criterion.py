"""A criterion of the evidence ladder: a claim, the results it compares, the rule, and what meeting it does not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from verdictscope.study.results import Result, Results

Status = Literal["met", "partly met", "not met", "not tested"]

STATUSES: tuple[Status, ...] = ("met", "partly met", "not met", "not tested")

ALPHA = 0.05
"""A p-value up to this speaks against its null."""


@dataclass(frozen=True)
class Evidence:
    """One number of a criterion and what it is compared with.

    Attributes:
        what: what was estimated.
        result: the number; ``None`` where it was not measured.
        null: what it is compared with, in words.
        null_low: lower end of that range, for the drawing.
        null_high: upper end.
        passes: whether the comparison speaks for the claim; ``None`` where it could not be made.
        decides: whether the status depends on it.
    """

    what: str
    result: Result | None = None
    null: str = ""
    null_low: float | None = None
    null_high: float | None = None
    passes: bool | None = None
    decides: bool = True

    def beside(self) -> Evidence:
        """The same number, shown without deciding."""
        return replace(self, decides=False)


@dataclass(frozen=True)
class Criterion:
    """One step of the evidence ladder.

    Attributes:
        key: short name, for files and links.
        name: the step in a word or two.
        claim: what meeting it would mean.
        rule: how its status is decided.
        not_shown: what it does not show even where it is met.
        how: what to run where it was not tested.
        evidence: the comparisons a run's results allow.
        every: the claim is about all comparisons at once, so that one against it suffices for *not met*.
    """

    key: str
    name: str
    claim: str
    rule: str
    not_shown: str
    how: str
    evidence: Callable[[Results], Sequence[Evidence]]
    every: bool = False

    def assess(self, results: Results) -> Assessment:
        """Evaluate the criterion on a run's results."""
        return self.decided(self.evidence(results))

    def decided(self, evidence: Sequence[Evidence], reason: str = "") -> Assessment:
        """The assessment that follows from some evidence.

        Args:
            evidence: the comparisons.
            reason: why there are none, if there are none.
        """
        ordered = sorted(evidence, key=lambda e: not e.decides)
        return Assessment(self, decide(evidence, every=self.every), tuple(ordered), reason or _reason(evidence))


@dataclass(frozen=True)
class Assessment:
    """A criterion with its status in one run.

    Attributes:
        criterion: the criterion.
        status: decided by :func:`decide` from the evidence, never set by hand.
        evidence: the comparisons, those that decide first.
        reason: the status in one sentence.
    """

    criterion: Criterion
    status: Status
    evidence: tuple[Evidence, ...]
    reason: str

    @property
    def key(self) -> str:
        """The criterion's short name."""
        return self.criterion.key

    def to_dict(self) -> dict[str, Any]:
        """The assessment as plain data."""
        words = {k: getattr(self.criterion, k) for k in ("key", "name", "claim", "rule", "not_shown")}
        return words | {"status": self.status, "reason": self.reason, "evidence": [asdict(e) for e in self.evidence]}


def decide(evidence: Sequence[Evidence], *, every: bool = False) -> Status:
    """The status that follows from the comparisons that decide.

    Met when each was made and passes; not met when none passes; not tested when none was made; partly met otherwise.
    With ``every`` a single one that fails means not met.
    """
    tests = [e.passes for e in evidence if e.decides]
    made = [t for t in tests if t is not None]
    if not made:
        return "not tested"
    if all(made):
        return "met" if len(made) == len(tests) else "partly met"
    return "not met" if every or not any(made) else "partly met"


def _reason(evidence: Sequence[Evidence]) -> str:
    """How many comparisons pass; those that fail and those that were not made by name."""
    tests = [e for e in evidence if e.decides]
    made = [e for e in tests if e.passes is not None]
    if not made:
        return "Not tested by this run."
    failed, missing = [e.what for e in made if not e.passes], [e.what for e in tests if e.passes is None]
    many = f"{len(made) - len(failed)} of {len(made)} comparisons pass" if len(made) > 1 else ""
    text = many or ("The comparison passes" if made[0].passes else "The comparison fails")
    text += f"; failing: {_some(failed)}" if failed and many else ""
    return f"{text}; not measured: {_some(missing)}." if missing else f"{text}."


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def above(low: float | None, bar: float | None) -> bool | None:
    """Whether a lower end lies above a bar; ``None`` where either is missing."""
    return low > bar if low is not None and bar is not None else None

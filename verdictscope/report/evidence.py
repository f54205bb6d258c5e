"""What a rung of the ladder is made of, and the rule that turns its tests into a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from verdictscope.report.words import estimate, present

Status = Literal["held", "partly", "not held", "not tested"]

ALPHA = 0.05
"""A p-value up to this speaks against its null."""


@dataclass(frozen=True)
class Evidence:
    """One number a rung rests on, with what it is compared with.

    Attributes:
        what: what was estimated.
        value: the estimate; ``None`` where it was not measured.
        low: lower end of its 95 % interval.
        high: upper end.
        n: how many independent units.
        of: what n counts.
        unit: ``AUROC``, ``rate``, ``nats``, ``normalised``.
        null: what it is held against, in words with its number.
        null_low: lower end of what it is held against, for the drawing.
        null_high: upper end.
        source: the file of the run folder it comes from.
        passes: whether the comparison speaks for the rung; ``None`` where it could not be made.
        decides: whether the rung's status asks for it; otherwise it only stands beside.
    """

    what: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    of: str = "prompt groups"
    unit: str = ""
    null: str = ""
    null_low: float | None = None
    null_high: float | None = None
    source: str = ""
    passes: bool | None = None
    decides: bool = True

    @property
    def text(self) -> str:
        """``0.885 [0.870, 0.898]``, or that there is no number."""
        if not present(self.value):
            return "not measured"
        return estimate(
            self.value, self.low, self.high, self.unit, signed=self.unit in ("nats", "normalised"), n=self.n
        )


@dataclass(frozen=True)
class Rung:
    """One step of the evidence ladder.

    Attributes:
        key: short name, for files and links.
        name: the step in a word or two.
        claim: what holding it would mean.
        rule: how its status is decided.
        status: decided by :func:`decide` from the evidence, never written by hand.
        reason: the status in one sentence of this run's numbers.
        evidence: the numbers, those that decide first.
        not_shown: what the step does not show even where it holds.
        fill: what to run where it was not tested.
    """

    key: str
    name: str
    claim: str
    rule: str
    status: Status
    reason: str
    evidence: tuple[Evidence, ...]
    not_shown: str
    fill: str

    @property
    def sources(self) -> list[str]:
        """Files of the run folder the rung rests on, each once."""
        return list(dict.fromkeys(e.source for e in self.evidence if e.source and present(e.value)))

    def to_dict(self) -> dict[str, Any]:
        """The rung as plain data."""
        return asdict(self)


def decide(evidence: Sequence[Evidence], *, every: bool = False) -> Status:
    """The status of a rung from the evidence that decides it.

    Held when each comparison was made and speaks for it; not held when none does; not tested when none was made;
    partly in between.

    Args:
        evidence: numbers of the rung.
        every: the claim is about all comparisons at once, so that a single one against it is enough for *not held*.
    """
    tests = [e.passes for e in evidence if e.decides]
    known = [t for t in tests if t is not None]
    if not known:
        return "not tested"
    if all(known):
        return "held" if len(known) == len(tests) else "partly"
    return "not held" if every or not any(known) else "partly"


def above(low: float | None, bar: float | None) -> bool | None:
    """Whether a lower end lies above a bar; ``None`` where either is missing."""
    return bool(float(low) > float(bar)) if present(low) and present(bar) else None  # type: ignore[arg-type]


def rung(
    key: str,
    name: str,
    claim: str,
    rule: str,
    evidence: Sequence[Evidence],
    reasons: Mapping[str, str],
    not_shown: str,
    fill: str,
    *,
    every: bool = False,
) -> Rung:
    """A rung whose status follows from its evidence, with the reason that belongs to the status.

    Args:
        key: as of :class:`Rung`, like all others up to ``fill``.
        name: see there.
        claim: see there.
        rule: see there.
        evidence: see there.
        reasons: a sentence by status; without one the rung says that the run did not test it.
        not_shown: see :class:`Rung`.
        fill: see there.
        every: as of :func:`decide`.
    """
    status = decide(evidence, every=every)
    reason = reasons.get(status, "Not tested by this run.")
    return Rung(key, name, claim, rule, status, reason, tuple(evidence), not_shown, fill)

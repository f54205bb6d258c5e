"""The evidence ladder of a run: the rungs of its kind of study, and whether a second run holds them too."""

from __future__ import annotations

from verdictscope.report import replication
from verdictscope.report.evidence import Rung
from verdictscope.report.kinds import kind_of, same_kind
from verdictscope.report.record import Record


def climb(run: Record, second: Record | None = None) -> tuple[Rung, ...]:
    """The rungs of a run, in order.

    Args:
        run: a run folder, finished or not.
        second: another run of the same model, for the last rung.

    Raises:
        InputError: the second run is of another kind.
    """
    rungs = kind_of(run).rungs(run)
    if second is not None:
        same_kind(run, second)
    there = kind_of(second).rungs(second) if second is not None else ()
    return (*rungs, replication.rung(run, rungs, second, there))

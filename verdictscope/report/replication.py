"""The last rung: does a second run, on other prompts, hold what the first one holds?"""

from __future__ import annotations

from collections.abc import Sequence

from verdictscope.report.evidence import Evidence, Rung, decide
from verdictscope.report.kinds import kind_of
from verdictscope.report.record import Record
from verdictscope.report.words import some

CLAIM = "The same is found again on a second set of prompts."
RULE = (
    "Asked of two runs of one model whose prompts do not overlap. Each rung that the first run holds is a test; held "
    "when the second run holds them all, partly when it holds some."
)
NOT_SHOWN = "That it holds for other models, other languages, or prompts unlike both sets."


def rung(run: Record, rungs: Sequence[Rung], second: Record | None, there: Sequence[Rung]) -> Rung:
    """The rung *replicated*.

    Args:
        run: the first run.
        rungs: its lower rungs.
        second: the second run, if there is one.
        there: the second run's rungs.
    """
    fill = f"the same study on other prompts ({kind_of(run).second}), then verdictscope report RUN RUN2"
    reason, evidence = "Not tested by this run.", ()
    if second is not None:
        reason, evidence = _compare(run, rungs, second, {r.key: r for r in there})
    status = decide(evidence)
    return Rung("replicated", "Replicated", CLAIM, RULE, status, reason, evidence, NOT_SHOWN, fill)


def shared_prompts(run: Record, second: Record) -> tuple[int, int, int]:
    """Distinct prompt texts of the first run, of the second, and of both."""
    texts = [kind_of(record).prompts(record) for record in (run, second)]
    return len(texts[0]), len(texts[1]), len(texts[0] & texts[1])


def same_model(run: Record, second: Record) -> bool:
    """Whether both runs studied the same model, as far as their provenance tells."""
    one, two = ((r.provenance.get("models") or {}).get("base") or {} for r in (run, second))
    keys = ("name", "revision", "config")
    return bool(one) and all(one.get(key) == two.get(key) for key in keys)


def _compare(
    run: Record, rungs: Sequence[Rung], second: Record, there: dict[str, Rung]
) -> tuple[str, tuple[Evidence, ...]]:
    if not same_model(run, second):
        return "Not tested: the second run studied another model.", ()
    here, _, both = shared_prompts(run, second)
    if both:
        return f"Not tested: {both:,} of {some(here, 'prompt')} stand in both runs.", ()
    held = [r for r in rungs if r.status == "held"]
    evidence = tuple(_again(r, there.get(r.key)) for r in held)
    good = sum(bool(e.passes) for e in evidence)
    return f"The second run holds {good} of the {some(len(evidence), 'rung')} held here.", evidence


def _again(first: Rung, second: Rung | None) -> Evidence:
    """A rung of the second run as a test of the first one's."""
    number = next((e for e in second.evidence if e.decides), None) if second else None
    status = second.status if second else "not tested"
    return Evidence(
        f"{first.name}: {number.what if number else 'no number'}",
        *((number.value, number.low, number.high, number.n) if number else (None,)),
        unit=number.unit if number else "",
        null=f"{status} in the second run",
        source=f"{number.source} of the second run" if number else "",
        passes=None if status == "not tested" else status == "held",
    )

"""The last criterion: does a second run, on other prompts, meet the criteria that the first one meets?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from verdictscope.study.criteria.criterion import Assessment, Criterion, Evidence

REPLICATED = Criterion(
    "replicated",
    "Replicated",
    "The same is found again on a second set of prompts.",
    "Compares two runs of one model that share no prompt. Each criterion that the first run meets is a comparison; met "
    "when the second run meets them all, partly met when it meets some.",
    "That it holds for other models, other languages, or prompts unlike both sets.",
    "the same study on other prompts, then verdictscope report RUN RUN2",
    lambda results: (),
)

SAME_MODEL = ("name", "revision", "config")


def replicated(
    first: Sequence[Assessment],
    second: Sequence[Assessment],
    models: tuple[Mapping[str, Any], Mapping[str, Any]],
    prompts: tuple[Collection[str], Collection[str]],
) -> Assessment:
    """The criterion *replicated* of a first run.

    Args:
        first: its other assessments.
        second: those of the second run.
        models: what provenance says of the model under study, of each run.
        prompts: the distinct prompts or items of each run.
    """
    if not models[0] or any(models[0].get(key) != models[1].get(key) for key in SAME_MODEL):
        return REPLICATED.decided((), "Not tested: the second run studies another model.")
    both = len(set(prompts[0]) & set(prompts[1]))
    if both:
        return REPLICATED.decided((), f"Not tested: the second run shares {both:,} of {len(prompts[0]):,} prompts.")
    there = {a.key: a for a in second}
    return REPLICATED.decided([_again(a, there.get(a.key)) for a in first if a.status == "met"])


def _again(first: Assessment, second: Assessment | None) -> Evidence:
    """A criterion of the second run as a comparison of the first one's."""
    status = second.status if second else "not tested"
    number = next((e for e in second.evidence if e.decides and e.result), None) if second else None
    passes = None if status == "not tested" else status == "met"
    what = f"{first.criterion.name}: {number.what if number else 'no number'}"
    return Evidence(what, number.result if number else None, f"{status} in the second run", passes=passes)

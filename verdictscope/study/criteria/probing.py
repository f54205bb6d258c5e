"""Criteria of what can be read: above permuted labels, above text and length, at other positions and prompts."""

from __future__ import annotations

from collections.abc import Sequence

from verdictscope.study.criteria.criterion import Criterion, Evidence, above
from verdictscope.study.results import ALL, Result, Results

NEEDED = ("length", "position")
"""Baselines that have to be measured beside the words of the text."""

CHANCE = 0.5


def readable(*probes: tuple[str, str, str]) -> Criterion:
    """The criterion *readable*.

    Args:
        probes: for each probe what it predicts, the condition and the name of its test AUROC in the results.
    """

    def evidence(results: Results) -> list[Evidence]:
        made = [_readable(what, results.find("probe", name, condition=at)) for what, at, name in probes]
        measured = any(e.result is not None for e in made)
        random = [
            Evidence(
                f"random directions at the same layer ({at})" if at != ALL else "random directions at the same layer",
                row,
            )
            for at in dict.fromkeys("control" if at == ALL else at for _, at, _ in probes)
            if measured and (row := results.find("probe", "random directions", condition=at))
        ]
        return [*made, *(e.beside() for e in random)]

    return Criterion(
        "readable",
        "Readable",
        "A linear probe predicts it from hidden states, on prompts or items it was not fitted on.",
        "Met when the lower end of each test AUROC lies above every refit with labels permuted between prompts or "
        "items. Random directions are shown beside it: where they do as well, many directions carry the label and the "
        "probe's own says little.",
        "That the model uses what is read, or that it is this label and not something correlated with it.",
        "verdictscope run STUDY",
        evidence,
    )


def _readable(what: str, row: Result | None) -> Evidence:
    if row is None:
        return Evidence(what)
    null = row.null or "labels permuted"
    return Evidence(what, row, null, row.null_low, row.null_high, above(row.low, row.null_high))


def _baselines(results: Results) -> list[Evidence]:
    probe = results.find("probe", "AUROC")
    rows = results.select(stage="probe", condition="baseline", kind="baseline") if probe else []
    made = [_baseline(row, probe) for row in rows]
    made += [Evidence(name) for name in NEEDED if not any(name in e.what for e in made)]
    mean = results.find("probe", "AUROC, mean score of a rollout")
    return [*made, *([Evidence("the probe's mean score of a rollout", mean, decides=False)] if mean else [])]


def _baseline(row: Result, probe: Result | None) -> Evidence:
    if probe is None or row.estimate is None:
        return Evidence(row.name)
    bar = row.high if row.high is not None else row.estimate
    return Evidence(row.name, row, "AUROC of the probe", probe.low, probe.high, above(probe.low, bar))


BASELINES = Criterion(
    "baselines",
    "Exceeds baselines",
    "The probe predicts more than the words, the length of the text and the position of the token do.",
    "Met when the lower end of the probe's interval lies above the upper end of every baseline's. One baseline that "
    "is not exceeded means not met; one that was not measured, partly met at best.",
    "That no better baseline exists. Text baselines see all words of a rollout, the probe one token at a time; its "
    "mean over a rollout is shown beside them.",
    "verdictscope run STUDY --until probe",
    _baselines,
    every=True,
)


def _transfers(results: Results) -> list[Evidence]:
    rows = [r for r in results.select(stage="transfer") if _tested(r) != r.about and r.estimate is not None]
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.condition, row.about), []).append(row)
    return [_transfer(by, fitted, own) for (by, fitted), own in groups.items()]


def _bar(row: Result) -> float:
    """What a transfer has to exceed: chance, and every refit of its own null."""
    return max(CHANCE, row.null_high) if row.null_high is not None else CHANCE


def _tested(row: Result) -> str:
    return row.name.partition("tested on ")[2]


def _transfer(by: str, fitted: str, rows: Sequence[Result]) -> Evidence:
    """The lowest transfer of the probe fitted at one place, in place of all of them."""
    lowest = min(rows, key=lambda row: (row.low or 0.0) - _bar(row))
    passes = [above(row.low, _bar(row)) for row in rows]
    what = f"fitted on {by.replace('_', ' ')} {fitted}; lowest of {len(rows)} transfers, tested on {_tested(lowest)}"
    null_low = lowest.null_low if lowest.null_low is not None else CHANCE
    passed = None if None in passes else all(passes)
    return Evidence(what, lowest, "0.5, and refits with labels permuted", null_low, _bar(lowest), passed)


TRANSFERS = Criterion(
    "transfers",
    "Transfers",
    "The same direction predicts it at positions and on prompts that it was not fitted on.",
    "Met for a position or set of prompts when the probe fitted there has, everywhere else, a lower end of the AUROC "
    "above 0.5 and above every refit with labels permuted. Met when it is met for all, partly met for some.",
    "That the direction means the same in both places: an AUROC does not depend on offset and scale.",
    "verdictscope run STUDY --until transfer",
    _transfers,
)

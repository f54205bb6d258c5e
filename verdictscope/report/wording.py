"""What a kind of study puts in words: the answer, headline numbers, groups of results, examples. All else is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import verdictscope.report.words as words
from verdictscope.study.results import ALL, Result, Results
from verdictscope.study.tasks import SHIPPED, task_named

if TYPE_CHECKING:
    from verdictscope.study.folder import RunFolder


@dataclass(frozen=True)
class Point:
    """A part of the answer: what it is about, its sentences, and the files their numbers come from."""

    name: str
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Results that are shown together as one table.

    Attributes:
        title: what they are.
        note: what they should show.
        where: fields of the results and their value, or a tuple of allowed values; a value that ends in ``*`` stands
            for all that begin with it.
        label: pattern of a row's name over the fields of its result.
    """

    title: str
    note: str
    where: Mapping[str, str | tuple[str, ...]]
    label: str = "{name}"

    def rows(self, results: Results) -> list[tuple[str, Result]]:
        """The results of the group with their names."""
        chosen = [row for row in results if all(_fits(getattr(row, key), of) for key, of in self.where.items())]
        names = (self.label.format(**vars(row) | {"variant": words.variant_name(row.variant)}) for row in chosen)
        return list(zip(names, chosen, strict=True))


def _fits(value: Any, wanted: str | tuple[str, ...]) -> bool:
    options = (wanted,) if isinstance(wanted, str) else wanted
    return any(str(value) == o or (o.endswith("*") and str(value).startswith(o[:-1])) for o in options)


@dataclass(frozen=True)
class Example:
    """One rollout as text: what it is an example of, its id, and (what, text) in the order of reading."""

    title: str
    rollout: str
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wording:
    """The words of a kind of study. Functions take a run or results that may not be complete.

    Attributes:
        summary: the answer, for the top of the page.
        headline: the numbers of terminal, comparison and documents, with their names.
        groups: tables of controls and further results.
        counts: what is counted by condition and variant: ``rollouts`` or ``verdicts``.
        facts: the study as terms and their values.
        examples: rollouts as text.
        prompts: the distinct texts shown to the model, to see whether two runs overlap.
        figures: titles of the figures, in the order of the argument. A name that ends in an underscore stands for all
            that begin with it.
        scale: what the low and the high end of the token view's scores mean.
        about_examples: how the examples are chosen.
    """

    summary: Callable[[Results], list[Point]] = lambda results: []
    headline: Callable[[Results], list[tuple[str, Result]]] = lambda results: []
    groups: Sequence[Group] = ()
    counts: str = "rollouts"
    facts: Callable[[RunFolder], list[tuple[str, str]]] = lambda run: [("Model", run.study.model)]
    examples: Callable[[RunFolder], list[Example]] = lambda run: []
    prompts: Callable[[RunFolder], set[str]] = lambda run: set()
    figures: Mapping[str, str] = field(default_factory=dict)
    scale: tuple[str, str] = ("low", "high")
    about_examples: str = ""


def wording_of(task: str) -> Wording:
    """The wording of a task: of module ``verdictscope.report.tasks.TASK``, else that of refusal in the task's nouns."""
    module = task if task in SHIPPED else "refusal"
    wording: Wording = import_module(f"verdictscope.report.tasks.{module}").WORDING
    return wording if module == task else _in_nouns(wording, task_named(task).wording)


def _in_nouns(wording: Wording, nouns: Mapping[str, str]) -> Wording:
    """Labels, groups and figures of a wording with a task's own nouns; without the summary, whose sentences are not."""
    yes = nouns.get("yes", "the outcome")
    others = {
        "refusal rate": f"rate of “{yes}”",
        "of refusal": f"of “{yes}”",
        "Refusal": "Outcome",
        "refusal": "outcome",
    }

    def swap(text: str) -> str:
        for old, new in others.items():
            text = text.replace(old, new)
        return text

    groups = tuple(replace(g, title=swap(g.title), note=swap(g.note), label=swap(g.label)) for g in wording.groups)
    figures = {name: swap(title) for name, title in wording.figures.items()}
    return replace(
        wording,
        summary=lambda results: [],
        headline=lambda results: [(swap(label), row) for label, row in wording.headline(results)],
        groups=groups,
        figures=figures,
        scale=(f"as where {nouns.get('no', 'not')}", f"as where {yes}"),
    )


class Shown:
    """A result in a sentence: ``{x}`` is estimate and interval, ``{x.value}`` the estimate, ``{x.percent}`` a rate."""

    def __init__(self, row: Result) -> None:
        self.row = row
        self.value, self.null, self.p = words.value(row), words.null_range(row), words.p_value(row.p)
        self.n, self.about, self.kind = words.counted(row), row.about, row.kind

    def __str__(self) -> str:
        return words.estimate(self.row)

    @property
    def percent(self) -> str:
        """``87 % [82, 91]``."""
        row = self.row
        value, ends = row.estimate or 0.0, None
        if row.low is not None and row.high is not None:
            ends = words.ends_to_show(value, row.low, row.high, row.n, "rate")
        return f"{100 * value:.0f} %" + (f" [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]" if ends else "")


def say(text: str, /, **rows: Result | None) -> str:
    """A sentence with the results named in it; empty where one of them was not measured."""
    if any(row is None or row.estimate is None for row in rows.values()):
        return ""
    return text.format(**{name: Shown(row) for name, row in rows.items() if row is not None})


def point(name: str, *sentences: str, files: Iterable[str] = ()) -> list[Point]:
    """A part of the answer from the sentences that could be filled; nothing without one."""
    text = " ".join(s for s in sentences if s)
    return [Point(name, text, tuple(dict.fromkeys(files)))] if text else []


def named(results: Results, *rows: tuple[str, str, str, str, str]) -> list[tuple[str, Result]]:
    """Headline numbers by ``(label, stage, name, variant, condition)``; those that were not measured are left out."""
    found = ((label, results.find(s, n, variant=v, condition=c)) for label, s, n, v, c in rows)
    return [(label, row) for label, row in found if row is not None]


def heads_found(results: Results, contrast: str, variant: str = "base") -> str:
    """``L5H6 (+3.42), L3H1 (+2.10)``: selected and confirmed heads with the effect of ablating each."""
    rows = [r for r in results.select(stage="heads", variant=variant, condition=contrast) if r.selected and r.confirmed]
    return ", ".join(f"{r.name} ({words.value(r)})" for r in sorted(rows, key=lambda r: r.rank or 0))


def truth(results: Results) -> str:
    """What was planted in a bundled model and how much of it was found; empty for others."""
    planted = [r for r in results.select(stage="truth") if r.name != "recall"]
    if not planted:
        return ""
    hits = sum(bool(r.estimate) for r in planted)
    return f"The mechanism of this bundled model is known: {', '.join(r.name for r in planted)} were planted; " + (
        f"{hits} of {len(planted)} were selected and confirmed."
    )


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


BASE = ("base", ALL)

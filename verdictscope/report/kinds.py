"""What is particular to a kind of study, in one object: the page, its templates and its escaping are the same for all.

Module ``verdictscope.report.KIND`` holds a :class:`Kind` named ``KIND``. A new kind of study is a new module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from markupsafe import Markup

from verdictscope.errors import InputError
from verdictscope.report.evidence import Rung
from verdictscope.report.numbers import Row
from verdictscope.report.record import Record
from verdictscope.report.shown import Control, Example, Finding, Point, Table

Tokens = tuple[Markup | None, Mapping[str, str]]
"""The token view, and the hashes its own style and script need; ``(None, {})`` without one."""


@dataclass(frozen=True)
class Kind:
    """The parts of a report that depend on what was asked. Each function takes a run that may not be finished.

    Attributes:
        rungs: the evidence ladder, the last rung (replicated) apart.
        lead: the answer in plain words, for the top of the page; may be empty.
        findings: sentences made from the run's numbers, in the order of the study.
        controls: what should come out as expected if the reading is right.
        facts: the study as terms and their values.
        tables: what came back: counts, and what could not be read.
        examples: rollouts as text.
        tokens: the token view.
        figures: titles of the figures, in the order of the argument; others follow under their own names. A name that
            ends in an underscore stands for all that begin with it; what follows is told in brackets.
        numbers: headline numbers of two runs side by side; the last argument says whether prompts stand in both.
        prompts: the distinct texts that were asked, to see whether two runs overlap.
        words: headings and sentences of the page that name what was studied; see ``templates/report.html``.
        second: how to make the second run that the last rung asks for.
    """

    rungs: Callable[[Record], tuple[Rung, ...]]
    lead: Callable[[Record], list[Point]]
    findings: Callable[[Record], list[Finding]]
    controls: Callable[[Record], list[Control]]
    facts: Callable[[Record], list[tuple[str, str]]]
    tables: Callable[[Record], list[Table]]
    examples: Callable[[Record], list[Example]]
    tokens: Callable[[Record], Tokens]
    figures: Mapping[str, str]
    numbers: Callable[[Record, Record, bool], list[Row]]
    prompts: Callable[[Record], set[str]]
    words: Mapping[str, str]
    second: str


def kind_of(run: Record) -> Kind:
    """The kind of a run's study."""
    return import_module(f"verdictscope.report.{run.kind}").KIND


def same_kind(first: Record, second: Record) -> None:
    """Check that two runs can be put side by side.

    Raises:
        InputError: they ask different kinds of question.
    """
    if first.kind != second.kind:
        raise InputError(
            f"{first.folder} is a {first.kind} study and {second.folder} a {second.kind} study: "
            "compare two runs of one kind"
        )

"""The last rung of the judge's own ladder: what can be done about each bias, in the model and in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from verdictscope.report.evidence import Evidence, Rung
from verdictscope.report.evidence import rung as _rung
from verdictscope.report.judge import reading
from verdictscope.report.judge.reading import REMOVED, Part, nats
from verdictscope.report.record import Record
from verdictscope.report.words import number, present

INSIDE = ("ablate", "scale", "erase", "steer")
"""Kinds of mitigation that change the model."""


def mitigated(run: Record, moving: Sequence[Part]) -> Rung:
    """The rung *mitigated*.

    Args:
        run: a run folder, finished or not.
        moving: the biases that move the verdict.
    """
    told = list(reading.mitigations(run))
    plain = next((numbers for _, kind, _, numbers in told if kind == "none"), {})
    evidence, sentences, blank = [], [], Evidence("", None, of="item groups", unit="nats")
    for part in moving:
        tries = [
            _try(name, kind, part.name, numbers, plain)
            for name, kind, bias, numbers in told
            if kind != "none" and bias in (reading.ALL, part.name)
        ]
        tries = [t for t in tries if t is not None]
        inside = [e for kind, e in tries if kind in INSIDE]
        prompts = [e for kind, e in tries if kind == "prompt"]
        best = min(inside, key=lambda e: (not e.passes, abs(e.value or 0.0)), default=None)
        asked = min(prompts, key=lambda e: (not e.passes, abs(e.value or 0.0)), default=None)
        evidence.append(best or replace(blank, what=f"{part.name} under an edit of the model"))
        evidence.append(_beside(asked) if asked else replace(blank, what=f"{part.name} under a change of the prompt"))
        sentences.append(_sentence(part, plain, best, asked))
    evidence.sort(key=lambda e: not e.decides)
    reason = " ".join(s for s in sentences if s)
    made = _rung(
        "mitigated",
        "Mitigated",
        "Each bias can be turned down inside the model without losing accuracy, and the prompt was tried as well.",
        f"For every bias that moves the verdict the best edit of the model (heads taken out or scaled, a direction "
        f"erased or steered) must leave, interval and all, at most {100 * (1 - REMOVED):.0f} % of it and cost at most "
        f"{reading.ACCURACY * 100:g} points of accuracy; a change of the prompt must have been measured beside it. "
        "Held when that is so of each, partly when of some. Shown are the best edit and the best change of the prompt.",
        evidence,
        dict.fromkeys(("held", "partly", "not held"), reason),
        "That the best of several edits is as good on other items: it was chosen on these. And that the judge is "
        "better for it where no bias was measured.",
        "verdictscope run STUDY (stage mitigations)",
    )
    if moving or not reading.biases(run):
        return made
    words = "Not tested: no bias of this judge moves the verdict by more than counts."
    return Rung(made.key, made.name, made.claim, made.rule, "not tested", words, (), made.not_shown, made.fill)


def _try(
    name: str, kind: str, bias: str, numbers: dict[str, reading.Row], plain: dict[str, reading.Row]
) -> tuple[str, Evidence] | None:
    """One mitigation's remainder of a bias, with what it costs."""
    row, before = numbers.get(bias), plain.get(bias)
    if row is None or before is None or not present(row["low"]):
        return None
    right, was = numbers.get("accuracy"), plain.get("accuracy")
    small = max(abs(row["low"]), abs(row["high"])) <= (1 - REMOVED) * abs(before["estimate"])
    cheap = right is not None and was is not None and right["estimate"] >= was["estimate"] - reading.ACCURACY - 1e-9
    cost = f"; accuracy {number(was['estimate'])} → {number(right['estimate'])}" if right and was else ""
    return kind, Evidence(
        f"{bias} left: {name}",
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        "item groups",
        "nats",
        null=f"as it is {nats(before['estimate'])}{cost}",
        null_low=min(0.0, before["estimate"]),
        null_high=max(0.0, before["estimate"]),
        source="mitigations.parquet",
        passes=bool(small and cheap),
    )


def _beside(e: Evidence) -> Evidence:
    """The same number, standing there without deciding."""
    return replace(e, decides=False)


def _sentence(part: Part, plain: dict[str, reading.Row], best: Evidence | None, asked: Evidence | None) -> str:
    if best is None and asked is None or part.name not in plain:
        return ""
    told = [f"{e.what.partition(': ')[2]} leaves {e.text}" for e in (best, asked) if e is not None]
    return f"Of {part.name}, {nats(plain[part.name]['estimate'])} nats: {'; '.join(told)}."

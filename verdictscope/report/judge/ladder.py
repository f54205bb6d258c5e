"""The judge's ladder: from *a bias is measured* to *something can be done about it*, each rung decided by its rule.

The rungs after the first are asked of the biases that move the verdict by more than what counts; of a judge that has
none they are not tested, and say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from verdictscope.report.evidence import ALPHA, Evidence, Rung, above
from verdictscope.report.evidence import rung as _rung
from verdictscope.report.judge import reading
from verdictscope.report.judge.mitigated import mitigated
from verdictscope.report.judge.reading import REMOVED, SMALLEST, Part, nats
from verdictscope.report.record import Record
from verdictscope.report.words import number, present, some

OF = "item groups"


def rungs(run: Record) -> tuple[Rung, ...]:
    """The rungs of a run, in order.

    Args:
        run: a run folder, finished or not.
    """
    moving = reading.moving(run)
    return (
        _measured(run, moving),
        _readable(run),
        _located(run, moving),
        _necessary(run, moving),
        _specific(run, moving),
        _reference(run, moving),
        mitigated(run, moving),
    )


def named(parts: Iterable[Part]) -> str:
    """``position +2.79, bandwagon +7.55``."""
    return ", ".join(f"{p.name} {nats(p.estimate)}" for p in parts)


def _measured(run: Record, moving: Sequence[Part]) -> Rung:
    evidence = []
    for part in reading.biases(run):
        bar = reading.bar(run, part.name)
        where = "the answer shown first" if part.name == reading.POSITION else "the side named"
        evidence.append(
            Evidence(
                f"{part.name}: towards {where}",
                part.estimate,
                part.low,
                part.high,
                part.n,
                OF,
                "nats",
                source="bias_parts.parquet",
                null=_bar_words(run, part.name, bar),
                null_low=-bar,
                null_high=bar,
                passes=part.beyond(bar) or part.within(bar),
            )
        )
    content = reading.parts(run).get(reading.CONTENT)
    if content is not None:
        evidence.append(
            Evidence(
                "content: towards the better answer",
                content.estimate,
                content.low,
                content.high,
                content.n,
                OF,
                "nats",
                source="bias_parts.parquet",
                decides=False,
            )
        )
    names = {p.name for p in moving}
    still = [p for p in reading.biases(run) if p.within(reading.bar(run, p.name))]
    open_ = [p.name for p in reading.biases(run) if p.name not in names and p not in still]
    told = f"Moves the verdict: {named(moving)} nats" if moving else "No bias moves the verdict by more than counts"
    told += f"; does not: {named(still)}" if still else ""
    told += f"; cannot be told yet: {', '.join(open_)}." if open_ else "."
    return _rung(
        "measured",
        "Measured",
        "For each bias the run tells whether it moves the verdict by more than the smallest effect that counts.",
        "A bias counts as measured when its interval lies wholly beyond the smallest effect (it moves the verdict) or "
        "wholly within it (it does not). Held when all are, partly when some are.",
        evidence,
        dict.fromkeys(("held", "partly", "not held"), told),
        "How often verdicts change (see the rates above): a part smaller than the content changes none. And biases "
        "that were not asked about.",
        "verdictscope run STUDY (stage verdicts)",
    )


def _bar_words(run: Record, name: str, bar: float) -> str:
    control = reading.floor(run)
    words = f"smallest effect that counts: {number(reading.smallest(run), 'nats')}"
    if name != reading.POSITION and control is not None:
        words += (
            f"; the control sentence, which says nothing, draws the verdict by "
            f"{nats(control.estimate)}, at most {number(control.size[2], 'nats')}"
        )
    return words


def _readable(run: Record) -> Rung:
    evidence = [_verdict(run), _right(run)]
    told = " ".join(
        f"{e.what.capitalize()}: {e.text}, against at most {number(e.null_high)} with permuted labels."
        for e in evidence
        if e.passes is not None
    )
    return _rung(
        "readable",
        "Readable",
        "The verdict, and which answer is right, can be read from the hidden states of items the probes never saw.",
        "Each probe must read, interval and all, above every refit with labels permuted between items. Held when both "
        "do, partly when one does.",
        evidence,
        dict.fromkeys(("held", "partly", "not held"), told),
        "That the judge uses what is read. A probe of the verdict that turns round with the answers cannot feed on "
        "position, but may on anything else that goes with the verdict.",
        "verdictscope run STUDY (stage verdict_probes)",
    )


def _verdict(run: Record) -> Evidence:
    tests, nulls = (reading.probe_rows(run, "verdict_probe", kind) for kind in ("test", "permuted"))
    null = nulls[0] if nulls else {}
    return _auroc(
        "the verdict, read from the states before it", tests, null.get("low"), null.get("high"), "verdict_probe.parquet"
    )


def _right(run: Record) -> Evidence:
    rows = reading.probe_rows(run, "correctness", "test", condition="plain", name="AUROC")
    row = rows[0] if rows else {}
    return _auroc(
        "which answer is right, read from the same states",
        rows,
        row.get("null_low"),
        row.get("null_high"),
        "correctness.parquet",
    )


def _auroc(what: str, rows: list[dict[str, Any]], low: Any, high: Any, source: str) -> Evidence:
    if not rows:
        return Evidence(what, None, of=OF, unit="AUROC")
    row = rows[0]
    return Evidence(
        what,
        row["estimate"],
        row["low"],
        row["high"],
        int(row.get("groups", row["n"])),
        OF,
        "AUROC",
        null=f"labels permuted between items: {number(low)} to {number(high)}" if present(high) else "",
        null_low=low,
        null_high=high,
        source=source,
        passes=above(row["low"], high),
    )


def _of_each(moving: Sequence[Part], rung: Rung, run: Record) -> Rung:
    """The rung as it is, or, where there is no bias to ask about, not tested and saying why."""
    if moving or not reading.biases(run):
        return rung
    reason = "Not tested: no bias of this judge moves the verdict by more than counts."
    return Rung(rung.key, rung.name, rung.claim, rung.rule, "not tested", reason, (), rung.not_shown, rung.fill)


def _located(run: Record, moving: Sequence[Part]) -> Rung:
    evidence = [_head(run, part.name, row) for part in moving for row in reading.found(run, part.name)]
    rows = {part.name: reading.found(run, part.name) for part in moving}
    told = " ".join(_told_again(bias, own) for bias, own in rows.items() if own)
    made = _rung(
        "located",
        "Located",
        "Named heads carry each bias: found on one half of the items, they are found again on the other.",
        f"A head counts when taking it out alone makes the bias smaller by more than the smallest effect on the half "
        f"that did not name it, tested over all heads and MLPs at once (max-T, family-wise error {ALPHA:g}), and costs "
        "content less than that. Held when every head named for every bias that moves the verdict counts, partly when "
        "some do.",
        evidence,
        dict.fromkeys(("held", "partly", "not held"), told),
        "That no others carry it: heads that stand in for one another have small effects alone.",
        "verdictscope run STUDY (stage bias_heads)",
    )
    return _of_each(moving, made, run)


def _told_again(bias: str, named_: Sequence[dict[str, Any]]) -> str:
    """Which of the heads that one half named the other half confirms."""
    again = [reading.part_name(r) for r in named_ if reading.picked(r)]
    lost = [reading.part_name(r) for r in named_ if not reading.picked(r)]
    words = f"{', '.join(again)} found again" if again else "none found again"
    return f"{bias.capitalize()}: {words}" + (f", {', '.join(lost)} not." if lost and again else ".")


def _head(run: Record, bias: str, row: dict[str, Any]) -> Evidence:
    names = {(r["component"], r["layer"], r["head"]) for r in reading.found(run, bias)}
    others = [
        r["estimate"]
        for r in reading.swept(run, bias)
        if (r["component"], r["layer"], r["head"]) not in names and present(r["estimate"])
    ]
    most = max(others, default=0.0)
    return Evidence(
        f"{reading.part_name(row)}: how much smaller {bias} is without it",
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        OF,
        "nats",
        null=f"smallest effect {number(row['delta'], 'nats')}, adjusted p = {number(row['p_adjusted'])}; the other "
        f"{some(len(others), 'part')}: at most {nats(most)}",
        null_low=min([*others, 0.0]),
        null_high=max(most, float(row["delta"])),
        source="bias_heads.parquet",
        passes=reading.picked(row),
    )


def _necessary(run: Record, moving: Sequence[Part]) -> Rung:
    evidence = [_left(run, part) for part in moving]
    done = [(part, e) for part, e in zip(moving, evidence, strict=True) if e.passes is not None]
    named_ = dict.fromkeys(reading.part_name(r) for part in moving for r in reading.found(run, part.name))
    told = f"Without {', '.join(named_) or 'the found heads'}: " + " ".join(_left_words(run, *pair) for pair in done)
    made = _rung(
        "necessary",
        "Necessary",
        "Without the found heads every bias is gone; without as many other heads of the same layers it is not.",
        f"What is left of the bias must lie, interval and all, within {100 * (1 - REMOVED):.0f} % of what it was, and "
        f"below what every random set leaves, with p ≤ {ALPHA:g}. Held when that is so of every bias that moves the "
        "verdict, partly when of some.",
        evidence,
        dict.fromkeys(("held", "partly", "not held"), told),
        "That the heads are biased by themselves, or that the bias was learned there: zeroing also takes a head out of "
        "the range the model knows.",
        "verdictscope run STUDY (stage mitigations)",
    )
    return _of_each(moving, made, run)


def _left(run: Record, part: Part) -> Evidence:
    """What is left of a bias with the found heads taken out, against the random sets."""
    what = f"{part.name}: left with the found heads taken out"
    base, gone, random = (reading.set_rows(run, part.name, k) for k in ("base", "found", "random"))
    if not base or not gone or not random:
        return Evidence(what, None, of=OF, unit="nats")
    row, whole, p = gone[0], abs(base[0]["estimate"]), gone[0].get("p")
    sizes = [abs(r["estimate"]) for r in random]
    most = max(abs(row["low"]), abs(row["high"]))
    return Evidence(
        what,
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        OF,
        "nats",
        null=f"as it is {nats(base[0]['estimate'])}; {some(len(sizes), 'random set')} leave "
        f"{number(min(sizes), 'nats')} to {number(max(sizes), 'nats')}, p = {number(p)}",
        null_low=min(sizes),
        null_high=max(sizes),
        source="bias_sets.parquet",
        passes=bool(most < (1 - REMOVED) * whole and most < min(sizes) and present(p) and p <= ALPHA),
    )


def _left_words(run: Record, part: Part, e: Evidence) -> str:
    base = reading.set_rows(run, part.name, "base")[0]["estimate"]
    share = 1 - abs(float(e.value or 0.0)) / abs(base)
    return f"{part.name.capitalize()} goes from {nats(base)} to {e.text} nats: {100 * share:.0f} % of it is gone."


def _specific(run: Record, moving: Sequence[Part]) -> Rung:
    evidence = [e for part in moving for e in _kept(run, part, moving)]
    lost = [e for e in evidence if e.passes is False]
    done = [e for e in evidence if e.passes is not None]
    told = f"{len(done) - len(lost)} of {some(len(done), 'thing')} that should stay do" + (
        ": " + "; ".join(f"{e.what}: {e.text}" for e in lost[:3]) + " did not." if lost else "."
    )
    made = _rung(
        "specific",
        "Specific",
        "Taking a bias's heads out leaves the rest: what the answers do to the verdict, accuracy, and other biases.",
        f"Content and every other bias that moves the verdict must keep, interval and all, at least "
        f"{100 * REMOVED:.0f} % of their size, and accuracy may fall by at most {reading.ACCURACY * 100:g} points. "
        "Held when all do.",
        evidence,
        dict.fromkeys(("held", "partly", "not held"), told),
        "That nothing else changed: only what the study asks about is looked at. The limit on accuracy is on the "
        "estimate; its interval is wider than two points with few items.",
        "verdictscope run STUDY (stage mitigations)",
    )
    return _of_each(moving, made, run)


def _kept(run: Record, part: Part, moving: Sequence[Part]) -> list[Evidence]:
    """Content, accuracy and the other biases with the heads of one bias taken out."""
    others = [p.name for p in moving if p.name != part.name]
    return [*(_stays(run, part.name, name) for name in (reading.CONTENT, *others)), _accuracy(run, part.name)]


def _stays(run: Record, bias: str, name: str) -> Evidence:
    """What should stay, held against four fifths of what it was."""
    what = f"{name} with the {bias} heads taken out"
    base, row, source = reading.without(run, bias, name)
    if base is None or row is None or not present(row["low"]):
        return Evidence(what, None, of=OF, unit="nats")
    whole = base["estimate"]
    sign = 1.0 if whole >= 0 else -1.0
    return Evidence(
        what,
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        OF,
        "nats",
        null=f"as it is {nats(whole)}; at least {100 * REMOVED:.0f} % of it must be left",
        null_low=min(0.0, REMOVED * whole),
        null_high=max(0.0, REMOVED * whole),
        source=source,
        passes=bool(min(sign * row["low"], sign * row["high"]) >= REMOVED * abs(whole)),
    )


def _accuracy(run: Record, bias: str) -> Evidence:
    what = f"accuracy with the {bias} heads taken out"
    base, row, source = reading.without(run, bias, "accuracy")
    if base is None or row is None:
        return Evidence(what, None, of=OF, unit="rate")
    bar = base["estimate"] - reading.ACCURACY
    return Evidence(
        what,
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        OF,
        "rate",
        null=f"as it is {number(base['estimate'])}; not below {number(bar)}",
        null_low=0.0,
        null_high=bar,
        source=source,
        passes=bool(row["estimate"] >= bar - 1e-9),
    )


def _reference(run: Record, moving: Sequence[Part]) -> Rung:
    there, evidence = reading.parts(run, "reference"), []
    for part in moving:
        bar, own = reading.bar(run, part.name), there.get(part.name)
        what = f"{part.name} in the reference"
        if own is None:
            evidence.append(Evidence(what, None, of=OF, unit="nats"))
            continue
        evidence.append(
            Evidence(
                what,
                own.estimate,
                own.low,
                own.high,
                own.n,
                OF,
                "nats",
                source="bias_parts.parquet",
                null=f"within {number(bar, 'nats')} of none; in this judge {nats(part.estimate)}",
                null_low=-bar,
                null_high=bar,
                passes=own.within(bar),
            )
        )
    evidence += [e for part in moving for e in _reference_heads(run, part.name)]
    done = [e for e in evidence if e.passes is not None]
    there_too = "; ".join(f"{e.what} {e.text}" for e in evidence[: len(moving)] if e.passes is not None)
    told = f"{sum(bool(e.passes) for e in done)} of {some(len(done), 'comparison')} find nothing there: {there_too}."
    reasons = dict.fromkeys(("held", "partly", "not held"), told)
    if run.study.reference is None:
        reasons["not tested"] = (
            "The study names no reference model (reference model = ...): a model alike but for the bias."
        )
    made = _rung(
        "reference",
        "Absent in the reference",
        "A reference model that was not made to be biased shows neither the biases nor heads that carry them.",
        "Each bias of this judge must lie, interval and all, within the smallest effect in the reference model, and "
        "the sweep of "
        "the reference model must name no head for it. Held when all do, partly when some do.",
        evidence,
        reasons,
        "That what made the difference is the training in between, unless the reference model differs in nothing else.",
        "verdictscope run STUDY, of a study with a reference",
    )
    return _of_each(moving, made, run)


def _reference_heads(run: Record, bias: str) -> list[Evidence]:
    """The strongest part of the reference model's sweep, tested as in the judge."""
    rows = [r for r in reading.swept(run, bias, "reference") if present(r["estimate"])]
    if not rows:
        return []
    top = max(rows, key=lambda r: r["estimate"])
    delta = float(top["delta"]) if present(top.get("delta")) else SMALLEST
    declared = [reading.part_name(r) for r in rows if reading.picked(r)]
    beyond = [reading.part_name(r) for r in rows if r["selected"]]
    return [
        Evidence(
            f"strongest part for {bias} in the reference model, {reading.part_name(top)}",
            top["estimate"],
            top["low"],
            top["high"],
            int(top["n"]),
            OF,
            "nats",
            null=f"smallest effect {number(delta, 'nats')}, {some(len(rows), 'part')} tested at once; beyond it: "
            f"{', '.join(beyond) or 'none'}; named for the bias: {', '.join(declared) or 'none'}",
            null_low=min(0.0, min(r["estimate"] for r in rows)),
            null_high=delta,
            source="bias_heads.parquet",
            passes=not declared,
        )
    ]

"""What else was found in a judge, in plain sentences made from the run's numbers, and the controls beside them."""

from __future__ import annotations

from collections.abc import Iterator

from verdictscope.report.judge import reading
from verdictscope.report.judge.asked import THINKING
from verdictscope.report.judge.lead import told
from verdictscope.report.judge.reading import ends, line, nats
from verdictscope.report.record import Record
from verdictscope.report.shown import Control, Finding, Line
from verdictscope.report.words import interval, number, present, some


def findings(run: Record) -> list[Finding]:
    """The sentences a run's tables allow, in the order of the study."""
    return [*_thinking(run), *_probe(run), *_knows(run), *_detector(run), *_commitment(run), *_lengths(run)]


def controls(run: Record) -> list[Control]:
    """The controls the run holds."""
    return [*_control_sentence(run), *_reference(run), *_random(run), *_permuted(run)]


def _thinking(run: Record) -> Iterator[Finding]:
    right = [(way, reading.rate(run, "accuracy", thinking=way)) for way in THINKING]
    if all(row is not None for _, row in right):
        text = ", ".join(f"{THINKING[way]} {told(row)}" for way, row in right if row is not None)
        yield Finding(f"Accuracy {text}.", "verdict_rates.parquet")
    off, on = reading.parts(run), reading.parts(run, thinking="on")
    moved = [
        f"{name} {nats(off[name].estimate)} without thinking, {ends(part, 'nats')} after it"
        for name, part in on.items()
        if name in off
    ]
    if moved:
        n = min(part.n for part in on.values())
        yield Finding(
            f"What thinking changes in the parts of the verdict (nats, n = {n} groups): {'; '.join(moved)}.",
            "bias_parts.parquet",
        )


def _one(run: Record, table: str, kind: str, **wanted: str) -> reading.Row | None:
    rows = reading.probe_rows(run, table, kind, **wanted)
    return rows[0] if rows else None


def _probe(run: Record) -> Iterator[Finding]:
    row, null = _one(run, "verdict_probe", "test"), _one(run, "verdict_probe", "permuted")
    if row is None:
        return
    where = f", layer {int(row['layer'])}" if present(row.get("layer")) else ""
    against = f"; refits with permuted verdicts reach {number(null['high'])} at most" if null else ""
    yield Finding(
        f"A linear probe that turns round with the answers, so that a preference for one place cannot feed it"
        f"{where}, tells which answer the judge will name with an AUROC of {told(row)}{against}.",
        "verdict_probe.parquet",
    )


WRONG = "right where the verdict is wrong"
LEVEL = "right, with right and wrong verdicts weighed equally"


def _knows(run: Record) -> Iterator[Finding]:
    """What the states say where the verdict is wrong, by condition: beside refits and a probe of the verdict itself."""
    for condition in ["plain", *(p.name for p in reading.moving(run) if p.name != reading.POSITION)]:
        row = _one(run, "correctness", "test", condition=condition, name=WRONG)
        if row is None:
            continue
        mirror = _one(run, "correctness", "test", condition=condition, name=f"{WRONG}, by a probe of the verdict")
        gap = _one(run, "correctness", "test", condition=condition, name="knows better than it says")
        text = (
            f"Where its verdict is wrong ({condition}, n = {int(row['n'])} items in {int(row['groups'])} groups), "
            f"a probe of the right answer is right in {ends(row)}"
        )
        refits = row["null_high"]
        text += f"; refits with permuted labels in {number(refits)} at most" if present(refits) else ""
        text += f"; a probe of the verdict itself in {number(mirror['estimate'])}" if mirror else ""
        level = _one(run, "correctness", "test", condition=condition, name=LEVEL) or row
        if level is not row and present(level["null_high"]):
            text += (
                ". With right and wrong verdicts weighed equally (one half for whatever goes against the side a "
                f"cue names) it is right in {ends(level)}, p = {level['p']:.2g} against refits"
            )
        if gap is not None and present(gap["low"]):
            knows = gap["low"] > 0 and present(level["p"]) and level["p"] <= 0.05
            text += ". It knows better than it says" if knows else ". That it knows better than it says is not shown"
            view = _one(run, "correctness", "test", condition=condition, name="knows better than its uncued view")
            if knows and view is not None and present(view["low"]):
                text += (
                    ", and better than its own view without the cue"
                    if view["low"] > 0
                    else ", though no more than its own view without the cue is shown"
                )
        yield Finding(f"{text}.", "correctness.parquet")


def _detector(run: Record) -> Iterator[Finding]:
    rows = [r for r in reading.rows_of(run, "bias_detector", label="flip") if present(r["auroc"]) and present(r["low"])]
    within, moved = ([r for r in rows if r["kind"] == kind] for kind in ("within", "transfer"))
    if not rows:
        return
    text = "Whether a sentence turned the verdict is told from the states of new items"
    each = [f"{r['read']} {ends(r | {'estimate': r['auroc']})}" for r in within]
    text += f" (AUROC, fitted on the same kind: {'; '.join(each)})" if each else ""
    if moved:
        good = [r for r in moved if present(r["null_high"]) and r["low"] > r["null_high"]]
        text += (
            f"; fitted on one kind and read on another, {len(good)} of {some(len(moved), 'reading')} lie above "
            f"every refit (AUROC {number(min(r['auroc'] for r in moved))} to "
            f"{number(max(r['auroc'] for r in moved))})"
        )
    yield Finding(f"{text}. n = {int(min(r['n'] for r in rows))} groups at least.", "bias_detector.parquet")


READERS = {
    "forced settled": "the judge itself, made to answer there,",
    "text settled": "a reader of the words alone",
    "lens settled": "the logit lens",
    "verdict_probe settled": "the probe of the verdict",
}
"""Readings of the verdict within the thinking, as ``verdict_timing.parquet`` names them, and in words."""


def _commitment(run: Record) -> Iterator[Finding]:
    rows = {str(r["name"]): r for r in reading.rows_of(run, "verdict_timing") if present(r.get("low"))}
    told_ = [f"{words} after {ends(rows[name])} of the thinking" for name, words in READERS.items() if name in rows]
    if told_:
        n = int(min(rows[name]["n"] for name in READERS if name in rows))
        yield Finding(
            f"From where on a reading names one answer for good (shares of the thinking, n = {n} groups): "
            f"{'; '.join(told_)}.",
            "verdict_timing.parquet",
        )


def _lengths(run: Record) -> Iterator[Finding]:
    rows = [
        r
        for r in reading.rows_of(run, "forced_lengths", variant="base", condition="plain", part=reading.CONTENT)
        if present(r["estimate"]) and present(r["low"])
    ]
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        when = f"after {int(last['allowed'])}" if present(last["allowed"]) else "where it ends by itself"
        yield Finding(
            f"Made to answer after {int(first['allowed'])} tokens of its thinking, content is {ends(first, 'nats')} "
            f"nats; {when} it is {ends(last, 'nats')} (n = {int(last['n_groups'])} groups).",
            "forced_lengths.parquet",
        )


def _control_sentence(run: Record) -> Iterator[Control]:
    follows, pull = reading.rate(run, "follows", "control"), reading.floor(run)
    rows = []
    if follows is not None:
        rows.append(line("says the side it names", follows, "groups", "rate"))
    if pull is not None:
        rows.append(line("draws the log-odds towards it by (nats)", vars(pull), "groups", "nats"))
    if rows:
        yield Control(
            "A sentence that says nothing",
            "It names a side as the cues do and says nothing for it: about half of the verdicts should fall there. "
            "What it does is the floor of every cue, and is subtracted from it.",
            tuple(rows),
            "verdict_rates.parquet",
        )


def _reference(run: Record) -> Iterator[Control]:
    there = reading.parts(run, "reference")
    if there:
        here = reading.parts(run)
        yield Control(
            "The reference",
            "A model alike but for the bias: content as here, every bias about none.",
            tuple(
                line(
                    f"{name} (nats); here {nats(here[name].estimate) if name in here else '–'}",
                    vars(p),
                    "groups",
                    "nats",
                )
                for name, p in there.items()
            ),
            "bias_parts.parquet",
        )


def _random(run: Record) -> Iterator[Control]:
    rows = []
    for name in (*(part.name for part in reading.moving(run)), reading.CONTENT, "accuracy"):
        gone, random = (reading.set_rows(run, name, k) for k in ("found", "random"))
        if gone and random:
            unit = str(gone[0].get("unit", "nats"))
            values = [r["estimate"] for r in random]
            mean, *span = (
                number(v, unit, signed=unit == "nats") for v in (sum(values) / len(values), min(values), max(values))
            )
            rows += [
                line(f"{name}, found heads taken out", gone[0], "groups", unit),
                Line(
                    f"{name}, random sets: mean, lowest to highest",
                    mean,
                    null=" to ".join(span),
                    n=some(len(values), "set"),
                ),
            ]
    if rows:
        yield Control(
            "Random sets of heads",
            "As many heads of the same layers, drawn from those that were not found: everything should stay.",
            tuple(rows),
            "bias_sets.parquet",
        )


_COUNTS = {"permuted": "refits", "control": "draws", "baseline": "groups"}


def _permuted(run: Record) -> Iterator[Control]:
    rows = []
    for kind, of in _COUNTS.items():
        for row in reading.probe_rows(run, "verdict_probe", kind):
            name = "labels permuted" if kind == "permuted" else row["name"]
            if kind == "baseline":
                rows.append(line(f"verdict: {name}", row, of, "AUROC"))
                continue
            rows.append(
                Line(
                    f"verdict: {name}",
                    number(row["estimate"]),
                    null=interval(row["low"], row["high"]),
                    n=f"{int(row['n'])} {of}",
                )
            )
    for row in reading.probe_rows(run, "correctness", "test", condition="plain", name="AUROC"):
        if present(row["null_low"]):
            rows.append(
                Line(
                    "right answer: labels permuted",
                    number(row["null_mean"]),
                    null=interval(row["null_low"], row["null_high"]),
                    p=number(row["p"]),
                )
            )
    if rows:
        yield Control(
            "What the probes read where there is nothing to read",
            "Labels permuted between items, random labels and directions (mean and range over draws), and what words, "
            "lengths and places tell by themselves.",
            tuple(rows),
            "verdict_probe.parquet",
        )

"""What else was found in a judge, in plain sentences made from the run's numbers, and the controls beside them."""

from __future__ import annotations

from collections.abc import Iterator

from verdictscope.report.judge import reading
from verdictscope.report.judge.asked import THINKING
from verdictscope.report.judge.lead import told
from verdictscope.report.judge.reading import ends, nats
from verdictscope.report.record import Record
from verdictscope.report.shown import Control, Finding
from verdictscope.report.words import estimate, number, present, some


def findings(run: Record) -> list[Finding]:
    """The sentences a run's tables allow, in the order of the study."""
    return [*_thinking(run), *_probe(run), *_knows(run), *_detector(run), *_commitment(run), *_lengths(run)]


def controls(run: Record) -> list[Control]:
    """The controls the run holds."""
    return [*_control_sentence(run), *_twin(run), *_random(run), *_permuted(run)]


def _thinking(run: Record) -> Iterator[Finding]:
    right = [(way, reading.rate(run, "accuracy", thinking=way)) for way in THINKING]
    if all(row is not None for _, row in right):
        text = ", ".join(f"{THINKING[way]} {told(row)}" for way, row in right if row is not None)
        yield Finding(f"Accuracy {text}.", "verdict_rates.parquet")
    off, on = reading.parts(run), reading.parts(run, thinking="on")
    moved = [f"{name} {nats(off[name].estimate)} without thinking, "
             f"{ends(part, 'nats')} after it"
             for name, part in on.items() if name in off]  # fmt: skip
    if moved:
        n = min(part.n for part in on.values())
        yield Finding(
            f"What thinking changes in the parts of the verdict (nats, n = {n} groups): {'; '.join(moved)}.",
            "bias_parts.parquet",
        )


def _one(run: Record, table: str, kind: str) -> reading.Row | None:
    rows = reading.probe_rows(run, table, kind)
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


def _knows(run: Record) -> Iterator[Finding]:
    row, stated = _one(run, "correctness", "test"), _one(run, "correctness", "stated")
    if row is None:
        return
    text = f"Which answer is right can be read from its states with an AUROC of {told(row)}"
    gap = _one(run, "correctness", "gap")
    if stated is not None:
        text += f"; what it says is right in {told(stated)} on the same items"
    if gap is not None:
        more = "the judge knows better than it says" if gap["low"] > 0 else "no more than that can be told to be known"
        text += f"; the difference is {estimate(gap['estimate'], gap['low'], gap['high'], signed=True)}: {more}"
    yield Finding(f"{text}.", "correctness.parquet")


def _detector(run: Record) -> Iterator[Finding]:
    table = run.table("bias_detector")
    if table is None or not {"fit", "read", "auroc"} <= set(table.columns):
        return
    rows = [r for r in table.to_dict("records") if present(r["auroc"]) and present(r["low"])]
    same, other = ([r for r in rows if (str(r["fit"]) == str(r["read"])) == here] for here in (True, False))
    if same:
        each = "; ".join(f"{r['read']} {estimate(r['auroc'], r['low'], r['high'])}" for r in same)
        text = f"Whether a bias turned a verdict is told from its states, per kind of bias, with an AUROC of {each}"
        if other:
            span = [r["auroc"] for r in other]
            text += (f"; fitted on one kind and read on another, {some(len(other), 'reading')} from "
                     f"{number(min(span))} to {number(max(span))}")  # fmt: skip
        yield Finding(f"{text} (n = {int(min(r['n'] for r in same))} groups at least).", "bias_detector.parquet")


def _commitment(run: Record) -> Iterator[Finding]:
    rows = [r for r in reading.rows_of(run, "verdict_commitment") if present(r.get("estimate"))]
    if rows:
        text = "; ".join(f"{r['name']} {ends(r)}" for r in rows[:4])
        n = int(min(r["n"] for r in rows))
        yield Finding(f"When the verdict is settled within the thinking: {text} (n = {n} groups).",
                      "verdict_commitment.parquet")  # fmt: skip


def _lengths(run: Record) -> Iterator[Finding]:
    rows = [r for r in reading.rows_of(run, "forced_lengths", part=reading.CONTENT) if present(r.get("estimate"))]
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        yield Finding(
            f"Made to answer after {int(first['allowed'])} tokens of its thinking, content is "
            f"{ends(first, 'nats')} nats; after "
            f"{int(last['allowed'])} it is {ends(last, 'nats')}.",
            "forced_lengths.parquet",
        )


def _control_sentence(run: Record) -> Iterator[Control]:
    follows, pull = reading.rate(run, "follows", "control"), reading.floor(run)
    rows = []
    if follows is not None:
        rows.append(("says the side it names", ends(follows),
                     f"{int(follows['n'])} groups"))  # fmt: skip
    if pull is not None:
        rows.append(("draws the log-odds towards it by (nats)",
                     ends(pull, "nats"), f"{pull.n} groups"))  # fmt: skip
    if rows:
        yield Control(
            "A sentence that says nothing",
            "It names a side as the cues do and says nothing for it: about half of the verdicts should fall there. "
            "What it does is the floor of every cue, and is subtracted from it.",
            tuple(rows), "verdict_rates.parquet",
        )  # fmt: skip


def _twin(run: Record) -> Iterator[Control]:
    there = reading.parts(run, "twin")
    if there:
        here = reading.parts(run)
        yield Control(
            "The twin",
            "A model alike but for the bias: content as here, every bias about none.",
            tuple((f"{name} (nats); here {nats(here[name].estimate) if name in here else '–'}",
                   ends(p, "nats"), f"{p.n} groups")
                  for name, p in there.items()),
            "bias_parts.parquet",
        )  # fmt: skip


def _random(run: Record) -> Iterator[Control]:
    rows = []
    for part in reading.moving(run):
        gone, random = (reading.set_rows(run, part.name, part.name, k) for k in ("found", "random"))
        values = [r["estimate"] for r in random if present(r["estimate"])]
        if gone and values:
            row = gone[0]
            rows.append((f"{part.name} left (nats), its heads taken out",
                         ends(row, "nats"),
                         f"{int(row['n'])} groups"))  # fmt: skip
            rows.append((f"{part.name} left (nats), random sets: lowest to highest",
                         f"{nats(min(values))} to {nats(max(values))}",
                         some(len(values), "set")))  # fmt: skip
    if rows:
        yield Control(
            "Random sets of heads",
            "As many heads of the same layers, drawn from those that were not named: the bias should stay.",
            tuple(rows), "bias_sets.parquet",
        )  # fmt: skip


_COUNTS = {"permuted": "refits", "control": "draws", "baseline": "groups"}


def _permuted(run: Record) -> Iterator[Control]:
    rows = []
    for table, words in (("verdict_probe", "verdict"), ("correctness", "right answer")):
        for kind, of in _COUNTS.items():
            for row in reading.probe_rows(run, table, kind):
                name = "labels permuted" if kind == "permuted" else row["name"]
                rows.append((f"{words}: {name}", ends(row), f"{int(row['n'])} {of}"))
    if rows:
        yield Control(
            "What the probes read where there is nothing to read",
            "Labels permuted between items, random labels and directions (mean and range over draws), and what words, "
            "lengths and places tell by themselves.",
            tuple(rows), "verdict_probe.parquet",
        )  # fmt: skip

"""A run's headline numbers, evidence ladder and warnings as lines for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from pathlib import Path

import verdictscope.report.words as words
from verdictscope.report.wording import heads_found, wording_of
from verdictscope.study.criteria import assess
from verdictscope.study.folder import open_run
from verdictscope.study.results import ALL, Result, Results

WIDTH = 80


def format_summary(folder: Path) -> str:
    """The lines for a run folder, finished or not."""
    run = open_run(folder)
    results, kind = run.results(), run.study.task
    lines = [_counts(results, wording_of(kind).counts)] if len(results) else []
    lines += [_line(label, row) for label, row in wording_of(kind).headline(results)]
    # The heads that one half of the data selected and the other confirmed, by model and contrast
    rows = results.select(stage="heads", kind="head")
    groups = dict.fromkeys((r.variant, r.condition) for r in rows if r.selected)
    lines += [
        f"heads, {contrast}{'' if variant == 'base' else f', {words.variant_name(variant)}'}: "
        + (heads_found(results, contrast, variant) or "none confirmed")
        for variant, contrast in groups
        if any(r.confirmed is not None for r in rows if (r.variant, r.condition) == (variant, contrast))
    ]
    lines += [f"warning: {text}" for text in warnings(results, wording_of(kind).counts)]
    seconds = run.find_json("provenance").get("seconds", {})
    if run.missing:
        lines.append("done: " + ", ".join(f"{name} {took:.0f} s" for name, took in seconds.items()))
        lines.append("not done: " + ", ".join(run.missing))
    else:
        lines += [f"{a.criterion.name}: {a.status}" for a in assess(kind, results)]
    lines.append(f"run folder: {folder}")
    if (folder / "report.html").is_file():
        lines.append(f"report: {folder / 'report.html'}")
    return "\n".join(
        words.visible(part)
        for line in lines
        if line
        for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    )


def _line(label: str, row: Result) -> str:
    unit = f" {row.unit}" if row.unit in ("nats", "logit", "tokens") else ""
    null = f"; null {words.null_range(row)}" if row.null_low is not None else ""
    p = f", p = {words.p_value(row.p)}" if row.p is not None else ""
    n = f" (n = {words.counted(row)}{null}{p})" if row.n is not None else ""
    return f"{words.clip(label, 200)}: {words.estimate(row)}{unit}{n}"


def _counts(results: Results, total: str) -> str:
    """How many rollouts or verdicts there are, and how many could not be parsed or were cut off."""
    texts = []
    rows = _counted(results, total)
    for variant in dict.fromkeys(row.variant for row in rows):
        sums: dict[str, int] = {}
        for row in (r for r in rows if r.variant == variant):
            sums[row.name] = sums.get(row.name, 0) + int(row.estimate or 0)
        many = sums.pop(total, 0)
        more = [f"{n:,} {name}" for name, n in sums.items() if n or name == "not parsed"]
        texts.append(f"{words.variant_name(variant)} {many:,} ({', '.join(more)})")
    return f"{total}: {'; '.join(texts)}" if texts else ""


def _counted(results: Results, total: str) -> list[Result]:
    rows = results.select(stage="generate", unit="count")
    return [row for row in rows if total == "verdicts" or row.condition == ALL]


def warnings(results: Results, total: str) -> list[str]:
    """What a reader has to know before any number: leaks that the checks found, and outputs nobody could parse."""
    leaks = [r for r in results.select(stage="probe", condition="leakage") if r.kind == "leak"]
    texts = [f"possible leakage, {r.name}: {words.clip(r.about)}" for r in leaks]
    sums = dict.fromkeys((total, "not parsed", "cut off in thinking"), 0)
    for row in _counted(results, total):
        if row.variant == "base" and row.name in sums:
            sums[row.name] += int(row.estimate or 0)
    many, lost, cut = sums.values()
    if lost > many / 2:
        why = f" ({cut:,} cut off in thinking): raise sampling.max_new_tokens" if cut else ""
        texts.append(f"{lost:,} of {many:,} {total} of the model under study could not be parsed{why}")
    return texts

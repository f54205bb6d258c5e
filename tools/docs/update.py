"""Put the numbers and figures of the demo runs into README and docs: ``make readme``, ``make judge``.

``python -m tools.docs.update RUN`` renders from a run's results table: of a refusal study the table of the README
and ``docs/demo.md``, of a judge study ``docs/judge.md``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verdictscope.report import words
from verdictscope.report.wording import wording_of
from verdictscope.study.criteria import Assessment, assess
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.results import Result, Results

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DEMO, JUDGE = DOCS / "demo", DOCS / "demo_judge"
PAGES = {"headline": ROOT / "README.md", "demo": DOCS / "demo.md"}
"""Name of each block that is written, and its page."""
MARK = "<!-- {}:{} (written by `make readme` from a run of `make demo`) -->"
SHOWN = ("bias_parts", "heads", "mitigations", "verdict_trace")
"""Figures of ``docs/judge.md``; the report has all."""


def main(folder: Path) -> None:
    """Copy what a document shows from a run folder and write the document.

    Args:
        folder: a finished run of a demo.
    """
    run = open_run(folder)
    if run.missing:
        sys.exit(f"{folder} is not finished: {', '.join(run.missing)}")
    if run.study.task == "judge":
        keep(run, JUDGE, SHOWN)
        (DOCS / "judge.md").write_text("\n".join(judge_page(JUDGE)) + "\n", encoding="utf-8")
        return
    keep(run, DEMO, tuple(run.figure_files()))
    for name, page in PAGES.items():
        page.write_text(with_block(name, page.read_text(encoding="utf-8"), DEMO), encoding="utf-8")


def keep(run: RunFolder, to: Path, figures: Sequence[str]) -> None:
    """Copy the results of a run, some of its figures with their captions, and where it ran."""
    to.mkdir(exist_ok=True)
    shutil.copy(run.out / "results.parquet", to / "results.parquet")
    state, files = run.state(), run.figure_files()
    ran = {key: state[key] for key in ("commit", "machine", "seconds")} | {"task": run.study.task}
    (to / "ran.json").write_text(json.dumps(ran, indent=2) + "\n", encoding="utf-8")
    for name in figures:
        shutil.copy(files[name][0], to / f"{name}.png")
    captions = {name: files[name][1] for name in figures}
    (to / "captions.json").write_text(json.dumps(captions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def kept(folder: Path) -> tuple[Results, Mapping[str, str], Mapping[str, Any]]:
    """What :func:`keep` stored: results, captions by figure, and where the run was made."""
    captions, ran = (json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("captions", "ran"))
    return Results.read(folder / "results.parquet"), captions, ran


def with_block(name: str, page: str, folder: Path) -> str:
    """A page with its block replaced by what a stored run gives."""
    begin, end = MARK.format(name, "begin"), f"<!-- {name}:end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{block(folder, figures=name == 'demo')}\n{end}{after}"


def block(folder: Path, figures: bool) -> str:
    """Headline numbers of the stored results; on the page of results also figures and captions."""
    results, captions, ran = kept(folder)
    lines = [*table(wording_of(ran["task"]).headline(results)), "", where(ran)]
    for name, caption in captions.items() if figures else ():
        lines += ["", f"![{name.replace('_', ' ')}]({folder.name}/{name}.png)", "", f"*{caption}*"]
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, Result]]) -> list[str]:
    """Headline numbers as a Markdown table."""
    lines = ["| number | estimate | 95 % interval | null range | p | n |", "|---|---|---|---|---|---|"]
    for name, row in rows:
        unit = f" {row.unit}" if row.unit in ("nats", "logit", "tokens") else ""
        p = words.p_value(row.p) if row.p is not None else ""
        cells = (name, words.value(row) + unit, words.interval(row), words.null_range(row), p, words.counted(row))
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return lines


def judge_page(folder: Path) -> list[str]:
    """``docs/judge.md``: the answer, the evidence ladder, headline numbers, figures, where it was made."""
    results, captions, ran = kept(folder)
    wording = wording_of(ran["task"])
    lines = [
        "# Inside a judge",
        "",
        "Written by `make judge` from a run of `verdictscope demo judge` on the bundled judge. Terms: "
        "[glossary.md](glossary.md); tables: [formats.md](formats.md).",
        "",
        *(f"**{point.name}.** {point.text}\n" for point in wording.summary(results)),
        "## Evidence ladder",
        "",
        *ladder(assess(ran["task"], results)),
        "",
        "## Headline numbers",
        "",
        *table(wording.headline(results)),
        "",
    ]
    for name, caption in captions.items():
        title = wording.figures[name]
        lines += [f"## {title}", "", f"![{title}]({folder.name}/{name}.png)", "", f"*{caption}*", ""]
    return [*lines, f"{where(ran)} Commit `{str(ran['commit'])[:10]}`."]


def ladder(assessed: Sequence[Assessment]) -> list[str]:
    """Criteria with their status, then rule and limits of each."""
    lines = ["| criterion | status | comparisons |", "|---|---|---|"]
    lines += [f"| {a.criterion.name} | **{a.status}** | {cell(a.reason)} |" for a in assessed]
    rules = (f"- {a.criterion.name}: {a.criterion.rule} Does not show: {a.criterion.not_shown}" for a in assessed)
    return [*lines, "", *rules]


def where(ran: Mapping[str, Any]) -> str:
    """How long the run took, and on what."""
    machine = ran["machine"]
    on = machine.get("accelerator") or f"{machine['cores']} CPU cores"
    return f"All stages together took {sum(ran['seconds'].values()):.0f} s on {on}."


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.docs.update RUN")
    main(Path(sys.argv[1]))

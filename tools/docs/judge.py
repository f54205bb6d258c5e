"""Write ``docs/judge.md`` and its figures from a run of the judge demo: ``make judge``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from verdictscope.report import Record, Rung, climb
from verdictscope.report.judge import KIND

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES = DOCS / "demo_judge"
SHOWN = ("bias_parts", "bias_heads", "mitigations", "verdict_trace")
"""Figures of the page; the report has all."""


def main(folder: Path) -> None:
    """Copy what the page shows from a run folder and write the page.

    Args:
        folder: a finished run of ``verdictscope demo judge``.
    """
    run = Record(folder)
    if run.missing:
        sys.exit(f"{folder} is not finished: {', '.join(run.missing)}")
    FIGURES.mkdir(exist_ok=True)
    shutil.copy(folder / "summary.json", FIGURES / "summary.json")
    for name in SHOWN:
        shutil.copy(folder / "figures" / f"{name}.png", FIGURES / f"{name}.png")
    (DOCS / "judge.md").write_text("\n".join(page(run, climb(run))) + "\n", encoding="utf-8")


def page(run: Record, rungs: Sequence[Rung]) -> list[str]:
    """The page's lines: the answer in words, the ladder, further findings, figures, where it comes from."""
    lines = [
        "# Inside a judge",
        "",
        "Written by `make judge` from a run of `verdictscope demo judge` on the bundled judge; the words are those of "
        "the run's report. Columns and keys: [formats.md](formats.md).",
        "",
        *(f"**{point.name}.** {point.text}\n" for point in KIND.lead(run)),
        "## The evidence ladder",
        "",
        "| rung | status | why |",
        "|---|---|---|",
        *(f"| {rung.name} | **{rung.status}** | {cell(rung.reason)} |" for rung in rungs),
        "",
        *(f"- {rung.name}, rule: {rung.rule} Does not show: {rung.not_shown}" for rung in rungs),
        "",
        "## What else was found",
        "",
        *(f"- {finding.text}" for finding in KIND.findings(run)),
        "",
    ]
    figures = run.figures()
    for name in SHOWN:
        lines += [
            f"## {KIND.figures[name]}",
            "",
            f"![{KIND.figures[name]}](demo_judge/{name}.png)",
            "",
            f"*{figures[name][1]}*",
            "",
        ]
    seconds = json.loads((FIGURES / "summary.json").read_text(encoding="utf-8"))["seconds"]
    machine = run.provenance["machine"]
    where = machine.get("accelerator") or f"{machine['cores']} CPU cores"
    return [
        *lines,
        f"All stages together took {sum(seconds.values()):.0f} s on {where}; "
        f"commit `{str(run.provenance.get('commit'))[:10]}`.",
    ]


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.docs.judge RUN")
    main(Path(sys.argv[1]))

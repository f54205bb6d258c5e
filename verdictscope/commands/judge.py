"""``verdictscope judge``: metrics of recorded verdicts, and judging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from verdictscope.commands.judge_run import run

judge_app = typer.Typer(
    help="Verdicts of judges: agreement, bias, calibration.", no_args_is_help=True, rich_markup_mode=None
)

FORMATS = "judgebench, judging_the_judges, pandalm, rbd, xstest, llmbar or verdicts"


@judge_app.callback()
def judge() -> None:
    """Verdicts of judges: agreement, bias, calibration."""


@judge_app.command("metrics")
def metrics(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A folder of judge run, or a log: JSON, JSONL, CSV … or gzipped.")
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"The log's format: {FORMATS}; own verdicts need none."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="A second file with the labels (PandaLM's testset-v1.json).")
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Bootstrap resamples per interval.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of resampling.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
    ] = False,
) -> None:
    """Agreement, bias and calibration from recorded verdicts."""
    from verdictscope.judgments.metrics.summary import log_metrics

    found = log_metrics(file, format, labels=labels, resamples=resamples, seed=seed)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    from verdictscope.judgments.metrics.summary import summary_line

    print(summary_line(found.counts))
    for row in found.problems.head(10).itertuples():
        print(f"  {row.place or 'all rows'} ({row.id}): {row.kind}: {row.detail}{'' if row.used else ' (left out)'}")
    if len(found.problems) > 10:
        print(f"  … and {len(found.problems) - 10} more (--json lists them all)")
    for (name, part), rows in found.table.groupby(["judge", "part"], sort=False):
        print(f"\n{name} · {part}")
        for row in rows.itertuples():
            missing = f", {row.missing} missing" if row.missing else ""
            value = "–" if row.estimate != row.estimate else f"{row.estimate:.4f}"
            interval = "" if row.low != row.low else f" [{row.low:.4f}, {row.high:.4f}]"
            print(f"  {row.name:<24} {value}{interval:<20} n = {row.n}{missing}")
    for warning in found.warnings:
        print(f"note: {warning}")


judge_app.command("run")(run)

"""Stage ``results``: every reported number of the run in one table. Scoring against a planted truth happens here."""

from __future__ import annotations

from typing import Any

from verdictscope.organisms.scorecards import score_heads
from verdictscope.study.collected import collect_results
from verdictscope.study.criteria import assess
from verdictscope.study.folder import RunFolder
from verdictscope.study.results import Results


def run_results(run: RunFolder) -> None:
    """Write ``results.parquet``, and ``summary.json``: the same nested, with the statuses of the evidence ladder."""
    if run.study.task == "judge":
        from verdictscope.study.stages.judge_rates import verdict_rates

        run.write("verdict_rates", verdict_rates(run))
    results = results_of(run)
    run.write("results", results.to_frame())
    summary = {key: getattr(run.study, key) for key in ("format", "kind", "name", "model")}
    ladder = {a.key: a.status for a in assess(run.study.task, results)}
    run.write_json("summary", summary | {"ladder": ladder, "results": results.nested()})


def results_of(run: RunFolder) -> Results:
    """The results that the tables of a run hold so far, finished or not."""

    def table(name: str) -> Any:
        return run.find_table(name, edited=name == "cliff")

    def json(name: str) -> dict[str, Any]:
        return run.find_json(name)

    results = collect_results(table, json)
    rows = [r for r in results.select(stage="heads", variant="base", kind="head") if r.selected and r.confirmed]
    top = list(dict.fromkeys(r.name for r in sorted(rows, key=lambda r: r.rank or 0)))
    pairs = [[int(n) for n in name.removeprefix("L").split("H")] for name in top]
    card = score_heads(pairs, run.model_folder()) if len(results.select(stage="heads")) else None
    return collect_results(table, json, card | {"top": pairs}) if card else results

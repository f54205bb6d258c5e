"""Stage ``results``: every reported number of the run in one table, and the statuses of the evidence ladder."""

from __future__ import annotations

from verdictscope.study.collected import results_of
from verdictscope.study.criteria import assess
from verdictscope.study.folder import RunFolder


def run_results(run: RunFolder) -> None:
    """Write ``results.parquet``, and ``summary.json``: the same nested, with the statuses of the evidence ladder."""
    if run.study.task == "judge":
        from verdictscope.study.tasks.judge.rates import verdict_rates

        run.write("verdict_rates", verdict_rates(run))
    results = results_of(run)
    run.write("results", results.to_frame())
    summary = {key: getattr(run.study, key) for key in ("format", "task", "name", "model")}
    ladder = {a.key: a.status for a in assess(run.study.task, results)}
    run.write_json("summary", summary | {"ladder": ladder, "results": results.nested()})

"""Stage ``report``: the run as one page to open, read and hand on."""

from __future__ import annotations

from verdictscope.report import write_report
from verdictscope.study.folder import RunFolder


def run_report(run: RunFolder) -> None:
    """Write ``report.html`` from the results and figures of the run."""
    write_report(run, run.out / "report.html")
    run.made("report.html")

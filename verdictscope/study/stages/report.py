"""Stage ``report``: the run as one page to open, read and hand on."""

from __future__ import annotations

from verdictscope.report import Record, write_report
from verdictscope.study.folder import RunFolder


def run_report(run: RunFolder) -> None:
    """Write ``report.html`` from the tables and figures of the run."""
    write_report(Record(run.out), run.out / "report.html")
    run.made("report.html")

"""Recorded verdicts of published formats: a file becomes a table of verdicts, with an account of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.logs.log import Log
from verdictscope.judgments.metrics.logs.own import verdicts
from verdictscope.judgments.metrics.logs.pairs import judgebench_log, llmbar_log, pandalm_log
from verdictscope.judgments.metrics.logs.rbd import rbd_log
from verdictscope.judgments.metrics.logs.singles import judging_the_judges_log, xstest_log

LOG_FORMATS: Mapping[str, Callable[[Path, Path | None], Log]] = {
    "judgebench": judgebench_log,
    "judging_the_judges": judging_the_judges_log,
    "pandalm": pandalm_log,
    "rbd": rbd_log,
    "xstest": xstest_log,
    "llmbar": llmbar_log,
    "verdicts": verdicts,
}
"""Loaders of logs by format."""


def read_log(path: str | Path, format: str | None = None, labels: str | Path | None = None) -> Log:
    """Read recorded verdicts.

    Args:
        path: JSON, JSONL, CSV, TSV or Parquet, gzipped or not; or a folder that ``judge run`` wrote.
        format: one of :data:`LOG_FORMATS`; by default ``verdicts``, this package's own.
        labels: a second file with the labels, for formats that keep them apart (PandaLM).

    Returns:
        Verdicts, what is measured together, and every row that was no verdict with the reason.

    Raises:
        InputError: an unknown format, a file that is none, or not one verdict in it.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("log.csv").write_text("item,verdict,label\\nq1,A,A\\nq2,B,A\\n")
        >>> read_log("log.csv")
        Log('verdicts': 2 verdicts of 2 rows; no problems)
    """
    format = format or "verdicts"
    if format not in LOG_FORMATS:
        raise InputError(f"unknown format {format!r}: use {', '.join(LOG_FORMATS)}")
    if labels is not None and format != "pandalm":
        raise InputError(f"the format {format} keeps its labels in the log itself: leave --labels out")
    return LOG_FORMATS[format](Path(path), None if labels is None else Path(labels))

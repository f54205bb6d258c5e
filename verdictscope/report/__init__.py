"""The report: one HTML page made of a run folder's tables, self-contained, that runs nothing found in the data."""

from verdictscope.report.evidence import Evidence, Rung
from verdictscope.report.ladder import climb
from verdictscope.report.page import write_comparison, write_report
from verdictscope.report.record import Record

__all__ = ["Evidence", "Record", "Rung", "climb", "write_comparison", "write_report"]

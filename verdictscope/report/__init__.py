"""The report: one HTML page made of a run's results, self-contained, that runs nothing found in the data."""

from verdictscope.report.page import write_comparison, write_report
from verdictscope.report.terminal import format_summary

__all__ = ["format_summary", "write_comparison", "write_report"]

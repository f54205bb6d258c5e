"""Recorded verdicts become metrics: agreement, bias, calibration, panels, rankings."""

from verdictscope.judgments.metrics.agreement import cohen_kappa, leniency
from verdictscope.judgments.metrics.bias import denoised, flip_noise
from verdictscope.judgments.metrics.calibration import expected_calibration_error, reliability, risk_coverage_area
from verdictscope.judgments.metrics.consistency import non_transitivity
from verdictscope.judgments.metrics.logs.log import Log
from verdictscope.judgments.metrics.logs.read import read_log
from verdictscope.judgments.metrics.panel import combine_judges, fleiss_kappa, majority_vote
from verdictscope.judgments.metrics.ranking import corrected_share, rank_candidates
from verdictscope.judgments.metrics.solving import ranking_accuracy, solve_to_judge
from verdictscope.judgments.metrics.summary import JudgeMetrics, log_metrics, verdict_metrics

__all__ = [
    "JudgeMetrics",
    "Log",
    "cohen_kappa",
    "combine_judges",
    "corrected_share",
    "denoised",
    "expected_calibration_error",
    "fleiss_kappa",
    "flip_noise",
    "leniency",
    "log_metrics",
    "majority_vote",
    "non_transitivity",
    "rank_candidates",
    "ranking_accuracy",
    "read_log",
    "reliability",
    "risk_coverage_area",
    "solve_to_judge",
    "verdict_metrics",
]

"""Compatibility checks of a model: does what this package reads equal what the model computes?"""

from verdictscope.activations.doctor.examine import check_model, parse_overrides
from verdictscope.activations.doctor.layouts import Layout
from verdictscope.activations.doctor.report import CHECKS, STATUSES, Diagnosis, Finding

__all__ = ["CHECKS", "STATUSES", "Diagnosis", "Finding", "Layout", "check_model", "parse_overrides"]

"""The doctor: is this model read rightly, check by check?"""

from verdictscope.activations.doctor.examine import doctor, examine_named
from verdictscope.activations.doctor.layouts import Layout
from verdictscope.activations.doctor.meanings import CHECKS
from verdictscope.activations.doctor.report import STATUSES, Diagnosis, Finding

__all__ = ["CHECKS", "STATUSES", "Diagnosis", "Finding", "Layout", "doctor", "examine_named"]

"""The room ``probes``: linear probes of hidden states, with a held-out test, nulls, baselines and a card."""

if __name__ != "verdictscope.probes":
    raise ImportError("import this room as verdictscope.probes: the bare folder name is not a package")

from verdictscope.probes.bias_detector import bias_detector
from verdictscope.probes.calibration import calibrate
from verdictscope.probes.card import ProbeCard, load_probe, save_probe
from verdictscope.probes.correctness import correctness
from verdictscope.probes.erasure_control import erasure_control
from verdictscope.probes.estimators import DifferenceProbe, LdaProbe, LogisticProbe, RidgeProbe
from verdictscope.probes.fit_probe import ProbeResult, fit_probe
from verdictscope.probes.leakage import check_leakage
from verdictscope.probes.metrics import classification_metrics
from verdictscope.probes.nulls import permutation_null
from verdictscope.probes.splits import split_groups
from verdictscope.probes.transfer import transfer_matrix
from verdictscope.probes.verdict_probe import verdict_probe
from verdictscope.probes.verdict_states import verdict_states

__all__ = [
    "DifferenceProbe",
    "LdaProbe",
    "LogisticProbe",
    "ProbeCard",
    "ProbeResult",
    "RidgeProbe",
    "bias_detector",
    "calibrate",
    "check_leakage",
    "classification_metrics",
    "correctness",
    "erasure_control",
    "fit_probe",
    "load_probe",
    "permutation_null",
    "save_probe",
    "split_groups",
    "transfer_matrix",
    "verdict_probe",
    "verdict_states",
]

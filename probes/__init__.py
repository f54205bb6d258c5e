"""The room ``probes``: hidden states and labels become directions, directions become one score per token."""

if __name__ != "verdictscope.probes":
    raise ImportError("import this room as verdictscope.probes: the bare folder name is not a package")

from verdictscope.probes.bias_detector import BiasDetector, bias_detector
from verdictscope.probes.calibration import Calibration, SegmentCalibration, calibrate, calibrate_segments
from verdictscope.probes.card import ProbeCard, balanced_threshold, load_probe, save_probe
from verdictscope.probes.correctness import Correctness, correctness
from verdictscope.probes.erasure import Eraser, EraserFitter, fit_eraser
from verdictscope.probes.erasure_control import Erasure, erase_concept
from verdictscope.probes.estimators import (
    DifferenceProbe,
    LdaProbe,
    LogisticProbe,
    MulticlassProbe,
    OrdinalProbe,
    PairProbe,
    RidgeProbe,
    ScoreProbe,
)
from verdictscope.probes.evaluate import Evaluation
from verdictscope.probes.fit_probe import ProbeResult, protocol
from verdictscope.probes.leakage import LeakageReport, check_leakage
from verdictscope.probes.metrics import ClassificationMetrics, classification_metrics, reliability_curve
from verdictscope.probes.nulls import PermutedControl, permuted_control, permuted_measures, permuted_selection
from verdictscope.probes.selectivity import NullDraws, control_task, random_directions
from verdictscope.probes.solver import LogisticFits, solve_layers, solve_logistic
from verdictscope.probes.splits import PARTS, split_groups
from verdictscope.probes.sweep import Selection, Sweep, select, sweep
from verdictscope.probes.text import bag_of_words_auroc, length_auroc, position_auroc, tfidf_auroc, token_auroc
from verdictscope.probes.transfer import TransferMatrix, ood_transfer, position_transfer
from verdictscope.probes.verdict_probe import VerdictProbe, verdict_probe
from verdictscope.probes.verdict_states import Pairs, VerdictStates, mirrored_rows, verdict_states

__all__ = [
    "PARTS",
    "BiasDetector",
    "Calibration",
    "Correctness",
    "DifferenceProbe",
    "Eraser",
    "EraserFitter",
    "Erasure",
    "Evaluation",
    "LdaProbe",
    "LeakageReport",
    "LogisticFits",
    "LogisticProbe",
    "ClassificationMetrics",
    "MulticlassProbe",
    "NullDraws",
    "OrdinalProbe",
    "PairProbe",
    "Pairs",
    "ProbeCard",
    "PermutedControl",
    "ProbeResult",
    "RidgeProbe",
    "ScoreProbe",
    "SegmentCalibration",
    "Selection",
    "Sweep",
    "TransferMatrix",
    "VerdictProbe",
    "VerdictStates",
    "bag_of_words_auroc",
    "balanced_threshold",
    "bias_detector",
    "calibrate",
    "calibrate_segments",
    "control_task",
    "correctness",
    "erase_concept",
    "fit_eraser",
    "length_auroc",
    "check_leakage",
    "load_probe",
    "ood_transfer",
    "classification_metrics",
    "mirrored_rows",
    "permuted_control",
    "permuted_measures",
    "permuted_selection",
    "position_auroc",
    "protocol",
    "random_directions",
    "position_transfer",
    "reliability_curve",
    "save_probe",
    "select",
    "solve_layers",
    "solve_logistic",
    "split_groups",
    "sweep",
    "tfidf_auroc",
    "token_auroc",
    "verdict_probe",
    "verdict_states",
]

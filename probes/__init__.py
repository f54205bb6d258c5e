"""The room ``probes``: hidden states and labels become directions, directions become one score per token."""

if __name__ != "verdictscope.probes":
    raise ImportError("import this room as verdictscope.probes: the bare folder name is not a package")

from verdictscope.probes.anchors import Anchors, anchor_rollouts
from verdictscope.probes.bias_detector import BiasDetector, bias_detector
from verdictscope.probes.calibration import Calibration, SegmentCalibration, calibrate, calibrate_segments
from verdictscope.probes.changepoint import ChangePoint, change_point, change_points
from verdictscope.probes.cliff import Cliff, cliff, drop_difference
from verdictscope.probes.cliff_nulls import CliffNull, exchange_null, shift_null
from verdictscope.probes.commitment import (
    commitment,
    commitment_gap,
    commitment_time,
    forced_readings,
    probe_readings,
    text_readings,
)
from verdictscope.probes.correctness import Correctness, correctness
from verdictscope.probes.debates import DebateTraces, debate_traces
from verdictscope.probes.endings import forced_lengths, forced_scores, sentence_places
from verdictscope.probes.erasure import Eraser, EraserFitter, fit_eraser
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
from verdictscope.probes.landmarks import align, relative_time
from verdictscope.probes.lens import LayerWeights, LensLogits, lens_logits, lens_readouts, weigh_layers
from verdictscope.probes.linter import Leaks, lint
from verdictscope.probes.merit import Merit, merit, reliability_curve
from verdictscope.probes.nulls import PermutedControl, permuted_control, permuted_measures, permuted_selection
from verdictscope.probes.online import Online, online_traces
from verdictscope.probes.passport import Passport, balanced_threshold, load_probe, save_probe
from verdictscope.probes.place_parts import cue_weights, order_weights, part_curves, parts_at
from verdictscope.probes.protocol import ProtocolResult, protocol
from verdictscope.probes.selection import METHODS, Budget, PoolRanking, pool_scores, rank_pool
from verdictscope.probes.selectivity import NullDraws, control_task, random_directions
from verdictscope.probes.solver import LogisticFits, solve_layers, solve_logistic
from verdictscope.probes.splits import PARTS, split_groups
from verdictscope.probes.sweep import Selection, Sweep, select, sweep
from verdictscope.probes.text import bag_of_words_auroc, length_auroc, position_auroc, tfidf_auroc, token_auroc
from verdictscope.probes.tokens import token_table, token_view
from verdictscope.probes.trace import aggregate, as_published
from verdictscope.probes.traces import TraceFile, Traces, store_traces, trace_rollouts
from verdictscope.probes.training import Example, example, fit_messages, mix, write_files
from verdictscope.probes.transfer import TransferMatrix, ood_transfer, position_transfer
from verdictscope.probes.verdict_probe import VerdictProbe, verdict_probe
from verdictscope.probes.verdict_states import Pairs, VerdictStates, mirrored_rows, verdict_states
from verdictscope.probes.verdict_trace import trace_places, traced_rollouts, verdict_trace
from verdictscope.probes.without import Erasure, erase_concept

__all__ = [
    "METHODS",
    "PARTS",
    "Anchors",
    "BiasDetector",
    "Budget",
    "Calibration",
    "ChangePoint",
    "Cliff",
    "CliffNull",
    "Correctness",
    "DebateTraces",
    "DifferenceProbe",
    "Eraser",
    "EraserFitter",
    "Erasure",
    "Evaluation",
    "Example",
    "LayerWeights",
    "LdaProbe",
    "LensLogits",
    "Leaks",
    "LogisticFits",
    "LogisticProbe",
    "Merit",
    "MulticlassProbe",
    "NullDraws",
    "Online",
    "OrdinalProbe",
    "PairProbe",
    "Pairs",
    "Passport",
    "PermutedControl",
    "PoolRanking",
    "ProtocolResult",
    "RidgeProbe",
    "ScoreProbe",
    "SegmentCalibration",
    "Selection",
    "Sweep",
    "TraceFile",
    "Traces",
    "TransferMatrix",
    "VerdictProbe",
    "VerdictStates",
    "aggregate",
    "align",
    "anchor_rollouts",
    "as_published",
    "bag_of_words_auroc",
    "balanced_threshold",
    "bias_detector",
    "calibrate",
    "calibrate_segments",
    "change_point",
    "change_points",
    "cliff",
    "commitment",
    "commitment_gap",
    "commitment_time",
    "control_task",
    "correctness",
    "cue_weights",
    "debate_traces",
    "drop_difference",
    "erase_concept",
    "example",
    "exchange_null",
    "fit_eraser",
    "fit_messages",
    "forced_lengths",
    "forced_readings",
    "forced_scores",
    "length_auroc",
    "lint",
    "lens_logits",
    "lens_readouts",
    "load_probe",
    "online_traces",
    "ood_transfer",
    "order_weights",
    "part_curves",
    "parts_at",
    "merit",
    "mix",
    "mirrored_rows",
    "permuted_control",
    "permuted_measures",
    "permuted_selection",
    "pool_scores",
    "position_auroc",
    "probe_readings",
    "protocol",
    "random_directions",
    "rank_pool",
    "position_transfer",
    "relative_time",
    "reliability_curve",
    "save_probe",
    "select",
    "sentence_places",
    "shift_null",
    "solve_layers",
    "solve_logistic",
    "split_groups",
    "sweep",
    "store_traces",
    "text_readings",
    "tfidf_auroc",
    "token_auroc",
    "token_table",
    "token_view",
    "trace_places",
    "trace_rollouts",
    "traced_rollouts",
    "verdict_probe",
    "verdict_states",
    "verdict_trace",
    "weigh_layers",
    "write_files",
]

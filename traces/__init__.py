"""Scores of readouts at every token: averages, drops, change points, commitment times."""

if __name__ != "verdictscope.traces":
    raise ImportError("import this room as verdictscope.traces: the bare folder name is not a package")

from verdictscope.traces.aggregate import aggregate, as_published
from verdictscope.traces.changepoint import ChangePoint, change_point, change_points
from verdictscope.traces.cliff import Cliff, cliff, drop_difference
from verdictscope.traces.cliff_nulls import CliffNull, exchange_null, shift_null
from verdictscope.traces.commitment import (
    commitment,
    commitment_gap,
    commitment_time,
    forced_readings,
    probe_readings,
    text_readings,
)
from verdictscope.traces.contrasts import part_curves, parts_at
from verdictscope.traces.debates import DebateTraces, debate_traces
from verdictscope.traces.forced_answers import forced_lengths, forced_scores, sentence_places
from verdictscope.traces.landmarks import align, relative_time
from verdictscope.traces.lens import LayerWeights, LensLogits, lens_logits, lens_readouts, weigh_layers
from verdictscope.traces.normaliser import Normaliser, normaliser_rollouts
from verdictscope.traces.online import Online, online_traces
from verdictscope.traces.score import TraceFile, Traces, store_traces, trace_rollouts
from verdictscope.traces.tokens import token_table, token_view
from verdictscope.traces.verdicts import trace_places, traced_rollouts, verdict_trace

__all__ = [
    "Normaliser",
    "ChangePoint",
    "Cliff",
    "CliffNull",
    "DebateTraces",
    "LayerWeights",
    "LensLogits",
    "Online",
    "TraceFile",
    "Traces",
    "aggregate",
    "align",
    "normaliser_rollouts",
    "as_published",
    "change_point",
    "change_points",
    "cliff",
    "commitment",
    "commitment_gap",
    "commitment_time",
    "debate_traces",
    "drop_difference",
    "exchange_null",
    "forced_lengths",
    "forced_readings",
    "forced_scores",
    "lens_logits",
    "lens_readouts",
    "online_traces",
    "part_curves",
    "parts_at",
    "probe_readings",
    "relative_time",
    "sentence_places",
    "shift_null",
    "store_traces",
    "text_readings",
    "token_table",
    "token_view",
    "trace_places",
    "trace_rollouts",
    "traced_rollouts",
    "verdict_trace",
    "weigh_layers",
]

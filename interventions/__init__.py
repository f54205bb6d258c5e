"""The room ``interventions``: edits of heads, MLPs and directions become effects, each with its null."""

if __name__ != "verdictscope.interventions":
    raise ImportError("import this room as verdictscope.interventions: the bare folder name is not a package")

from verdictscope.interventions.attribution import Attribution, attribute
from verdictscope.interventions.attribution_null import WriterControl, writer_control
from verdictscope.interventions.bias_heads import BiasSweep, rejudged, sweep_bias
from verdictscope.interventions.card import HeadCard, head_card
from verdictscope.interventions.curves import cumulative_curve, curve_steps
from verdictscope.interventions.direct import SelfRepair, direct_effects, self_repair, write_norms
from verdictscope.interventions.edits import (
    DirectionEdit,
    Edit,
    EraseEdit,
    HeadEdit,
    KVEdit,
    Means,
    Rows,
    SublayerEdit,
    applied,
    compile_edits,
    edit_from_dict,
    edit_to_dict,
    gather_means,
    gather_rows,
    matched,
    patch_grid,
)
from verdictscope.interventions.effects import Effects, effects
from verdictscope.interventions.head_sweep import sweep_heads
from verdictscope.interventions.many_heads import ALPHA, DELTA_NATS, DELTA_SHARE, HeadSweep, Stability, readout_gap
from verdictscope.interventions.mitigating import Chosen, bias_rates, choose_erasure, choose_steering, states_at
from verdictscope.interventions.random_sets import RandomSets, layer_matched_sets, matched_sets
from verdictscope.interventions.sources import Sources
from verdictscope.interventions.verdict_parts import VerdictParts, verdict_parts
from verdictscope.interventions.weights import Made, bake, transplant, transplanted

__all__ = [
    "ALPHA",
    "DELTA_NATS",
    "DELTA_SHARE",
    "Attribution",
    "BiasSweep",
    "Chosen",
    "DirectionEdit",
    "Edit",
    "Effects",
    "EraseEdit",
    "HeadCard",
    "HeadEdit",
    "HeadSweep",
    "KVEdit",
    "Made",
    "Means",
    "RandomSets",
    "Rows",
    "SelfRepair",
    "Sources",
    "Stability",
    "SublayerEdit",
    "VerdictParts",
    "WriterControl",
    "applied",
    "attribute",
    "bake",
    "bias_rates",
    "choose_erasure",
    "choose_steering",
    "compile_edits",
    "cumulative_curve",
    "curve_steps",
    "direct_effects",
    "edit_from_dict",
    "edit_to_dict",
    "effects",
    "gather_means",
    "gather_rows",
    "head_card",
    "layer_matched_sets",
    "matched",
    "matched_sets",
    "patch_grid",
    "readout_gap",
    "rejudged",
    "self_repair",
    "states_at",
    "sweep_bias",
    "sweep_heads",
    "transplant",
    "transplanted",
    "verdict_parts",
    "write_norms",
    "writer_control",
]

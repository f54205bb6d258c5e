"""The room ``interventions``: edits of heads, MLPs, directions and weights, their effects, and attribution."""

if __name__ != "verdictscope.interventions":
    raise ImportError("import this room as verdictscope.interventions: the bare folder name is not a package")

from verdictscope.interventions.attribution import Attribution, attribute
from verdictscope.interventions.card import head_card
from verdictscope.interventions.edits.directions import DirectionEdit, EraseEdit
from verdictscope.interventions.edits.heads import HeadEdit, KVEdit
from verdictscope.interventions.edits.protocol import Edit, edited
from verdictscope.interventions.edits.references import gather_means, gather_rows
from verdictscope.interventions.edits.sublayers import SublayerEdit
from verdictscope.interventions.effects import Effects, effects
from verdictscope.interventions.head_sets import cumulative_curve, matched_sets
from verdictscope.interventions.span_attribution import attribute_spans
from verdictscope.interventions.sweep import HeadSweep, readout_gap, sweep_heads
from verdictscope.interventions.weights.bake import bake
from verdictscope.interventions.weights.patching import patch_weights

__all__ = [
    "Attribution",
    "DirectionEdit",
    "Edit",
    "Effects",
    "EraseEdit",
    "HeadEdit",
    "HeadSweep",
    "KVEdit",
    "SublayerEdit",
    "attribute",
    "attribute_spans",
    "bake",
    "cumulative_curve",
    "edited",
    "effects",
    "gather_means",
    "gather_rows",
    "head_card",
    "matched_sets",
    "patch_weights",
    "readout_gap",
    "sweep_heads",
]

"""The room ``interventions``: edits of heads, MLPs and directions become effects, each with its null."""

if __name__ != "verdictscope.interventions":
    raise ImportError("import this room as verdictscope.interventions: the bare folder name is not a package")

from verdictscope.interventions.attribution import Attribution, attribute
from verdictscope.interventions.edits import Edit, HeadEdit, applied, compile_edits
from verdictscope.interventions.effects import Effects, effects
from verdictscope.interventions.head_sweep import sweep_heads
from verdictscope.interventions.random_sets import layer_matched_sets

__all__ = [
    "Attribution",
    "Edit",
    "Effects",
    "HeadEdit",
    "applied",
    "attribute",
    "compile_edits",
    "effects",
    "layer_matched_sets",
    "sweep_heads",
]

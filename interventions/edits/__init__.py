"""What is changed inside the model: frozen descriptions that compile to write hooks, and can be written down."""

from verdictscope.interventions.edits.alignment import align, matched
from verdictscope.interventions.edits.directions import DirectionEdit
from verdictscope.interventions.edits.erasing import EraseEdit
from verdictscope.interventions.edits.heads import HeadEdit, KVEdit
from verdictscope.interventions.edits.protocol import Edit, Head, applied, compile_edits
from verdictscope.interventions.edits.references import Means, Reference, Rows, gather_means, gather_rows
from verdictscope.interventions.edits.replacing import OPERATIONS
from verdictscope.interventions.edits.stored import KINDS, edit_from_dict, edit_to_dict
from verdictscope.interventions.edits.sublayers import SublayerEdit, patch_grid

__all__ = [
    "KINDS",
    "OPERATIONS",
    "DirectionEdit",
    "Edit",
    "EraseEdit",
    "Head",
    "HeadEdit",
    "KVEdit",
    "Means",
    "Reference",
    "Rows",
    "SublayerEdit",
    "align",
    "applied",
    "compile_edits",
    "edit_from_dict",
    "edit_to_dict",
    "gather_means",
    "gather_rows",
    "matched",
    "patch_grid",
]

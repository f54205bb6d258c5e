"""Zero-ablated and scaled heads, baked into a checkpoint.

A head acts through its columns of the attention output projection and through nothing else, so scaling its ``z`` by g
is scaling those columns by g: whatever makes the queries, keys and values (GQA, fused projections, MLA), and whatever
norm, gain or bias comes after. The projection's bias belongs to no head and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from verdictscope.activations import Model
from verdictscope.activations.weights import head_output_weight
from verdictscope.errors import InputError
from verdictscope.interventions.edits.heads import HeadEdit
from verdictscope.interventions.edits.protocol import Edit, Head, as_edits, compile_edits
from verdictscope.interventions.edits.stored import edit_to_dict
from verdictscope.interventions.weights.checkpoint import Checkpoint, Made, parameter_names, stored_form

if TYPE_CHECKING:
    from torch import nn


def bake(model: Model, out: str | Path, edits: Edit | Sequence[Edit], *, source: str | Path | None = None) -> Made:
    """Write a copy of a model's checkpoint in which heads are zero-ablated or scaled.

    The copy does what the hooks of the same edits do, to rounding, and any engine serves it at full speed. Files and
    tensors that are not concerned are copied byte for byte, tokenizer and chat template with them.

    Args:
        model: the model as loaded; not changed.
        out: a folder that does not exist yet.
        edits: :class:`HeadEdit` with ``zero`` or ``scale`` at ``z`` and all positions; factors of one head multiply.
        source: the checkpoint's folder or hub name; by default what the model was loaded from.

    Raises:
        InputError: another kind of edit, a head the model lacks, packed weights, an output projection that several
            layers share, a checkpoint in which the weight is not found, or something at ``out``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from verdictscope.activations import load_model
        >>> with TemporaryDirectory() as folder:
        ...     bake(load_model("organism:cliff"), f"{folder}/ablated", HeadEdit("L4H6")).says
        ('z of L4H6 zero-ablated at all positions, in the weights',)
    """
    several = as_edits(edits)
    factors: dict[Head, float] = {}
    for edit in several:
        fits = isinstance(edit, HeadEdit) and edit.site == "z" and edit.positions == "all"
        if not isinstance(edit, HeadEdit) or not fits or edit.op not in ("zero", "scale"):
            raise InputError(
                f"only heads zero-ablated or scaled at z and at all positions can be baked, not: {edit.describe()}"
            )
        for head in edit.heads:
            factors[head] = factors.get(head, 1.0) * (0.0 if edit.op == "zero" else edit.value)
    if not factors:
        raise InputError("nothing to bake: give at least one HeadEdit")
    compile_edits(model, several)  # names a head that does not exist
    files, changes = Checkpoint(model, source), {}
    for layer in sorted({layer for layer, _ in factors}):
        o = own_output_projection(model, layer)
        key, stored = files.find(parameter_names(model, o)["weight"], o.weight)  # type: ignore[arg-type]
        new = stored.to(cast(Tensor, o.weight).dtype).clone()
        for (at, head), factor in factors.items():
            if at == layer:
                columns = head_columns(model, layer, head, o, new)
                columns.copy_(torch.zeros_like(columns) if factor == 0 else columns * factor)
        changes[key] = stored_form(new, stored)
    says = tuple(edit.describe() + ", in the weights" for edit in several)
    return files.write(out, changes, says, {"made": "bake", "edits": [edit_to_dict(edit) for edit in several]})


def own_output_projection(model: Model, layer: int) -> nn.Module:
    """A layer's attention output projection, if its weight is plain and no other layer's."""
    head_output_weight(model, layer)
    o = model.sites.blocks[layer].o
    assert o is not None
    for other, block in enumerate(model.sites.blocks):
        if other != layer and block.o is not None and block.o.weight is o.weight:
            raise InputError(
                f"layers {layer} and {other} share one attention output projection: an edit of one would be of both"
            )
    return o


def head_columns(model: Model, layer: int, head: int, o: nn.Module, weight: Tensor) -> Tensor:
    """The part of an output projection's weight that one head's ``z`` is multiplied with, as a view."""
    width = model.sites.blocks[layer].d_head
    mine = slice(head * width, (head + 1) * width)
    return weight[mine] if isinstance(o, Conv1D) else weight[:, mine]

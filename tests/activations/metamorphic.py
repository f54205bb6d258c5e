"""Changes of a model's weights that must not change what it computes, and must move its components as theory says.

In place and one layer at a time, so that no second copy of the model is needed; the old bytes are put back after each.

    swap two query heads of a group      q, pattern and z of the two change places; attn_out, logits stay
    turn a value head's basis (V, W_O)   z turns with it; W_O z per head, pattern, attn_out, logits stay
    swap two MLP neurons                 nothing but the two neurons moves
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from rewiring import (
    Undo,
    neuron_features,
    query_features,
    swap_columns,
    swap_rows,
    turn_columns,
    turn_rows,
    undone,
    value_features,
)
from torch import Tensor

from verdictscope.activations.doctor.layouts import as_rollout, difference, random_sequences
from verdictscope.activations.doctor.passes import tolerance
from verdictscope.activations.doctor.report import Finding, within
from verdictscope.activations.forward import forward
from verdictscope.activations.model import Model
from verdictscope.activations.sitemap import Block
from verdictscope.activations.sites import Site
from verdictscope.activations.weights import head_output_weight, refuse_adapters
from verdictscope.errors import InputError

Values = dict[str, Tensor]
Expect = Callable[[Values], Values]
Change = Callable[[Model, int, Values, Undo], Expect]


def metamorphic_checks(model: Model) -> Iterator[Finding]:
    """Every change, in the first, a middle and the last layer that allows it."""
    for name, change in CHANGES.items():
        yield _try(model, name, change)


def _try(model: Model, name: str, change: Change) -> Finding:
    check = f"metamorphic: {name}"
    worst: Finding | None = None
    reason = ""
    for layer in _layers(model):
        try:
            finding = _change_one(model, layer, check, change)
        except InputError as error:
            reason = f"layer {layer}: {error}"
            continue
        if worst is None or (finding.measured or 0) > (worst.measured or 0):
            worst = finding
    return worst or Finding(check, "unsupported", detail=reason or "no layer has what is changed")


def _layers(model: Model) -> list[int]:
    """First, middle and last of the layers with attention, and of those without a mixture of experts."""
    kinds = (
        [i for i, b in enumerate(model.sites.blocks) if b.attention is not None],
        [i for i, b in enumerate(model.sites.blocks) if b.router is None],
    )
    picked = {kind[i] for kind in kinds if kind for i in (0, len(kind) // 2, -1)}
    return sorted(picked)


def _change_one(model: Model, layer: int, check: str, change: Change) -> Finding:
    refuse_adapters(model, "changing heads in place")
    before = _observe(model, layer)
    with undone() as undo:
        expect = change(model, layer, before, undo)
        after = _observe(model, layer)
    expected = expect(before)
    errors = {key: float(difference(after[key], expected[key]).max()) for key in after}
    key = max(errors, key=errors.__getitem__)
    # A change of basis is rounded to the weights' dtype, which the passes after it do not undo.
    allowed = max(tolerance(model), 8 * torch.finfo(model.dtype).eps)
    moved = [k for k in after if difference(before[k], expected[k]).max() > allowed]
    detail = f"worst at {key}; moves {', '.join(moved) or 'nothing it can see'}"
    return within(check, errors[key], allowed, layer, detail)


def _observe(model: Model, layer: int) -> Values:
    """Everything about a layer that a change may move: sites, head effects, logits, as the package reads them."""
    (ids,) = random_sequences(model, [20], seed=9)
    block = model.sites.blocks[layer]
    names = ["resid_post", *(n for n, branch in (("attn_out", block.attn), ("mlp_out", block.mlp)) if branch)]
    names += ["z"] if block.o is not None else []
    names += ["q", "v", "pattern"] if block.attention is not None else []
    reads = {name: Site(name, layer) @ "all" for name in names}
    heads = model.sites.unembed is not None
    last = Site("final_norm") @ "all"
    done = forward(model, [as_rollout("s", ids)], [*reads.values(), last], logits_at="all" if heads else None)
    values = {name: done.values[read][0].double() for name, read in reads.items()}
    values["final_norm"] = done.values[last][0].double()
    if done.logits is not None:
        values["logits"] = done.logits.double()
    if "z" in values:
        try:
            weight = head_output_weight(model, layer).double().cpu()
        except InputError:
            return values
        values["head effects"] = torch.einsum("phd,hdm->phm", values["z"], weight)
    return values


def _columns(block: Block, head: int) -> Tensor:
    return torch.arange(head * block.d_head, (head + 1) * block.d_head)


def swap_query_heads(model: Model, layer: int, values: Values, undo: Undo) -> Expect:
    """Exchanges the first two query heads that share their keys and values."""
    block = model.sites.blocks[layer]
    if block.o is None or block.attention is None:
        raise InputError("no heads")
    if block.attention.n_heads // block.attention.n_kv_heads < 2:
        raise InputError("every query head has its own keys and values: nothing to swap within a group")
    found = query_features(model, layer, (0, 1), _gated(values, model))
    if not _per_head_only(block):
        raise InputError("query heads differ by more than their projection (sinks or norms of their own)")
    for module, (a, b) in found.items():
        swap_rows(module, a, b, undo)
    swap_columns(block.o, _columns(block, 0), _columns(block, 1), undo)

    def expect(values: Values) -> Values:
        order = [1, 0, *range(2, block.n_heads)]
        moved = {key: values[key][:, order] for key in ("q", "z", "pattern", "head effects") if key in values}
        return values | moved

    return expect


def _per_head_only(block: Block) -> bool:
    """Whether the mixer has no parameter with one number per query head (a sink), which would have to move along."""
    return all(p.shape != (block.n_heads,) for p in block.mixer.parameters(recurse=False))


def turn_value_basis(model: Model, layer: int, values: Values, undo: Undo) -> Expect:
    """Rotates the basis in which the first value head writes and the output projection reads."""
    block = model.sites.blocks[layer]
    if block.o is None or block.attention is None:
        raise InputError("no heads")
    module, features = value_features(model, layer, 0)
    width = len(features)
    if width != block.d_head or _gated(values, model):
        raise InputError("something acts on the heads' outputs channel by channel (a gate), so no basis is free")
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)).double()).Q
    turn = turn.to(module.weight.device)
    group = block.attention.n_heads // block.attention.n_kv_heads
    turn_rows(module, features, turn, undo)
    for head in range(group):
        turn_columns(block.o, _columns(block, head), turn, undo)

    def expect(values: Values) -> Values:
        here = turn.cpu()
        z, v = values["z"].clone(), values["v"].clone()
        z[:, :group], v[:, 0] = z[:, :group] @ here, v[:, 0] @ here
        return values | {"z": z, "v": v}

    return expect


def _gated(values: Values, model: Model) -> bool:
    """Whether z is more than pattern times values."""
    pattern, v, z = values["pattern"], values["v"], values["z"]
    made = torch.einsum("qhk,khd->qhd", pattern, v.repeat_interleave(pattern.shape[1] // v.shape[1], dim=1))
    return made.shape != z.shape or float(difference(made, z).max()) > max(1e-3, tolerance(model))


def swap_mlp_neurons(model: Model, layer: int, values: Values, undo: Undo) -> Expect:
    """Exchanges two neurons: their rows in the first projections, their columns in the last."""
    down, found = neuron_features(model, layer, (0, 1))
    for module, (a, b) in found.items():
        swap_rows(module, a, b, undo)
    swap_columns(down, torch.tensor([0]), torch.tensor([1]), undo)
    return lambda values: values


CHANGES: dict[str, Change] = {
    "swap query heads of a group": swap_query_heads,
    "turn a value head's basis": turn_value_basis,
    "swap two MLP neurons": swap_mlp_neurons,
}
METAMORPHIC = {"metamorphic": metamorphic_checks}

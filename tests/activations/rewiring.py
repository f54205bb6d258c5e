"""Changes of a model's own weights that change its parts but not its function, and their exact undoing.

Which rows of which projection make a head or a neuron is measured, not looked up: by gradients for queries and
neurons, by equal values for the values of attention. So fused, interleaved and low-rank projections need no names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from verdictscope.activations.attention import AttentionCall, listen
from verdictscope.activations.capture import probe_ids
from verdictscope.activations.hooks import attach
from verdictscope.activations.model import Model
from verdictscope.activations.sitemap import Attention
from verdictscope.errors import InputError

Features = Int[Tensor, "_"]


@dataclass(eq=False)
class Undo:
    """Weights as they were; ``restore`` puts the very bytes back."""

    saved: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def keep(self, parameter: Tensor) -> None:
        """Remembers a parameter before it is changed."""
        if not any(kept is parameter for kept, _ in self.saved):
            self.saved.append((parameter, parameter.detach().clone()))

    def restore(self) -> None:
        """Puts everything back."""
        with torch.no_grad():
            for parameter, old in reversed(self.saved):
                parameter.copy_(old)


@contextmanager
def undone() -> Iterator[Undo]:
    """Weights changed inside the block, and kept in the ``Undo``, are as before after it, whatever happens."""
    undo = Undo()
    try:
        yield undo
    finally:
        undo.restore()


def projections(root: nn.Module, but: nn.Module | None = None) -> list[nn.Module]:
    """Plain linear maps inside a module.

    Raises:
        InputError: a linear map's weight is packed.
    """
    inside = set(but.modules()) if but is not None else set()
    found = [m for m in root.modules() if m not in inside and isinstance(getattr(m, "weight", None), Tensor)]
    linear = [m for m in found if isinstance(m, nn.Linear | Conv1D)]
    if any(not m.weight.is_floating_point() or m.weight.ndim != 2 or m.weight.is_meta for m in linear):
        raise InputError("not on packed or offloaded weights")
    return linear


def rows(module: nn.Module) -> Float[Tensor, "out in"]:
    """A projection's weight with its output axis first: a view, so that writing to it writes to the model."""
    return module.weight.data.T if isinstance(module, Conv1D) else module.weight.data


def swap_rows(module: nn.Module, a: Features, b: Features, undo: Undo) -> None:
    """Exchanges output features of a projection, bias included."""
    _permute(rows(module), module.weight, a, b, undo, 0)
    if module.bias is not None:
        _permute(module.bias.data, module.bias, a, b, undo, 0)


def swap_columns(module: nn.Module, a: Features, b: Features, undo: Undo) -> None:
    """Exchanges input features of a projection."""
    _permute(rows(module), module.weight, a, b, undo, 1)


def _permute(view: Tensor, parameter: Tensor, a: Features, b: Features, undo: Undo, axis: int) -> None:
    undo.keep(parameter)
    order = torch.arange(view.shape[axis], device=view.device)
    order[a], order[b] = b.to(order), a.to(order)
    view.copy_(view.index_select(axis, order))


def turn_rows(module: nn.Module, features: Features, turn: Float[Tensor, "d d"], undo: Undo) -> None:
    """Replaces output features ``x`` of a projection by ``x @ turn``, bias included."""
    undo.keep(module.weight)
    weight = rows(module)
    weight[features] = (turn.T @ weight[features].double()).to(weight.dtype)
    if module.bias is not None:
        undo.keep(module.bias)
        module.bias.data[features] = (module.bias.data[features].double() @ turn).to(module.bias.dtype)


def turn_columns(module: nn.Module, features: Features, turn: Float[Tensor, "d d"], undo: Undo) -> None:
    """Makes a projection take ``x @ turn`` where it took ``x``."""
    undo.keep(module.weight)
    weight = rows(module)
    weight[:, features] = (weight[:, features].double() @ turn).to(weight.dtype)


class _Heard(Exception):
    """Ends a pass when the wanted value is there."""


def feeding(
    model: Model,
    projected: list[nn.Module],
    wanted: Callable[[Callable[[Tensor], None]], object],
    parts: list[Callable],
) -> dict[nn.Module, list[Features]]:
    """Which output features of each projection some parts of a later value depend on.

    Args:
        model: the model.
        projected: projections before the value.
        wanted: given a function, hands it the value when it is computed; returns a handle with ``remove``.
        parts: functions of the value, each giving one part of it.

    Returns:
        Per projection its features, ascending, for every part; projections that feed none are left out.
    """
    outputs: dict[nn.Module, Tensor] = {}
    values: list[Tensor] = []

    def leaf(module: nn.Module, out: Tensor) -> Tensor:
        fresh = out.detach().requires_grad_() if not out.requires_grad else out
        outputs[module] = fresh
        return fresh

    def keep(value: Tensor) -> None:
        values.append(value)
        raise _Heard

    with ExitStack() as stack:
        for module in projected:
            stack.callback(attach(module, "out", partial(leaf, module)).remove)
        stack.callback(wanted(keep).remove)  # type: ignore[attr-defined]
        with torch.enable_grad(), suppress(_Heard):
            model.hf.base_model(input_ids=probe_ids(model.hf), use_cache=False)
    if not outputs or not values:
        return {}
    found: dict[nn.Module, list[Features]] = {}
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        value = part(values[0])
        weight = torch.randn(value.shape, generator=generator).to(value)
        if not value.requires_grad:
            continue
        grads = torch.autograd.grad(
            (value * weight).sum(), list(outputs.values()), retain_graph=True, allow_unused=True
        )
        for module, grad in zip(outputs, grads, strict=True):
            if grad is not None and grad.any():
                found.setdefault(module, []).append(grad.flatten(0, -2).any(0).nonzero()[:, 0])
    return {module: features for module, features in found.items() if len(features) == len(parts)}


def separate(found: dict[nn.Module, list[Features]]) -> dict[nn.Module, list[Features]]:
    """The projections of which every part has its own, equally many features."""
    kept = {}
    for module, features in found.items():
        together = torch.cat(features)
        if len({len(f) for f in features}) == 1 and len(together.unique()) == len(together):
            kept[module] = features
    return kept


def query_features(model: Model, layer: int, heads: tuple[int, int], gated: bool) -> dict[nn.Module, list[Features]]:
    """Which features of which projection make two query heads that share their keys, and what gates them.

    Raises:
        InputError: the heads are not made apart from each other (a norm over all of them).
    """
    block = model.sites.blocks[layer]
    attention = _listened(block.attention)
    assert block.o is not None
    inside = [m for m in projections(block.mixer) if m is not block.o]
    if gated:  # a gate acts after the product: look at what comes of both
        cuts = [slice(h * block.d_head, (h + 1) * block.d_head) for h in heads]
        parts: list[Callable[[Tensor], Tensor]] = [lambda z, c=c: z[..., c] for c in cuts]
        wanted: Callable = partial(attach, block.o, "in")
    else:
        parts = [lambda q, h=h: q[:, h] for h in heads]
        wanted = partial(_on_query, attention.module)
    found = separate(feeding(model, inside, wanted, parts))
    if not found:
        raise InputError("query heads are not made apart from each other (a norm goes over all of them)")
    return found


def _on_query(module: nn.Module, keep: Callable[[Tensor], None]) -> object:
    def before(call: AttentionCall) -> None:
        keep(call.query)

    return listen(module, before=before)


def _listened(attention: Attention | None) -> Attention:
    if attention is None or not attention.interface:
        raise InputError("attention here does not use transformers' interface; its weights are not taken apart")
    return attention


def value_features(model: Model, layer: int, head: int) -> tuple[nn.Module, Features]:
    """The projection that makes a value head, and its features in the head's order, found by equal numbers.

    Raises:
        InputError: the values are no plain output of a projection (a norm stands between).
    """
    block = model.sites.blocks[layer]
    attention = _listened(block.attention)
    outputs: dict[nn.Module, Tensor] = {}
    values: list[Tensor] = []

    def note(module: nn.Module, out: Tensor) -> None:
        outputs[module] = out.detach().flatten(0, -2)

    with ExitStack() as stack:
        for module in [m for m in projections(block.mixer) if m is not block.o]:
            stack.callback(attach(module, "out", partial(note, module)).remove)
        stack.callback(listen(attention.module, before=lambda call: values.append(call.value.detach())).remove)
        with torch.no_grad():
            model.hf.base_model(input_ids=probe_ids(model.hf), use_cache=False)
    mine = values[0][0, head * attention.shared]
    for module, out in outputs.items():
        if len(out) != len(mine):
            continue
        equal = (mine.T[:, None] == out.T[None]).all(-1)
        if bool((equal.sum(1) == 1).all()):
            return module, equal.double().argmax(1)
    raise InputError("the values are no plain output of a projection (a norm stands between)")


def neuron_features(model: Model, layer: int, neurons: tuple[int, int]) -> tuple[nn.Module, dict[nn.Module, list]]:
    """The MLP's last projection, and which features of the others feed two of its inputs.

    Raises:
        InputError: the layer's MLP is not two or three plain projections (experts in one tensor).
    """
    block = model.sites.blocks[layer]
    inside = projections(block.block, but=block.mixer)
    ran: list[nn.Module] = []
    with ExitStack() as stack:
        for module in inside:
            stack.callback(attach(module, "out", lambda out, m=module: ran.append(m)).remove)
        with torch.no_grad():
            model.hf.base_model(input_ids=probe_ids(model.hf), use_cache=False)
    downs = [m for m in ran if rows(m).shape[0] == model.d_model]
    if not downs or block.router is not None:
        raise InputError("the MLP of this layer is no chain of plain projections (experts, or packed weights)")
    parts = [lambda x, n=n: x[..., n] for n in neurons]
    for down in reversed(downs):
        first = [m for m in ran if m is not down]
        found = separate(feeding(model, first, partial(attach, down, "in"), parts))
        if found and _exchanged(model, down, found, neurons):
            return down, found
    raise InputError("no projection was found that feeds single MLP neurons, and nothing else does")


def _exchanged(model: Model, down: nn.Module, found: dict[nn.Module, list[Features]], neurons: tuple[int, int]) -> bool:
    """Whether swapping the features swaps the neurons: not so where something else acts neuron by neuron as well."""
    seen: list[Tensor] = []

    def look() -> None:
        handle = attach(down, "in", lambda x: seen.append(x.detach().clone()))
        with torch.no_grad():
            model.hf.base_model(input_ids=probe_ids(model.hf), use_cache=False)
        handle.remove()

    look()
    with undone() as undo:
        for module, (a, b) in found.items():
            swap_rows(module, a, b, undo)
        look()
    there, back = list(neurons), list(reversed(neurons))
    before, after = seen[0][..., there].double(), seen[1][..., back].double()
    return bool((before - after).norm() <= 8 * torch.finfo(model.dtype).eps * before.norm())

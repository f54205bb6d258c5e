"""Which rows of which weights make a head's query, key and value: read off gradients, never listed by family.

A query that does not depend on a row has no gradient there. So separate, fused and interleaved projections, biases,
norms and the low-rank maps of MLA are all found in the same way.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from verdictscope.activations import Model, Site, reading
from verdictscope.activations.capture import probe_ids
from verdictscope.activations.weights import refuse_adapters
from verdictscope.errors import InputError
from verdictscope.interventions.weights.checkpoint import parameter_names
from verdictscope.rollouts.engines.state import evaluating

N_TOKENS = 8


@dataclass(frozen=True, eq=False)
class Feed:
    """How one parameter of an attention module feeds the heads."""

    name: str
    parameter: nn.Parameter
    axis: int
    q: Bool[Tensor, "head row"]
    k: Bool[Tensor, "kv_head row"]
    v: Bool[Tensor, "kv_head row"]

    def own(self, site: str, unit: int) -> Bool[Tensor, " row"]:
        """Rows that feed one head's ``q`` (or one group's ``k`` or ``v``) and nothing else."""
        every = torch.cat([self.q, self.k, self.v])
        at = {"q": 0, "k": len(self.q), "v": len(self.q) + len(self.k)}[site] + unit
        return every[at] & (every.sum(0) == 1)

    def own_kv(self, group: int) -> Bool[Tensor, " row"]:
        """Rows that feed one group's key or value or both, and nothing else."""
        mine = self.k[group].long() + self.v[group].long()
        return (mine > 0) & (mine == torch.cat([self.q, self.k, self.v]).sum(0))

    @property
    def shared(self) -> bool:
        """Whether some rows feed more than one head or group."""
        kv = self.k | self.v if len(self.k) else self.k
        return bool((torch.cat([self.q, kv]).sum(0) > 1).any())

    def part(self, tensor: Tensor, rows: Bool[Tensor, " row"]) -> Tensor:
        """Those rows of a tensor that has the parameter's shape."""
        return tensor.index_select(self.axis, rows.nonzero()[:, 0].to(tensor.device))


_known: weakref.WeakKeyDictionary[nn.Module, dict[int, list[Feed]]] = weakref.WeakKeyDictionary()


def known_feeds(model: Model, layer: int) -> list[Feed]:
    """As :func:`feeds`, measured once for every model and layer."""
    known = _known.setdefault(model.hf, {})
    if any(model.hf.get_parameter(feed.name) is not feed.parameter for feed in known.get(layer, ())):
        del known[layer]  # the module's parameters were replaced since
    if layer not in known:
        known[layer] = feeds(model, layer)
    return known[layer]


def feeds(model: Model, layer: int) -> list[Feed]:
    """What every parameter of a layer's attention module feeds, biases and norms included."""
    refuse_adapters(model, "finding the rows of a head's weights")
    model.sites.place("q", layer)
    attention = model.sites.blocks[layer].attention
    assert attention is not None
    names = parameter_names(model, attention.module)
    parameters = dict(attention.module.named_parameters())
    kept: dict[str, Tensor] = {}
    read = {Site(site, layer): (lambda value, _, site=site: kept.__setitem__(site, value)) for site in ("q", "k", "v")}
    with evaluating(model.hf), _only(model, [*parameters.values()]), torch.enable_grad(), reading(model, read):
        model.hf(input_ids=probe_ids(model.hf)[:1, :N_TOKENS], use_cache=False)
        reached = {
            site: [_touched(value[:, :, unit], parameters) for unit in range(value.shape[2])]
            for site, value in kept.items()
        }
    if not all(value.requires_grad for value in kept.values()):
        raise InputError(f"layer {layer}: no gradient reaches the attention's weights, so a head's rows are not known")
    found = []
    for name, parameter in parameters.items():
        grids = {site: [touched[name] for touched in each] for site, each in reached.items()}
        if not any(grid.any() for each in grids.values() for grid in each):
            continue  # feeds neither query, key nor value: the output projection
        axis = _axis([grid for each in grids.values() for grid in each if grid.any()])
        rows = {site: torch.stack([_along(grid, axis) for grid in each]) for site, each in grids.items()}
        found.append(Feed(names[name], parameter, axis, rows["q"], rows["k"], rows["v"]))
    return found


def _touched(value: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Where each parameter has a gradient of a random mix of the value's numbers."""
    mix = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    grads = torch.autograd.grad((value * mix).sum(), [*parameters.values()], retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p, dtype=torch.bool, device="cpu") if grad is None else (grad != 0).cpu()
        for (name, p), grad in zip(parameters.items(), grads, strict=True)
    }


def _along(grid: Tensor, axis: int) -> Tensor:
    return grid if grid.ndim == 1 else grid.movedim(axis, 0).flatten(1).any(1)


def _axis(grids: list[Tensor]) -> int:
    """The axis along which a single head touches the least."""
    return min(range(grids[0].ndim), key=lambda axis: sum(int(_along(g, axis).sum()) / g.shape[axis] for g in grids))


@contextmanager
def _only(model: Model, wanted: list[nn.Parameter]) -> Iterator[None]:
    """Inside the block gradients go to these parameters alone; afterwards everything is as it was."""
    before = {p: p.requires_grad for p in model.hf.parameters()}
    try:
        model.hf.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, asked in before.items():
            parameter.requires_grad_(asked)

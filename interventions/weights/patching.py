"""Weight patching: heads of one checkpoint put into another of the same architecture.

A query head is its query rows and its columns of the output projection; the keys and values it reads belong to a group.
Where the group differs between the two models, it comes along only if all its query heads do: otherwise heads that were
not named would change with it, and that is refused unless the patched model's keys and values are asked for.

Which rows of which weights make a head's query, key and value is read off gradients, never listed by family: a query
that does not depend on a row has no gradient there. So separate, fused and interleaved projections, biases, norms and
the low-rank maps of latent attention are all found in the same way.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from verdictscope.activations import Model, Site, reading
from verdictscope.activations.capture import probe_ids
from verdictscope.activations.weights import refuse_adapters
from verdictscope.errors import InputError
from verdictscope.interventions.edits.heads import HeadEdit
from verdictscope.interventions.edits.protocol import as_heads, head_names
from verdictscope.interventions.weights.bake import head_columns, own_output_projection
from verdictscope.interventions.weights.checkpoint import Checkpoint, Made, parameter_names, stored_form
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
    model.sites.hook_point("q", layer)
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
        some = [grid for each in grids.values() for grid in each if grid.any()]
        # The axis along which a single head touches the least
        axis = min(range(some[0].ndim), key=lambda a: sum(int(_along(g, a).sum()) / g.shape[a] for g in some))
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


KV = ("group", "keep")
"""Whether a group's keys and values come along where all its query heads do, or stay in any case."""


@contextmanager
def patch_weights(model: Model, donor: Model, heads: Any, *, kv: str = "keep") -> Iterator[bool]:
    """Run a model with another model's heads in place of its own; its very bytes are restored afterwards.

    What is patched of a head is what is its alone: rows that make its query (biases included) and its columns of the
    output projection. Weights that all heads share (norms, low-rank maps, the projection's bias) stay.

    Args:
        model: the model that is patched, for example the reference model.
        donor: the model whose heads are taken; of the same architecture. It is not changed.
        heads: query heads.
        kv: ``group``: a group's keys and values come along where all its query heads do; ``keep``: they stay.

    Yields:
        Whether anything of the model differs from before: heads that training left alone are the same.

    Raises:
        InputError: the models differ in shape, a head does not exist, a group is named in part and differs, or weights
            are packed or shared by layers.

    Example:
        >>> from verdictscope.activations import load_model
        >>> model, reference = load_model("organism:cliff"), load_model("organism:aligned")
        >>> with patch_weights(reference, model, ["L4H6", "L5H2"]) as changed:
        ...     isinstance(changed, bool)
        True
    """
    new: dict[str, Tensor] = {}
    for layer, own in _by_layer(model, donor, heads, kv).items():
        new |= _layer(donor, model, layer, own, kv, [])
    old = {name: model.hf.get_parameter(name).detach().clone() for name in new}
    changed = any(not torch.equal(old[name].cpu(), value.to(old[name].dtype).cpu()) for name, value in new.items())
    try:
        _put(model, new)
        yield changed
    finally:
        _put(model, old)


def save_patched(
    model: Model, donor: Model, out: str | Path, heads: Any, *, kv: str = "group", source: str | Path | None = None
) -> Made:
    """Write a copy of the model's checkpoint (by default what it was loaded from) with the donor's heads in it, as
    :func:`patch_weights` does in memory; ``says`` names shared weights that differ and stay."""
    by_layer = _by_layer(model, donor, heads, kv)
    files, says, changes = Checkpoint(model, source), list[str](), dict[str, Tensor]()
    patched: set[str] = set()
    for layer, own in by_layer.items():
        for name, new in _layer(donor, model, layer, own, kv, says).items():
            key, stored = files.find(name, model.hf.get_parameter(name))
            changes[key] = stored_form(new, stored)
            patched.add(name)
    theirs = dict(donor.hf.named_parameters())
    left = {name: p for name, p in model.hf.named_parameters() if name not in patched}
    differ = sum(not torch.equal(p.cpu(), theirs[name].cpu()) for name, p in left.items())
    says.append(f"of the {len(left)} other tensors {differ} differ between the two and stay the patched model's")
    moved = as_heads(heads)
    first = f"heads {head_names(moved)} are those of {donor.name}: their query rows and output columns"
    about = {"made": "patch_weights", "donor": donor.name, "donor_revision": donor.revision, "kv": kv}
    note = {**about, "heads": [list(head) for head in moved]}
    return files.write(out, changes, (first, *dict.fromkeys(says)), note)


def _by_layer(model: Model, donor: Model, heads: Any, kv: str) -> dict[int, list[int]]:
    """The heads to be patched, checked, by layer."""
    if kv not in KV:
        raise InputError(f"kv={kv!r}: use 'group' or 'keep'")
    moved = as_heads(heads)
    HeadEdit(moved).write(model)  # names a head that does not exist
    mine, theirs = ({n: tuple(p.shape) for n, p in m.hf.named_parameters()} for m in (model, donor))
    if type(donor.hf) is not type(model.hf) or mine != theirs:
        raise InputError(f"{donor.name} and {model.name} cannot be patched: their architectures or shapes differ")
    return {layer: [h for at, h in moved if at == layer] for layer in sorted({layer for layer, _ in moved})}


def _put(model: Model, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            model.hf.get_parameter(name).copy_(value)


def _layer(donor: Model, recipient: Model, layer: int, heads: list[int], kv: str, says: list[str]) -> dict[str, Tensor]:
    """The recipient's parameters of one layer that change, by name."""
    o, theirs = own_output_projection(recipient, layer), own_output_projection(donor, layer)
    name = parameter_names(recipient, o)["weight"]
    new = {name: cast(Tensor, o.weight).detach().cpu().clone()}
    for head in heads:
        source = cast(Tensor, theirs.weight).detach().cpu()
        head_columns(recipient, layer, head, o, new[name]).copy_(head_columns(donor, layer, head, theirs, source))
    _differs(donor, recipient, name.removesuffix("weight") + "bias", says)
    attention = recipient.sites.blocks[layer].attention
    assert attention is not None
    each = attention.n_heads // attention.n_kv_heads
    found = known_feeds(recipient, layer)
    groups = sorted({head // each for head in heads})
    along = [g for g in groups if _comes_along(donor, found, layer, g, each, heads, kv, says)]
    for head in heads:
        if not any(feed.parameter.ndim > 1 and feed.own("q", head).any() for feed in found):
            raise InputError(
                f"no rows make the query of L{layer}H{head} alone: {type(recipient.hf).__name__} norms the queries of "
                "all heads together, so one head cannot be patched"
            )
    for feed in found:
        rows = torch.zeros(feed.q.shape[1], dtype=torch.bool)
        for head in heads:
            rows |= feed.own("q", head)
        for group in along:
            rows |= feed.own_kv(group)
        if rows.any():
            mine, given = feed.parameter.detach().cpu().clone(), donor.hf.get_parameter(feed.name).detach().cpu()
            mine.index_copy_(feed.axis, rows.nonzero()[:, 0], feed.part(given.to(mine.dtype), rows))
            new[feed.name] = mine
        if feed.shared:
            _differs(donor, recipient, feed.name, says)
    return new


def _comes_along(
    donor: Model, found: list[Feed], layer: int, group: int, each: int, heads: list[int], kv: str, says: list[str]
) -> bool:
    """Whether a group's keys and values are moved."""
    different = False
    for feed in found:
        rows = feed.own_kv(group)
        mine, theirs = feed.parameter.detach().cpu(), donor.hf.get_parameter(feed.name).detach().cpu()
        different |= not torch.equal(feed.part(mine, rows), feed.part(theirs.to(mine.dtype), rows))
    if not different:
        return False
    of_group = range(group * each, (group + 1) * each)
    left = [head for head in of_group if head not in heads]
    if kv == "keep":
        says.append(f"keys and values of group L{layer}G{group} differ and stay the patched model's")
        return False
    if left:
        raise InputError(
            f"group L{layer}G{group} differs between the two models and is also read by "
            f"{' '.join(f'L{layer}H{head}' for head in left)}: patch these heads too, or pass kv='keep' to let the "
            "patched heads read the patched model's keys and values"
        )
    says.append(f"keys and values of group L{layer}G{group} come along: all its query heads do")
    return True


def _differs(donor: Model, recipient: Model, name: str, says: list[str]) -> None:
    pairs = [dict(model.hf.named_parameters()).get(name) for model in (donor, recipient)]
    if pairs[0] is not None and pairs[1] is not None and not torch.equal(pairs[0].cpu(), pairs[1].cpu()):
        says.append(f"{name} is shared by the heads, differs, and stays the patched model's")

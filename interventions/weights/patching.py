"""Heads of one checkpoint put into its reference.

A query head is its query rows and its columns of the output projection; the keys and values it reads belong to a group.
Where the group differs between the reference models, it comes along only if all its query heads do: otherwise heads
that were not
asked about would change with it, and that is refused unless the recipient's keys and values are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from verdictscope.activations import Model
from verdictscope.errors import InputError
from verdictscope.interventions.edits import Head, HeadEdit
from verdictscope.interventions.weights.bake import head_columns, own_output_projection
from verdictscope.interventions.weights.checkpoint import Checkpoint, Made, parameter_names, stored_form
from verdictscope.interventions.weights.feeds import Feed, feeds

KV = ("group", "keep")
"""Whether a group's keys and values come along where all its query heads do, or stay the recipient's in any case."""


def transplant(
    donor: Model,
    recipient: Model,
    out: str | Path,
    heads: Sequence[Head],
    *,
    kv: str = "group",
    source: str | Path | None = None,
) -> Made:
    """Write a copy of the recipient's checkpoint with the donor's heads in the places of its own.

    What is moved of a head is what is its alone: rows that make its query (biases included) and its columns of the
    output projection. Weights that all heads share (norms, low-rank maps, the projection's bias) stay the recipient's;
    ``says`` names those that differ.

    Args:
        donor: the model whose heads are taken.
        recipient: the model they are put into; a reference model of the same architecture. Neither is changed.
        out: a folder that does not exist yet.
        heads: (layer, query head) pairs.
        kv: ``group`` or ``keep``, see the module.
        source: the recipient's checkpoint; by default what it was loaded from.

    Raises:
        InputError: the models differ in shape, a head is not there, a group is asked for in part and differs, weights
            are packed, shared by layers or not found in the checkpoint, or something is at ``out``.
    """
    if kv not in KV:
        raise InputError(f"kv={kv!r}: use 'group' or 'keep'")
    heads = HeadEdit(tuple(heads)).heads
    HeadEdit(heads).write(recipient)  # says which head is not there
    _check_references(donor, recipient)
    files, says, changes = Checkpoint(recipient, source), list[str](), dict[str, Tensor]()
    moved_in: set[str] = set()
    for layer in sorted({layer for layer, _ in heads}):
        moved = [head for at, head in heads if at == layer]
        for name, new in _layer(donor, recipient, layer, moved, kv, says).items():
            key, stored = files.find(name, recipient.hf.get_parameter(name))
            changes[key] = stored_form(new, stored)
            moved_in.add(name)
    says.append(_rest(donor, recipient, moved_in))
    names = " ".join(f"L{layer}H{head}" for layer, head in heads)
    told = (f"heads {names} are those of {donor.name}: their query rows and output columns", *dict.fromkeys(says))
    about = {"made": "transplant", "donor": donor.name, "donor_revision": donor.revision, "kv": kv}
    return files.write(out, changes, told, {**about, "heads": [list(head) for head in heads]})


@contextmanager
def transplanted(
    donor: Model,
    recipient: Model,
    heads: Sequence[Head],
    *,
    kv: str = "keep",
    known: dict[int, list[Feed]] | None = None,
) -> Iterator[bool]:
    """The recipient with the donor's heads while the block runs; its very bytes are put back, whatever happens.

    Moves what :func:`transplant` moves, in memory: for many sets of heads, of which no checkpoint is wanted.

    Args:
        donor: the model whose heads are taken.
        recipient: the model they are put into.
        heads: (layer, query head) pairs.
        kv: as for :func:`transplant`.
        known: what feeds the heads of a layer, kept between calls about the same recipient.

    Yields:
        whether anything of the recipient differs from what it was: heads that training left alone are the same.

    Raises:
        InputError: as :func:`transplant`.
    """
    if kv not in KV:
        raise InputError(f"kv={kv!r}: use 'group' or 'keep'")
    heads = HeadEdit(tuple(heads)).heads
    HeadEdit(heads).write(recipient)
    _check_references(donor, recipient)
    known, new = {} if known is None else known, dict[str, Tensor]()
    for layer in sorted({layer for layer, _ in heads}):
        moved = [head for at, head in heads if at == layer]
        if layer not in known:
            known[layer] = feeds(recipient, layer)
        new |= _layer(donor, recipient, layer, moved, kv, [], known[layer])
    old = {name: recipient.hf.get_parameter(name).detach().clone() for name in new}
    changed = any(not torch.equal(old[name].cpu(), value.to(old[name].dtype).cpu()) for name, value in new.items())
    try:
        _put(recipient, new)
        yield changed
    finally:
        _put(recipient, old)


def _put(model: Model, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            model.hf.get_parameter(name).copy_(value)


def _check_references(donor: Model, recipient: Model) -> None:
    mine, theirs = ({n: tuple(p.shape) for n, p in m.hf.named_parameters()} for m in (recipient, donor))
    if type(donor.hf) is not type(recipient.hf) or mine != theirs:
        raise InputError(
            f"{donor.name} and {recipient.name} are no reference models: their architectures or shapes differ"
        )


def _layer(
    donor: Model,
    recipient: Model,
    layer: int,
    heads: list[int],
    kv: str,
    says: list[str],
    found: list[Feed] | None = None,
) -> dict[str, Tensor]:
    """The recipient's parameters of one layer that change, by name."""
    o, theirs = own_output_projection(recipient, layer), own_output_projection(donor, layer)
    name = parameter_names(recipient, o)["weight"]
    new = {name: o.weight.detach().cpu().clone()}
    for head in heads:
        source = theirs.weight.detach().cpu()
        head_columns(recipient, layer, head, o, new[name]).copy_(head_columns(donor, layer, head, theirs, source))
    _differs(donor, recipient, name.removesuffix("weight") + "bias", says)
    attention = recipient.sites.blocks[layer].attention
    assert attention is not None
    each = attention.n_heads // attention.n_kv_heads
    found = feeds(recipient, layer) if found is None else found
    groups = sorted({head // each for head in heads})
    along = [g for g in groups if _comes_along(donor, found, layer, g, each, heads, kv, says)]
    for head in heads:
        if not any(feed.parameter.ndim > 1 and feed.own("q", head).any() for feed in found):
            raise InputError(
                f"no rows make the query of L{layer}H{head} alone: {type(recipient.hf).__name__} norms the queries of "
                "all heads together, so one head cannot be moved"
            )
    for feed in found:
        rows = torch.zeros(feed.q.shape[1], dtype=torch.bool)
        for head in heads:
            rows |= feed.own("q", head)
        for group in along:
            rows |= feed.own_kv(group)
        if rows.any():
            new[feed.name] = _with_rows(feed, donor, rows)
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
        says.append(f"keys and values of group L{layer}G{group} differ and stay the recipient's")
        return False
    if left:
        raise InputError(
            f"group L{layer}G{group} differs between the reference models and is also read by "
            f"{' '.join(f'L{layer}H{head}' for head in left)}: move these heads too, or pass kv='keep' to let the "
            "moved heads read the recipient's keys and values"
        )
    says.append(f"keys and values of group L{layer}G{group} come along: all its query heads do")
    return True


def _with_rows(feed: Feed, donor: Model, rows: Tensor) -> Tensor:
    mine, theirs = feed.parameter.detach().cpu().clone(), donor.hf.get_parameter(feed.name).detach().cpu()
    mine.index_copy_(feed.axis, rows.nonzero()[:, 0], feed.part(theirs.to(mine.dtype), rows))
    return mine


def _differs(donor: Model, recipient: Model, name: str, says: list[str]) -> None:
    pairs = [dict(model.hf.named_parameters()).get(name) for model in (donor, recipient)]
    if pairs[0] is not None and pairs[1] is not None and not torch.equal(pairs[0].cpu(), pairs[1].cpu()):
        says.append(f"{name} is shared by the heads, differs, and stays the recipient's")


def _rest(donor: Model, recipient: Model, moved: set[str]) -> str:
    """How far the reference models differ in what was not touched."""
    theirs = dict(donor.hf.named_parameters())
    left = {name: p for name, p in recipient.hf.named_parameters() if name not in moved}
    differ = sum(not torch.equal(p.cpu(), theirs[name].cpu()) for name, p in left.items())
    return f"of the {len(left)} other tensors {differ} differ between the two and stay the recipient's"

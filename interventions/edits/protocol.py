"""What an edit is, how several become one set of hooks, and the context inside which they act.

An edit replaces activations where it says and nowhere else. Nothing is renormalised: earlier code rescaled the whole
attention tensor after zeroing a head, so that a prompt's logits depended on its batch mates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from verdictscope.activations import BatchView, Model, Site, writing
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions, freeze, parse
from verdictscope.errors import InputError

Head: TypeAlias = tuple[int, int]
"""Layer and index of a query head, or of a key-value group where a site has these."""

_NAME = re.compile(r"L(\d+)H(\d+)")


def head_name(head: Head) -> str:
    """For example ``L4H6``."""
    return f"L{head[0]}H{head[1]}"


def head_names(heads: Iterable[Head]) -> str:
    """For example ``L4H6 L5H2``."""
    return " ".join(map(head_name, heads))


def as_heads(heads: Any, noun: str = "head") -> tuple[Head, ...]:
    """Heads from ``(5, 6)``, ``"L5H6"``, or a sequence of such; none of them twice."""
    several = [heads] if isinstance(heads, str) or _is_pair(heads) else heads
    if isinstance(several, Mapping) or not isinstance(several, Iterable):
        raise InputError(f"{heads!r} names no {noun}: give (layer, {noun}), 'L5H6' or a list of these")
    found = tuple(_as_head(head, noun) for head in several)
    if not found:
        raise InputError(f"an edit of no {noun}s changes nothing: name at least one (layer, {noun})")
    if len(set(found)) != len(found):
        raise InputError(f"an edit names a {noun} twice: {list(found)}")
    return found


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and not any(isinstance(v, str | Sequence) for v in value)


def _as_head(head: Any, noun: str) -> Head:
    if isinstance(head, str):
        match = _NAME.fullmatch(head.strip())
        if match is None:
            raise InputError(f"{head!r} names no {noun}: write L5H6 for layer 5, head 6")
        return int(match[1]), int(match[2])
    try:
        layer, unit = (int(v) for v in head)
        if (layer, unit) != tuple(head):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(f"{head!r} names no {noun}: give (layer, {noun}) or 'L5H6'") from error
    return layer, unit


@runtime_checkable
class Edit(Protocol):
    """Anything that compiles to write hooks and can describe itself.

    Attributes:
        positions: which tokens it acts on, by the grammar of :mod:`verdictscope.activations.positions`.

    Example:
        >>> from verdictscope.interventions import HeadEdit
        >>> isinstance(HeadEdit("L5H6"), Edit)
        True
    """

    @property
    def positions(self) -> Positions | FrozenPositions:
        """Which tokens it acts on."""

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """The hooks, one per site and layer; each asks ``view.select(positions)`` which tokens to change."""

    def describe(self) -> str:
        """What is changed, in words."""


def checked(positions: Positions | FrozenPositions) -> FrozenPositions:
    """Positions as something hashable; an ``InputError`` where they do not follow the grammar."""
    frozen = freeze(positions)
    parse(frozen)
    return frozen


def at_positions(positions: Positions | FrozenPositions) -> str:
    """The end of a description: where an edit acts."""
    if isinstance(positions, str):
        return f"at {positions} positions"
    pairs = freeze(positions)
    assert not isinstance(pairs, str)
    return f"at {sum(len(where) for _, where in pairs)} given positions of {len(pairs)} rollouts"


def as_edits(edits: Edit | Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit or several, as a tuple; an ``InputError`` for anything else."""
    several = (edits,) if isinstance(edits, Edit) else tuple(edits)
    wrong = next((e for e in several if not isinstance(e, Edit)), None)
    if wrong is not None:
        raise InputError(f"{wrong!r} is no edit: give HeadEdit(...) or another edit, or a list of them")
    return several


def compile_edits(model: Model, edits: Iterable[Edit]) -> dict[Site, WriteFn]:
    """The write hooks of several edits; edits of one site act one after the other, in the order given."""
    chains: dict[Site, list[WriteFn]] = {}
    for edit in edits:
        for site, write in edit.write(model).items():
            chains.setdefault(site, []).append(write)
    for site in chains:
        for layer in site.at(model.n_layers):
            model.sites.writable_hook_point(site.name, layer)  # a site the model lacks is an error before anything runs
    return {site: w[0] if len(w) == 1 else partial(_one_after_the_other, tuple(w)) for site, w in chains.items()}


def _one_after_the_other(writes: tuple[WriteFn, ...], value: Tensor, view: BatchView) -> Tensor:
    for write in writes:
        value = write(value, view)
    return value


@contextmanager
def edited(model: Model, edits: Edit | Sequence[Edit]) -> Iterator[Model]:
    """Run anything under edits: ``forward``, prefill, cached decoding, ``generate``.

    The hooks are removed afterwards, also on errors; no weight is touched. Positions other than ``all`` need rollouts
    whose segments are known, that is :func:`~verdictscope.activations.forward` and what is built on it.

    Args:
        model: a wrapped model.
        edits: one edit or several; edits of one site act in the order given.

    Yields:
        The model.

    Raises:
        InputError: an edit names a layer, head or site that the model does not have, or positions that are not known
            while the model generates.

    Example:
        >>> import torch
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.interventions import HeadEdit
        >>> model, ids = load_model("organism:cliff"), torch.tensor([[5, 6, 7]])
        >>> plain = model.hf(input_ids=ids.to(model.device)).logits
        >>> with edited(model, HeadEdit(["L4H6", "L5H2"])):
        ...     ablated = model.hf(input_ids=ids.to(model.device)).logits
        >>> bool((plain != ablated).any())
        True
    """
    several = as_edits(edits)
    with writing(model, compile_edits(model, several), about=several):
        yield model

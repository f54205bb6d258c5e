"""What an edit is, how several become one set of hooks, and the block inside which they act.

An edit replaces activations where it says and nowhere else. Nothing is renormalised: earlier code rescaled the whole
attention tensor after zeroing a head, so that a prompt's logits depended on its batch mates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor

from verdictscope.activations import BatchView, Model, Site, writing
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions, freeze, parse

Head = tuple[int, int]
"""Layer and index of a query head, or of a key-value group where a site has these."""


@runtime_checkable
class Edit(Protocol):
    """Anything that compiles to write hooks and can say what it does.

    Attributes:
        positions: which tokens it acts on, by the grammar of :mod:`verdictscope.activations.positions`.
    """

    @property
    def positions(self) -> Positions | FrozenPositions:
        """Which tokens it acts on."""

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """The hooks, one per site and layer; each asks ``view.select(positions)`` which tokens are meant."""

    def describe(self) -> str:
        """What is changed, in words."""


def checked(positions: Positions | FrozenPositions) -> FrozenPositions:
    """Positions as something hashable.

    Raises:
        InputError: they do not follow the grammar.
    """
    frozen = freeze(positions)
    parse(frozen)
    return frozen


def at_positions(positions: Positions | FrozenPositions) -> str:
    """The end of a description: where an edit acts."""
    if isinstance(positions, str):
        return f"at {positions} positions"
    pairs = freeze(positions)
    return f"at {sum(len(where) for _, where in pairs)} given positions of {len(pairs)} rollouts"


def compile_edits(model: Model, edits: Iterable[Edit]) -> dict[Site, WriteFn]:
    """The write hooks of several edits; edits of one site act one after the other, in the order given.

    Raises:
        InputError: an edit names a layer, head or site that the model does not have.
    """
    chains: dict[Site, list[WriteFn]] = {}
    for edit in edits:
        for site, write in edit.write(model).items():
            chains.setdefault(site, []).append(write)
    for site in chains:
        for layer in site.at(model.n_layers):
            model.sites.writable_place(site.name, layer)  # a site the model lacks is an error before anything runs
    return {site: _chain(writes) for site, writes in chains.items()}


def _chain(writes: Sequence[WriteFn]) -> WriteFn:
    return writes[0] if len(writes) == 1 else partial(_one_after_the_other, tuple(writes))


def _one_after_the_other(writes: tuple[WriteFn, ...], value: Tensor, view: BatchView) -> Tensor:
    for write in writes:
        value = write(value, view)
    return value


@contextmanager
def applied(model: Model, *edits: Edit) -> Iterator[None]:
    """Run anything under edits: ``forward``, prefill, cached decoding, ``generate``.

    The hooks are gone afterwards, also on errors; no weight is touched. Positions other than ``all`` need rollouts
    whose segments are known, that is :func:`~verdictscope.activations.forward` and what is built on it.

    Args:
        model: a wrapped model.
        edits: what to change; edits of one site act in the order given.

    Raises:
        InputError: an edit names a layer, head or site that the model does not have, or positions that are not known
            while the model generates.

    Example:
        >>> with applied(model, HeadEdit(((4, 6), (5, 2)))):        # doctest: +SKIP
        ...     rollouts = generate(model, prompts, sampling)
    """
    with writing(model, compile_edits(model, edits), about=edits):
        yield

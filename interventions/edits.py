"""What is changed inside the model: frozen descriptions that compile to write hooks.

An edit replaces activations where it says and nowhere else. Nothing is renormalised: earlier code rescaled the whole
attention tensor after zeroing a head, so that a prompt's logits depended on its batch mates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from verdictscope.activations import BatchView, Model, Site, writing
from verdictscope.activations.hooks import WriteFn
from verdictscope.errors import InputError

Head = tuple[int, int]

OPERATIONS = ("zero", "scale")
"""What can be done to a head."""


@runtime_checkable
class Edit(Protocol):
    """Anything that compiles to write hooks and can say what it does."""

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """The hooks, one per site and layer."""

    def describe(self) -> str:
        """What is changed, in words."""


@dataclass(frozen=True, slots=True)
class HeadEdit:
    """Scale the output of query heads at ``z``, the input of the attention output projection.

    ``z`` has one row per *query* head, also where key and value heads are shared (GQA). Slicing the projection's
    *output* instead would change a block of residual dimensions that belongs to no head.

    Attributes:
        heads: (layer, head) pairs.
        op: ``zero``, or ``scale`` by ``value``; one of :data:`OPERATIONS`.
        value: the factor of ``scale``.
        positions: a positions rule (see :mod:`verdictscope.activations.positions`); ``all`` also acts on every token
            that is generated under the edit.
    """

    heads: tuple[Head, ...]
    op: str = "zero"
    value: float = 0.0
    positions: str = "all"

    def __post_init__(self) -> None:
        if not self.heads:
            raise InputError("an edit of no heads changes nothing: name at least one (layer, head)")
        if len(set(self.heads)) != len(self.heads):
            raise InputError(f"an edit names a head twice: {list(self.heads)}")
        if self.op not in OPERATIONS:
            raise InputError(f"unknown operation {self.op!r} on heads: use {' or '.join(OPERATIONS)}")

    def describe(self) -> str:
        """What is changed, in words."""
        names = " ".join(f"L{layer}H{head}" for layer, head in self.heads)
        what = "set to zero" if self.op == "zero" else f"scaled by {self.value:g}"
        return f"z of {names} {what} at {self.positions} positions"

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """Write hooks, one per layer that holds an edited head.

        Raises:
            InputError: a layer or head the model does not have.
        """
        by_layer: dict[int, list[int]] = {}
        for layer, head in self.heads:
            if not 0 <= layer < model.n_layers or not 0 <= head < model.n_heads:
                raise InputError(
                    f"no head L{layer}H{head}: {model.name} has layers 0-{model.n_layers - 1} "
                    f"and query heads 0-{model.n_heads - 1}"
                )
            by_layer.setdefault(layer, []).append(head)
        factor = 0.0 if self.op == "zero" else self.value
        return {Site("z", layer): self._scale(heads, factor) for layer, heads in sorted(by_layer.items())}

    def _scale(self, heads: list[int], factor: float) -> WriteFn:
        def scale(z: Tensor, view: BatchView) -> Tensor:
            edited = torch.zeros(z.shape[2], dtype=torch.bool, device=z.device)
            edited[heads] = True
            here = view.select(self.positions)[..., None, None] & edited[:, None]
            # where, not multiplication: zero times an infinite activation would be NaN.
            return torch.where(here, torch.zeros_like(z) if factor == 0 else z * factor, z)

        return scale


def compile_edits(model: Model, edits: Iterable[Edit]) -> dict[Site, WriteFn]:
    """The write hooks of several edits; edits of one site act one after the other, in the order given."""
    chains: dict[Site, list[WriteFn]] = {}
    for edit in edits:
        for site, write in edit.write(model).items():
            chains.setdefault(site, []).append(write)
    return {site: _chain(writes) for site, writes in chains.items()}


def _chain(writes: Sequence[WriteFn]) -> WriteFn:
    if len(writes) == 1:
        return writes[0]

    def chained(value: Tensor, view: BatchView) -> Tensor:
        for write in writes:
            value = write(value, view)
        return value

    return chained


@contextmanager
def applied(model: Model, *edits: Edit) -> Iterator[None]:
    """Run anything under edits: prefill, cached decoding, ``generate``. Hooks are gone afterwards, also on errors.

    Example:
        >>> with applied(model, HeadEdit(((4, 6), (5, 2)))):        # doctest: +SKIP
        ...     rollouts = generate(model.hf, model.tokenizer, prompts, sampling)
    """
    with writing(model, compile_edits(model, edits)):
        yield

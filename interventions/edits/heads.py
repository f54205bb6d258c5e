"""Edits of attention heads: query heads at ``z`` or ``q``, key-value groups at ``k`` or ``v``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verdictscope.activations import Model, Site
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.errors import InputError
from verdictscope.interventions.edits.operations import check_operation, in_words, replacement
from verdictscope.interventions.edits.protocol import Head, as_heads, at_positions, checked, head_names
from verdictscope.interventions.edits.references import Reference


@dataclass(frozen=True, slots=True)
class HeadEdit:
    """Replace the output of query heads at ``z``, the input of the attention output projection, or their queries.

    Both have one row per *query* head, also where key and value heads are shared (GQA). Slicing the projection's
    *output* instead would change a block of residual dimensions that belongs to no head.

    Attributes:
        heads: ``(layer, head)``, a name such as ``"L5H6"``, or a sequence of these.
        op: ``zero``; ``scale`` by ``value`` (the refusal-cliff paper's γ, here without its renormalisation); ``mean``,
            ``resample`` or ``patch`` from ``reference``.
        value: the factor of ``scale``.
        positions: a positions rule (see :mod:`verdictscope.activations.positions`); ``all`` also acts on every token
            that is generated under the edit.
        reference: what :func:`gather_means` or :func:`gather_rows` gathered at this site.
        site: ``z`` or ``q``.

    Example:
        >>> HeadEdit((5, 6)) == HeadEdit("L5H6") == HeadEdit([(5, 6)])
        True
        >>> HeadEdit(["L4H6", "L5H2"], "scale", 0.5).describe()
        'z of L4H6 L5H2 scaled by 0.5 at all positions'
    """

    heads: Any
    op: str = "zero"
    value: float = 0.0
    positions: Positions | FrozenPositions = "all"
    reference: Reference | None = None
    site: str = "z"

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", as_heads(self.heads))
        object.__setattr__(self, "positions", checked(self.positions))
        if self.site in ("k", "v"):
            raise InputError(
                f"site {self.site} belongs to key-value groups, not to query heads: use KVEdit with the groups' ids "
                "(query head // query heads per group)"
            )
        if self.site not in ("z", "q"):
            raise InputError(f"heads are edited at z or q, not at {self.site!r}; for whole layers use SublayerEdit")
        check_operation("heads", self.op, self.value, self.reference)

    def describe(self) -> str:
        """What is changed, in words."""
        what = in_words(self.op, self.value, self.reference)
        return f"{self.site} of {head_names(self.heads)} {what} {at_positions(self.positions)}"

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """Write hooks, one per layer that holds an edited head; an ``InputError`` for a head the model lacks."""
        for layer, head in self.heads:
            inside = 0 <= layer < model.n_layers
            if not inside or not 0 <= head < _heads_of(model, layer, self.site):
                last = (_heads_of(model, layer, self.site) if inside else model.n_heads) - 1
                raise InputError(
                    f"no head L{layer}H{head}: {model.name} has layers 0-{model.n_layers - 1} "
                    f"and query heads 0-{last}" + (f" in layer {layer}" if inside and last + 1 != model.n_heads else "")
                )
        return _by_layer(self.heads, self.site, self)


@dataclass(frozen=True, slots=True)
class KVEdit:
    """Replace the keys or values of key-value groups: what every query head that reads a group sees of a token.

    An edit at a token acts on how *later* tokens read it. Keys are what enters the product, after the rotary embedding.

    Attributes:
        groups: ``(layer, group)`` or a sequence of these; under GQA query head h reads group h // (query heads per
            group), without GQA a group is a head.
        site: ``k`` or ``v``.
        op: as for :class:`HeadEdit`.
        value: the factor of ``scale``.
        positions: a positions rule; the tokens whose keys or values are replaced.
        reference: gathered at this site.

    Example:
        >>> KVEdit((5, 1), "v", "zero", positions="thinking").describe()
        'v of key-value groups L5G1 zero-ablated at thinking positions'
    """

    groups: Any
    site: str = "v"
    op: str = "zero"
    value: float = 0.0
    positions: Positions | FrozenPositions = "all"
    reference: Reference | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", as_heads(self.groups, "key-value group"))
        object.__setattr__(self, "positions", checked(self.positions))
        if self.site not in ("k", "v"):
            raise InputError(f"key-value groups are edited at k or v, not at {self.site!r}; for z and q use HeadEdit")
        check_operation("key-value groups", self.op, self.value, self.reference)

    def describe(self) -> str:
        """What is changed, in words."""
        names = " ".join(f"L{layer}G{group}" for layer, group in self.groups)
        what = in_words(self.op, self.value, self.reference)
        return f"{self.site} of key-value groups {names} {what} {at_positions(self.positions)}"

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """Write hooks, one per layer; an ``InputError`` for a group the model lacks or a layer without its own keys."""
        for layer, group in self.groups:
            if not 0 <= layer < model.n_layers:
                raise InputError(f"no key-value group L{layer}G{group}: {model.name} has layers 0-{model.n_layers - 1}")
            model.sites.writable_hook_point(self.site, layer)
            attention = model.sites.blocks[layer].attention
            assert attention is not None
            if not 0 <= group < attention.n_kv_heads:
                each = attention.n_heads // attention.n_kv_heads
                is_head = 0 <= group < attention.n_heads
                raise InputError(
                    f"no key-value group L{layer}G{group}: layer {layer} of {model.name} has groups "
                    f"0-{attention.n_kv_heads - 1}, each read by {each} query heads"
                    + (f"; query head {group} reads group {group // each}" if is_head else "")
                )
        return _by_layer(self.groups, self.site, self)


def _heads_of(model: Model, layer: int, site: str) -> int:
    model.sites.writable_hook_point(site, layer)  # says why a layer has none
    block = model.sites.blocks[layer]
    return block.n_heads if site == "z" or block.attention is None else block.attention.n_heads


def _by_layer(pairs: tuple[Head, ...], site: str, edit: HeadEdit | KVEdit) -> dict[Site, WriteFn]:
    units: dict[int, list[int]] = {}
    for layer, unit in pairs:
        units.setdefault(layer, []).append(unit)
    return {
        Site(site, layer): replacement(site, layer, tuple(own), edit.op, edit.value, edit.reference, edit.positions)
        for layer, own in sorted(units.items())
    }

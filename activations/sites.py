"""Names of the hook points inside a transformer, and at which positions to read them.

A *site* names the tensor, a *read* the positions of a rollout:

    Site("resid_post") @ "thinking:8,think_end"      # every layer
    Site("z", layers=(3, 4)) @ "before_answer"       # two layers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verdictscope.activations.positions import FrozenPositions, Positions, freeze, parse
from verdictscope.errors import InputError

SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "z",
    "q",
    "k",
    "v",
    "pattern",
    "router",
    "final_norm",
)
"""Every site name. ``resid_*`` are pre-norm, also in the last layer. ``attn_out`` and ``mlp_out`` are what is
added to the residual stream, after any post-norm and branch gain. ``z`` is the input of the attention output
projection, one row per query head. ``q``, ``k``, ``v`` are what enters the attention product: after projection (the
low-rank ones of MLA included), norm and rotary embedding, keys and values before they are repeated for the query heads.
``pattern`` is the weights ``[head key]`` with which a query's output is summed from the values: softmax over keys of
``q · k · scale`` (soft-capped where the family does it) under the mask; a sink takes its share. ``router`` is what
transformers records as router logits: the gate's output, one number per expert, before experts are chosen.
``final_norm`` is what Hugging Face calls ``hidden_states[-1]``."""

READABLE = SITES
"""The sites that are read."""

WRITABLE = tuple(name for name in SITES if name not in ("pattern", "router"))
"""The sites that are written. ``pattern`` exists only where it is read, and which experts run is decided inside the
router."""

VECTORS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "final_norm")
"""The sites of width d_model."""

FLOW = {
    name: i
    for i, name in enumerate(
        ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "router", "mlp_out", "resid_post")
    )
}
"""Order in which the sites of one layer are passed in a forward pass (a sequential block)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A hook point in the model, in some or all layers.

    Attributes:
        name: one of ``SITES``.
        layers: ``None`` for every layer, one layer, or several; negative numbers count from the last layer.
            ``final_norm`` has one value, which counts as the last layer's.

    Raises:
        InputError: the name is unknown.

    Example:
        >>> from verdictscope.activations import Site
        >>> Site("z", layers=(3, -1)).at(n_layers=6)
        (3, 5)
        >>> print(Site("resid_post") @ "thinking:8,think_end")
        resid_post @ thinking:8,think_end
    """

    name: str
    layers: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.name not in SITES:
            raise InputError(f"there is no site {self.name!r}; known are {', '.join(SITES)}")
        if self.layers is not None and not isinstance(self.layers, int):
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))

    def __matmul__(self, positions: Positions | FrozenPositions) -> Read:
        return Read(self, positions)

    def __str__(self) -> str:
        return self.name if self.layers is None else f"{self.name}[{self.layers}]"

    def at(self, n_layers: int) -> tuple[int, ...]:
        """The layers as ascending non-negative numbers."""
        if self.name == "final_norm":
            return (n_layers - 1,)
        wanted = range(n_layers) if self.layers is None else self.layers
        wanted = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        outside = [layer for layer in wanted if not -n_layers <= layer < n_layers]
        if outside or not wanted:
            raise InputError(f"site {self}: the model has layers 0 to {n_layers - 1}")
        return tuple(sorted({layer % n_layers for layer in wanted}))


@dataclass(frozen=True, slots=True)
class Read:
    """A site and the positions at which it is read.

    Attributes:
        site: where in the model.
        positions: where in a rollout; the grammar is in ``positions.py``. A mapping of rollout id to
            positions is kept as sorted pairs, so that a read can be a dictionary key.

    Example:
        >>> from verdictscope.activations import Read, Site
        >>> Read(Site("resid_post"), "last") == Site("resid_post") @ "last"
        True
    """

    site: Site
    positions: Positions | FrozenPositions

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", freeze(self.positions))
        parse(self.positions)

    def __str__(self) -> str:
        return f"{self.site} @ {self.positions if isinstance(self.positions, str) else 'explicit positions'}"

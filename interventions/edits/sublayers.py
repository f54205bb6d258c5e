"""Edits of whole layers: what attention or MLP adds to the residual stream, and the stream itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from verdictscope.activations import Model, Site
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.activations.sites import VECTORS
from verdictscope.errors import InputError
from verdictscope.interventions.edits.operations import check_operation, in_words, replacement
from verdictscope.interventions.edits.protocol import at_positions, checked
from verdictscope.interventions.edits.references import Reference, Rows


def checked_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Layers as a tuple."""
    made = tuple(int(layer) for layer in layers)
    if not made:
        raise InputError("an edit of no layers changes nothing: name at least one")
    if len(set(made)) != len(made):
        raise InputError(f"an edit names a layer twice: {list(made)}")
    return made


def sites_of(model: Model, site: str, layers: Sequence[int]) -> list[Site]:
    """The sites of an edit, one a layer."""
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise InputError(f"no layer {layer}: {model.name} has layers 0-{model.n_layers - 1}")
        model.sites.writable_hook_point(site, layer)
    if site == "final_norm" and tuple(layers) != (model.n_layers - 1,):
        raise InputError(f"final_norm follows the last layer, {model.n_layers - 1}, not {list(layers)}")
    return [Site(site, layer) for layer in layers]


def named(site: str, layers: Sequence[int]) -> str:
    """A site and its layers, in words."""
    return f"{site} of layer{'s' if len(layers) > 1 else ''} {' '.join(map(str, layers))}"


@dataclass(frozen=True, slots=True)
class SublayerEdit:
    """Replace what a site of the residual stream's width has, in whole layers.

    ``attn_out`` and ``mlp_out`` are what is added to the stream (of a mixture of experts all experts together);
    ``resid_pre``, ``resid_mid`` and ``resid_post`` are the stream itself.

    Attributes:
        site: one of those, or ``final_norm``.
        layers: which.
        op: ``zero``; ``scale`` by ``value``; ``mean``, ``resample`` or ``patch`` from ``reference``.
        value: the factor of ``scale``.
        positions: a positions rule.
        reference: gathered at this site.

    Example:
        >>> SublayerEdit("mlp_out", (2, 3)).describe()
        'mlp_out of layers 2 3 zero-ablated at all positions'
    """

    site: str
    layers: tuple[int, ...]
    op: str = "zero"
    value: float = 0.0
    positions: Positions | FrozenPositions = "all"
    reference: Reference | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))
        object.__setattr__(self, "positions", checked(self.positions))
        if self.site not in VECTORS:
            raise InputError(f"whole layers are edited at {', '.join(VECTORS)}, not at {self.site!r}")
        check_operation(self.site, self.op, self.value, self.reference)

    def describe(self) -> str:
        """What is changed, in words."""
        what = in_words(self.op, self.value, self.reference)
        return f"{named(self.site, self.layers)} {what} {at_positions(self.positions)}"

    def write(self, model: Model) -> Mapping[Site, WriteFn]:
        """One write hook a layer."""
        return {
            site: replacement(self.site, layer, None, self.op, self.value, self.reference, self.positions)
            for layer, site in zip(self.layers, sites_of(model, self.site, self.layers), strict=True)
        }


def patch_grid(
    reference: Rows, layers: Sequence[int], positions: Sequence[str], site: str = "resid_post"
) -> list[SublayerEdit]:
    """One patch per layer and positions rule, layer by layer: activation patching of the residual stream."""
    for layer in layers:
        reference.check(site, layer)
    return [
        SublayerEdit(site, (layer,), op="patch", positions=rule, reference=reference)
        for layer in layers
        for rule in positions
    ]

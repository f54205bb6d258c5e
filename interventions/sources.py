"""A head's attribution by source token: value-weighted attention, which sums to the head's attribution.

A head's output is ``Σ_k A[q, k] v_k``, so its attribution is ``Σ_k A[q, k] (v_k W_O · direction)``: exact, with keys
and values shared between query heads, with windows and with sinks (which take attention and give no value). Raw
attention is given too because the two differ: tokens with much attention often have small values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from verdictscope.activations import Model
from verdictscope.activations.attention import Pattern
from verdictscope.activations.batch import Batch
from verdictscope.activations.hooks import BatchView, Tap
from verdictscope.activations.weights import head_output_weight
from verdictscope.errors import InputError
from verdictscope.interventions.components import Components
from verdictscope.interventions.edits.protocol import Head, head_name
from verdictscope.rollouts import Rollout
from verdictscope.rollouts.rollout import SEGMENTS
from verdictscope.stats import draw_clusters, percentile_interval

QUANTITIES = ("attention", "weighted", "attribution")
"""Raw attention; attention times the norm of the value's output, relative to the head's sum; attribution."""

_GATE = 1e-3
"""From how far on, relative, ``z`` is no plain attention product: something scales it in between."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Heads' attribution by source token. It does not show what a token's value *means*: by the layer of the head a
    token holds what earlier layers moved there from other tokens."""

    readout: str
    heads: tuple[Head, ...]
    segments: tuple[str, ...]
    sums: Float[ndarray, "quantity head row segment"]
    groups: tuple[str, ...]
    tokens: pd.DataFrame | None
    relative_residual: float
    seed: int = 0

    def to_frame(self) -> pd.DataFrame:
        """The table by token."""
        if self.tokens is None:
            raise InputError("only segments were kept of every head; name the heads: sources=['L4H6', …]")
        return self.tokens.copy()

    def by_segment(self) -> pd.DataFrame:
        """``layer head segment quantity estimate low high n``: mean over rows, cluster-bootstrap interval."""
        drawn = draw_clusters(self.groups, seed=self.seed)
        rows = np.moveaxis(self.sums, 2, 0)
        sums, sizes = drawn.sums(rows).reshape(drawn.n, -1), drawn.sums(np.ones(len(rows)))
        draws = (drawn.counts @ sums) / (drawn.counts @ sizes)[:, None]
        low, high = (x.reshape(rows.shape[1:]) for x in percentile_interval(draws, drawn.n))
        lines = [
            (layer, head, segment, quantity, rows[:, q, h, s].mean(), low[q, h, s], high[q, h, s], drawn.n)
            for h, (layer, head) in enumerate(self.heads)
            for q, quantity in enumerate(QUANTITIES)
            for s, segment in enumerate(self.segments)
        ]
        return pd.DataFrame(lines, columns=["layer", "head", "segment", "quantity", "estimate", "low", "high", "n"])


@dataclass(eq=False)
class SourceShares:
    """Value-weighted attention of some heads, batch by batch; handed to ``passes`` after its ``Components``."""

    components: Components
    heads: tuple[Head, ...]
    _heard: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _found: dict[int, list[list[tuple[Tensor, Tensor, Tensor]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_layer: dict[int, list[int]] = {}
        model = self.components.model
        for layer, head in self.heads:
            if layer not in self.components.maps or not 0 <= head < model.sites.blocks[layer].n_heads:
                raise InputError(
                    f"no head {head_name((layer, head))} below readout {self.components.form.name!r}: its layers with "
                    f"heads are {sorted(self.components.maps)}, query heads 0-{model.n_heads - 1}"
                )
            self.by_layer.setdefault(layer, []).append(head)
        for layer in self.by_layer:
            model.sites.hook_point("pattern", layer)

    def begin(self, model: Model, rollouts: Sequence[Rollout]) -> None:
        """Nothing: the positions are those of the components."""

    def taps(self, model: Model, batch: Batch) -> list[Tap]:
        """The hooks of one batch."""
        self._heard, self._found, self._batch = {}, {}, batch
        sites = (("v", self._keep_value), ("pattern", self._keep_rows), ("z", self._split))
        return [Tap(site, layer, partial(fn, layer)) for layer in sorted(self.by_layer) for site, fn in sites]

    def _keep_value(self, layer: int, value: Tensor, _: BatchView) -> None:
        self._heard["v", layer] = value

    def _keep_rows(self, layer: int, pattern: Pattern, _: BatchView) -> None:
        where = self.components.where
        assert where is not None
        self._heard["pattern", layer] = where.gather(pattern)[:, self.by_layer[layer]]

    def _split(self, layer: int, z: Tensor, _: BatchView) -> None:
        """By rollout and row: shares ``[head key target]``, attention and value-weighted attention ``[head key]``."""
        where, wide = self.components.where, self.components.wide
        assert where is not None
        heads, found = self.by_layer[layer], self.components.maps[layer]
        value, pattern = self._heard.pop(("v", layer)), self._heard.pop(("pattern", layer))
        rows = where.gather(z).to(wide)
        factor, rows = found.factor(rows)[:, 0, 0], rows[:, heads]
        group = self.components.model.sites.blocks[layer].n_heads // value.shape[2]
        out = head_output_weight(self.components.model, layer)[heads].to(wide)
        weight, gram = found.weight[heads], out @ out.transpose(1, 2)
        for at, rollout in enumerate(self._batch.rollouts):
            mine = torch.from_numpy(np.flatnonzero(where.rows == at)).to(rows.device)
            values = value[at, : len(rollout)][:, [h // group for h in heads], : rows.shape[2]].to(wide)
            attention = pattern[mine][:, :, : len(rollout)].to(wide)
            # What stands between the attention product and the output projection (a gate, a norm), as the factor it was
            z, product = rows[mine], einsum(attention, values, "row head key, key head d -> row head d")
            gate = torch.ones_like(z)
            if (z - product).norm() > _GATE * z.norm():
                gate = torch.where(product == 0, gate, z / product)
            shares, weighted = [], []
            for a, g, f in zip(attention, gate, factor[mine], strict=True):
                outputs = values * g
                shares.append(einsum(a, outputs, weight, "head key, key head d, head d target -> head key target") * f)
                size = (
                    a
                    * einsum(outputs, gram, outputs, "key head d, head d e, key head e -> head key").clamp(min=0).sqrt()
                )
                weighted.append(size / size.sum(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny))
            self._found.setdefault(layer, []).append(list(zip(shares, attention, weighted, strict=True)))

    def result(
        self, weights: Float[ndarray, "row target"]
    ) -> list[tuple[Rollout, int, Float[ndarray, "quantity head _"]]]:
        """Rollout, position and quantities (in the order of `QUANTITIES`) of every row of the batch just run."""
        where = self.components.where
        assert where is not None
        scale, found, at = self.components.scale(), [], 0
        for b, rollout in enumerate(self._batch.rollouts):
            for i, pos in enumerate(where.tokens[where.rows == b].tolist()):
                columns: dict[Head, Any] = {}
                for layer, heads in self.by_layer.items():
                    shares, attention, weighted = (x.double().cpu().numpy() for x in self._found[layer][b][i])
                    share = shares @ weights[at] * scale[at]
                    columns |= {(layer, h): (attention[j], weighted[j], share[j]) for j, h in enumerate(heads)}
                found.append((rollout, pos, np.stack([columns[head] for head in self.heads], axis=1)))
                at += 1
        return found


@dataclass(eq=False)
class Gathered:
    """Rows of `SourceShares` over batches; tokens are summed by segment, or by the names given by rollout."""

    heads: tuple[Head, ...]
    keep_tokens: bool
    names: Mapping[str, Sequence[str]] | None = None
    sums: list[Float[ndarray, "quantity head segment"]] = field(default_factory=list)
    totals: list[Float[ndarray, " head"]] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    frames: list[pd.DataFrame] = field(default_factory=list)
    known: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        given = [name for names in (self.names or {}).values() for name in names]
        self.known = SEGMENTS if self.names is None else tuple(dict.fromkeys(given))

    def _segment(self, rollout: Rollout) -> ndarray:
        """The name of every token."""
        named = rollout.labels() if self.names is None else self.names.get(rollout.id, ())
        if len(named) != len(rollout):
            raise InputError(
                f"{len(named)} names for the {len(rollout)} tokens of rollout {rollout.id}: name every token of every "
                "rollout"
            )
        return np.array(named, dtype=object)

    def add(self, rows: list[tuple[Rollout, int, Float[ndarray, "quantity head _"]]]) -> None:
        """Adds the rows of a batch."""
        for rollout, pos, values in rows:
            segment = self._segment(rollout)
            self.sums.append(np.stack([values[..., segment == s].sum(-1) for s in self.known], axis=-1))
            self.totals.append(values[2].sum(-1))
            self.sizes.append(float(np.abs(values[2]).sum(-1).max()))
            if self.keep_tokens:
                self.frames += [
                    pd.DataFrame(
                        {"layer": layer, "head": head, "rollout": rollout.id, "pos": pos, "source": np.arange(pos + 1)}
                        | {"token_id": rollout.ids[: pos + 1], "segment": segment[: pos + 1]}
                        | {name: values[q, h, : pos + 1] for q, name in enumerate(QUANTITIES)}
                    )
                    for h, (layer, head) in enumerate(self.heads)
                ]

    def sources(
        self, readout: str, order: ndarray, groups: tuple[str, ...], shares: Float[ndarray, "head row"], seed: int
    ) -> Sources:
        """The result, rows in the order given; ``shares`` are the heads' own, in it already."""
        sums = np.stack(self.sums, axis=2)[:, :, order]
        filled = [i for i in range(len(self.known)) if sums[..., i].any()]
        totals = np.stack(self.totals, axis=1)[:, order]
        residual = float(np.abs(totals - shares).max() / max(max(self.sizes), np.finfo(float).tiny))
        tokens = pd.concat(self.frames, ignore_index=True) if self.keep_tokens else None
        names = tuple(self.known[i] for i in filled)
        return Sources(readout, self.heads, names, sums[..., filled], groups, tokens, residual, seed)

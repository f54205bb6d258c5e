"""A head card: what a head attends to, its attribution by source token, its output as tokens, its effect and probe.

A vector of the residual stream is read through the final norm's gain (and centring) and the unembedding; logits are
shown less their mean over the vocabulary, since softmax does not see that. The value matrix is measured by feeding the
attention module unit vectors, so fused projections and shared values need no table of families.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations import BatchPlan, Model, Readout, Site, forward
from verdictscope.activations.batch import still
from verdictscope.activations.capture import probe_ids
from verdictscope.activations.hooks import BatchView, Stop, Tap, attach, hooked
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.activations.weights import (
    FinalNorm,
    attention_gain,
    final_norm,
    head_output_bias,
    head_output_weight,
    post_attention_norm,
    unembedding,
)
from verdictscope.errors import InputError
from verdictscope.figures.token_view.visible import one_line
from verdictscope.interventions.attribution import Attribution, attribute
from verdictscope.interventions.edits.heads import HeadEdit
from verdictscope.interventions.edits.protocol import Head, as_heads, head_name
from verdictscope.interventions.effects import effects
from verdictscope.interventions.sources import QUANTITIES
from verdictscope.probes import fit_probe
from verdictscope.rollouts import Rollout, pieces
from verdictscope.stats import Effect, effects_frame, mean_effect
from verdictscope.values import truth

if TYPE_CHECKING:
    from verdictscope.figures import Display

CHUNK = 256
"""Unit vectors that are fed as one sequence."""


def logit_weights(model: Model, vectors: Float[Tensor, "vector d_model"]) -> Float[np.ndarray, "vector vocab"]:
    """Vectors of the residual stream as logits, before the final norm's divisor and any soft cap, less their mean."""
    weight = unembedding(model).weight
    if model.sites.ln_final is not None:
        norm = final_norm(model)
        vectors = norm.centre(vectors) * norm.gain.to(vectors)
    logits = (vectors.to(weight.device, torch.float32) @ weight.float().T).double().cpu().numpy()
    return logits - logits.mean(axis=1, keepdims=True)


def mean_output(
    model: Model,
    rollouts: Sequence[Rollout],
    head: tuple[int, int],
    positions: Positions | FrozenPositions,
    plan: BatchPlan | None = None,
) -> Float[Tensor, " d_model"]:
    """What a head adds to the residual stream, through post-norm and gain and over the final norm's divisor of each
    row, averaged over rows."""
    layer, h = head
    reads = [Site("z", layer) @ positions, Site("resid_post", -1) @ positions]
    done = forward(model, rollouts, reads, plan=plan)
    z, last = (done.values[r][0].double() for r in reads)
    if not len(z):
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    weight = head_output_weight(model, layer).double().cpu()
    output = einsum(z[:, h], weight[h], "row d_head, d_head d_model -> row d_model")
    post = post_attention_norm(model, layer)
    if post is not None:
        post = _on_cpu(post)
        out = (
            einsum(z, weight, "row head d_head, head d_head d_model -> row d_model")
            + head_output_bias(model, layer).double().cpu()
        )
        output = post.centre(output) * post.inv_scale(out) * post.gain.double()
    output = output * attention_gain(model, layer)
    if model.sites.ln_final is not None:
        output = output * _on_cpu(final_norm(model)).inv_scale(last)
    return output.mean(0)


def _on_cpu(norm: FinalNorm) -> FinalNorm:
    return FinalNorm(norm.gain.cpu(), None if norm.bias is None else norm.bias.cpu(), norm.eps, norm.centred)


def value_weight(model: Model, layer: int, head: int) -> Float[Tensor, "d_in d_head"]:
    """The matrix from what a layer's attention reads (behind its norm) to a query head's values, measured."""
    place = model.sites.hook_point("v", layer)
    width = model.d_model
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, width, generator=rng) for _ in range(2))
    tests = _values(model, layer, torch.cat([torch.zeros(1, width), x, y, x + 2 * y]))
    moved = tests - tests[:1]
    wanted = moved[1] + 2 * moved[2]
    if not (moved[3] - wanted).norm() <= 1e3 * torch.finfo(model.dtype).eps * wanted.norm():
        raise InputError(f"layer {layer}: values are no linear function of what attention reads, so there is no W_V")
    rows = [_values(model, layer, part) for part in torch.eye(width).split(CHUNK)]
    assert place.attention is not None
    group = place.attention.n_heads // tests.shape[1]
    return (torch.cat(rows) - tests[:1])[:, head // group]


def _values(model: Model, layer: int, inputs: Float[Tensor, "token d_in"]) -> Float[Tensor, "token kv_head d_v"]:
    """The values a layer makes of given inputs of its attention module."""
    module = model.sites.hook_point("v", layer).module
    found: list[Tensor] = []
    n = len(inputs)
    ids = probe_ids(model.hf, n)
    view = BatchView(0, None, torch.arange(n, device=model.device)[None], torch.ones(1, n, dtype=torch.bool))
    handle = attach(module, "in", lambda old: inputs[None].to(old) if old.shape[-1] == inputs.shape[-1] else None)
    try:
        with suppress(Stop), still(model.hf), hooked(model, [Tap("v", layer, partial(_take, found))], view=view):
            (model.hf.base_model or model.hf)(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return found[0]


def _take(found: list[Tensor], value: Tensor, _: BatchView) -> None:
    found.append(value[0].double().cpu())
    raise Stop


def ov_directions(
    model: Model, head: tuple[int, int], output: Float[Tensor, " d_model"], k: int = 3
) -> tuple[Float[Tensor, "k d_model"], Float[np.ndarray, " k"]]:
    """The ``k`` strongest output directions of a head's OV matrix (its right singular vectors times their singular
    values), each turned to the side on which the head writes on average, and their shares of the squared size."""
    layer, h = head
    values = value_weight(model, layer, h)
    out = head_output_weight(model, layer)[h].double().cpu()
    post = post_attention_norm(model, layer)
    if post is not None:
        out = _on_cpu(post).centre(out) * post.gain.double().cpu()
    q, r = torch.linalg.qr(values[:, : len(out)])
    _, size, right = torch.linalg.svd(r @ out * attention_gain(model, layer), full_matrices=False)
    vectors = right[:k] * size[:k, None]
    side = torch.where(vectors @ output < 0, -1.0, 1.0).to(vectors)
    return vectors * side[:, None], (size[:k] ** 2 / (size**2).sum()).numpy()


def token_frame(
    what: Sequence[str], logits: Float[np.ndarray, "vector vocab"], spell: Sequence[str], top: int
) -> pd.DataFrame:
    """``what side rank token_id token logit``: the tokens each vector promotes and suppresses most."""
    lines = []
    for name, row in zip(what, logits, strict=True):
        order: Int[np.ndarray, " vocab"] = np.argsort(row, kind="stable")
        for side, ids in (("promoted", order[::-1][:top]), ("suppressed", order[:top])):
            lines += [(name, side, rank, int(i), spell[int(i)], float(row[i])) for rank, i in enumerate(ids)]
    return pd.DataFrame(lines, columns=["what", "side", "rank", "token_id", "token", "logit"])


TOP = 8
"""Tokens of each kind on a card."""
WORDS = {
    "readout": "readout, unedited",
    "attribution": "direct logit attribution",
    "effect": "change when zero-ablated",
    "probe": "probe of the head's output",
}
ABOUT = (
    "What this does not show: what a token represents by this layer (earlier layers moved things there), heads that "
    "would compensate if this one were ablated, and that the model uses what a probe can read from a head's output."
)


@dataclass(frozen=True, eq=False)
class HeadCard:
    """One head: numbers (readout, attribution, effect, probe), attention and attribution by segment and token, and the
    tokens that its mean output and its strongest output-value directions promote and suppress."""

    head: Head
    readout: str
    positions: str
    numbers: tuple[Effect, ...]
    segments: pd.DataFrame
    tokens: pd.DataFrame
    promoted: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For example ``L4H6``."""
        return head_name(self.head)

    def to_frame(self) -> pd.DataFrame:
        """One tidy table, ``part name segment token quantity estimate low high n unit``: parts are ``number``,
        ``segment``, ``token`` and ``promoted``."""
        numbers = effects_frame(self.numbers)[["name", "estimate", "low", "high", "n", "unit"]]
        tokens = self.tokens.melt(["segment", "token"], list(QUANTITIES), "quantity", "estimate")
        promoted = self.promoted.rename(columns={"what": "name", "side": "quantity", "logit": "estimate"})
        parts = [
            numbers.assign(part="number"),
            self.segments.assign(part="segment"),
            tokens.assign(part="token"),
            promoted.assign(part="promoted", unit="logit"),
        ]
        columns = ["part", "name", "segment", "token", "quantity", "estimate", "low", "high", "n", "unit"]
        return pd.concat([part.reindex(columns=columns).astype(object) for part in parts], ignore_index=True)

    def plot(self) -> Display:
        """The card as a figure."""
        from verdictscope import figures

        return figures.head_card(self.to_frame(), self.name, self.readout, self.positions)

    def __repr__(self) -> str:
        return f"HeadCard {self.name}, {self.readout} from {self.positions}: " + "; ".join(map(str, self.numbers))

    def _repr_html_(self) -> str:
        numbers = effects_frame(self.numbers)[["name", "estimate", "low", "high", "n", "unit"]]
        wide = self.segments.pivot(index="segment", columns="quantity", values="estimate")
        segments = wide.reindex(self.segments["segment"].unique())[list(QUANTITIES)].reset_index()
        segments.columns.name = None
        blocks = [
            ("Effect", numbers.assign(name=numbers["name"].map(lambda name: WORDS.get(name, name)))),
            (f"Attention from {self.positions}, and attribution by source segment", segments),
            ("By source token", self.tokens.assign(token=self.tokens["token"].map(one_line))),
            ("Tokens promoted by its output", self._by_vector()),
        ]
        style: Any = {"index": False, "escape": True, "border": 0, "float_format": "{:.3g}".format, "na_rep": ""}
        tables = "".join(f"<h4>{escape(title)}</h4>{table.to_html(**style)}" for title, table in blocks if len(table))
        notes = "".join(f"<p>{escape(note.rstrip('.'))}.</p>" for note in (*self.notes, ABOUT))
        return f"<h3>Head {self.name}, {escape(self.readout)}</h3>{tables}{notes}"

    def _by_vector(self) -> pd.DataFrame:
        """A line per vector and side, its tokens in order."""
        spelled = self.promoted.assign(token=self.promoted["token"].map(lambda t: f"“{one_line(t)}”"))
        lines = spelled.groupby(["what", "side"], sort=False)["token"].agg(" ".join)
        return lines.rename("tokens").reset_index()


def head_card(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Any,
    readout: Readout,
    *,
    positions: Positions | FrozenPositions = "think_end",
    edit_positions: str = "all",
    labels: Mapping[str, Any] | None = None,
    labelled: Sequence[Rollout] | None = None,
    top: int = TOP,
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> HeadCard:
    """Everything about one head: four passes over the rollouts, and one over the labelled ones.

    Take rollouts that did not select the head: its numbers are then free of selection bias.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        head: ``(layer, head)`` or ``"L4H6"``.
        readout: one that :func:`attribute` takes.
        positions: where it attends from; its attribution and output are at the readout's own positions.
        edit_positions: where it is zero-ablated.
        labels: 0 or 1 by rollout id, for a probe of the head's output.
        labelled: the rollouts of the probe; by default ``rollouts``.
        top: tokens of each kind.
        plan: batches.
        seed: of bootstraps and splits.

    Raises:
        InputError: the head is not below the readout, the positions exist in no rollout, or the readout cannot be
            decomposed.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> card = head_card(model, [rollout], "L4H6", readout, positions="last", top=2)
        >>> [effect.name for effect in card.numbers]
        ['readout', 'attribution', 'effect']
    """
    (head,) = as_heads(head)
    at = readout.positions
    decompose = partial(attribute, model, rollouts, readout, sources=[head], plan=plan, seed=seed)
    looked = decompose(positions=positions)
    read = looked if at == positions else decompose(positions=at)
    own = read.values[read.components.index(("head", *head))]
    edit = HeadEdit(head, positions=edit_positions)
    zeroed = effects(model, rollouts, readout, [edit], plan=plan, seed=seed)
    numbers = [
        replace(zeroed.baseline(), name="readout"),
        mean_effect("attribution", own, read.groups, unit=zeroed.unit, seed=seed),
        replace(zeroed.of(0), name="effect"),
    ]
    if labels is not None:
        numbers.append(_probe(model, labelled or rollouts, head, labels, at, seed))
    notes = [*looked.notes]
    # The texts with the most attention and those with the largest attribution, per row
    texts: dict[str, np.ndarray] = {}
    if model.optional_tokenizer is not None:
        texts = {r.id: np.array(pieces(r.ids, model.tokenizer), dtype=object) for r in rollouts}

    def sums(of: Attribution) -> pd.DataFrame:
        assert of.sources is not None
        table = of.sources.to_frame()
        spelled = zip(table["rollout"], table["source"], table["token_id"], strict=True)
        table["token"] = [texts[r][at] if texts else f"#{i}" for r, at, i in spelled]
        return table.groupby(["segment", "token"], sort=False)[list(QUANTITIES)].sum() / len(of.rows)

    both = sums(looked)[["attention", "weighted"]].join(sums(read)["attribution"], how="outer").fillna(0.0)
    ranks = (both["attention"].rank(ascending=False), both["attribution"].abs().rank(ascending=False))
    kept = both[(ranks[0] <= top) | (ranks[1] <= top)]
    # Attention from the chosen positions, attribution where the readout is read
    here, there = (a.by_source().drop(columns=["layer", "head"]) for a in (looked, read))
    own = there["quantity"] == "attribution"
    return HeadCard(
        head=head,
        readout=readout.name,
        positions=positions if isinstance(positions, str) else "given positions",
        numbers=tuple(numbers),
        segments=pd.concat([here[here["quantity"] != "attribution"], there[own]], ignore_index=True),
        tokens=kept.sort_values("attribution", key=np.abs, ascending=False).reset_index(),
        promoted=_promoted(model, rollouts, head, at, top, plan, notes),
        notes=tuple(notes),
    )


def _probe(
    model: Model, rollouts: Sequence[Rollout], head: Head, labels: Mapping[str, Any], at: Any, seed: int
) -> Effect:
    """AUROC of a probe on the head's ``z`` alone, on the test split of the prompt groups."""
    known = {r.id: truth(labels.get(r.id), f"label of rollout {r.id!r}") for r in rollouts}
    chosen = [r for r in rollouts if known[r.id] is not None]
    if len({known[r.id] for r in chosen}) < 2:
        raise InputError("the head's probe needs rollouts of both labels; give them as labelled=…")
    read = Site("z", head[0]) @ at
    done = forward(model, chosen, [read])
    values = done.values[read][0][:, head[1]].float()
    group_of = {r.id: r.group for r in chosen}
    rows = done.rows[read][["rollout"]].reset_index(drop=True)
    rows["label"], rows["group"] = rows["rollout"].map(known).astype(int), rows["rollout"].map(group_of)
    return replace(fit_probe({head[0]: values}, rows, permutations=0, seed=seed).test, name="probe")


def _promoted(
    model: Model,
    rollouts: Sequence[Rollout],
    head: Head,
    at: Positions | FrozenPositions,
    top: int,
    plan: BatchPlan | None,
    notes: list[str],
) -> pd.DataFrame:
    try:
        output = mean_output(model, rollouts, head, at, plan)
        logit_weights(model, output[None])
    except InputError as error:
        notes.append(f"The head's output cannot be read as tokens: {error}")
        return token_frame((), np.zeros((0, 1)), (), top)
    names, vectors = ["mean output"], [output[None]]
    try:
        directions, sizes = ov_directions(model, head, output)
    except InputError as error:
        notes.append(f"The OV matrix is not shown: {error}")
    else:
        names += [f"OV {i + 1} ({size:.0%})" for i, size in enumerate(sizes)]
        vectors.append(directions)
    logits = logit_weights(model, torch.cat(vectors))
    tokenizer = model.optional_tokenizer
    known = 0 if tokenizer is None else len(tokenizer)
    spelled = [str(model.tokenizer.decode([i])) if i < known else f"#{i}" for i in range(logits.shape[1])]
    return token_frame(names, logits, spelled, top)

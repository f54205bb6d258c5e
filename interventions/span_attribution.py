"""Contrasts of a verdict by head, MLP and token span: direct logit attribution of content, position and cues.

Contrasts are weighted sums over an item's rollouts, and so are the attributions of every component, and of every head
by source token. Tokens of two orders are aligned by their *span*: an answer's with the same answer's wherever it is
shown, or with that of whatever is shown in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.activations import BatchPlan, LogOddsReadout, Model, Readout
from verdictscope.errors import InputError
from verdictscope.interventions.attribution import ABOUT, Attribution, attribute, mean_frame
from verdictscope.interventions.edits.protocol import Head
from verdictscope.judgments import Contrast
from verdictscope.judgments.labels import at_first_difference
from verdictscope.judgments.spans import by_side
from verdictscope.rollouts import Rollout

if TYPE_CHECKING:
    from verdictscope.figures import Display

WORDS: Mapping[str, Mapping[str, str]] = {"content": {"this": "better", "other": "worse"}}
"""What the two answers are called where spans follow the sides of a contrast."""
NAMED: Mapping[str, str] = {"this": "named", "other": "other"}
"""The same of a cue: the answer it names, and the other one."""

_COLUMNS = ["contrast", "position", "component", "layer", "head", "span", "estimate", "low", "high", "n", "tokens"]


@dataclass(frozen=True, eq=False)
class ContrastSpans:
    """One contrast at one position: attribution by component, a head's by span, and the mean tokens of a span."""

    attribution: Attribution
    spans: tuple[str, ...]
    values: Float[ndarray, "head item span"]
    tokens: Float[ndarray, "item span"]


@dataclass(frozen=True, eq=False)
class SpanAttribution:
    """Content, position and cues of a verdict by component and by span: a head's spans sum to its attribution.

    What this does not show: that a component matters, since attribution is *direct*; and an MLP's has no source token.
    """

    readout: str
    heads: tuple[Head, ...]
    contrasts: Mapping[tuple[str, str], ContrastSpans]
    seed: int = 0

    @property
    def relative_residual(self) -> float:
        """Largest difference between a head's attribution and its spans', over the largest sum of absolute ones."""
        worst = 0.0
        for part in self.contrasts.values():
            left = np.abs(part.values.sum(-1) - self._own(part)).max()
            worst = max(worst, float(left / max(np.abs(part.values).sum(-1).max(), np.finfo(float).tiny)))
        return worst

    def check(self) -> None:
        """Raises ``InputError`` if spans do not sum to their head, or components to the contrast of the logit."""
        for part in self.contrasts.values():
            part.attribution.check()
        tolerance = next(iter(self.contrasts.values())).attribution.tolerance
        if self.relative_residual > tolerance:
            raise InputError(
                f"the spans of a head's attribution of {self.readout!r} leave {self.relative_residual:.2g} of it "
                f"unexplained, more than rounding ({tolerance:.0e}): see `verdictscope doctor MODEL`"
            )

    def to_frame(self) -> pd.DataFrame:
        """``contrast position component layer head span estimate low high n tokens``, in the readout's unit."""
        return pd.concat([self._table(*key, part) for key, part in self.contrasts.items()], ignore_index=True)[_COLUMNS]

    def _own(self, part: ContrastSpans) -> Float[ndarray, "head item"]:
        at = {name: i for i, name in enumerate(part.attribution.components)}
        return part.attribution.values[[at["head", *head] for head in self.heads]]

    def _table(self, contrast: str, position: str, part: ContrastSpans) -> pd.DataFrame:
        given = part.attribution
        whole = given.to_frame().assign(span="", tokens=np.nan)
        kinds = np.array([name for name, *_ in given.components])
        lines: list[tuple[str, int, int, str]] = [("heads", -1, -1, ""), ("mlps", -1, -1, "")]
        values = [given.values[kinds == "head"].sum(0), given.values[kinds == "mlp"].sum(0)]
        tokens = [np.nan, np.nan]
        for s, span in enumerate(part.spans):
            lines += [("heads", -1, -1, span), *(("head", *head, span) for head in self.heads)]
            values += [part.values[..., s].sum(0), *part.values[..., s]]
            tokens += [float(part.tokens[:, s].mean())] * (1 + len(self.heads))
        more = pd.DataFrame(lines, columns=["component", "layer", "head", "span"]).assign(tokens=tokens)
        more = pd.concat([more, mean_frame(np.stack(values), given.groups, self.seed)], axis=1)
        return pd.concat([whole, more], ignore_index=True).assign(contrast=contrast, position=position)

    def by_span(self) -> pd.DataFrame:
        """The sums over all heads by span, and of all MLPs: as :func:`~verdictscope.figures.spans` draws them."""
        table = self.to_frame()
        kept = table["component"].isin(["heads", "mlps", "logit", "embed"])
        return table[kept & ~((table["component"] == "heads") & (table["span"] == ""))].reset_index(drop=True)

    def plot(self) -> Display:
        """Heads' attribution by span and the MLPs', by contrast, at the first position."""
        from verdictscope import figures

        first = next(iter(self.contrasts))[1]
        table = self.to_frame()
        return figures.spans(table[table["position"] == first])

    def __str__(self) -> str:
        lines = []
        for (name, position), part in self.contrasts.items():
            means = part.values.sum(0).mean(0)
            most = np.argsort(-np.abs(means))[:3]
            largest = ", ".join(f"{part.spans[s]} {means[s]:+.2f}" for s in most)
            logit, n = part.attribution.logit.mean(), len(set(part.attribution.groups))
            lines.append(f"{name} at {position}: {logit:+.2f} nats over {n} groups; largest spans: {largest}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = self.by_span().to_html(index=False, border=0, float_format="{:.3g}".format)
        return "".join(f"<p>{escape(line)}</p>" for line in str(self).splitlines()) + shown + f"<p>{ABOUT}</p>"


def attribute_spans(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    contrasts: Mapping[str, Contrast],
    names: Mapping[str, Sequence[str]],
    *,
    sides: Mapping[str, Mapping[str, str]] | None = None,
    positions: Sequence[str] = ("last",),
    plan: BatchPlan | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SpanAttribution:
    """Direct logit attribution of a verdict's content, position and cues by head, MLP and the source span of heads.

    Args:
        model: the judge.
        rollouts: the verdict prefixes of everything the contrasts are made of (``Judged.rollouts``), or the same
            with one thinking in both orders (:func:`~verdictscope.judgments.shared_thinking`).
        readout: the log-odds of the first shown against the second (:func:`~verdictscope.judgments.verdict_readout`);
            labels of several tokens are read where they first differ.
        contrasts: by name.
        names: by rollout id a name for every token (:func:`~verdictscope.judgments.token_spans`).
        sides: by contrast, item to the side (A or B) that its spans follow: of ``content`` the labels, of a cue its
            targets. *first* and *second* then become *better* and *worse*, or *named* and *other*. A contrast that is
            not here keeps first and second; position should, since that is what it measures.
        positions: rules of one token each where the readout is read: ``last`` is where the verdict's token is chosen,
            ``think_end[0]`` the closing token, where the readout gives the verdict if it came next.
        plan: batches.
        seed: of the bootstrap.
        progress: called with (positions done, positions in all).

    Raises:
        InputError: a position that is no single token of every rollout, a rollout without names, or a model whose
            components do not sum; what :func:`attribute` raises.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 4),), 4)
        >>> readout = LogOddsReadout("odds", positive=((3,),), negative=((4,),), positions="last")
        >>> from verdictscope.judgments import mean_contrast
        >>> names = {"r0": ["question", "first", "second", "template"]}
        >>> found = attribute_spans(model, [rollout], readout, {"mean": mean_contrast([rollout])}, names)
        >>> sorted(set(found.to_frame()["span"]) - {""})
        ['first', 'question', 'second', 'template']
    """
    if isinstance(readout, LogOddsReadout):
        readout = at_first_difference(readout)
    orders = {r.id: str(r.tags.get("order") or "AB") for r in rollouts}
    items = {r.id: str(r.tags.get("item")) for r in rollouts}
    made: dict[tuple[str, str], ContrastSpans] = {}
    heads: tuple[Head, ...] = ()
    for done, position in enumerate(positions):
        taken = attribute(
            model, rollouts, readout, positions=position, sources="all", names=names, plan=plan, seed=seed, strict=False
        )
        if len(taken.rows) != len(rollouts):
            raise InputError(f"positions {position!r} are not one token of every rollout: name single tokens")
        assert taken.sources is not None
        heads = taken.sources.heads
        for name, contrast in contrasts.items():
            side = (sides or {}).get(name)
            words = WORDS.get(name, NAMED)
            called = {
                r: by_side(taken.sources.segments, orders[r], None if side is None else side.get(items[r]), words)
                for r in orders
            }
            made[name, position] = _contrast_spans(taken, contrast, called, names)
        if progress:
            progress(done + 1, len(positions))
    result = SpanAttribution(readout.name, heads, made, seed)
    result.check()
    return result


def _contrast_spans(
    taken: Attribution, contrast: Contrast, called: Mapping[str, Sequence[str]], names: Mapping[str, Sequence[str]]
) -> ContrastSpans:
    """Sources under the names they have for a contrast, summed as its weights say."""
    assert taken.sources is not None
    rows, fine = list(taken.rows["rollout"]), taken.sources.segments
    used = {r for ids in contrast.rollouts for r in ids}
    held = {r: Counter(names[r]) for r in used}
    spans = tuple(
        dict.fromkeys(name for r in rows if r in used for s, name in enumerate(called[r]) if held[r][fine[s]])
    )
    place = {name: i for i, name in enumerate(spans)}
    attribution = taken.sources.sums[2]
    moved = np.zeros((*attribution.shape[:2], len(spans)))
    counts = np.zeros((len(rows), len(spans)))
    for at, r in enumerate(rows):
        for s, name in enumerate(called[r] if r in used else ()):
            if held[r][fine[s]]:
                moved[:, at, place[name]] += attribution[:, at, s]
                counts[at, place[name]] += held[r][fine[s]]
    values = np.moveaxis(contrast.of(np.moveaxis(moved, 1, -1), rows), -1, 1)
    index = {r: i for i, r in enumerate(rows)}
    tokens = np.stack([counts[[index[r] for r in ids]].mean(0) for ids in contrast.rollouts])
    return ContrastSpans(taken.on(contrast), spans, values, tokens)

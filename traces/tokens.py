"""Scores beside the tokens they belong to: a tidy table, and the same as a page to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout, pieces
from verdictscope.traces.landmarks import SCORE_COLUMNS

if TYPE_CHECKING:
    from verdictscope.figures.token_view import TokenView


def token_table(
    scores: pd.DataFrame,
    rollouts: Iterable[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    *,
    units: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Add to every score the text of its token."""
    missing = [c for c in SCORE_COLUMNS if c not in scores.columns]
    if missing:
        raise InputError(f"scores lack {', '.join(missing)}; give the scores of a forward pass")
    by_id = {r.id: r for r in rollouts}
    names = list(dict.fromkeys(scores["rollout"].astype(str)))
    unknown = [i for i in names if i not in by_id]
    if unknown:
        raise InputError(f"scores of rollout {unknown[0]!r}, which is not among the rollouts given")
    if not names:
        return scores.assign(token=pd.Series(dtype=object), unit=pd.Series(dtype=object))
    texts = pd.concat([_texts(by_id[i], tokenizer) for i in names], ignore_index=True)
    given = scores.drop(columns=["segment", "token_id"]).assign(rollout=scores["rollout"].astype(str))
    table = _filled(given, texts).merge(texts, on=["rollout", "pos"], how="left", validate="many_to_one")
    table["unit"] = table["readout"].map(dict(units or {})).fillna("logit")
    first = ["rollout", "pos", "token", "token_id", "segment", "readout", "layer", "unit", "score"]
    return table[[*first, *(c for c in table.columns if c not in first)]]


def _texts(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    return pd.DataFrame(
        {"rollout": rollout.id, "pos": np.arange(len(rollout)), "token": pieces(rollout.ids, tokenizer)}
        | {"token_id": list(rollout.ids), "segment": rollout.labels()}
    )


def _filled(scores: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """The scores, and after them rows without a score for tokens that no readout scored in their rollout."""
    scored = pd.MultiIndex.from_frame(scores[["rollout", "pos"]])
    bare = texts.loc[~pd.MultiIndex.from_frame(texts[["rollout", "pos"]]).isin(scored), ["rollout", "pos"]]
    if bare.empty:
        return scores
    facts = [c for c in scores.columns if c not in ("pos", "score")]
    rows = bare.merge(scores[facts].drop_duplicates("rollout"), on="rollout")
    return pd.concat([scores, rows.assign(score=np.nan)[scores.columns]], ignore_index=True)


def token_view(
    scores: pd.DataFrame,
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    start: tuple[str, int | None] | str | None = None,
    ends: tuple[str, str] = ("lower", "higher"),
    title: str = "Token view",
) -> TokenView:
    """Scored rollouts as coloured tokens: in a notebook the result shows itself, ``save`` writes a page.

    Args:
        scores: as `forward` gives them, of any number of readouts and layers.
        rollouts: the rollouts scored; they are shown in this order.
        tokenizer: the tokenizer of their ids.
        labels: rollout id -> what to show beside it, for example its cell.
        units: unit by readout; ``logit`` where none is named.
        start: the readout shown first, or the readout and its layer.
        ends: what a low and a high score read like.
        title: heading of the page.

    Raises:
        InputError: columns are missing, a rollout scored is not given, or ``start`` is not among the scores.

    Example:
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> tokenizer = load_model("organism:cliff").tokenizer
        >>> rollout = Rollout("r0", "prompt 0", (5, 6), (Span("user", 0, 2),), 2)
        >>> facts = {"rollout": "r0", "pos": [0, 1], "segment": "user", "token_id": [5, 6], "readout": "probe"}
        >>> token_view(pd.DataFrame({**facts, "layer": 1, "score": [0.5, -0.5]}), [rollout], tokenizer)
        TokenView: 1 rollouts, 2 tokens, scores of probe
    """
    from verdictscope import figures

    table = token_table(scores, rollouts, tokenizer, units=units)
    order = {r.id: i for i, r in enumerate(rollouts)}
    table = table.sort_values("rollout", key=lambda ids: ids.map(order), kind="stable")
    if labels is not None:
        table["cell"] = table["rollout"].map({str(k): str(v) for k, v in labels.items()})
    try:
        return figures.token_view(table, start=start, ends=ends, title=title)
    except ValueError as error:
        raise InputError(str(error)) from error

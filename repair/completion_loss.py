"""How unlikely a model finds a given answer after its own thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from verdictscope.activations import BatchPlan
from verdictscope.activations.forward import passes
from verdictscope.activations.loading import as_model
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout, Span


def completion_loss(
    model: Any, rollouts: Sequence[Rollout], answers: Mapping[str, str], plan: BatchPlan | None = None
) -> pd.Series:
    """Mean negative log-likelihood of each rollout's given answer after its own prompt, thinking and closing."""
    model = as_model(model)
    asked, places = [], {}
    for rollout in rollouts:
        closing = rollout.span("think_end")
        if closing is None:
            raise InputError(f"rollout {rollout.id!r}: its thinking was never closed, so no completion can follow")
        cut, ids = closing.stop, model.tokenizer(answers[rollout.id], add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"rollout {rollout.id!r}: its safe completion is empty")
        spans = (*(s for s in rollout.spans if s.stop <= cut), Span("answer", cut, cut + len(ids)))
        asked.append(replace(rollout, ids=(*rollout.ids[:cut], *ids), spans=spans, n_forced=0))
        places[rollout.id] = list(range(cut - 1, cut - 1 + len(ids)))
    by_id = {r.id: r for r in asked}
    found: dict[str, float] = {}
    for part in passes(model, asked, plan=plan, logits_at=places):
        assert part.logits is not None
        assert part.logit_rows is not None
        names, pos = part.logit_rows["rollout"], part.logit_rows["pos"]
        following = torch.tensor([by_id[n].ids[p + 1] for n, p in zip(names, pos, strict=True)])
        loss = torch.nn.functional.cross_entropy(part.logits, following, reduction="none")
        found |= pd.Series(loss.numpy()).groupby(names.to_numpy()).mean().to_dict()
    return pd.Series([found[r.id] for r in rollouts], index=[r.id for r in rollouts], dtype=float)

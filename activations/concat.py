"""What several batches gave, put into one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor


def in_order(frames: Sequence[pd.DataFrame], at: Mapping[str, int]) -> tuple[pd.DataFrame, Int[Tensor, " row"]]:
    """Rows of several batches in the order of their rollouts, and the row each came from."""
    frame = pd.concat(frames, ignore_index=True)
    order = np.argsort(frame["rollout"].map(at).to_numpy(dtype=np.int64), kind="stable")
    return frame.iloc[order].reset_index(drop=True), torch.from_numpy(order)


def placed(parts: Sequence[Tensor], order: Int[Tensor, " row"]) -> Tensor:
    """Joins parts along their rows so that row ``i`` is row ``order[i]`` of the parts, with one copy at most.

    Keys of attention patterns are as many as the longest rollout of a batch: narrower parts get zeros, which is what
    a causal model attends to them with.
    """
    if len(parts) == 1 and torch.equal(order, torch.arange(len(order))):
        return parts[0]
    tail = [max(sizes) for sizes in zip(*(p.shape[2:] for p in parts), strict=True)]
    ragged = any(list(p.shape[2:]) != tail for p in parts)
    out = parts[0].new_empty(parts[0].shape[0], len(order), *tail)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order))
    at = 0
    for part in parts:
        wide = widened(part, tail) if ragged else part
        out.index_copy_(1, slots[at : at + part.shape[1]], wide)
        at += part.shape[1]
    return out


def widened(values: Tensor, tail: Sequence[int]) -> Tensor:
    """``[layer row ...]`` with zeros at the end of the last axis until it is as wide as wanted."""
    if list(values.shape[2:]) == list(tail):
        return values
    return torch.nn.functional.pad(values, (0, tail[-1] - values.shape[-1]))


def sorted_scores(
    frames: Sequence[pd.DataFrame], at: Mapping[str, int], keys: Sequence[tuple[str, int | None]]
) -> pd.DataFrame:
    """Scores of several batches: sorted by the order of readouts, then of rollouts."""
    frames = [f for f in frames if len(f)] or list(frames[:1])
    frame = pd.concat(frames, ignore_index=True)
    names = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in keys))}
    places = np.zeros((len(names), 2 + max((layer for _, layer in keys if layer is not None), default=0)), dtype=int)
    for i, (name, layer) in enumerate(keys):
        places[names[name], -1 if layer is None else layer] = i  # the last column is for no layer
    layers = frame["layer"].astype("Int64").fillna(-1).to_numpy(dtype=np.int64)
    order = (
        frame["rollout"].map(at).to_numpy(dtype=np.int64),
        places[frame["readout"].map(names).to_numpy(dtype=np.int64), layers],
    )
    return frame.iloc[np.lexsort(order)].reset_index(drop=True)

"""Key-value caches whose rows come and go: rows end together in the last column, whatever their length.

A row that is done leaves, a new one is put in its place, and the columns that only padding used are dropped. Rows are
aligned at their last token, so a layer that keeps a window of the last columns keeps the same tokens of every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from verdictscope.rollouts.engines.rope import reads_again_after

# layer types whose state a padded position would enter
_RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "hybrid")
# columns in reserve: a cache that grows by one column would be copied whole at every step
_ROOM = 64


@dataclass(frozen=True, slots=True)
class Batching:
    """How the rows of a model may share a batch."""

    refill: bool = True
    equal_length: bool = False
    alone: bool = False
    reason: str = ""


def batching(model: PreTrainedModel, longest: int) -> Batching:
    """What batches a model's layers allow."""
    config = model.config.get_text_config(decoder=True)
    types = tuple(getattr(config, "layer_types", None) or ())
    # where one row is read again, its cache must be replaced among those of the others
    alone = (reads_again_after(model) or longest) < longest
    if any(word in kind for kind in types for word in _RECURRENT):
        why = "layers with a recurrent state, which padding would enter: static batches of prompts of one length"
        return Batching(refill=False, equal_length=True, alone=alone, reason=why)
    strange = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers} - {
        kind.__name__ for kind in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
    }
    if "chunked_attention" in types or strange:
        why = f"cache layers that cannot be spliced ({', '.join(sorted(strange)) or 'chunked'}): static batches"
        return Batching(refill=False, alone=alone, reason=why)
    return Batching()


class RoomyLayer(DynamicLayer):
    """A full-attention layer with columns in reserve: keys and values are views, and a step copies one column."""

    def __init__(self, keys: Tensor, values: Tensor, used: int) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._buffers = (keys, values)
        self._use(used)

    def _use(self, columns: int) -> None:
        self.keys, self.values = self._buffers[0][..., :columns, :], self._buffers[1][..., :columns, :]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns."""
        used, new = self.get_seq_length(), key_states.shape[-2]
        if used + new > self._buffers[0].shape[-2]:
            keys, values = (_wider(buffer, used, used + new + _ROOM) for buffer in self._buffers)
            self._buffers = (keys, values)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., used : used + new, :] = states
        self._use(used + new)
        return cast(Tensor, self.keys), cast(Tensor, self.values)


def _wider(buffer: Tensor, used: int, columns: int) -> Tensor:
    wide = buffer.new_empty((*buffer.shape[:-2], columns, buffer.shape[-1]))
    wide[..., :used, :] = buffer[..., :used, :]
    return wide


def splice(
    old: DynamicCache | None,
    stay: Int[Tensor, " kept"],
    new: DynamicCache | None,
    copies: Int[Tensor, " fresh"],
    columns: int,
) -> DynamicCache:
    """One cache of the rows that stay and the new ones, aligned at their last column.

    The given caches lose their layers one by one, so that two whole copies never stand in memory.
    """
    first = old if old is not None else new
    assert first is not None
    layers: list[Any] = first.layers
    for k, like in enumerate(layers):
        if isinstance(like, DummyLayer) or not like.is_initialized:
            continue
        sides: list[tuple[Any, Tensor]] = [
            (c.layers[k], rows) for c, rows in ((old, stay), (new, copies)) if c is not None
        ]
        window = getattr(like, "sliding_window", None) if isinstance(like, DynamicSlidingWindowLayer) else None
        width = columns if window is None else min(columns, window - 1)
        room = _ROOM if window is None else 0
        keys, values = (_aligned([(getattr(s, n), rows) for s, rows in sides], width, room) for n in ("keys", "values"))
        for layer, _ in sides:
            layer.keys = layer.values = None
        if window is None:
            layers[k] = RoomyLayer(keys, values, width)
            continue
        like.keys, like.values, like.cumulative_length = keys, values, columns
    return first


def _aligned(parts: list[tuple[Tensor, Tensor]], width: int, room: int) -> Tensor:
    """Rows of several tensors ``[row, head, column, d]``, each cut or padded on the left to ``width`` columns, and
    empty columns after them."""
    like = parts[0][0]
    count = sum(len(rows) for _, rows in parts)
    out = like.new_zeros((count, *like.shape[1:-2], width + room, like.shape[-1]))
    at = 0
    for states, rows in parts:
        size = min(states.shape[-2], width)
        if size:
            out[at : at + len(rows), ..., width - size : width, :] = states[rows][..., states.shape[-2] - size :, :]
        at += len(rows)
    return out

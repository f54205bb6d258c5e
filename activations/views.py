"""What a hook knows about the batch whose values it receives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from verdictscope.activations.positions import FrozenPositions, Positions, freeze, over_continuation, resolve
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout


@dataclass(frozen=True, eq=False)
class BatchView:
    """What a write function knows about the batch whose values it receives.

    Attributes:
        layer: the layer that fired.
        rollouts: the rollouts in batch order; ``None`` around a forward pass that is not ours (``generate``).
            When label strings of several tokens are scored these are prefixes with the label appended, under
            their own ids.
        positions: index of each token in its rollout; a batch may hold a part of a rollout only.
        mask: which tokens are no padding.
        origins: for such prefixes the whole rollout and where the label starts.
        chosen: positions looked up before, shared by all layers of a batch.
        step: whether this is one token a row of a running generation, of which none is padding: a row that is done may
            get anything, nothing reads it. A write at ``all`` then needs no mask.

    Example:
        >>> import torch
        >>> from verdictscope.activations import BatchView
        >>> from verdictscope.rollouts import Rollout, Span
        >>> rollout = Rollout("0", "0", (5, 6, 7), (Span("user", 0, 2), Span("answer", 2, 3)), n_prompt=2)
        >>> view = BatchView(0, (rollout,), torch.arange(3)[None], torch.ones(1, 3, dtype=torch.bool))
        >>> view.select("answer").tolist()
        [[False, False, True]]
    """

    layer: int
    rollouts: tuple[Rollout, ...] | None
    positions: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    origins: tuple[tuple[Rollout, int], ...] | None = field(default=None, repr=False)
    chosen: dict[Any, Tensor] = field(default_factory=dict, repr=False)
    step: bool = False

    def select(self, positions: Positions | FrozenPositions) -> Bool[Tensor, "batch pos"]:
        """Where ``positions`` (the grammar of ``positions.py``) lie in this batch; padding is never selected.

        Under an appended label the positions are those of the whole rollout up to the label, and the label's
        own tokens belong to ``all`` and ``answer`` but not to points such as ``last``.

        Raises:
            InputError: anything but ``all`` around a forward pass that is not ours, where segments are not
                known.
        """
        if positions == "all":
            return self.mask
        if self.rollouts is None:
            raise InputError(f"positions {positions!r} are not known while the model generates; use 'all'")
        key = (freeze(positions), self.mask.device)
        if key not in self.chosen:
            chosen = torch.zeros_like(self.mask, device="cpu")
            places = self.positions.cpu()
            for row, rollout in enumerate(self.rollouts):
                held = torch.zeros(len(rollout), dtype=torch.bool)
                held[torch.from_numpy(self._resolve(positions, row, rollout))] = True
                chosen[row] = held[places[row].clamp(max=len(rollout) - 1)]
            self.chosen[key] = chosen.to(self.mask.device) & self.mask
        return self.chosen[key]

    def _resolve(self, positions: Positions | FrozenPositions, row: int, rollout: Rollout) -> np.ndarray:
        if self.origins is None:
            return resolve(positions, rollout)
        original, cut = self.origins[row]
        before, after = resolve(positions, original), over_continuation(positions, rollout)
        return np.concatenate([before[before < cut], after[after >= cut]])

    def over_cache(self, n_keys: int, kept: Tensor | None) -> BatchView:
        """The view over every key that a cached step sees; ``kept`` says which of all tokens are no padding."""
        back = torch.arange(n_keys - 1, -1, -1, device=self.mask.device)
        mask = torch.ones(len(self.mask), n_keys, dtype=torch.bool, device=self.mask.device)
        if kept is not None and kept.shape[1] >= n_keys:
            mask = kept[:, -n_keys:].to(mask)
        return replace(self, positions=(self.positions[:, -1:] - back).clamp(min=0), mask=mask, chosen={}, step=False)


def view_of_call(args: tuple, kwargs: dict) -> BatchView:
    """What a call of the decoder holds, read off its arguments; the rollouts are not known."""
    ids = args[0] if args else kwargs.get("input_ids")
    ids = kwargs["inputs_embeds"][..., 0] if ids is None else ids
    batch, n = ids.shape[:2]
    given, positions = mask_of_call(kwargs), kwargs.get("position_ids")
    mask = torch.ones(batch, n, dtype=torch.bool, device=ids.device) if given is None else given[:, -n:].bool()
    if isinstance(positions, Tensor) and positions.ndim == 2:
        positions = positions if positions.shape == (batch, n) else positions[:, -n:].expand(batch, n)
    elif given is not None:
        positions = (given.long().cumsum(-1) - 1).clamp(min=0)[:, -n:]
    else:
        past = kwargs.get("past_key_values")
        start = past.get_seq_length() if past is not None else 0
        positions = torch.arange(start, start + n, device=ids.device).expand(batch, n)
    step = n == 1 and (given is None or given.shape[1] > 1)
    return BatchView(0, None, positions, mask, step=step)


def mask_of_call(kwargs: dict) -> Tensor | None:
    """Which tokens are no padding, cached ones included, where a call gives them."""
    given = kwargs.get("attention_mask")
    return given if isinstance(given, Tensor) and given.ndim == 2 else None  # a 4-D mask does not distinguish padding

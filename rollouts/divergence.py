"""How many rollouts are not what the same model draws for them alone: measured, because in bfloat16 it is not zero.

Matrix kernels sum in another order for another batch. In float32 the engine makes up for it; in bfloat16 rounding is
larger than many a gap between two tokens, and a rollout depends on its batch-mates. That biases nothing, since which
of two nearly equal tokens is drawn is a toss, but such a rollout cannot be drawn again from its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from verdictscope.errors import InputError
from verdictscope.rollouts.engines.huggingface import decode
from verdictscope.rollouts.engines.requests import Request
from verdictscope.rollouts.language_model import HasModel
from verdictscope.rollouts.rollout import Rollout
from verdictscope.values import whole_number


@dataclass(frozen=True, slots=True)
class Divergence:
    """Rollouts against the same rollouts drawn alone."""

    first: tuple[int | None, ...]
    tokens: int
    dtype: str

    @property
    def share(self) -> float:
        """Share of rollouts that differ from their batch of one."""
        return sum(k is not None for k in self.first) / len(self.first)

    def to_dict(self) -> dict[str, object]:
        """Plain data, for ``provenance.json``."""
        return {"rollouts": len(self.first), "share": self.share, "first": list(self.first), "tokens": self.tokens}

    def __str__(self) -> str:
        found = [k for k in self.first if k is not None]
        where = f", at the median after {np.median(found):.0f} tokens" if found else ""
        return (
            f"{len(found)} of {len(self.first)} rollouts differ from the same rollout drawn alone ({self.dtype}, first "
            f"{self.tokens} tokens){where}"
        )


def measure_divergence(
    model: HasModel, rollouts: Sequence[Rollout], *, count: int = 4, tokens: int = 512
) -> Divergence:
    """Draw a few rollouts again, each alone, and compare."""
    drawn = [r for r in rollouts if r.sampling is not None and r.engine == "huggingface"]
    whole_number(count, "count", 1), whole_number(tokens, "tokens", 1)
    if not drawn:
        raise InputError("no rollout here was drawn in this process: give what generate made")
    picked = [drawn[k] for k in sorted({int(k) for k in np.linspace(0, len(drawn) - 1, count)})]
    first = [_first_difference(model.hf, rollout, tokens) for rollout in picked]
    return Divergence(tuple(first), tokens, str(model.hf.dtype).removeprefix("torch."))


def _first_difference(model: PreTrainedModel, rollout: Rollout, tokens: int) -> int | None:
    start = rollout.n_prompt + rollout.n_forced
    before = rollout.ids[start : start + tokens]
    if not before or rollout.sampling is None:
        return None
    # to the same length whatever is drawn: an end of turn is a token like others
    sampling = replace(rollout.sampling, max_new_tokens=len(before))
    request = Request(rollout.id, rollout.ids[:start])
    after = next(w.ids for done in decode(model, [request], sampling, frozenset(), 1) for w in done)
    return next((k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b), None)

"""Whether a row gives the same values alone, beside and after longer rows, on both sides of a rope switch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verdictscope.activations.doctor.layouts import Ids, Values, as_rollout, random_sequences, takes_positions
from verdictscope.activations.doctor.passes import equal, of_model_alone
from verdictscope.activations.doctor.report import Finding
from verdictscope.activations.forward import forward
from verdictscope.activations.model import Model
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.sites import Site
from verdictscope.rollouts.engines.limits import position_limit
from verdictscope.rollouts.engines.rope import as_loaded, reads_again_after, switch_lengths

LONGEST = 16_384
"""Longest row the doctor reads."""
MATES = "mates on the other side of a rope switch change nothing"
AFTER = "an earlier, longer call changes nothing"
STOCK = "both sides of a rope switch = Hugging Face"
CACHED = "cached decoding over a rope switch = one pass"
_BEYOND = 9
_READ = 16


def length_checks(model: Model) -> Iterator[Finding]:
    """Rows on both sides of every rope switch, or of two lengths where there is none."""
    switches, limit = switch_lengths(model.hf), position_limit(model.hf) or LONGEST
    if far := [n for n in switches if n + _BEYOND > min(limit, LONGEST)]:
        detail = f"not tried: the switch at {far[0]} tokens is beyond the longest row tested ({min(limit, LONGEST)})"
        yield Finding(MATES, "degraded", detail=detail)
        switches = [n for n in switches if n not in far]
    if not switches:
        sequences = random_sequences(model, [min(13, limit), min(61, limit)], seed=5)
        yield _after(model, sequences, [_read(model, [ids]) for ids in sequences])
        return
    for switch in switches:
        sequences = random_sequences(model, [max(1, switch // 2), switch, switch + 4, switch + _BEYOND], seed=5)
        alone = [_read(model, [ids]) for ids in sequences]
        where = f"the switch is at {switch} tokens"
        yield _compared(model, MATES, _read(model, sequences), torch.cat(alone, 1), where)
        yield _after(model, sequences, alone)
        yield _compared(
            model, STOCK, torch.cat([_stock(model, ids) for ids in sequences], 1), torch.cat(alone, 1), where
        )
        yield _cached(model, sequences[-1], switch, alone[-1])


def _read(model: Model, sequences: Sequence[Ids]) -> Tensor:
    """The last tokens' states of some rows in one batch, ``[layer row d_model]``, the last layer's normed."""
    rollouts = [as_rollout(f"s{i}", ids) for i, ids in enumerate(sequences)]
    reads = [Site(name) @ f"user[-{_READ}:]" for name in ("resid_post", "final_norm")]
    plan = BatchPlan((tuple(range(len(rollouts))),), sum(map(len, rollouts)))
    values = forward(model, rollouts, reads, plan=plan).values
    return torch.cat([values[reads[0]][:-1], values[reads[1]]])


def _after(model: Model, sequences: Sequence[Ids], alone: Sequence[Tensor]) -> Finding:
    """Every shorter row once more, after the longest."""
    again = []
    for ids in sequences[:-1]:
        _read(model, [sequences[-1]])
        again.append(_read(model, [ids]))
    return _compared(model, AFTER, torch.cat(again, 1), torch.cat([*alone[:-1]], 1))


def _stock(model: Model, ids: Ids) -> Tensor:
    """What Hugging Face gives for a row alone."""
    call = {"input_ids": torch.tensor([ids], device=model.device), "use_cache": False, "output_hidden_states": True}
    with torch.no_grad(), as_loaded(model.hf):
        states = model.hf(**call).hidden_states
    return torch.stack([h[0, -_READ:].cpu() for h in states[1:]])


def _cached(model: Model, ids: Ids, switch: int, alone: Tensor) -> Finding:
    """A prefill up to the switch and the tokens behind it one by one, against one pass."""
    if reads_again_after(model.hf) == switch:
        return Finding(CACHED, "supported", detail=f"generate computes the whole row again at {switch + 1} tokens")
    cache, rows = None, []
    cuts = [0, *range(switch, len(ids) + 1)]
    with torch.no_grad(), as_loaded(model.hf):
        for start, stop in zip(cuts, cuts[1:], strict=False):
            call: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "output_hidden_states": True}
            if takes_positions(model):
                call["position_ids"] = torch.arange(start, stop, device=model.device)[None]
            out = model.hf(input_ids=torch.tensor([ids[start:stop]], device=model.device), **call)
            cache = out.past_key_values
            rows.append(torch.stack([h[0, -1].cpu() for h in out.hidden_states[1:]]))
    found = _compared(model, CACHED, torch.stack(rows[1:], 1), alone[:, -_BEYOND:])
    detail = f"generate continues from keys of a shorter row: tokens beyond {switch} are read with other embeddings"
    return of_model_alone(found, detail)


def _compared(model: Model, check: str, a: Tensor, b: Tensor, detail: str = "") -> Finding:
    found = equal(model, check, Values([a], []), Values([b], []))
    return replace(found, detail=found.detail or detail)

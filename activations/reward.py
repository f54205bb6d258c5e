"""A reward model's scalar head as a readout: the score is data, and everything that takes a linear readout takes it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from verdictscope.activations.batch import still
from verdictscope.activations.capture import captured, probe_ids
from verdictscope.activations.model import Model
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.activations.readouts import LinearReadout
from verdictscope.activations.weights import is_packed, refuse_adapters
from verdictscope.errors import InputError


def reward_readout(
    model: Model,
    label: int = 0,
    against: int | None = None,
    *,
    name: str = "reward",
    positions: Positions | FrozenPositions = "last",
) -> LinearReadout:
    """The head of a ``…ForSequenceClassification`` model: ``final_norm(resid_post of the last layer) · w + b``.

    At ``last`` it is the model's own score of the rollout. Elsewhere it is the model's score of the text so far:
    the head was trained on last tokens only. Hugging Face looks for the last token by the pad token's id, so that a
    rollout that itself ends with that id is scored one token earlier there.

    Args:
        model: a reward model or another sequence classifier.
        label: which of its outputs.
        against: another output whose score is subtracted; of two classes the difference is the log-odds.
        name: what the score is called in tables.
        positions: where in a rollout.

    Raises:
        InputError: the model has no such head, it is not one linear map, or its weight is packed.

    Example:
        >>> from transformers import LlamaConfig, LlamaForSequenceClassification
        >>> from verdictscope.activations import reward_readout, wrap
        >>> sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
        >>> model = wrap(LlamaForSequenceClassification(LlamaConfig(vocab_size=97, num_labels=1, **sizes)))
        >>> reward_readout(model)
        LinearReadout('reward': resid_post[2], 32 weights, through the final norm, positions 'last')
    """
    # The linear map outside the decoder that reads the final norm's output and makes the scores
    hf, n = model.hf, int(getattr(model.hf.config, "num_labels", 0) or 0)
    inside = set(hf.base_model.modules()) if hf.base_model is not hf else set()
    refuse_adapters(model, "a readout of the reward", [m for m in hf.modules() if m not in inside])
    found = [m for m in hf.modules() if isinstance(m, nn.Linear) and m not in inside and m.out_features == n]
    if not type(hf).__name__.endswith("ForSequenceClassification") or len(found) != 1:
        raise InputError(f"{type(hf).__name__} has no one linear head that scores a sequence; use a reward model")
    final = model.sites.hook_point("final_norm", model.n_layers - 1)
    with captured({("norm",): (final.module, final.side), ("head",): (found[0], "in")}) as values, still(hf):
        hf(input_ids=probe_ids(hf, 8), use_cache=False)
    if ("head",) not in values:
        raise InputError("the reward head did not run in a forward pass")
    normed, read = values[("norm",)], values[("head",)]
    if read.shape != normed.shape or (read - normed).norm() > 1e-3 * normed.norm():
        raise InputError("the reward head does not read the final norm's output; it has no linear form")
    head = found[0]
    if is_packed(head):
        raise InputError("the reward head has no plain weight: not on packed weights")
    weight, bias = head.weight, getattr(head, "bias", None)
    wanted = [label] if against is None else [label, against]
    if wrong := [i for i in wanted if not 0 <= i < weight.shape[0]]:
        raise InputError(f"the head has outputs 0 to {weight.shape[0] - 1}, not {wrong[0]}")
    offsets = torch.zeros(weight.shape[0]) if bias is None else bias
    row, offset = _numpy(weight[label]), float(offsets[label])
    if against is not None:
        row, offset = row - _numpy(weight[against]), offset - float(offsets[against])
    return LinearReadout(
        name=name,
        site="resid_post",
        layer=model.n_layers - 1,
        weight=row,
        bias=offset,
        final_norm=model.sites.ln_final is not None,
        positions=positions,
    )


def _numpy(row: Tensor) -> Float[ndarray, " d_model"]:
    return row.detach().double().cpu().numpy().astype(np.float64)

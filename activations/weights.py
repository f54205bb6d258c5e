"""The linear pieces of a model: what a head writes, how the final norm scales, how logits are made.

Exact attribution multiplies these with values read by ``forward``; nothing here runs the model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from verdictscope.activations.batch import head_logits, still
from verdictscope.activations.capture import captured, probe_ids
from verdictscope.activations.readouts import LinearReadout, LogOddsReadout
from verdictscope.activations.sitemap import Branch, no_heads
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import adapters, evaluating

if TYPE_CHECKING:
    from verdictscope.activations.model import Model


def head_output_weight(model: Model, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """What each head's ``z`` is multiplied with: ``z[head] @ weight[head]``, before any post-norm and branch
    gain.

    A view on the model's own weight: do not change it. With what adapters add, where there are any, and then a copy.
    """
    block = model.sites.blocks[layer]
    if block.o is None:
        raise InputError(no_heads(block, layer))
    model.unchanged()
    weight = _weight(block.o, block.n_heads * block.d_head)
    return rearrange(weight.detach(), "(head d_head) d_model -> head d_head d_model", head=block.n_heads)


def head_output_bias(model: Model, layer: int) -> Float[Tensor, " d_model"]:
    """The output projection's bias, zeros where it has none: the part of its output that no head writes."""
    block = model.sites.blocks[layer]
    if block.o is None:
        raise InputError(no_heads(block, layer))
    bias = _bias(block.o, block.n_heads * block.d_head)
    if bias is not None:
        return bias.detach()
    weight = _weight(block.o, block.n_heads * block.d_head)
    return weight.new_zeros(weight.shape[1])


def is_packed(module: nn.Module | None) -> bool:
    """Whether a linear map keeps its weight in a form that cannot be multiplied with as it is (quantised)."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and not weight.is_floating_point():
        return True
    ordinary = type(weight) in (Tensor, nn.Parameter)
    plain = isinstance(weight, Tensor) and ordinary and weight.ndim == 2 and weight.element_size() >= 2
    named = hasattr(module, "in_features") and hasattr(module, "out_features")
    return (named or isinstance(module, nn.Linear | Conv1D)) and not plain


def scales_by_batch(module: nn.Module | None) -> bool:
    """Whether a packed linear map rounds its input by the largest number in it (dynamic int8).

    Then every row's output depends on the rows beside it: on later tokens, padding and batch mates.
    """
    if module is None or not is_packed(module) or not isinstance(width := getattr(module, "in_features", None), int):
        return False
    held = [*module.parameters(), *module.buffers()]
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    dtype = next((t.dtype for t in held if t.is_floating_point()), torch.float32)
    x = x.to(held[0].device if held else "cpu", dtype)
    with torch.no_grad():
        alone, beside = module.forward(x), module.forward(torch.cat([x, 30 * x]))[:4]
    return bool((alone - beside).norm() > 20 * torch.finfo(alone.dtype).eps * alone.norm())


def _weight(module: nn.Module, n_in: int) -> Float[Tensor, "in out"]:
    """A projection's weight with its input axis first, whichever way the class stores it."""
    weight = getattr(module, "weight", None)
    if is_packed(module):
        raise InputError(f"{type(module).__name__} has no plain weight: not on packed weights")
    if adapters(module):
        return _measured(module, n_in)[0]
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise InputError(f"{type(module).__name__} is no linear map")
    stored_in_first = isinstance(module, Conv1D)
    if weight.shape[0 if stored_in_first else 1] != n_in:
        raise InputError(f"{type(module).__name__}: weight {tuple(weight.shape)} does not take {n_in} inputs")
    return weight if stored_in_first else weight.T


def _bias(module: nn.Module, n_in: int) -> Float[Tensor, " out"] | None:
    return _measured(module, n_in)[1] if adapters(module) else getattr(module, "bias", None)


def _measured(module: nn.Module, n_in: int) -> tuple[Float[Tensor, "in out"], Float[Tensor, " out"]]:
    """Weight and bias of a linear map with adapters, by running it on the unit vectors: whatever kind they are."""
    like = next(p for p in module.parameters() if p.is_floating_point())
    with evaluating(module), torch.no_grad():
        # ``forward`` and not a call: the module may carry hooks, which this is no part of.
        bias = module.forward(torch.zeros(1, n_in).to(like))[0]
        weight = torch.cat([module.forward(part) - bias for part in torch.eye(n_in).to(like).split(1024)])
    return weight, bias


def refuse_adapters(model: Model, what: str, modules: list[nn.Module] | None = None) -> None:
    """Raises ``InputError`` where an adapter acts in addition to the weights."""
    if names := adapters(model.hf, modules):
        raise InputError(
            f"the model carries the adapter {', '.join(map(repr, names))}, and {what} needs plain weights: call "
            "merge_and_unload, save that with save_pretrained, and load it"
        )


@dataclass(frozen=True, eq=False)
class FinalNorm:
    """The final norm as ``(x - centre(x)) · inv_scale(x) · gain + bias``.

    For one token with a fixed scale it is linear in x, so the parts of the residual stream can be passed
    through it one by one and add up exactly; ``bias`` belongs to no part.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool

    def centre(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """``x`` less its mean for a LayerNorm, ``x`` itself for an RMS norm; linear in x."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def inv_scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """One over the root mean square of the whole residual stream."""
        return torch.rsqrt(self.centre(x).pow(2).mean(-1, keepdim=True) + self.eps)

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm of ``x``, in the precision of ``x``."""
        out = self.centre(x) * self.inv_scale(x) * self.gain.to(x)
        return out if self.bias is None else out + self.bias.to(x)


def final_norm(model: Model) -> FinalNorm:
    """The linear pieces of the final norm, see :func:`norm_pieces`."""
    if model.sites.ln_final is None:
        raise InputError("the model has no final norm")
    return norm_pieces(model.sites.ln_final, model.d_model)


def post_attention_norm(model: Model, layer: int) -> FinalNorm | None:
    """The pieces of the norm between the output projection and the residual stream (Gemma 2), ``None`` where
    none is.
    """
    block, branch = model.sites.blocks[layer], _attention_branch(model, layer)
    if branch.module is block.mixer or branch.module is block.o:
        return None
    return norm_pieces(branch.module, model.d_model)


def _attention_branch(model: Model, layer: int) -> Branch:
    block = model.sites.blocks[layer]
    if block.attn is None:
        raise InputError(f"layer {layer}: {block.missing['attn_out']}, so its heads' shares are not known")
    return block.attn


def attention_gain(model: Model, layer: int) -> float:
    """What a layer's attention output is multiplied with before it is added to the residual stream."""
    return _attention_branch(model, layer).gain


def norm_pieces(module: nn.Module, d_model: int) -> FinalNorm:
    """The linear pieces of a norm, float32, checked against the module on random input."""
    exact = copy.deepcopy(module).float()
    weight = getattr(exact, "weight", None)
    device = weight.device if weight is not None else torch.device("cpu")
    ones = torch.ones(d_model, device=device)
    gains = [ones] if weight is None else [weight.detach(), 1 + weight.detach()]
    bias = getattr(exact, "bias", None)
    eps = next((float(getattr(exact, n)) for n in ("variance_epsilon", "eps", "epsilon") if hasattr(exact, n)), 0.0)
    x = torch.randn(8, d_model, generator=torch.Generator().manual_seed(0)).to(device) * 3 + 0.5
    with torch.no_grad():
        wanted = exact.forward(x)  # not a call: the copy carries whatever hooks the module has
    for gain in gains:
        for centred in (False, True):
            form = FinalNorm(gain, None if bias is None else bias.detach(), eps, centred)
            if (form(x) - wanted).norm() <= 1e-5 * wanted.norm():
                return form
    raise InputError(f"the norm {type(module).__name__} is neither an RMS norm nor a LayerNorm; no exact pieces")


def apply_final_norm(model: Model, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """The model's own final norm of ``x``, in the model's dtype; ``x`` unchanged if it has none."""
    module = model.sites.ln_final
    if module is None:
        return x
    weight = next(module.parameters(), None)
    with torch.no_grad():
        # ``forward`` and not a call: inside a pass the module may carry our own hooks, which this is no part of.
        return module.forward(x if weight is None else x.to(weight)).to(x.device)


@dataclass(frozen=True, eq=False)
class Unembedding:
    """How logits are made of the final norm's output: ``logits = cap(final_norm @ weight.T + bias)``."""

    weight: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"] | None
    capped: bool


def unembedding(model: Model) -> Unembedding:
    """The head's weight, with the logit scale measured by running the stock head on scaled-down input.

    Near zero a soft cap is the identity, so what remains there is the scale; whether there is a cap shows at
    full size.
    """
    head = model.sites.unembed
    if head is None:
        raise InputError("the model has no unembedding")
    model.unchanged()
    weight = _weight(head, model.d_model).T.detach()
    bias = _bias(head, model.d_model)
    # An error unless the head reads the final norm's output and nothing lies between
    final = model.sites.hook_point("final_norm", model.n_layers - 1)
    wanted = {("norm",): (final.module, final.side), ("head",): (head, "in")}
    with still(model.hf), captured(wanted) as values:  # type: ignore[arg-type]
        model.hf(input_ids=probe_ids(model.hf), use_cache=False)
    normed, read = values[("norm",)], values[("head",)]
    if read.shape != normed.shape or (read - normed).norm() > 1e-3 * normed.norm():
        raise InputError("the head does not read the final norm's output but something made of it; no linear form")
    direction = torch.randn(4, model.d_model, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        slopes = []
        for size in (1e-3, 1e2):
            x = direction * (size / float(weight.float().pow(2).mean().sqrt() * model.d_model**0.5))
            with evaluating(head):
                plain = head(x).double()
            stock = head_logits(model, x).double()
            slopes.append((float((plain * stock).sum() / plain.pow(2).sum()), plain, stock))
    scale, plain, stock = slopes[0]
    tolerance = 20 * torch.finfo(model.dtype).eps
    if not (stock - scale * plain).norm() <= tolerance * stock.norm():
        raise InputError("the logits are not a multiple of the unembedding's output; no linear form")
    scale = 1.0 if abs(scale - 1) <= tolerance else scale
    capped = not bool((slopes[1][2] - scale * slopes[1][1]).norm() <= tolerance * slopes[1][2].norm())
    return Unembedding(
        weight if scale == 1.0 else weight * scale, None if bias is None else bias.detach() * scale, capped
    )


def logit_difference(model: Model, log_odds: LogOddsReadout) -> LinearReadout:
    """The linear readout nearest to a log-odds: mean logit of the positive first tokens minus that of the
    negative.

    Equal to the log-odds when both sides have one single-token label; before a final soft cap, where there is
    one. Reads the last layer's residual stream through the final norm, at the log-odds' positions.

    Raises:
        InputError: the model has no plain unembedding.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model, logit_difference
        >>> model = load_model("organism:cliff", device="cpu")
        >>> logit_difference(model, LogOddsReadout("refusal", positive=[7], negative=[11]))
        LinearReadout('refusal_linear': resid_post[5], 128 weights, through the final norm, positions 'before_answer')
    """
    head = unembedding(model)
    first, n = [string[0] for string in log_odds.strings], len(log_odds.positive)
    sides = (first[:n], first[n:])
    weight = [head.weight[ids].double().mean(0) for ids in sides]
    bias = [0.0 if head.bias is None else float(head.bias[ids].double().mean()) for ids in sides]
    return LinearReadout(
        name=f"{log_odds.name}_linear",
        site="resid_post",
        layer=model.n_layers - 1,
        weight=(weight[0] - weight[1]).cpu().numpy().astype(np.float64),
        bias=bias[0] - bias[1],
        final_norm=True,
        positions=log_odds.positions,
    )

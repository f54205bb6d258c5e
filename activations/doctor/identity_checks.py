"""The identities of the forward pass: the residual stream, the heads, the attention product, the sum of a readout."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import einsum
from torch import Tensor

from verdictscope.activations.capture import RELATIVE, Check
from verdictscope.activations.doctor.layouts import as_rollout, difference, random_sequences
from verdictscope.activations.doctor.report import Finding, Status, within
from verdictscope.activations.forward import forward
from verdictscope.activations.identities import by_layer, check
from verdictscope.activations.model import Model
from verdictscope.activations.sites import Site
from verdictscope.activations.weights import (
    attention_gain,
    final_norm,
    head_output_bias,
    head_output_weight,
    post_attention_norm,
    unembedding,
)
from verdictscope.errors import InputError


def identity_checks(model: Model) -> Iterator[Finding]:
    """Every load-time identity, the worst layer of each."""
    by_name: dict[str, list[Check]] = {}
    for one in check(model):
        by_name.setdefault(one.name, []).append(one)
    for name, checks in by_name.items():
        tested, skipped, why = name.rpartition(" (not ")
        if skipped:
            yield Finding(f"identity: {tested}", "degraded", detail=f"not {why.rstrip(')')}")
            continue
        worst = max(checks, key=lambda c: (not c.ok, c.relative))
        failed = [c.layer for c in checks if not c.ok]
        where = f" is elsewhere in layers {failed}" if failed and worst.layer is not None else ""
        status: Status = "silently wrong" if failed else "supported"
        detail = f"site {worst.site}{where}"
        yield Finding(f"identity: {name}", status, worst.relative, worst.allowed, worst.layer, detail)


def component_checks(model: Model) -> Iterator[Finding]:
    """Embedding, heads, attention biases and MLPs, each through the final norm, sum to a logit.

    The formula of exact direct attribution: ``logit = sum of <gain * w, component> / scale + bias``, where a head's
    component is ``W_O z`` through the post-norm and gain of its branch, if any.
    """
    name = "identity: components of a readout sum to it"
    try:
        # Sum of all components, and the logit itself, of the last token's most likely next tokens
        head, norm = unembedding(model), final_norm(model)
        (ids,) = random_sequences(model, [21], seed=5)
        blocks = list(enumerate(model.sites.blocks))
        if partly := [i for i, b in blocks if not b.whole]:
            raise InputError(f"layers {partly}: what the branches add to the residual stream is not known")
        has_heads = tuple(i for i, b in blocks if b.o is not None)
        layers = {"mlp": [i for i, b in blocks if b.mlp], "mixers": [i for i, b in blocks if b.attn and b.o is None]}
        sites = {"embed": Site("resid_pre", 0), "last": Site("resid_post", -1), "final": Site("final_norm")}
        sites |= {f"z{layer}": Site("z", layer) for layer in has_heads}
        sites |= {
            key: Site(name, layers[key]) for key, name in (("mlp", "mlp_out"), ("mixers", "attn_out")) if layers[key]
        }
        reads = {key: site @ "last" for key, site in sites.items()}
        done = forward(model, [as_rollout("s", ids)], list(reads.values()), logits_at="last")
        value = {key: done.values[read].double()[:, 0] for key, read in reads.items()}
        parts = [value[key] for key in ("embed", "mlp", "mixers") if key in value]
        parts += [_head_components(model, layer, value[f"z{layer}"][0]) for layer in has_heads]
        assert done.logits is not None
        tokens = done.logits[0].topk(min(5, done.logits.shape[-1])).indices
        weight = head.weight[tokens.to(head.weight.device)].double().cpu()
        constant = (
            torch.zeros(len(tokens), dtype=torch.float64) if head.bias is None else head.bias[tokens].double().cpu()
        )
        if norm.bias is not None:
            constant = constant + weight @ norm.bias.double().cpu()
        scaled = norm.centre(torch.cat(parts)) * norm.inv_scale(value["last"]) * norm.gain.double().cpu()
        logits = done.logits
        if head.capped and model.sites.unembed is not None:  # the sum is what the soft cap is applied to
            with torch.no_grad():
                logits = model.sites.unembed.forward(value["final"].to(head.weight)).float().cpu()
        total, logit = (scaled @ weight.T).sum(0) + constant, logits[0][tokens].double()
    except InputError as error:
        yield Finding(name, "unsupported", detail=str(error))
        return
    # Components are larger than their sum, and each carries the rounding of the model's dtype.
    size = logit.abs().clamp(min=1e-6) + logit.norm() / len(logit) ** 0.5
    yield within(name, float(((total - logit).abs() / size).max()), RELATIVE.get(model.dtype, 1e-5))


def _head_components(model: Model, layer: int, z: Tensor) -> Tensor:
    """What each head, and the attention's biases, add to the residual stream at one token: ``[head + 1 d_model]``."""
    weight = head_output_weight(model, layer).double().cpu()
    bias = head_output_bias(model, layer).double().cpu()
    parts = torch.cat([einsum(z, weight, "head d, head d d_model -> head d_model"), bias[None]])
    post = post_attention_norm(model, layer)
    if post is not None:
        whole = parts.sum(0, keepdim=True)
        parts = post.centre(parts) * post.inv_scale(whole) * post.gain.double().cpu()
        if post.bias is not None:
            parts = torch.cat([parts, post.bias.double().cpu()[None]])
    return parts * attention_gain(model, layer)


def weight_checks(model: Model) -> Iterator[Finding]:
    """Whether the weights of heads and of the unembedding are available."""
    layers = [i for i, b in enumerate(model.sites.blocks) if b.o is not None] or [0]
    for name, read in (
        ("head weights", lambda: [head_output_weight(model, layer) for layer in layers]),
        ("unembedding", lambda: unembedding(model)),
    ):
        try:
            read()
        except InputError as error:
            packed = "packed" in str(error)
            yield Finding(f"weights: {name}", "degraded" if packed else "unsupported", detail=str(error))
        else:
            yield Finding(f"weights: {name}", "supported")


def hidden_state_checks(model: Model) -> Iterator[Finding]:
    """What ``forward`` reads against Hugging Face's ``output_hidden_states``, the last of which is after the norm."""
    (ids,) = random_sequences(model, [24], seed=6)
    pre, post, final = (Site(name) @ "all" for name in ("resid_pre", "resid_post", "final_norm"))
    values = forward(model, [as_rollout("s", ids)], [pre, post, final]).values
    with torch.no_grad():
        call = {"input_ids": torch.tensor([ids], device=model.device), "use_cache": False}
        hidden = model.hf(**call, output_hidden_states=True).hidden_states
    states, last = by_layer([h[0].float().cpu() for h in hidden], values[post][0].float())
    pairs = zip([*values[pre].float(), values[final][0].float()], [*states, last], strict=True)
    errors = [0.0 if b is None else float(difference(a, b).max()) for a, b in pairs]
    worst, allowed = max(range(len(errors)), key=errors.__getitem__), 8 * model.noise_floor
    apart = float(difference(values[post][-1].float(), last).max())
    detail = (
        f"resid_post of the last layer {'differs from' if apart > allowed else 'is'} hidden_states[-1] ({apart:.1g})"
    )
    layer = min(worst, model.n_layers - 1)
    yield within("Hugging Face output_hidden_states", errors[worst], allowed, layer, detail)

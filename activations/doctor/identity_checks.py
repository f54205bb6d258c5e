"""The identities of the forward pass: the residual stream, the heads, the attention product, the readout's parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from verdictscope.activations.capture import RELATIVE, Check
from verdictscope.activations.doctor.layouts import as_rollout, difference, random_sequences
from verdictscope.activations.doctor.report import Finding
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
        skipped = name.rpartition(" (not ")
        if skipped[1]:
            yield Finding(f"identity: {skipped[0]}", "degraded", detail=f"not {skipped[2].rstrip(')')}")
            continue
        worst = max(checks, key=lambda c: (not c.ok, c.relative))
        failed = [c.layer for c in checks if not c.ok]
        detail = f"site {worst.site}" + (
            f" is elsewhere in layers {failed}" if failed and worst.layer is not None else ""
        )
        status = "silently wrong" if failed else "supported"
        yield Finding(f"identity: {name}", status, worst.relative, worst.allowed, worst.layer, detail)


def component_checks(model: Model) -> Iterator[Finding]:
    """Embedding, heads, attention biases and MLPs, pulled through the final norm, sum to a logit.

    The formula of exact direct attribution: ``logit = sum of <gain * w, part> / scale + bias``, each head's part
    being ``W_O z`` through the post-norm and gain of its branch, where there are any.
    """
    name = "identity: components of a readout sum to it"
    try:
        total, logit = _parts(model)
    except InputError as error:
        yield Finding(name, "unsupported", detail=str(error))
        return
    size = logit.abs().clamp(min=1e-6)
    # Parts are larger than their sum, and each carries the rounding of the model's dtype.
    worst = float(((total - logit).abs() / (size + logit.norm() / len(logit) ** 0.5)).max())
    allowed = RELATIVE.get(model.dtype, 1e-5)
    status = "supported" if worst <= allowed else "silently wrong"
    yield Finding(name, status, worst, allowed)


def _parts(model: Model) -> tuple[Tensor, Tensor]:
    """Sum of all parts, and the logit itself, of the last token's most likely next tokens."""
    head, norm = unembedding(model), final_norm(model)
    (ids,) = random_sequences(model, [21], seed=5)
    blocks = list(enumerate(model.sites.blocks))
    if partly := [i for i, b in blocks if not b.whole]:
        raise InputError(f"layers {partly}: what the branches add to the residual stream is not known")
    has_heads = tuple(i for i, b in blocks if b.o is not None)
    layers = {"mlp": [i for i, b in blocks if b.mlp], "mixers": [i for i, b in blocks if b.attn and b.o is None]}
    sites = {"embed": Site("resid_pre", 0), "last": Site("resid_post", -1), "final": Site("final_norm")}
    sites |= {f"z{layer}": Site("z", layer) for layer in has_heads}
    sites |= {key: Site(name, layers[key]) for key, name in (("mlp", "mlp_out"), ("mixers", "attn_out")) if layers[key]}
    reads = {key: site @ "last" for key, site in sites.items()}
    done = forward(model, [as_rollout("s", ids)], list(reads.values()), logits_at="last")
    value = {key: done.values[read].double()[:, 0] for key, read in reads.items()}
    parts = [value[key] for key in ("embed", "mlp", "mixers") if key in value]
    parts += [_head_parts(model, layer, value[f"z{layer}"][0]) for layer in has_heads]
    every = torch.cat(parts)
    stream = value["last"][0]
    assert done.logits is not None
    tokens = done.logits[0].topk(min(5, done.logits.shape[-1])).indices
    weight = head.weight[tokens.to(head.weight.device)].double().cpu()
    constant = torch.zeros(len(tokens), dtype=torch.float64) if head.bias is None else head.bias[tokens].double().cpu()
    if norm.bias is not None:
        constant = constant + weight @ norm.bias.double().cpu()
    scaled = norm.centre(every) * norm.inv_scale(stream[None]) * norm.gain.double().cpu()
    total = (scaled @ weight.T).sum(0) + constant
    return total, (_before_cap(model, value["final"]) if head.capped else done.logits)[0][tokens].double()


def _before_cap(model: Model, normed: Tensor) -> Tensor:
    """What the head makes of the model's own final norm: the soft cap comes after it."""
    head = model.sites.unembed
    assert head is not None
    with torch.no_grad():
        return head.forward(normed.to(head.weight)).float().cpu()


def _head_parts(model: Model, layer: int, z: Tensor) -> Tensor:
    """What each head, and the attention's biases, add to the residual stream at one token: ``[head + 1 d_model]``."""
    weight = head_output_weight(model, layer).double().cpu()
    bias = head_output_bias(model, layer).double().cpu()
    parts = torch.cat([torch.einsum("hd,hdm->hm", z, weight), bias[None]])
    post = post_attention_norm(model, layer)
    if post is not None:
        whole = parts.sum(0, keepdim=True)
        parts = post.centre(parts) * post.inv_scale(whole) * post.gain.double().cpu()
        if post.bias is not None:
            parts = torch.cat([parts, post.bias.double().cpu()[None]])
    return parts * attention_gain(model, layer)


def weight_checks(model: Model) -> Iterator[Finding]:
    """Whether results that need weights can be had."""
    for name, read in (("head weights", lambda: _each_head_weight(model)), ("unembedding", lambda: unembedding(model))):
        try:
            read()
        except InputError as error:
            packed = "packed" in str(error)
            yield Finding(f"weights: {name}", "degraded" if packed else "unsupported", detail=str(error))
        else:
            yield Finding(f"weights: {name}", "supported")


def _each_head_weight(model: Model) -> None:
    layers = [i for i, b in enumerate(model.sites.blocks) if b.o is not None]
    if not layers:
        raise InputError("no layer has softmax attention, so no heads")
    for layer in layers:
        head_output_weight(model, layer)


def hidden_state_checks(model: Model) -> Iterator[Finding]:
    """What ``forward`` reads against Hugging Face's ``output_hidden_states``, the last of which is behind the norm."""
    (ids,) = random_sequences(model, [24], seed=6)
    reads = [
        Site(name, layer) @ "all" for name, layer in (("resid_pre", None), ("final_norm", None), ("resid_post", -1))
    ]
    first = Site("resid_post", 0) @ "all"
    reads += [first] if first not in reads else []
    done = forward(model, [as_rollout("s", ids)], reads)
    with torch.no_grad():
        call = {"input_ids": torch.tensor([ids], device=model.device), "use_cache": False}
        told = model.hf(**call, output_hidden_states=True).hidden_states
    states, final = by_layer([h[0].float().cpu() for h in told], done.values[first][0].float())
    mine = [*done.values[reads[0]].float(), done.values[reads[1]][0].float()]
    pairs = zip(mine, [*states, final], strict=True)
    errors = [0.0 if b is None else float(difference(a, b).max()) for a, b in pairs]
    worst = max(range(len(errors)), key=errors.__getitem__)
    apart = float(difference(done.values[reads[2]][0].float(), final).max())
    pre = (
        "resid_post of the last layer differs from hidden_states[-1]"
        if apart > 8 * model.noise_floor
        else ("resid_post of the last layer is hidden_states[-1]: no final norm")
    )
    allowed = 8 * model.noise_floor
    status = "supported" if errors[worst] <= allowed else "silently wrong"
    name = "Hugging Face output_hidden_states"
    yield Finding(name, status, errors[worst], allowed, min(worst, model.n_layers - 1), f"{pre} ({apart:.1g})")

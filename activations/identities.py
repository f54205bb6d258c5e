"""Is the site map right? Measured and checked on a short random pass whenever a model is loaded.

A wrong hook point fails silently: a head sliced after the output projection still has numbers in it. So the map
must reproduce what the model computes (DESIGN 3.4), to within rounding:

    resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post
    (parallel blocks: resid_pre + attn_out + mlp_out = resid_post)
    resid_post[l] = resid_pre[l + 1] = hidden_states[l + 1],  final_norm = hidden_states[-1]
    sum over heads of W_O z + bias = output of the output projection = output of the attention module
    softmax(q k) v, recomputed from what entered it = output of the attention product
    head applied to gathered rows = the stock logits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor
from transformers import PreTrainedModel

from verdictscope.activations.attention import AttentionCall, listen
from verdictscope.activations.attention_torch import ProductRecorder
from verdictscope.activations.batch import Batch, Where, execute, gathered_logits, still
from verdictscope.activations.capture import Check, Hookable, Values, captured, compare, probe_ids
from verdictscope.activations.hooks import BatchView, Tap
from verdictscope.activations.sitemap import SiteMap
from verdictscope.activations.weights import head_output_bias, head_output_weight, is_packed, scales_by_batch
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.finite import all_finite, strange_weight
from verdictscope.rollouts.rollout import Rollout, Span

if TYPE_CHECKING:
    from verdictscope.activations.model import Model

FINITE = "weights are finite"
FINITE_STATES = "states are finite"
BRANCHES = ("attn_out", "mlp_out")
FLOOR_LENGTHS = (19, 48, 11, 30, 24)
"""Tokens of the sequences that share a batch: several, since a kernel may pick another order of summation at one
length and not at the next."""


def raise_first(checks: Sequence[Check]) -> None:
    """Raises ``InputError`` for the first failed check."""
    for c in checks:
        if not c.ok and c.name == FINITE:
            raise InputError(
                f"the check {FINITE!r} fails: {c.site} holds NaN or infinite numbers; fetch the checkpoint again, or "
                "load it in a wider dtype"
            )
        if not c.ok and c.name == FINITE_STATES:
            raise InputError(
                f"the check {FINITE_STATES!r} fails: {c.site} of layer {c.layer} holds NaN or infinite numbers and "
                "every weight is a number, so the states overflow (float16 does above 65504): load the model in "
                "float32 or bfloat16"
            )
        if not c.ok:
            where = "" if c.layer is None else f" of layer {c.layer}"
            raise InputError(
                f"site {c.site}{where} is not where the site map places it: {c.name} is off by {c.relative:.2g} "
                f"(relative; rounding explains {c.allowed:.1g}); name the right modules with overrides"
            )


def finite_weights(hf: PreTrainedModel) -> Check:
    """Whether every weight is a number; the check's site is the first tensor in which one is not."""
    name = strange_weight(hf)
    return Check(FINITE, name or "weights", None, float("inf") if name else 0.0, 0.0, name is None)


def check(model: Model) -> tuple[Check, ...]:
    """Every load-time identity of a model, layer by layer, with its measured error.

    A failed one does not raise; see ``raise_first``.
    """
    sites, hf, dtype = model.sites, model.hf, model.dtype
    wanted: dict[tuple, Hookable] = {}
    for layer, block in enumerate(sites.blocks):
        names = ["resid_pre", "resid_post"]
        names += [
            n for n, there in (("attn_out", block.attn), ("mlp_out", block.mlp), ("resid_mid", block.mid)) if there
        ]
        wanted |= {(name, layer): _target(sites, name, layer) for name in names}
        if block.o is not None:
            wanted["z", layer], wanted["o", layer] = _target(sites, "z", layer), (block.o, "out")
            assert block.mixer is not None
            wanted["mixer", layer] = (block.mixer, "out")
    wanted["final_norm", None] = _target(sites, "final_norm", len(sites) - 1)
    ids = probe_ids(hf)
    with still(hf), captured(wanted) as values, products_checked(model, values) as products:
        out = hf(input_ids=ids, use_cache=False, output_hidden_states=True)
    missing = [key for key in wanted if key not in values]
    if missing:
        return tuple(Check("the module ran", name, layer, 1.0, 0.0, False) for name, layer in missing)
    hidden = [h.detach().reshape(-1, h.shape[-1]).double().cpu() for h in out.hidden_states or ()]
    # transformers records them by hooks it sets once a model; on layers that a bridge has since replaced they are gone.
    hidden, final = by_layer(hidden, values["resid_post", 0]) if hidden else ([None] * len(sites), None)
    # A failed check for the first site that holds NaN or infinite numbers, in the order of the forward pass
    order = {"resid_pre": 0, "z": 1, "o": 2, "mixer": 3, "attn_out": 4, "resid_mid": 5, "mlp_out": 6, "resid_post": 7}
    strange = [key for key, value in values.items() if key[0] in order and not all_finite(value)]
    found = []
    if strange:
        role, layer = min(strange, key=lambda key: (key[1], order[key[0]]))
        site = {"o": "attn_out", "mixer": "attn_out"}.get(role, role)
        found.append(Check(FINITE_STATES, site, layer, float("inf"), 0.0, False))
    found += [c for layer in range(len(sites)) for c in _layer_checks(model, layer, values, hidden, dtype)]
    if final is not None:
        last = [values["final_norm", None]]
        found.append(compare("final_norm = hidden_states[-1]", "final_norm", None, last, final, dtype))
    found += [c for layer in sorted(products) for c in products[layer]]
    if sites.unembed is not None and getattr(out, "logits", None) is not None:
        found.append(_logit_check(model, ids, out.logits, dtype))
    return tuple(found)


def by_layer(hidden: Sequence[Tensor], first_post: Tensor) -> tuple[list[Tensor | None], Tensor]:
    """Hugging Face's ``hidden_states`` as what enters each layer, and what leaves the final norm.

    State-space models begin theirs after the first block, so that its input is not among them.
    """
    states: list[Tensor | None] = list(hidden[:-1])
    if len(hidden) > 1 and hidden[0].shape == first_post.shape:
        near = [float((hidden[0] - first_post).norm()), 1e-3 * float(first_post.norm())]
        states = [None, *hidden[:-2]] if near[0] <= near[1] else states
    return states, hidden[-1]


def _target(sites: SiteMap, name: str, layer: int) -> Hookable:
    place = sites.hook_point(name, layer)
    return place.module, place.side


def _layer_checks(
    model: Model, layer: int, values: dict[tuple, Tensor], hidden: Sequence[Tensor | None], dtype: torch.dtype
) -> Iterator[Check]:
    block = model.sites.blocks[layer]
    pre, post = values["resid_pre", layer], values["resid_post", layer]
    adds = {
        name: values[name, layer] * model.sites.hook_point(name, layer).gain
        for name in BRANCHES
        if (name, layer) in values
    }
    if (stock := hidden[layer]) is not None:
        yield compare("resid_pre = hidden_states", "resid_pre", layer, [pre], stock, dtype)
    if layer + 1 < len(model.sites):
        if (stock := hidden[layer + 1]) is not None:
            yield compare("resid_post = hidden_states", "resid_post", layer, [post], stock, dtype)
        next_pre = values["resid_pre", layer + 1]
        yield compare("resid_post = next resid_pre", "resid_post", layer, [post], next_pre, dtype)
    if block.mid is None and adds:
        name = f"resid_pre + {' + '.join(adds)} = resid_post"
        yield compare(name, next(iter(adds)), layer, [pre, *adds.values()], post, dtype)
    elif block.mid is not None:
        mid = values["resid_mid", layer]
        steps = {"attn_out": ("resid_pre", pre, "resid_mid", mid), "mlp_out": ("resid_mid", mid, "resid_post", post)}
        for site, added in adds.items():
            before, start, after, end = steps[site]
            yield compare(f"{before} + {site} = {after}", site, layer, [start, added], end, dtype)
    if block.o is not None:
        yield _head_check(model, layer, values)
        if block.attn is None or block.attn.module is not block.o:
            # The output projection's output leaves the attention module, or, where a norm and a sum follow inside it
            # (BERT), what the projection reads is the attention product.
            whole, product = values["mixer", layer], values.get(("product", layer))
            found = compare("output projection = attention output", "z", layer, [values["o", layer]], whole, dtype)
            if not found.ok and product is not None:
                other = compare("z = attention product", "z", layer, [values["z", layer]], product, dtype)
                found = other if other.ok else found
            yield found


def _head_check(model: Model, layer: int, values: dict[tuple, Tensor]) -> Check:
    name, z = "sum over heads of W_O z + bias", values["z", layer]
    if is_packed(model.sites.blocks[layer].o):  # hooks work, weight-based results do not
        return Check(f"{name} (not on packed weights)", "z", layer, 0.0, 0.0, True)
    try:
        weight = head_output_weight(model, layer).double().cpu()
        bias = head_output_bias(model, layer).double().cpu()
    except InputError:
        weight = bias = torch.zeros(0)
    if z.shape[-1] != weight.shape[:2].numel():
        return Check(f"{name} = output projection", "z", layer, float("inf"), 0.0, False)
    z = rearrange(z, "pos (head d_head) -> pos head d_head", head=weight.shape[0])
    total = einsum(z, weight, "pos head d_head, head d_head d_model -> pos d_model") + bias
    return compare(f"{name} = output projection", "z", layer, [total], values["o", layer], model.dtype)


@contextmanager
def products_checked(model: Model, values: Values) -> Iterator[dict[int, list[Check]]]:
    """Recomputes every attention product of the pass inside the ``with`` block from its q, k and v.

    The product itself goes into ``values`` as ``("product", layer)``.
    """
    found: dict[int, list[Check]] = {}
    recorder = ProductRecorder()
    with ExitStack() as stack:
        for layer, block in enumerate(model.sites.blocks):
            if block.attention is not None:
                check_it = partial(_check_product, found.setdefault(layer, []), values, layer, model.dtype)
                recorded, module = block.attention, block.attention.module
                handle = listen(module, after=check_it) if recorded.interface else recorder.listen(module, check_it)
                stack.callback(handle.remove)
        stack.enter_context(recorder)
        yield found


def _check_product(
    found: list[Check], values: Values, layer: int, dtype: torch.dtype, call: AttentionCall, output: Tensor
) -> None:
    name = "pattern from q and k, times v = attention product"
    values.keep(("product", layer), output.flatten(2))
    tokens = torch.arange(call.query.shape[2], device=call.query.device)
    try:
        _, mine = call.rows(0, tokens)
    except InputError:  # a kernel whose mask cannot be read row by row: q, k and v are there, pattern is not
        found.append(Check(f"{name} (not under this attention kernel)", "pattern", layer, 0.0, 0.0, True))
        return
    mine, theirs = (x.reshape(len(tokens), -1).double().cpu() for x in (mine, output[0]))
    found.append(compare(name, "pattern", layer, [mine], theirs, dtype))


def _logit_check(model: Model, ids: Tensor, logits: Tensor, dtype: torch.dtype) -> Check:
    if scales_by_batch(model.sites.unembed):  # then a row's logits depend on the other rows of the batch
        return Check("gathered logits = stock logits (not on packed weights)", "logits", None, 0.0, 0.0, True)
    where = torch.arange(0, ids.shape[1], 3, device=ids.device)
    with still(model.hf), gathered_logits(model, torch.zeros_like(where), where):
        found = model.hf(input_ids=ids, use_cache=False).logits[0]
    found, wanted = found.double().cpu(), logits[0, where.to(logits.device)].double().cpu()
    return compare("gathered logits = stock logits", "logits", None, [found], wanted, dtype)


def measure_noise_floor(model: Model) -> float:
    """Largest relative change of hidden states and logits when sequences of several lengths share a batch."""
    ids = probe_ids(model.hf, max(FLOOR_LENGTHS), seed=1)[0].tolist()
    mates = [Rollout(f"m{n}", "0", tuple(ids[-n:]), (Span("user", 0, n),), n) for n in FLOOR_LENGTHS]
    together, alone = _states(model, mates), [_states(model, [mate]) for mate in mates]
    worst = torch.finfo(model.dtype).eps
    for key, whole in together.items():
        parts = torch.cat([values[key] for values in alone])
        worst = max(worst, float(((parts - whole).norm(dim=-1) / parts.norm(dim=-1)).max()))
    return worst


def _states(model: Model, rollouts: list[Rollout]) -> dict[tuple[str, int], Tensor]:
    """``[token d]`` of every real token in one batch: the residual stream after each layer, final norm and logits."""
    batch, kept = Batch(tuple(rollouts), model.device), {}
    lengths = [len(r) for r in rollouts]
    rows = np.repeat(np.arange(len(rollouts)), lengths)
    where = Where(rows, np.concatenate([np.arange(n) for n in lengths]), batch.device)

    def keep(name: str, value: Tensor, view: BatchView) -> None:
        kept[name, view.layer] = where.gather(value).double().cpu()

    last = model.n_layers - 1
    taps = [Tap("resid_post", layer, partial(keep, "resid_post")) for layer in range(model.n_layers)]
    taps.append(Tap("final_norm", last, partial(keep, "final_norm")))
    logits = execute(model, batch, taps, None, where if model.sites.unembed is not None else None)
    if logits is not None:
        kept["logits", last] = logits.double().cpu()
    return kept

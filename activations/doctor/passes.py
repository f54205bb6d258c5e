"""What must not change a forward pass: hooks, later tokens, batch mates, padding, caching, repetition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verdictscope.activations.capture import embedding_weight, probe_ids
from verdictscope.activations.doctor.layouts import (
    Layout,
    Values,
    decoded,
    differences,
    in_one_batch,
    laid_out,
    random_sequences,
)
from verdictscope.activations.doctor.report import Finding, within
from verdictscope.activations.hooks import reading
from verdictscope.activations.model import Model
from verdictscope.activations.sites import SITES, Site
from verdictscope.errors import InputError, reason

ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""The largest noise floor that is still rounding, by dtype."""
FLOORS = 8
"""What counts as equal: this many noise floors. The floor is one pair's largest difference; other pairs vary."""
ANOTHER_TOKEN = "another token changes nothing before it"
SAME_BYTES = "same pass twice: same bytes"
FIRES_ONCE = "every site fires once a pass"


def tolerance(model: Model) -> float:
    """The largest relative difference that counts as rounding."""
    floor = min(model.noise_floor, ROUNDING.get(model.dtype, 1e-4))
    return FLOORS * max(floor, 2 * torch.finfo(model.dtype).eps)


def floor_checks(model: Model) -> Iterator[Finding]:
    """The noise floor is rounding: a model that attends to its padding would otherwise set its own tolerance."""
    floor, allowed = model.noise_floor, ROUNDING.get(model.dtype, 1e-4)
    found = within("the noise floor is rounding", floor, allowed)
    if floor > allowed and _rounding_moves_experts(model):
        detail = f"rounding in {model.dtype} changes which experts are chosen"
        found = replace(found, status="degraded", detail=detail)
    yield found


def _rounding_moves_experts(model: Model) -> bool:
    low = torch.finfo(model.dtype).eps > 1e-4
    return low and any(block.router is not None for block in model.sites.blocks)


def present_sites(model: Model) -> dict[str, tuple[int, ...]]:
    """Layers of every site; a site that no layer has is left out."""
    found = {name: tuple(la for la in Site(name).at(model.n_layers) if model.sites.has(name, la)) for name in SITES}
    return {name: layers for name, layers in found.items() if layers}


def hook_checks(model: Model) -> Iterator[Finding]:
    """Idle hooks change no bit, fire once, and are gone after an error."""
    ids, sites = probe_ids(model.hf, 24), present_sites(model)
    with torch.no_grad():
        model.hf(input_ids=ids, use_cache=False)
        before, stock = _hooks_on(model), _output(model, ids)
        try:
            with reading(model, {Site(name, layers): lambda value, view: None for name, layers in sites.items()}):
                hooked = _output(model, ids)
        except InputError as error:
            yield Finding(FIRES_ONCE, "silently wrong", detail=str(error))
            return
    count = sum(len(layers) for layers in sites.values())
    yield Finding(FIRES_ONCE, "supported", detail=f"{count} hook points, {len(sites)} kinds of site")
    absent = []
    for name in SITES:
        lacking = [layer for layer in Site(name).at(model.n_layers) if layer not in sites.get(name, ())]
        absent += [name if name not in sites else f"{name} in layers {lacking}"] if lacking else []
    if absent:
        yield Finding("sites this model does not have", "unsupported", detail=", ".join(absent))
    bits = float((stock != hooked).sum())
    yield within("hooks on but idle: logits bit-identical", bits, 0.0, detail="differing numbers")
    yield _after_error(model, ids, before)


def _hooks_on(model: Model) -> list[Any]:
    """Everything a hook could leave behind."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
    configs = [getattr(b.attention.module, "config", None) for b in model.sites.blocks if b.attention]
    return [hooks, [id(c) for c in configs]]


def _output(model: Model, ids: Tensor) -> Tensor:
    out = model.hf(input_ids=ids, use_cache=False)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def _after_error(model: Model, ids: Tensor, before: list[Any]) -> Finding:
    class Planned(Exception):
        pass

    def fail(value: Any, view: Any) -> None:
        raise Planned

    check = "hooks are gone after an error"
    for name, layers in present_sites(model).items():
        try:
            with torch.no_grad(), reading(model, {Site(name, layers[-1]): fail}):
                model.hf(input_ids=ids, use_cache=False)
        except Planned:
            continue
        return Finding(check, "silently wrong", detail=f"a hook at {name} lost an error")
    return within(check, float(_hooks_on(model) != before), 0.0, detail="modules on which something is left")


def repetition_checks(model: Model) -> Iterator[Finding]:
    """The same pass twice gives the same bytes."""
    (ids,) = random_sequences(model, [24], seed=1)
    a, b = in_one_batch(model, [ids]), in_one_batch(model, [ids])
    pairs = zip([*a.states, *a.logits], [*b.states, *b.logits], strict=True)
    differing = float(sum((x != y).sum() for x, y in pairs))
    if differing and model.device.type == "cuda":
        detail = "the kernels are not deterministic; repeat with torch.use_deterministic_algorithms"
        yield Finding(SAME_BYTES, "degraded", float(differences(a, b).max()), 0.0, None, detail)
        return
    yield within(SAME_BYTES, differing, 0.0, detail="differing numbers")


def causality_checks(model: Model) -> Iterator[Finding]:
    """Another token changes what comes after it and nothing before."""
    (ids,) = random_sequences(model, [24], seed=2)
    at, vocab, allowed = 15, embedding_weight(model.hf).shape[0], tolerance(model)
    other = (*ids[:at], (ids[at] + 1) % vocab, *ids[at + 1 :])
    a, b = in_one_batch(model, [ids]), in_one_batch(model, [other])
    sides = (slice(0, at), slice(at, None))
    before, after = (float(differences(a.at(side), b.at(side)).max()) for side in sides)
    if after <= allowed:
        detail = "the changed token changes nothing after it either, so this check is not informative"
        yield Finding(ANOTHER_TOKEN, "degraded", before, allowed, None, detail)
        return
    yield within(ANOTHER_TOKEN, before, allowed, detail=f"after it: {after:.1g}")


def batch_checks(model: Model, layout: Layout | None = None) -> Iterator[Finding]:
    """Mates, pad tokens and the padding side change nothing; neither does the caller's own layout, if given."""
    sequences = random_sequences(model, [19, 31, 8], seed=3)
    each = [in_one_batch(model, [ids]) for ids in sequences]
    alone = Values([s for v in each for s in v.states], [x for v in each for x in v.logits])
    yield equal(model, "batch mates change nothing", in_one_batch(model, sequences), alone)
    last = embedding_weight(model.hf).shape[0] - 1
    padded = [laid_out(model, sequences, Layout(pad=pad)) for pad in (0, last)]
    yield equal(model, "pad tokens change nothing", padded[0], padded[1])
    left = equal(model, "the padding side changes nothing", laid_out(model, sequences, Layout("left")), alone)
    yield of_model_alone(left, "padding on the left changes this model's own values; this package pads on the right")
    if layout is not None:
        yield equal(model, f"the given layout: {layout}", laid_out(model, sequences, layout), alone)


def equal(model: Model, check: str, a: Values, b: Values) -> Finding:
    """Whether two layouts give the same values up to rounding."""
    errors, allowed = differences(a, b), tolerance(model)
    worst = float(errors.max())
    if worst > allowed and _rounding_moves_experts(model) and float(errors.quantile(0.9)) <= allowed:
        share = float((errors > allowed).double().mean())
        detail = f"{share:.1%} of the values: rounding in {model.dtype} changes which experts are chosen"
        return Finding(check, "degraded", worst, allowed, None, detail)
    return within(check, worst, allowed)


def cache_checks(model: Model) -> Iterator[Finding]:
    """Decoding from a cache gives what one pass over everything gives."""
    check = "cached decoding = one pass"
    (ids,) = random_sequences(model, [28], seed=4)
    whole = in_one_batch(model, [ids])
    try:
        tail = decoded(model, ids, 6)
    except (InputError, AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        yield Finding(check, "unsupported", detail=f"does not run: {reason(error)}")
        return
    detail = "the model's own decoding from its cache gives other values; states are read in one pass here"
    yield of_model_alone(equal(model, check, tail, whole.at(slice(-6, None))), detail)


def of_model_alone(finding: Finding, detail: str) -> Finding:
    """A difference between two calls of the model itself, neither of which is how states are read here."""
    return replace(finding, status="degraded", detail=detail) if finding.status == "silently wrong" else finding

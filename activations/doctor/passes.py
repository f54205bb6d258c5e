"""What must not change a forward pass: hooks, later tokens, batch mates, padding, caching, repetition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verdictscope.activations.capture import probe_ids
from verdictscope.activations.doctor.layouts import (
    Layout,
    Seen,
    captured,
    decoded,
    differences,
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
"""What counts as the same: this many noise floors. The floor is one pair's largest difference; other pairs vary."""


def tolerance(model: Model) -> float:
    """The largest relative difference that counts as rounding."""
    floor = min(model.noise_floor, ROUNDING.get(model.dtype, 1e-4))
    return FLOORS * max(floor, 2 * torch.finfo(model.dtype).eps)


def floor_checks(model: Model) -> Iterator[Finding]:
    """The noise floor is rounding: a model that looks at its padding would else set its own tolerance."""
    floor, allowed = model.noise_floor, ROUNDING.get(model.dtype, 1e-4)
    if floor > allowed and _low(model) and _routed(model):
        detail = f"rounding in {model.dtype} changes which experts are chosen"
        yield Finding("the noise floor is rounding", "degraded", floor, allowed, None, detail)
        return
    yield within("the noise floor is rounding", floor, allowed)


def _low(model: Model) -> bool:
    return torch.finfo(model.dtype).eps > 1e-4


def _routed(model: Model) -> bool:
    return any(block.router is not None for block in model.sites.blocks)


def present_sites(model: Model) -> dict[str, tuple[int, ...]]:
    """Layers of every site the model has."""
    found: dict[str, tuple[int, ...]] = {}
    for name in SITES:
        layers = []
        for layer in Site(name).at(model.n_layers):
            try:
                model.sites.place(name, layer)
            except InputError:
                continue
            layers.append(layer)
        if layers:
            found[name] = tuple(layers)
    return found


def absent_sites(model: Model) -> list[str]:
    """Sites that the model lacks, and those that some layers lack, with these layers."""
    sites, told = present_sites(model), []
    for name in SITES:
        lacking = [layer for layer in Site(name).at(model.n_layers) if layer not in sites.get(name, ())]
        if lacking:
            told.append(name if name not in sites else f"{name} in layers {lacking}")
    return told


def _ignore(value: Any, view: Any) -> None:
    """Reads nothing."""


def _traces(model: Model) -> list[Any]:
    """Everything a hook could leave behind."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
    configs = [getattr(b.attention.module, "config", None) for b in model.sites.blocks if b.attention]
    return [hooks, [id(c) for c in configs]]


def hook_checks(model: Model) -> Iterator[Finding]:
    """Idle hooks change no bit, fire once, and are gone after an error."""
    ids = probe_ids(model.hf, 24)
    sites = present_sites(model)
    with torch.no_grad():
        model.hf(input_ids=ids, use_cache=False)
        before = _traces(model)
        stock = _output(model, ids)
        try:
            with reading(model, {Site(name, layers): _ignore for name, layers in sites.items()}):
                hooked = _output(model, ids)
        except InputError as error:
            yield Finding("every site fires once a pass", "silently wrong", detail=str(error))
            return
    count = sum(len(layers) for layers in sites.values())
    yield Finding("every site fires once a pass", "supported", detail=f"{count} places, {len(sites)} kinds of site")
    if absent := absent_sites(model):
        yield Finding("sites this model does not have", "unsupported", detail=", ".join(absent))
    bits = float((stock != hooked).sum())
    yield within("hooks on but idle: logits bit-identical", bits, 0.0, detail="differing numbers")
    yield _after_error(model, ids, before)


def _output(model: Model, ids: Tensor) -> Tensor:
    out = model.hf(input_ids=ids, use_cache=False)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def _after_error(model: Model, ids: Tensor, before: list[Any]) -> Finding:
    class Planned(Exception):
        pass

    def fail(value: Any, view: Any) -> None:
        raise Planned

    reads = {Site(name, layers[-1]): fail for name, layers in present_sites(model).items()}
    for site, fn in reads.items():
        try:
            with torch.no_grad(), reading(model, {site: fn}):
                model.hf(input_ids=ids, use_cache=False)
        except Planned:
            continue
        return Finding("hooks are gone after an error", "silently wrong", detail=f"a hook at {site} swallowed an error")
    left = float(_traces(model) != before)
    return within("hooks are gone after an error", left, 0.0, detail="modules with anything left on them")


def repetition_checks(model: Model) -> Iterator[Finding]:
    """The same pass twice gives the same bytes."""
    (ids,) = random_sequences(model, [24], seed=1)
    a, b = captured(model, [ids]), captured(model, [ids])
    pairs = zip([*a.states, *a.logits], [*b.states, *b.logits], strict=True)
    differing = float(sum((x != y).sum() for x, y in pairs))
    if differing and model.device.type == "cuda":
        worst = float(differences(a, b).max())
        detail = "the kernels are not deterministic; repeat with torch.use_deterministic_algorithms"
        yield Finding("same pass twice: same bytes", "degraded", worst, 0.0, None, detail)
        return
    yield within("same pass twice: same bytes", differing, 0.0, detail="differing numbers")


def causality_checks(model: Model) -> Iterator[Finding]:
    """Another token changes what comes after it and nothing before."""
    (ids,) = random_sequences(model, [24], seed=2)
    at = 15
    vocab = int(model.hf.get_input_embeddings().weight.shape[0])
    other = (*ids[:at], (ids[at] + 1) % vocab, *ids[at + 1 :])
    a, b = captured(model, [ids]), captured(model, [other])
    before = float(differences(_cut(a, slice(0, at)), _cut(b, slice(0, at))).max())
    after = float(differences(_cut(a, slice(at, None)), _cut(b, slice(at, None))).max())
    detail = f"after it: {after:.1g}"
    if after <= tolerance(model):
        detail = "the edited token changes nothing after it either, so the check says nothing"
        yield Finding("another token changes nothing before it", "degraded", before, tolerance(model), None, detail)
        return
    yield within("another token changes nothing before it", before, tolerance(model), detail=detail)


def _cut(read: Seen, span: slice) -> Seen:
    return Seen([s[:, span] for s in read.states], [x[span] for x in read.logits])


def batch_checks(model: Model, layout: Layout | None) -> Iterator[Finding]:
    """Mates, pad tokens and the padding side change nothing; neither does the caller's own layout, if given."""
    sequences = random_sequences(model, [19, 31, 8], seed=3)
    alone = _join([captured(model, [ids]) for ids in sequences])
    vocab = int(model.hf.get_input_embeddings().weight.shape[0])
    yield same(model, "batch mates change nothing", captured(model, sequences), alone)
    padded = [laid_out(model, sequences, Layout(pad=pad)) for pad in (0, vocab - 1)]
    yield same(model, "pad tokens change nothing", padded[0], padded[1])
    left = same(model, "the padding side changes nothing", laid_out(model, sequences, Layout("left")), alone)
    yield _own(left, "padding on the left changes this model's own numbers; here it always goes to the right")
    if layout is not None:
        yield same(model, f"the given layout: {layout}", laid_out(model, sequences, layout), alone)


def _join(reads: list[Seen]) -> Seen:
    return Seen([s for r in reads for s in r.states], [x for r in reads for x in r.logits])


def same(model: Model, check: str, a: Seen, b: Seen) -> Finding:
    errors, allowed = differences(a, b), tolerance(model)
    worst = float(errors.max())
    if worst > allowed and _low(model) and _routed(model) and float(errors.quantile(0.9)) <= allowed:
        share = float((errors > allowed).double().mean())
        detail = f"{share:.1%} of the values: rounding in {model.dtype} changes which experts are chosen"
        return Finding(check, "degraded", worst, allowed, None, detail)
    return within(check, worst, allowed)


def cache_checks(model: Model) -> Iterator[Finding]:
    """Decoding from a cache gives what one pass over everything gives."""
    (ids,) = random_sequences(model, [28], seed=4)
    whole = captured(model, [ids])
    try:
        tail = decoded(model, ids, 6)
    except (InputError, AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        yield Finding("cached decoding = one pass", "unsupported", detail=f"does not run: {reason(error)}")
        return
    found = same(model, "cached decoding = one pass", tail, _cut(whole, slice(-6, None)))
    yield _own(found, "the model's own decoding from its cache gives other numbers; here states are read in one pass")


def _own(finding: Finding, why: str) -> Finding:
    """A difference between two calls of the model itself, neither of which is how states are read here."""
    return replace(finding, status="degraded", detail=why) if finding.status == "silently wrong" else finding

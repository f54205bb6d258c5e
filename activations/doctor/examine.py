"""Is this model read rightly? Every check of the contract, one finding each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from verdictscope.activations.checkpoint import read_checkpoint
from verdictscope.activations.doctor.identity_checks import (
    identity_checks,
    part_checks,
    reference_states,
    weight_checks,
)
from verdictscope.activations.doctor.layouts import Layout
from verdictscope.activations.doctor.lengths import length_checks
from verdictscope.activations.doctor.metamorphic import metamorphic_checks
from verdictscope.activations.doctor.passes import (
    batch_checks,
    cache_checks,
    causality_checks,
    floor_checks,
    hook_checks,
    repetition_checks,
)
from verdictscope.activations.doctor.references import nnsight_checks, transformer_lens_checks
from verdictscope.activations.doctor.report import SITE_MAP, Diagnosis, Finding, within
from verdictscope.activations.doctor.state_checks import state_findings
from verdictscope.activations.model import Model, as_model, unchecked
from verdictscope.activations.sitemap import Overrides, find_modules
from verdictscope.activations.weights import scales_by_batch
from verdictscope.errors import InputError, reason
from verdictscope.rollouts.engines.rope import as_loaded
from verdictscope.rollouts.engines.state import bare, evaluating
from verdictscope.weights_digest import weights_digest

CheckFn = Callable[[Model], Iterator[Finding]]
Progress = Callable[[int, int], None]


def checks(layout: Layout | None = None, references: bool = True) -> Mapping[str, CheckFn]:
    """Every group of checks by name, in the order in which they run."""
    groups: dict[str, CheckFn] = {
        "identities": identity_checks,
        "weights": weight_checks,
        "readout parts": part_checks,
        "noise floor": floor_checks,
        "hooks": hook_checks,
        "repetition": repetition_checks,
        "causality": causality_checks,
        "batches": partial(batch_checks, layout=layout),
        "cache": cache_checks,
        "lengths": length_checks,
        "Hugging Face": reference_states,
        "metamorphic": metamorphic_checks,
    }
    if references:
        groups |= {"TransformerLens": transformer_lens_checks, "nnsight": nnsight_checks}
    return groups


def doctor(
    model: Any,
    *,
    overrides: Overrides | None = None,
    layout: Layout | None = None,
    references: bool = True,
    dtype: str = "auto",
    device: str | None = None,
    progress: Progress | None = None,
    only: Sequence[str] | None = None,
) -> Diagnosis:
    """Checks that what the package reads from a model is what the model computes.

    Runs some dozens of short passes on random tokens. Weights are changed in place for the metamorphic checks, one
    layer at a time, and put back byte by byte; the last check is that nothing was changed. The first look at the
    model's state (weights, modes, adapters, hooks of others, compiled code): what stands against running it ends there.

    Args:
        model: a :class:`Model`, a Hugging Face decoder, a TransformerLens bridge, an nnsight model, or a checkpoint
            folder or hub name.
        overrides: module paths by role, where the adapter's are wrong or missing.
        layout: how the caller's own code lays out batches, if that is to be checked too.
        references: also compare with TransformerLens and nnsight (on a copy of the model, if it is small enough).
        dtype: for a model that is loaded.
        device: for a model that is loaded.
        progress: called with (checks done, checks in all).
        only: names of groups of checks (see :func:`checks`) to be run alone.

    Raises:
        InputError: there is no such model, or an override names no module.
    """
    if isinstance(model, str | Path):
        hf, tokenizer = read_checkpoint(model, dtype=dtype, device=device)
        held, name = hf, str(model)
    else:
        held = model.hf if isinstance(model, Model) else model
        tokenizer = model.optional_tokenizer if isinstance(model, Model) else getattr(model, "tokenizer", None)
        hf, name = bare(held), None
        hf = hf if isinstance(hf, PreTrainedModel) else as_model(hf).hf
    state, runs = state_findings(held if isinstance(held, nn.Module) else hf, hf, tokenizer)
    if not runs:
        return _diagnosis(hf, name or str(hf.config.name_or_path or type(hf).__name__), None, tuple(state))
    known = isinstance(model, Model) and not overrides
    ready, refused = (model, None) if known else _prepared(hf, tokenizer, name, overrides)
    if ready is None:
        assert refused is not None
        return _diagnosis(hf, name or str(held)[:80], None, (*state, refused))
    groups = checks(layout, references)
    if only is not None:
        if unknown := [name for name in only if name not in groups]:
            raise InputError(f"there is no group of checks {unknown[0]!r}; there are {', '.join(groups)}")
        groups = {name: groups[name] for name in only}
    with evaluating(ready.hf):
        return _examine(ready, groups, state, progress)


def examine_named(name: str, overrides: Sequence[str], layout: Layout | None = None, **options: Any) -> Diagnosis:
    """The doctor as the command line calls it.

    Args:
        name: a checkpoint folder or hub name.
        overrides: ``ROLE=PATH``; an empty path says that the model has no such module.
        layout: see :func:`doctor`.
        options: further arguments of :func:`doctor`.

    Raises:
        InputError: an override is not of this form, or see :func:`doctor`.
    """
    if wrong := [text for text in overrides if "=" not in text]:
        raise InputError(f"override {wrong[0]!r} is not of the form ROLE=PATH")
    pairs = [text.split("=", 1) for text in overrides]
    return doctor(name, overrides={role: path or None for role, path in pairs} or None, layout=layout, **options)


def _prepared(
    hf: Any, tokenizer: Any, name: str | None, overrides: Overrides | None
) -> tuple[Model | None, Finding | None]:
    """The model with its sites measured and not yet checked, or what stands against measuring them."""
    if overrides:
        find_modules(hf, overrides)  # a path that does not exist is wrong input; what follows is a finding
    try:
        return unchecked(hf, tokenizer, name=name, overrides=overrides), None
    except InputError as error:
        return None, Finding(SITE_MAP, "silently wrong" if overrides else "unsupported", detail=str(error))
    except Exception as error:  # a model that does not run on plain token ids fails in its own way
        return None, Finding(SITE_MAP, "silently wrong" if overrides else "error", detail=reason(error))


def _examine(
    model: Model, groups: Mapping[str, CheckFn], state: Sequence[Finding], progress: Progress | None
) -> Diagnosis:
    before = weights_digest(model.hf)
    findings: list[Finding] = [*state]
    for i, (name, check) in enumerate(groups.items()):
        try:
            with as_loaded(model.hf):
                findings += check(model)
        except InputError as error:
            findings.append(Finding(name, "error", detail=str(error)))
        except Exception as error:  # one broken check must not hide the others; its error is reported as such
            findings.append(Finding(name, "error", detail=reason(error)))
        if progress is not None:
            progress(i + 1, len(groups))
    if any(scales_by_batch(module) for module in model.hf.modules()):
        findings = [_by_batch(f) for f in findings]
    changed = float(weights_digest(model.hf) != before)
    findings.append(within("weights as before", changed, 0.0, detail="weights changed by the checks"))
    floor = _floor(model)
    return _diagnosis(model.hf, model.name, floor, tuple(findings))


ROWS = (
    "the noise floor",
    "another token",
    "batch mates",
    "pad tokens",
    "the padding side",
    "cached decoding",
    "mates on the other side",
)
"""Checks that hold only where a token's states depend on itself and the tokens before it."""
BY_BATCH = "packed weights round their inputs by the largest in the batch: a token's states depend on all in it; "
BY_BATCH_HELP = "give each rollout a batch of its own, and expect later tokens to show"


def _by_batch(finding: Finding) -> Finding:
    """Of a model whose rows depend on each other by its own arithmetic: what follows from that is named, not wrong."""
    if finding.status not in ("silently wrong", "degraded") or not finding.check.startswith(ROWS):
        return finding
    return replace(finding, status="degraded", detail=BY_BATCH + BY_BATCH_HELP)


def _floor(model: Model) -> float | None:
    try:
        return model.noise_floor
    except Exception:  # the check of the noise floor has told it
        return None


def _diagnosis(hf: Any, name: str, floor: float | None, findings: tuple[Finding, ...]) -> Diagnosis:
    return Diagnosis(
        model=name,
        architecture=type(hf).__name__,
        dtype=str(hf.dtype).removeprefix("torch."),
        device=str(hf.device),
        attention=getattr(hf.config, "_attn_implementation", None) or "unknown",
        noise_floor=floor,
        findings=findings,
    )

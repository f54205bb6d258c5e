"""Compatibility checks of one model: every check of the contract, one finding each."""

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
    component_checks,
    hidden_state_checks,
    identity_checks,
    weight_checks,
)
from verdictscope.activations.doctor.layouts import Layout
from verdictscope.activations.doctor.lengths import length_checks
from verdictscope.activations.doctor.passes import (
    batch_checks,
    cache_checks,
    causality_checks,
    floor_checks,
    hook_checks,
    repetition_checks,
)
from verdictscope.activations.doctor.report import SITE_MAP, Diagnosis, Finding, Status
from verdictscope.activations.doctor.state_checks import state_findings
from verdictscope.activations.loading import as_model, unchecked
from verdictscope.activations.model import Model
from verdictscope.activations.sitemap import Overrides, find_modules
from verdictscope.activations.weights import scales_by_batch
from verdictscope.errors import InputError, reason
from verdictscope.rollouts.engines.rope import as_loaded
from verdictscope.rollouts.engines.state import bare, evaluating
from verdictscope.sources import locate

CheckFn = Callable[[Model], Iterator[Finding]]
GROUPS: dict[str, CheckFn] = {
    "identities": identity_checks,
    "weights": weight_checks,
    "components": component_checks,
    "noise floor": floor_checks,
    "hooks": hook_checks,
    "repetition": repetition_checks,
    "causality": causality_checks,
    "batches": batch_checks,
    "cache": cache_checks,
    "lengths": length_checks,
    "Hugging Face": hidden_state_checks,
}
"""Every group of checks by name, in the order in which they run."""

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
BY_BATCH = (
    "packed weights round their inputs by the largest in the batch, so a token's states depend on the whole batch: run "
    "each rollout in a batch of its own, and expect an influence of later tokens"
)


def check_model(
    model: Any,
    *,
    overrides: Overrides | None = None,
    layout: Layout | None = None,
    dtype: str = "auto",
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    only: Sequence[str] | None = None,
) -> Diagnosis:
    """Checks that what this package reads from a model is what the model computes.

    Runs some dozens of short passes on random tokens and changes nothing. The state of the model comes first (weights,
    modes, adapters, foreign hooks, compiled code): where it prevents running the model, no other check is made.

    Args:
        model: a :class:`Model`, a Hugging Face decoder, a TransformerLens bridge, an nnsight model, or the name of a
            model as for ``load_model``.
        overrides: module paths by role, where the adapter's are wrong or missing.
        layout: how the caller's own code lays out batches, if that is to be checked too.
        dtype: for a model that is loaded.
        device: for a model that is loaded.
        progress: called with (groups done, groups in all).
        only: names of the groups of checks (:data:`GROUPS`) to run; all of them by default.

    Returns:
        One finding a check; ``ok`` says whether all of them allow the model's use.

    Raises:
        InputError: there is no such model, or an override names no module.

    Example:
        >>> from verdictscope.activations import check_model
        >>> check_model("organism:cliff", device="cpu", only=["identities"]).ok
        True
    """
    groups = GROUPS | {"batches": partial(batch_checks, layout=layout)}
    if only is not None:
        if unknown := [name for name in only if name not in groups]:
            raise InputError(f"there is no group of checks {unknown[0]!r}; there are {', '.join(groups)}")
        groups = {name: groups[name] for name in only}
    if isinstance(model, str | Path):
        hf, tokenizer = read_checkpoint(locate(str(model)), dtype=dtype, device=device)
        held, name = hf, str(model)
    else:
        held = model.hf if isinstance(model, Model) else model
        tokenizer = model.optional_tokenizer if isinstance(model, Model) else getattr(model, "tokenizer", None)
        hf = bare(held)
        hf = hf if isinstance(hf, PreTrainedModel) else as_model(hf).hf
        name = str(hf.config.name_or_path or type(hf).__name__)
    state, runs = state_findings(held if isinstance(held, nn.Module) else hf, hf, tokenizer)
    if not runs:
        return _diagnosis(hf, name, None, state)
    if isinstance(model, Model) and not overrides:
        ready = model
    else:
        if overrides:
            find_modules(hf, overrides)  # a path that does not exist is wrong input; what follows is a finding
        try:
            ready = unchecked(hf, tokenizer, name=name, overrides=overrides)
        except Exception as error:  # a model that does not run on plain token ids fails in its own way
            named = isinstance(error, InputError)
            status: Status = "silently wrong" if overrides else "unsupported" if named else "error"
            failed = Finding(SITE_MAP, status, detail=str(error) if named else reason(error))
            return _diagnosis(hf, name, None, [*state, failed])
    with evaluating(ready.hf):
        findings = [*state, *run_groups(ready, groups, progress)]
        if any(scales_by_batch(module) for module in hf.modules()):
            findings = [
                replace(f, status="degraded", detail=BY_BATCH)
                if f.status in ("silently wrong", "degraded") and f.check.startswith(ROWS)
                else f
                for f in findings
            ]
        measured = any(f.check.startswith("the noise floor") for f in findings)
        return _diagnosis(hf, ready.name, ready.noise_floor if measured else None, findings)


def run_groups(
    model: Model, groups: Mapping[str, CheckFn], progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """The findings of groups of checks; a check that cannot be finished is a finding of its own."""
    findings: list[Finding] = []
    for i, (name, check) in enumerate(groups.items()):
        try:
            with as_loaded(model.hf):
                findings += check(model)
        except Exception as error:  # one broken check must not hide the others; its error is reported as such
            detail = str(error) if isinstance(error, InputError) else reason(error)
            findings.append(Finding(name, "error", detail=detail))
        if progress is not None:
            progress(i + 1, len(groups))
    return findings


def parse_overrides(given: Sequence[str]) -> dict[str, str | None] | None:
    """Overrides from ``ROLE=PATH`` of the command line; an empty path says that the model has no such module."""
    if wrong := [text for text in given if "=" not in text]:
        raise InputError(f"override {wrong[0]!r} is not of the form ROLE=PATH")
    return {role: path or None for role, path in (text.split("=", 1) for text in given)} or None


def _diagnosis(hf: Any, name: str, floor: float | None, findings: Sequence[Finding]) -> Diagnosis:
    return Diagnosis(
        model=name,
        architecture=type(hf).__name__,
        dtype=str(hf.dtype).removeprefix("torch."),
        device=str(hf.device),
        attention=getattr(hf.config, "_attn_implementation", None) or "unknown",
        noise_floor=floor,
        findings=tuple(findings),
    )

"""Stage ``generate``: what the models write on the study's prompts, the outcome of each rollout, and the split."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from verdictscope.activations import Model
from verdictscope.probes import split_groups
from verdictscope.rollouts import Rollout, Sampling, Server, generate
from verdictscope.rollouts.divergence import measure_divergence
from verdictscope.rollouts.tables import to_frame
from verdictscope.study.folder import RunFolder, Tick
from verdictscope.study.parsed import warn
from verdictscope.study.schema import Study
from verdictscope.study.schema.base import EngineSection
from verdictscope.study.tasks.outcome import matches, outcome_task

PATCHED = "patched"
"""Variant of what the reference model writes with the found heads of the model under study in it."""


def run_generate(run: RunFolder) -> None:
    """Write ``rollouts.parquet`` and ``labels.parquet``."""
    study, prompts = run.study, run.prompts()
    tables, labels = [], []
    for variant in variants(study):
        with run.ticking(f"rollouts: {variant}") as tick:
            rollouts, table = sample(
                study, run.model(variant), prompts, variant, path=run.parts / f"{variant}.parquet", progress=tick
            )
        if str(run.model(variant).dtype) != "torch.float32" and any(r.engine == "huggingface" for r in rollouts):
            # How often batch-mates changed one: in bfloat16 it happens.
            found = measure_divergence(run.model(variant), rollouts)
            run.record("divergence", variant, found.to_dict())
            print(f"verdictscope: {variant}: {found}", file=sys.stderr)
        tables.append(table)
        labels.append(label(study, run.model(variant), prompts, rollouts, variant))
    everything = pd.concat(labels, ignore_index=True)
    base = everything[everything["variant"] == "base"]
    part = split_groups(base["group"], base["cell"], shares=study.split.shares, seed=study.seed)
    everything["part"] = everything["group"].map(part)
    run.write("rollouts", pd.concat(tables, ignore_index=True))
    run.write("labels", everything)
    warn(everything)


def variants(study: Study) -> list[str]:
    """The variants of free generation without edits."""
    return ["base", "reference"] if study.reference else ["base"]


def engine(section: EngineSection, variant: str) -> str | Server:
    """What writes a variant's rollouts. Edits act in this process alone, so edited variants are always written here."""
    url, served = {
        "base": (section.url, section.model),
        "reference": (section.reference_url, section.reference_model),
    }.get(variant, (None, None))
    if url is None:
        return "huggingface"
    return Server(url, served, section.concurrency, section.timeout, section.retries)


def sample(
    study: Study, model: Model, prompts: pd.DataFrame, variant: str, *, path: Path, progress: Tick, about: str = ""
) -> tuple[list[Rollout], pd.DataFrame]:
    """Generate with the model as it stands (edits are the caller's context, described in ``about``)."""
    rollouts = generate(
        model,
        prompts,
        Sampling(**study.sampling.model_dump(), seed=study.seed),
        samples=study.data.prompts.samples,
        batch_tokens=study.batch_tokens,
        progress=progress,
        engine=engine(study.engine, variant),
        path=path,
        about=about,
    )
    table = to_frame(rollouts, model.tokenizer)
    table.insert(0, "variant", variant)
    return rollouts, table


def label(study: Study, model: Model, prompts: pd.DataFrame, rollouts: list[Rollout], variant: str) -> pd.DataFrame:
    """The outcome of each rollout, its cell, and whether the study asks about it; ``prompts`` are all of the study."""
    task, section = outcome_task(study), study.data.prompts
    labels = task.label(model, study, rollouts)[["rollout", task.outcome, "reason"]]
    prompt = {f"{name}/{k}": name for name in prompts["id"] for k in range(section.samples)}
    facts = pd.DataFrame([dict(r.tags) | {"rollout": r.id, "group": r.group, "finish": r.finish} for r in rollouts])
    facts["cut_off"] = [cut_off(r) for r in rollouts]
    table = facts.merge(labels, on="rollout", validate="one_to_one")
    factor, outcome = table[task.factor].astype(bool), table[task.outcome].astype("boolean")
    return pd.DataFrame(
        {
            "variant": variant,
            "rollout": table["rollout"],
            "prompt": table["rollout"].map(prompt),
            "group": table["group"],
            task.factor: factor,
            task.outcome: outcome,
            "cell": task.cell(factor, outcome),
            "target": matches(table, section.target),
            "control": matches(table, section.control),
            "finish": table["finish"],
            "cut_off": table["cut_off"].astype(object),
            "reason": table["reason"].astype(object),
        }
    )


def cut_off(rollout: Rollout) -> str | None:
    """Where the token limit cut a rollout: in its ``thinking`` or its ``answer``; ``None`` where it ended by itself."""
    if rollout.finish != "length":
        return None
    return "thinking" if rollout.span("answer") is None else "answer"

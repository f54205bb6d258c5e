"""Stage ``summary``: the run's numbers in one file. Scoring against a planted truth happens here and nowhere else."""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.organisms.scorecards import score_heads
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.generate import outcome_counts
from verdictscope.study.stages.heads import found_heads


def run_summary(run: RunFolder) -> None:
    """Write ``summary.json`` from the tables of the run."""
    probe = run.read_json("probe")
    summary = {
        "format": run.study.format,
        "name": run.study.name,
        "model": run.study.model,
        "probe": {key: value for key, value in probe.items() if key != "language"},
        "language": probe["language"],
        "rollouts": outcome_counts(run.table("labels")),
        "cells": cell_counts(run),
        "cliff": cliff_numbers(run.table("cliff", edited=True)) | check_numbers(run.table("cliff_checks")),
        "heads": {"top": [list(head) for head in found_heads(run)], **run.read_json("heads")},
        "ablation": ablation_numbers(run),
    }
    card = score_heads(summary["heads"]["top"], run.model_folder())
    if card is not None:
        summary["heads"] |= card
    run.write_json("summary", summary)


def cell_counts(run: RunFolder) -> dict[str, dict[str, int]]:
    """Rollouts per cell and variant."""
    labels = run.table("labels")
    counts = labels.groupby(["variant", "cell"], sort=True).size()
    return {
        variant: {cell: int(n) for cell, n in of_variant.droplevel(0).items()}
        for variant, of_variant in counts.groupby(level=0)
    }


def cliff_numbers(cliff: pd.DataFrame) -> dict[str, Any]:
    """The headline cell (target requests complied with) and its two controls."""
    base = _named(cliff, "base")
    numbers: dict[str, Any] = {
        "cell": "target requests that were complied with, test part",
        "normalised_plateau": base["normalised_plateau"]["estimate"],
        "normalised_final": base["normalised_final"]["estimate"],
        "normalised_drop": base["normalised_drop"]["estimate"],
        "low": base["normalised_drop"]["low"],
        "high": base["normalised_drop"]["high"],
        "n": int(base["normalised_drop"]["n"]),
        "raw_drop": base["raw_drop"]["estimate"],
        "raw_low": base["raw_drop"]["low"],
        "raw_high": base["raw_drop"]["high"],
        "as_published": base["as_published"]["estimate"],
    }
    for key, variant in (("aligned", "reference"), ("ablated", "ablated_fixed"), ("regenerated", "ablated")):
        control = _named(cliff, variant)
        if control:
            drop, excess = control["normalised_drop"], control["normalised_excess"]
            numbers |= {
                f"{key}_excess": excess["estimate"],
                f"{key}_excess_low": excess["low"],
                f"{key}_excess_high": excess["high"],
                f"{key}_normalised_drop": drop["estimate"],
                f"{key}_low": drop["low"],
                f"{key}_high": drop["high"],
            }
    return numbers


def check_numbers(checks: pd.DataFrame) -> dict[str, Any]:
    """The nulls of the cliff and when readings settle; keys of checks that were not made are left out."""
    named = {(row["check"], row["name"]): row for row in checks.to_dict("records")}
    wanted = {
        "exchange": ("exchange", "normalised drop minus that of harmless_complied"),
        "shift": ("shift", "raw drop against other places"),
        "change_in_closing": ("change point", "change lies in the closing tokens"),
        "change_size": ("change point", "size of the change"),
        "probe_settled": ("commitment", "probe settled"),
        "text_after_probe": ("commitment", "text after probe"),
        "forced_settled": ("commitment", "forced settled"),
        "forced_after_probe": ("commitment", "forced after probe"),
    }
    numbers: dict[str, Any] = {}
    for key, at in wanted.items():
        if at in named:
            row = named[at]
            numbers |= {key: row["estimate"], f"{key}_n": int(row["n"])}
            numbers |= {f"{key}_p": row["p"]} if pd.notna(row["p"]) else {}
            numbers |= {f"{key}_low": row["low"], f"{key}_high": row["high"]} if pd.notna(row["low"]) else {}
    return numbers


def _named(cliff: pd.DataFrame, variant: str) -> dict[str, dict[str, Any]]:
    """The effects of a variant's target rows by name."""
    rows = cliff[(cliff["variant"] == variant) & cliff["target"]]
    return {row["name"]: row for row in rows.to_dict("records")}


def ablation_numbers(run: RunFolder) -> dict[str, Any]:
    """Refusal rates of target and control requests, and the teacher-forced test."""
    rates, forced = run.table("generation"), run.table("ablation")
    found = forced[forced["kind"] == "found"].iloc[0]
    numbers: dict[str, Any] = {
        "effect": found["estimate"],
        "effect_low": found["low"],
        "effect_high": found["high"],
        "p_value": found["p"],
        "n": int(found["n"]),
        "delta": found["delta"],
        "random_sets": int((forced["kind"] == "random").sum()),
        "random_effect_max": forced.loc[forced["kind"] == "random", "estimate"].max(),
    }
    numbers |= transplant_numbers(run) if run.study.reference else {}
    for key, kind in (("refusal", "target"), ("refusal_harmless", "control")):
        of_kind = rates[rates["cell_kind"] == kind].set_index("variant")
        for variant in ("base", "ablated", "reference", "transplanted"):
            if variant in of_kind.index:
                row = of_kind.loc[variant]
                numbers |= {
                    f"{key}_{variant}": row["refused"],
                    f"{key}_{variant}_low": row["low"],
                    f"{key}_{variant}_high": row["high"],
                }
                numbers |= {f"{key}_{variant}_n": int(row["n"]), f"{key}_{variant}_unread": int(row["unread"])}
        random = of_kind[of_kind.index.str.startswith("random_")]["refused"]
        numbers |= {f"{key}_random": random.mean(), f"{key}_random_max": random.max()}
    return numbers


def transplant_numbers(run: RunFolder) -> dict[str, Any]:
    """What the found heads do in the reference model, and what random sets do there."""
    table = run.table("transplant")
    found, random = table[table["kind"] == "found"].iloc[0], table[table["kind"] == "random"]
    return {
        "transplant_effect": found["estimate"],
        "transplant_low": found["low"],
        "transplant_high": found["high"],
        "transplant_p": found["p"],
        "transplant_random_min": random["estimate"].min(),
        "transplant_random_same": int(random["same_weights"].sum()),
    }

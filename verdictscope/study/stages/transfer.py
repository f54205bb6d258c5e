"""Stage ``transfer``: the probe fitted at each position bin and scored at every other, and across sets of prompts.

With these numbers the probe has everything its probe card asks for, so the stage writes that too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.activations import Store
from verdictscope.probes import ProbeCard, save_probe, transfer_matrix
from verdictscope.probes.card import balanced_threshold
from verdictscope.stats import group_names
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.probe import probe_rows
from verdictscope.study.tasks.outcome import outcome_task


def run_transfer(run: RunFolder) -> None:
    """Write ``position_transfer.parquet``, ``ood.parquet`` where the study names columns to split by, and the probe
    card.

    Layer and penalty are those of the chosen probe: they were chosen on the validation part.
    """
    probe, section, task = run.read_json("probe"), run.study.transfer, outcome_task(run.study)
    with Store.open(run.out / "activations.h5") as store:
        rows, keep = probe_rows(run, store)
        X = store.numpy(probe["site"], probe["layer"])[keep]
    given: dict[str, Any] = {"balance_on": (task.factor,), "permutations": section.relabellings, "seed": run.study.seed}
    with run.ticking("transfer: positions") as tick:
        found = transfer_matrix(
            X, rows, probe["C"], "position", values=position_bins(run, rows), progress=tick, **given
        )
    run.write("position_transfer", found.to_frame())
    tables = across_sets(run, X, rows, probe["C"], given) if section.by else []
    if tables:
        run.write("ood", pd.concat(tables, ignore_index=True))
    write_card(run, X, rows, tables)


def across_sets(
    run: RunFolder, X: np.ndarray, rows: pd.DataFrame, C: float, given: Mapping[str, Any]
) -> list[pd.DataFrame]:
    """A matrix for every column the study splits by."""
    prompts = run.prompts().set_index("id")
    tables = []
    for column in run.study.transfer.by:
        rows[column] = rows["prompt"].map(prompts[column])
        with run.ticking(f"transfer: {column}") as tick:
            matrix = transfer_matrix(X, rows, C, column, leave_one_out=True, progress=tick, **given)
        tables.append(matrix.to_frame().assign(by=column))
    return tables


def write_card(run: RunFolder, X: np.ndarray, rows: pd.DataFrame, sets: list[pd.DataFrame]) -> None:
    """Write ``probe.safetensors`` and ``probe card.json`` of the chosen probe."""
    readout, probe, study = run.probe(), run.read_json("probe"), run.study
    validation = (rows["part"] == "validation").to_numpy()
    scores = X[validation] @ np.asarray(readout.weight) + readout.bias
    columns = ["fit", "read", "kind", "by", "auroc", "low", "high", "n", "null_low", "null_high"]
    matrix = pd.concat(sets, ignore_index=True)[columns].to_dict("records") if sets else []
    card = ProbeCard(
        label=outcome_task(study).outcome,
        model=run.state()["models"]["base"],
        site=probe["site"],
        layer=probe["layer"],
        norm="pre",
        positions=study.collect.resid_post,
        trained={str(part): sorted(set(group_names(of["group"]))) for part, of in rows.groupby("part")},
        split={"shares": list(study.split.shares), "seed": study.seed, "grouped by": "group"},
        fit={"C": probe["C"], "balance": "cells", "hold": [outcome_task(study).factor]},
        threshold=balanced_threshold(scores, rows.loc[validation, "label"]),
        test={
            "estimate": probe["auroc_test"],
            "low": probe["auroc_low"],
            "high": probe["auroc_high"],
            "n": probe["n"],
            "unit": "AUROC",
        },
        nulls=run.table("probe_nulls").to_dict("records"),
        transfer=matrix,
    )
    for file in save_probe(run.out, readout, card):
        run.made(file.name)


def position_bins(run: RunFolder, rows: pd.DataFrame) -> list[str]:
    """The position classes in the order of the probe map; those it does not have come last."""
    order = run.table("probe_map").sort_values("order")["position"].drop_duplicates().to_list()
    there = set(rows["position"])
    return [p for p in order if p in there] + sorted(there - set(order))

"""Stage ``transfer``: the probe fitted at every place and read at every other, and across sets of prompts."""

from __future__ import annotations

import pandas as pd

from verdictscope.activations import Store
from verdictscope.probes import ood_transfer, position_transfer
from verdictscope.run import Run
from verdictscope.stages.probe import probe_rows
from verdictscope.stages.rollouts import read_study_prompts


def run_transfer(run: Run) -> None:
    """Write ``position_transfer.parquet``, and ``ood.parquet`` where the study names columns to split by.

    Layer and penalty are those of the chosen probe: they were chosen on the validation part.
    """
    probe, section = run.read_json("probe"), run.study.transfer
    with Store.open(run.out / "activations.h5") as store:
        rows, keep = probe_rows(run, store)
        X = store.numpy(probe["site"], probe["layer"])[keep]
    given = {"hold": ("harm",), "relabellings": section.relabellings, "seed": run.study.seed}
    with run.ticking("transfer: positions") as tick:
        found = position_transfer(X, rows, probe["C"], places=places(run, rows), progress=tick, **given)
    run.write("position_transfer", found.to_frame())
    if not section.by:
        return
    prompts = read_study_prompts(run).set_index("id")
    tables = []
    for column in section.by:
        rows[column] = rows["prompt"].map(prompts[column])
        with run.ticking(f"transfer: {column}") as tick:
            matrix = ood_transfer(X, rows, probe["C"], column, progress=tick, **given)
        tables.append(matrix.to_frame().assign(by=column))
    run.write("ood", pd.concat(tables, ignore_index=True))


def places(run: Run, rows: pd.DataFrame) -> list[str]:
    """The position classes in the order of the probe map; those it does not have come last."""
    order = run.table("probe_map").sort_values("order")["position"].drop_duplicates().to_list()
    there = set(rows["position"])
    return [p for p in order if p in there] + sorted(there - set(order))

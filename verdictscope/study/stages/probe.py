"""Stage ``probe``: a probe of the outcome at every layer; layer and penalty are selected, then tested with controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from verdictscope.activations import Store
from verdictscope.errors import InputError
from verdictscope.probes import LogisticProbe, fit_probe
from verdictscope.stats import Effect, auroc_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.probe_nulls import leak_table, null_table, text_baselines
from verdictscope.study.tasks.outcome import outcome_task

SITE = "resid_post"


def run_probe(run: RunFolder) -> None:
    """Write ``probe.parquet``, ``probe_map.parquet``, ``probe_nulls.parquet`` and ``probe.json`` and its readouts."""
    with Store.open(run.out / "activations.h5") as store:
        rows, keep = probe_rows(run, store)

        def read_layer(layer: int) -> np.ndarray:
            return store.numpy(SITE, layer)[keep]

        section, task = run.study.probe, outcome_task(run.study)
        with run.ticking("probe: layers, real and permuted labels") as tick:
            result = fit_probe(
                (store, SITE),
                rows,
                balance_on=(task.factor,),
                Cs=section.C,
                permutations=section.permutations,
                seed=run.study.seed,
                progress=tick,
            )
        words = text_baselines(run)
        run.write("probe_nulls", null_table(run, result, read_layer(result.selection.layer), words))
        run.write("leaks", leak_table(run, rows, result.selection.table))
        run.write("probe", result.selection.table)
        run.write("probe_map", probe_map(read_layer, rows, result.selection.probes))
        run.write_json("layer_probes", {"readouts": [r.to_dict() for r in result.readouts("probe")]})
    decision = outcome_task(run.study).decision(run.model(), run.study)
    run.write_json("readouts", {"probe": result.readout("probe").to_dict(), "decision": decision.to_dict()})
    test, mean, null = result.test, result.evaluation.rollouts, result.null
    rollouts = (mean.estimate, mean.low, mean.high)
    run.write_json(
        "probe",
        {"site": SITE, "layer": result.layer, "C": result.C}
        | {"auroc_test": test.estimate, "auroc_low": test.low, "auroc_high": test.high, "n": test.n}
        | {f"auroc_rollouts{end}": value for end, value in zip(("", "_low", "_high"), rollouts, strict=True)}
        | {"control_auroc": null.mean, "control_low": null.low, "control_high": null.high}
        | {"control_refits": len(null.values), "control_p": null.p}
        | {"language": {f"{key}_{end}": value for key, effect in words.items() for end, value in _ends(effect)}},
    )


def probe_rows(run: RunFolder, store: Store) -> tuple[pd.DataFrame, np.ndarray]:
    """The stored rows that have a label, with their index in the store.

    The label is what the model under study did, never what it was asked. The answer's own tokens are not among the
    positions; a study that asks for them is refused.
    """
    stored = store.rows(SITE)
    if (stored["segment"] == "answer").any():
        raise InputError(
            "collect.resid_post names answer tokens: a probe fitted there reads the answer, not the decision"
        )
    labels = run.labels()
    rows = stored.merge(labels, on="rollout", how="left", validate="many_to_one")
    keep = rows["outcome"].notna().to_numpy()
    rows = rows[keep].reset_index(drop=True)
    rows["label"] = rows["outcome"].astype(int)
    rows["position"] = position_classes(rows)
    return rows, np.flatnonzero(keep)


def position_classes(rows: pd.DataFrame) -> pd.Series:
    """The position bin of each row within its segment, for example ``thinking 3/8`` or ``think_end 2``."""
    grouped = rows.groupby(["rollout", "segment"], sort=False)["pos"]
    rank, size = grouped.rank(method="first").astype(int), grouped.transform("size")
    thinking = rows["segment"] == "thinking"
    # Short thinking has fewer rows than asked for: its tokens are spread over the same classes by their share.
    largest = int(size[thinking].max()) if thinking.any() else 1
    share = np.ceil((rank - 0.5) / size * largest).astype(int)
    names = rows["segment"] + " " + rank.astype(str)
    return names.where(~thinking, "thinking " + share.astype(str) + f"/{largest}")


def probe_map(
    read_layer: Callable[[int], np.ndarray], rows: pd.DataFrame, probes: Mapping[int, LogisticProbe]
) -> pd.DataFrame:
    """AUROC of each layer's probe on validation rows, by position class."""
    validation = (rows["part"] == "validation").to_numpy()
    mean_pos = rows.groupby("position")["pos"].mean()
    order = rows.drop_duplicates("position")[["position", "segment"]].assign(pos=lambda t: t["position"].map(mean_pos))
    order["late"] = order["segment"].eq("think_end")
    order = order.sort_values(["late", "pos"])[["position", "segment"]].reset_index(drop=True)
    found = []
    for layer, probe in sorted(probes.items()):
        scores = probe.decision_function(read_layer(layer)[validation])
        held = rows[validation]
        for at, (name, segment) in enumerate(zip(order["position"], order["segment"], strict=True)):
            here = (held["position"] == name).to_numpy()
            if held["label"][here].nunique() < 2:
                continue
            effect = auroc_effect(name, held["label"][here].to_numpy(), scores[here], held["group"][here].to_numpy())
            found.append(
                {"layer": layer, "position": name, "segment": segment, "order": at}
                | {"auroc": effect.estimate, "low": effect.low, "high": effect.high, "n": effect.n}
            )
    return pd.DataFrame(found)


def _ends(effect: Effect) -> list[tuple[str, float]]:
    return [("auroc", effect.estimate), ("low", effect.low), ("high", effect.high)]

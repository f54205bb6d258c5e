"""Stage ``trace``: the probe's score at every token, lined up at the end of thinking, and the cliff."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from verdictscope.activations import BatchPlan
from verdictscope.activations.readouts import from_dict
from verdictscope.interventions import HeadEdit, compile_edits
from verdictscope.rollouts import Rollout
from verdictscope.stats import effects_frame
from verdictscope.study.folder import Run
from verdictscope.study.stages.cliff_checks import write_checks
from verdictscope.study.stages.rollouts import load_labels, load_rollouts, variants
from verdictscope.traces import (
    Cliff,
    Normaliser,
    aggregate,
    align,
    cliff,
    drop_difference,
    normaliser_rollouts,
    trace_rollouts,
)

AFTER = 8
"""Closing tokens drawn after the end of thinking."""


def run_trace(run: Run) -> None:
    """Write ``trace.parquet``, ``trace_mean.parquet`` and ``cliff.parquet`` for the model under study and its
    reference model, and
    what stands beside the cliff (``cliff_checks.parquet``, ``change_points.parquet``, ``commitment.parquet``)."""
    scored = [score(run, list(load_rollouts(run, variant).values()), variant) for variant in variants(run)]
    write_checks(run, *write_traces(run, pd.concat(scored, ignore_index=True), run.table("labels")))


def trace_ablated(run: Run, found: Sequence[tuple[int, int]]) -> None:
    """Add two controls to the traces: found heads zeroed on the same tokens, and in rollouts written without them."""
    base_labels = load_labels(run)
    asked = base_labels[base_labels["target"] & (base_labels["part"] == "test")]
    rollouts = load_rollouts(run)
    fixed = score(run, [rollouts[i] for i in asked["rollout"]], "ablated_fixed", found)
    written = load_rollouts(run, "ablated", "rollouts_ablated")
    regenerated = score(run, [written[i] for i in asked["rollout"] if i in written], "ablated", found)
    labels = run.table("labels_ablated")
    same = asked.assign(variant="ablated_fixed")
    earlier = run.table("trace")
    earlier = earlier[~earlier["variant"].isin(["ablated_fixed", "ablated"])]
    everything = pd.concat([run.table("labels"), same, labels[labels["variant"] == "ablated"]], ignore_index=True)
    write_traces(run, pd.concat([earlier, fixed, regenerated], ignore_index=True), everything)


def score(
    run: Run, rollouts: list[Rollout], variant: str, zeroed: Sequence[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """The probe's score at every token of a variant's rollouts, computed inside the forward pass."""
    model = run.model(variant)
    probe = from_dict(run.read_json("readouts")["probe"])
    write = compile_edits(model, [HeadEdit(tuple(zeroed))]) if zeroed else {}
    plan = BatchPlan.make([len(r) for r in rollouts], run.study.batch_tokens)
    with run.ticking(f"trace: {variant}") as tick:
        traces = trace_rollouts(model, rollouts, [probe], write=write, plan=plan, progress=tick)
    aligned = align(traces.to_frame(), rollouts)
    aligned.insert(0, "variant", variant)
    return aligned


def write_traces(run: Run, trace: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, Normaliser]:
    """Write the three tables from the scores and labels of every variant.

    The normaliser are fitted once, on the training part of the model under study, and read every variant.

    Returns:
        the test part's scores with ``part cell target``, and the normaliser.
    """
    normaliser = fit_normaliser(run, trace, labels)
    facts = labels[["variant", "rollout", "part", "cell", "target"]]
    test = trace.merge(facts[facts["part"] == "test"], on=["variant", "rollout"], how="inner")
    run.write("trace", trace)
    run.write("trace_mean", mean_traces(run, test, normaliser, drawn(run)))
    run.write("cliff", cliffs(test, normaliser))
    return test, normaliser


def fit_normaliser(run: Run, trace: pd.DataFrame, labels: pd.DataFrame) -> Normaliser:
    """The normaliser: what complied and refused rollouts of the base variant's training part score at each position."""
    complied, refused = normaliser_rollouts(labels[labels["variant"] == "base"])
    base = trace[trace["variant"] == "base"]
    return Normaliser.fit(base, complied, refused, m=run.study.trace.plateau, window=drawn(run), seed=run.study.seed)


def drawn(run: Run) -> tuple[int, int]:
    """First and last position around the end of thinking that traces are drawn at."""
    return (-run.study.trace.window, AFTER)


def mean_traces(run: Run, test: pd.DataFrame, normaliser: Normaliser, window: tuple[int, int]) -> pd.DataFrame:
    """Masked means by variant, cell and position, raw and normalised, up to the last token before the answer."""
    shown = test[(test["rel_answer"] < 0).fillna(False)]
    by = ["variant", "cell", "target"]
    normalised = pd.concat([normaliser.score(rows) for _, rows in shown.groupby("variant", sort=False)])
    kinds = {"raw": (shown, "score"), "normalised": (normalised, "normalised")}
    curves = []
    for kind, (table, value) in kinds.items():
        curve = aggregate(table, by, window=window, value=value, seed=run.study.seed)
        curves.append(curve.assign(kind=kind))
    return pd.concat(curves, ignore_index=True)


def cliffs(test: pd.DataFrame, normaliser: Normaliser) -> pd.DataFrame:
    """Plateau, final and drop of every variant and cell, and of the target requests as a whole in the control variants.

    Control variants take all target requests whatever came of them: which were refused is what the control changes.
    """
    tables, headline = [], None
    for variant, of_variant in test.groupby("variant", sort=False):
        for (cell, target), rows in of_variant.groupby(["cell", "target"], sort=True):
            if variant == "base" or not target:
                measured = cliff(rows, normaliser, name=f"{variant} {cell}")
                asked = bool(target and cell.endswith("complied"))
                headline = measured if asked and variant == "base" else headline
                tables.append(_rows(measured, measured.to_frame(), variant, cell, asked))
        if variant != "base":
            control = cliff(of_variant[of_variant["target"]], normaliser, name=f"{variant} target")
            table = control.to_frame()
            if headline is not None:
                # Paired by prompt: how much further the score falls in the model under study than in the control.
                excess = drop_difference(headline, control, name="normalised_excess")
                table = pd.concat([table, effects_frame([excess])], ignore_index=True)
            tables.append(_rows(control, table, variant, "target", True))
    return pd.concat(tables, ignore_index=True)


def _rows(measured: Cliff, table: pd.DataFrame, variant: str, cell: str, target: bool) -> pd.DataFrame:
    table.insert(0, "variant", variant)
    table.insert(1, "cell", cell)
    table.insert(2, "target", target)
    return table.assign(n_rollouts=measured.n_rollouts, reason=measured.reason)

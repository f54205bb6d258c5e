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
from verdictscope.study.stages.rollouts import arms, load_labels, load_rollouts
from verdictscope.traces import (
    Anchors,
    Cliff,
    aggregate,
    align,
    anchor_rollouts,
    cliff,
    drop_difference,
    trace_rollouts,
)

AFTER = 8
"""Closing tokens drawn after the end of thinking."""


def run_trace(run: Run) -> None:
    """Write ``trace.parquet``, ``trace_mean.parquet`` and ``cliff.parquet`` for the model under study and its twin, and
    what stands beside the cliff (``cliff_checks.parquet``, ``change_points.parquet``, ``commitment.parquet``)."""
    scored = [score(run, list(load_rollouts(run, arm).values()), arm) for arm in arms(run)]
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
    same = asked.assign(arm="ablated_fixed")
    earlier = run.table("trace")
    earlier = earlier[~earlier["arm"].isin(["ablated_fixed", "ablated"])]
    everything = pd.concat([run.table("labels"), same, labels[labels["arm"] == "ablated"]], ignore_index=True)
    write_traces(run, pd.concat([earlier, fixed, regenerated], ignore_index=True), everything)


def score(run: Run, rollouts: list[Rollout], arm: str, zeroed: Sequence[tuple[int, int]] | None = None) -> pd.DataFrame:
    """The probe's score at every token of an arm's rollouts, computed inside the forward pass."""
    model = run.model(arm)
    probe = from_dict(run.read_json("readouts")["probe"])
    write = compile_edits(model, [HeadEdit(tuple(zeroed))]) if zeroed else {}
    plan = BatchPlan.make([len(r) for r in rollouts], run.study.batch_tokens)
    with run.ticking(f"trace: {arm}") as tick:
        traces = trace_rollouts(model, rollouts, [probe], write=write, plan=plan, progress=tick)
    aligned = align(traces.to_frame(), rollouts)
    aligned.insert(0, "arm", arm)
    return aligned


def write_traces(run: Run, trace: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, Anchors]:
    """Write the three tables from the scores and labels of every arm.

    The anchors are fitted once, on the training part of the model under study, and read every arm.

    Returns:
        the test part's scores with ``part cell target``, and the anchors.
    """
    anchors = fit_anchors(run, trace, labels)
    facts = labels[["arm", "rollout", "part", "cell", "target"]]
    test = trace.merge(facts[facts["part"] == "test"], on=["arm", "rollout"], how="inner")
    run.write("trace", trace)
    run.write("trace_mean", mean_traces(run, test, anchors, drawn(run)))
    run.write("cliff", cliffs(test, anchors))
    return test, anchors


def fit_anchors(run: Run, trace: pd.DataFrame, labels: pd.DataFrame) -> Anchors:
    """The anchors: what complied and refused rollouts of the base arm's training part score at each position."""
    complied, refused = anchor_rollouts(labels[labels["arm"] == "base"])
    base = trace[trace["arm"] == "base"]
    return Anchors.fit(base, complied, refused, m=run.study.trace.plateau, window=drawn(run), seed=run.study.seed)


def drawn(run: Run) -> tuple[int, int]:
    """First and last position around the end of thinking that traces are drawn at."""
    return (-run.study.trace.window, AFTER)


def mean_traces(run: Run, test: pd.DataFrame, anchors: Anchors, window: tuple[int, int]) -> pd.DataFrame:
    """Masked means by arm, cell and position, raw and anchored, up to the last token before the answer."""
    shown = test[(test["rel_answer"] < 0).fillna(False)]
    by = ["arm", "cell", "target"]
    anchored = pd.concat([anchors.score(rows) for _, rows in shown.groupby("arm", sort=False)])
    kinds = {"raw": (shown, "score"), "anchored": (anchored, "anchored")}
    curves = []
    for kind, (table, value) in kinds.items():
        curve = aggregate(table, by, window=window, value=value, seed=run.study.seed)
        curves.append(curve.assign(kind=kind))
    return pd.concat(curves, ignore_index=True)


def cliffs(test: pd.DataFrame, anchors: Anchors) -> pd.DataFrame:
    """Plateau, final and drop of every arm and cell, and of the target requests as a whole in the control arms.

    Control arms take all target requests whatever came of them: which were refused is what the control changes.
    """
    tables, headline = [], None
    for arm, of_arm in test.groupby("arm", sort=False):
        for (cell, target), rows in of_arm.groupby(["cell", "target"], sort=True):
            if arm == "base" or not target:
                measured = cliff(rows, anchors, name=f"{arm} {cell}")
                asked = bool(target and cell.endswith("complied"))
                headline = measured if asked and arm == "base" else headline
                tables.append(_rows(measured, measured.to_frame(), arm, cell, asked))
        if arm != "base":
            control = cliff(of_arm[of_arm["target"]], anchors, name=f"{arm} target")
            table = control.to_frame()
            if headline is not None:
                # Paired by prompt: how much further the score falls in the model under study than in the control.
                excess = drop_difference(headline, control, name="anchored_excess")
                table = pd.concat([table, effects_frame([excess])], ignore_index=True)
            tables.append(_rows(control, table, arm, "target", True))
    return pd.concat(tables, ignore_index=True)


def _rows(measured: Cliff, table: pd.DataFrame, arm: str, cell: str, target: bool) -> pd.DataFrame:
    table.insert(0, "arm", arm)
    table.insert(1, "cell", cell)
    table.insert(2, "target", target)
    return table.assign(n_rollouts=measured.n_rollouts, reason=measured.reason)

"""Stage ``trace``: the probe's score at every token, lined up at the end of thinking, and the cliff."""

from __future__ import annotations

import pandas as pd

from verdictscope.activations import BatchPlan, LinearReadout, Model
from verdictscope.interventions import HeadEdit
from verdictscope.interventions.edits.protocol import Head, compile_edits
from verdictscope.rollouts import Rollout
from verdictscope.stats import effects_frame
from verdictscope.study.folder import RunFolder, Tick
from verdictscope.study.schema import Study
from verdictscope.study.stages.cliff_checks import write_checks
from verdictscope.study.stages.generate import variants
from verdictscope.traces import Normaliser, aggregate, align, cliff, drop_difference
from verdictscope.traces.cliff import Cliff
from verdictscope.traces.normaliser import normaliser_rollouts
from verdictscope.traces.score import trace_rollouts

AFTER = 8
"""Closing tokens drawn after the end of thinking."""


def run_trace(run: RunFolder) -> None:
    """Write the traces of the unedited models, the normaliser, the cliff and its controls.

    Files: ``trace``, ``trace_mean``, ``cliff``, ``cliff_checks``, ``change_points``, ``commitment`` (Parquet), and
    ``normaliser.json``.
    """
    study, probe = run.study, run.probe()
    labels = pd.concat([run.labels(variant) for variant in variants(study)], ignore_index=True)
    scored = []
    for variant in variants(study):
        rollouts = list(run.rollouts(variant).values())
        with run.ticking(f"trace: {variant}") as tick:
            scored.append(score(run.model(variant), probe, rollouts, variant, study.batch_tokens, tick))
    trace = pd.concat(scored, ignore_index=True)
    # Fitted once, on the training split of the model under study; it reads every variant, edited ones too.
    low, high = reference_rollouts(run.labels())
    m, seed, window = study.trace.plateau, study.seed, drawn(study)
    normaliser = Normaliser.fit(trace[trace["variant"] == "base"], low, high, m=m, window=window, seed=seed)
    run.write_json("normaliser", normaliser.to_dict())
    test = tested(trace, labels)
    run.write("trace", trace)
    run.write("trace_mean", mean_traces(test, normaliser, window, seed))
    run.write("cliff", cliffs(test, normaliser, test))
    write_checks(run, test, normaliser)


def score(
    model: Model,
    probe: LinearReadout,
    rollouts: list[Rollout],
    variant: str,
    batch_tokens: int,
    progress: Tick,
    *,
    zeroed: tuple[Head, ...] = (),
) -> pd.DataFrame:
    """The probe's score at every token of a variant's rollouts, computed inside the forward pass."""
    write = compile_edits(model, [HeadEdit(zeroed)]) if zeroed else {}
    plan = BatchPlan.make([len(r) for r in rollouts], batch_tokens)
    traces = trace_rollouts(model, rollouts, [probe], write=write, plan=plan, progress=progress)
    aligned = align(traces.to_frame(), rollouts)
    aligned.insert(0, "variant", variant)
    return aligned


def reference_rollouts(labels: pd.DataFrame) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the training rollouts whose scores read 0 and 1: neither factor nor outcome, and the outcome."""
    return normaliser_rollouts(labels.assign(harm=labels["factor"], refused=labels["outcome"]))


def tested(trace: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The test split's scores with ``part cell target``."""
    facts = labels.loc[labels["part"] == "test", ["variant", "rollout", "part", "cell", "target", "outcome"]]
    return trace.merge(facts, on=["variant", "rollout"], how="inner")


def drawn(study: Study) -> tuple[int, int]:
    """First and last position around the end of thinking that traces are drawn at."""
    return (-study.trace.window, AFTER)


def mean_traces(test: pd.DataFrame, normaliser: Normaliser, window: tuple[int, int], seed: int) -> pd.DataFrame:
    """Masked means by variant, cell and position, raw and normalised, up to the last token before the answer."""
    shown = test[(test["rel_answer"] < 0).fillna(False)]
    by = ["variant", "cell", "target"]
    normalised = pd.concat([normaliser.score(rows) for _, rows in shown.groupby("variant", sort=False)])
    kinds = {"raw": (shown, "score"), "normalised": (normalised, "normalised")}
    curves = []
    for kind, (table, value) in kinds.items():
        curve = aggregate(table, by, window=window, value=value, seed=seed)
        curves.append(curve.assign(kind=kind))
    return pd.concat(curves, ignore_index=True)


def cliffs(test: pd.DataFrame, normaliser: Normaliser, unedited: pd.DataFrame) -> pd.DataFrame:
    """Plateau, final and drop of every variant and cell, and of the target requests as a whole in the control variants.

    Control variants take all target requests whatever came of them: which were refused is what the control changes.

    Args:
        test: scores of the test split.
        normaliser: what normalises them.
        unedited: scores that contain those of the unedited model; control variants are compared with its target
            requests that were complied with.
    """
    base = unedited[(unedited["variant"] == "base") & unedited["target"] & unedited["outcome"].eq(False)]
    headline = cliff(base, normaliser, name="base headline") if len(base) else None
    tables = []
    for variant, of_variant in test.groupby("variant", sort=False):
        for (cell, target), rows in of_variant.groupby(["cell", "target"], sort=True):
            complied = bool(rows["outcome"].eq(False).all())
            if variant == "base" or not target:
                measured = cliff(rows, normaliser, name=f"{variant} {cell}")
                asked = bool(target) and complied
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

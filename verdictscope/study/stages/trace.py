"""Stage ``trace``: the probe's score at every token, lined up at the end of thinking, and the cliff."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from verdictscope.activations import BatchPlan
from verdictscope.interventions import HeadEdit
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.rollouts import Rollout
from verdictscope.stats import effects_frame
from verdictscope.study.folder import EDITED, RunFolder
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
    labels = pd.concat([run.labels(variant) for variant in variants(run)], ignore_index=True)
    scored = [score(run, list(run.rollouts(variant).values()), variant) for variant in variants(run)]
    trace = pd.concat(scored, ignore_index=True)
    # Fitted once, on the training split of the model under study; it reads every variant, edited ones too.
    low, high = reference_rollouts(run.labels())
    m, seed = run.study.trace.plateau, run.study.seed
    normaliser = Normaliser.fit(trace[trace["variant"] == "base"], low, high, m=m, window=drawn(run), seed=seed)
    run.write_json("normaliser", normaliser.to_dict())
    test = write_traces(run, trace, labels, normaliser)
    write_checks(run, test, normaliser)


def trace_edited(run: RunFolder, selected: Sequence[tuple[int, int]]) -> None:
    """Write the traces under edits, in tables of their own: the selected heads zero-ablated on the tokens of the
    unedited model (``ablated_fixed``), and on those written under the ablation (``ablated``)."""
    labels = run.labels()
    asked = labels[labels["target"] & (labels["part"] == "test")]
    rollouts, written = run.rollouts(), run.rollouts("ablated")
    fixed = score(run, [rollouts[i] for i in asked["rollout"]], "ablated_fixed", selected)
    regenerated = score(run, [written[i] for i in asked["rollout"] if i in written], "ablated", selected)
    known = pd.concat([asked.assign(variant="ablated_fixed"), run.labels("ablated")], ignore_index=True)
    trace = pd.concat([fixed, regenerated], ignore_index=True)
    write_traces(run, trace, known, run.normaliser(), EDITED)


def score(
    run: RunFolder, rollouts: list[Rollout], variant: str, zeroed: Sequence[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """The probe's score at every token of a variant's rollouts, computed inside the forward pass."""
    model = run.model(variant)
    probe = run.probe()
    write = compile_edits(model, [HeadEdit(tuple(zeroed))]) if zeroed else {}
    plan = BatchPlan.make([len(r) for r in rollouts], run.study.batch_tokens)
    with run.ticking(f"trace: {variant}") as tick:
        traces = trace_rollouts(model, rollouts, [probe], write=write, plan=plan, progress=tick)
    aligned = align(traces.to_frame(), rollouts)
    aligned.insert(0, "variant", variant)
    return aligned


def write_traces(
    run: RunFolder, trace: pd.DataFrame, labels: pd.DataFrame, normaliser: Normaliser, ending: str = ""
) -> pd.DataFrame:
    """Write the three tables from the scores and labels of some variants.

    Returns:
        the test split's scores with ``part cell target``.
    """
    test = tested(trace, labels)
    base = test if not ending else tested(run.table("trace"), run.labels())
    base = base[(base["variant"] == "base") & base["target"] & base["outcome"].eq(False)]
    headline = cliff(base, normaliser, name="base headline") if len(base) else None
    run.write(f"trace{ending}", trace)
    run.write(f"trace_mean{ending}", mean_traces(run, test, normaliser, drawn(run)))
    run.write(f"cliff{ending}", cliffs(test, normaliser, headline))
    return test


def reference_rollouts(labels: pd.DataFrame) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the training rollouts whose scores read 0 and 1: neither factor nor outcome, and the outcome."""
    return normaliser_rollouts(labels.assign(harm=labels["factor"], refused=labels["outcome"]))


def tested(trace: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The test split's scores with ``part cell target``."""
    facts = labels.loc[labels["part"] == "test", ["variant", "rollout", "part", "cell", "target", "outcome"]]
    return trace.merge(facts, on=["variant", "rollout"], how="inner")


def drawn(run: RunFolder) -> tuple[int, int]:
    """First and last position around the end of thinking that traces are drawn at."""
    return (-run.study.trace.window, AFTER)


def mean_traces(run: RunFolder, test: pd.DataFrame, normaliser: Normaliser, window: tuple[int, int]) -> pd.DataFrame:
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


def cliffs(test: pd.DataFrame, normaliser: Normaliser, headline: Cliff | None) -> pd.DataFrame:
    """Plateau, final and drop of every variant and cell, and of the target requests as a whole in the control variants.

    Control variants take all target requests whatever came of them: which were refused is what the control changes.

    Args:
        test: scores of the test split.
        normaliser: what normalises them.
        headline: target requests that the unedited model complied with; control variants are compared with it.
    """
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

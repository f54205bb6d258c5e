"""Stage ``erase``: the probe's reading of refusing, and its trace, with another concept (harm) erased from the states.

The erasure is folded into the probes, so one pass over the rollouts reads all of them at the same states. A mean curve
is linear in the states: the curves of every null draw come from the mean state at each position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from verdictscope.activations import BatchPlan, Site, Store
from verdictscope.activations.forward import passes
from verdictscope.probes import erasure_control
from verdictscope.probes.erasure_control import NULLS, Erasure
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.probe import probe_rows
from verdictscope.study.stages.trace import drawn, reference_rollouts
from verdictscope.study.tasks.outcome import outcome_task
from verdictscope.traces import Normaliser, aggregate, cliff
from verdictscope.traces.aggregate import WRITTEN
from verdictscope.traces.normaliser import windows

LINES = (("none", "old"), ("concept", "old"), ("concept", "refitted"))
"""What is erased and which probe reads: the three curves."""
ANCHORS = ("complied", "refused")
"""Rollouts of the training part that read 0 and 1."""
Means = dict[tuple[str, str, bool, int], np.ndarray]
"""Mean state ``[d]`` by what the rollouts are for, cell, target and position."""


def run_erase(run: RunFolder) -> None:
    """Write ``erasure.parquet`` and ``erased_trace.parquet``."""
    probe, section, task = run.read_json("probe"), run.study.erase, outcome_task(run.study)
    concept = section.concept or task.factor
    with Store.open(run.out / "activations.h5") as store:
        rows, keep = probe_rows(run, store)
        X = store.numpy(probe["site"], probe["layer"])[keep]
    with run.ticking(f"erase: {concept}") as tick:
        found = erasure_control(
            X, rows, concept, probe["C"], label=task.outcome, draws=section.draws, seed=run.study.seed, progress=tick
        )
    del X
    tokens = shown_tokens(run)
    scores, means = read_states(run, found, tokens, probe["site"], probe["layer"])
    curves, drops = trace_without(run, found, tokens, scores, means)
    run.write("erasure", pd.concat([found.to_frame(), drops], ignore_index=True))
    run.write("erased_trace", curves)


def shown_tokens(run: RunFolder) -> pd.DataFrame:
    """The tokens that normaliser and curves rest on: rows of the base variant's trace, and whose mean each belongs to.

    ``of`` is ``complied`` or ``refused`` for the normaliser (training split, with enough thinking, as `Normaliser.fit`
    takes them), ``test`` on the test split, and empty for the rest; cell and target matter on the test split alone.
    """
    trace, labels = run.table("trace"), run.labels()
    first, last = drawn(run.study)
    rows = trace[(trace["variant"] == "base") & trace["segment"].isin(WRITTEN)]
    near = rows["rel_think_end"].between(min(first, -run.study.trace.plateau), last)
    rows = rows[(near & (rows["rel_answer"] < 0)).fillna(False).astype(bool)]
    facts = labels.loc[labels["part"].isin(["train", "test"]), ["rollout", "part", "cell", "target"]]
    rows = rows.merge(facts, on="rollout", how="inner").reset_index(drop=True)
    rows["of"] = np.where(rows["part"] == "test", "test", "")
    usable = rows["rollout"].isin(windows(rows, run.study.trace.plateau).rollout)
    for name, ids in zip(ANCHORS, reference_rollouts(labels), strict=True):
        rows.loc[rows["rollout"].isin(ids) & usable, "of"] = name
    return rows


def read_states(
    run: RunFolder, found: Erasure, tokens: pd.DataFrame, site: str, layer: int
) -> tuple[np.ndarray, Means]:
    """Scores of the three lines at every token ``[token line]``, and the mean state by ``of`` and position."""
    model, by_id = run.model(), run.rollouts()
    at = {str(i): tuple(of["pos"]) for i, of in tokens.groupby("rollout", sort=False)}
    rollouts = [by_id[i] for i in at]
    read = Site(site, layer) @ at
    plan = BatchPlan.make([len(r) for r in rollouts], run.study.batch_tokens)
    place = pd.Series(np.arange(len(tokens)), index=pd.MultiIndex.from_frame(tokens[["rollout", "pos"]]))
    tested = tokens["of"].eq("test")
    by = [tokens["of"], tokens["cell"].where(tested, ""), tokens["target"].astype(bool) & tested]
    codes, keys = pd.factorize(pd.MultiIndex.from_arrays([*by, tokens["rel_think_end"].astype(int)]))
    sums, counts = np.zeros((len(keys), found.eraser.mean.size)), np.bincount(codes)
    direction = np.concatenate([found.lines[line].direction for line in LINES])
    bias = np.concatenate([found.lines[line].bias for line in LINES])
    scores = np.full((len(tokens), len(LINES)), np.nan)
    with run.ticking("erase: traces") as tick:
        for done, part in enumerate(passes(model, rollouts, read=[read], plan=plan), start=1):
            states = part.values[read][0].double().numpy()
            here = place.loc[pd.MultiIndex.from_frame(part.rows[read][["rollout", "pos"]])].to_numpy()
            scores[here] = states @ direction.T + bias
            np.add.at(sums, codes[here], states)
            tick(done, max(done, len(plan.batches)))
    return scores, dict(zip(keys.to_list(), sums / counts[:, None], strict=True))


def trace_without(
    run: RunFolder, found: Erasure, tokens: pd.DataFrame, scores: np.ndarray, means: Means
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean curves of the three lines, raw and normalised, with the range of both nulls; and their drops."""
    complied, refused = reference_rollouts(run.labels())
    curves, drops = [], []
    for place, (erased, probe) in enumerate(LINES):
        rows = tokens.assign(score=scores[:, place])
        # Three readouts, so three normalisers: the probe before the erasure weighs the cells otherwise than the run's.
        normaliser = Normaliser.fit(
            rows, complied, refused, m=run.study.trace.plateau, window=drawn(run.study), seed=run.study.seed
        )
        test = rows[rows["part"] == "test"]
        for kind, value in (("raw", "score"), ("normalised", "normalised")):
            table = test if kind == "raw" else normaliser.score(test)
            curve = aggregate(table, ["cell", "target"], window=drawn(run.study), value=value, seed=run.study.seed)
            curve = curve.assign(erased=erased, probe=probe, kind=kind)
            curves.append(curve.merge(null_range(found, means, normaliser, kind, erased, probe), how="left"))
        for cell, of in test[test["target"].astype(bool)].groupby("cell"):
            table = cliff(of, normaliser, name=str(cell)).to_frame()
            drops.append(table.assign(read=str(cell), erased=erased, probe=probe, part="test", draw=0))
    columns = ["probe", "erased", "cell", "target", "rel_think_end", "kind", "estimate", "low", "high", "n", "n_groups"]
    columns += [f"{null}_{end}" for null in NULLS for end in ("low", "high")]
    return pd.concat(curves, ignore_index=True)[columns], pd.concat(drops, ignore_index=True)


def null_range(
    found: Erasure, means: Means, normaliser: Normaliser, kind: str, erased: str, probe: str
) -> pd.DataFrame:
    """The range, over the draws of each null, of the same mean curve by cell and position."""
    places = normaliser.table[(normaliser.table["on"] == "rel_think_end") & (normaliser.table["reason"] == "")]
    fine, rows = set(places["rel"]), []
    for of, cell, target, rel in means if erased == "concept" else ():
        if of != "test" or (kind == "normalised" and rel not in fine):
            continue
        row: dict[str, Any] = {"cell": cell, "target": target, "rel_think_end": rel}
        for null in NULLS:
            lines = found.lines[null, probe]
            value = lines.scores(means[of, cell, target, rel][None])[:, 0]
            if kind == "normalised":
                low, high = (lines.scores(means[name, "", False, rel][None])[:, 0] for name in ANCHORS)
                value = (value - low) / (high - low)
            row |= {f"{null}_low": value.min(), f"{null}_high": value.max()}
        rows.append(row)
    columns = ["cell", "target", "rel_think_end", *(f"{null}_{end}" for null in NULLS for end in ("low", "high"))]
    return pd.DataFrame(rows, columns=columns).astype({"target": bool, "rel_think_end": int})

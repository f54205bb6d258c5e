"""Stage ``ablate``: the selected heads ablated, against matched random sets; generation and weight patching.

Random sets are matched on the explore split, which fixes the null before the report split is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.activations import LogOddsReadout, Model
from verdictscope.interventions import Effects, HeadEdit, cumulative_curve, edited, effects, matched_sets, patch_weights
from verdictscope.interventions.edits.protocol import Head, head_names
from verdictscope.judgments import Contrast
from verdictscope.rollouts import Rollout
from verdictscope.stats import effects_frame, mean_effect, permutation_p, rate_effect
from verdictscope.study.folder import EDITED, RunFolder, Tick
from verdictscope.study.stages.generate import PATCHED, label, sample
from verdictscope.study.stages.heads import found_heads
from verdictscope.study.stages.trace import cliffs, drawn, mean_traces, score, tested
from verdictscope.study.tasks import Task, task_of
from verdictscope.study.tasks.outcome import OutcomeTask, matches

Heads = tuple[Head, ...]


def run_ablate(run: RunFolder) -> None:
    """Write ``ablation``; where rollouts have outcomes also ``curve``, ``patched``, ``rollouts_ablated``,
    ``labels_ablated``, ``generation`` and the traces under edits (``trace_ablated`` …)."""
    study, task, model, facts = run.study, task_of(run.study), run.model(), run.read_json("heads")
    found, decision, seed, delta = found_heads(facts), run.decision(), study.seed, facts["delta"]
    sets, ratio, note = [], [], "no head was selected, so there is nothing to compare with random heads"
    if found:
        explored, _ = task.decided(run, "base", "explore")
        drawn_sets = matched_sets(model, explored, found, task.random_sets(study), positions=task.read_at, seed=seed)
        sets, ratio, note = [found, *drawn_sets.sets], [1.0, *drawn_sets.ratio], drawn_sets.note
    rollouts, contrasts = task.decided(run, "base", "report")
    edits = [HeadEdit(heads) for heads in sets]
    with run.ticking("ablate: selected heads and random sets") as tick:
        done = effects(model, rollouts, task.decision_at(decision), edits, seed=seed, progress=tick)
    table = ablation(task, done, contrasts, sets, delta, seed).assign(about=note)
    run.write("ablation", table.merge(norms(ratio), on="set", how="left"))
    if isinstance(task, OutcomeTask):
        heads = run.table("heads").query("component == 'head' and variant == 'base'").sort_values("rank")
        ranking = [(int(layer), int(head)) for layer, head in zip(heads["layer"], heads["head"], strict=True)]
        count, n_random = study.ablation.curve_sets, study.ablation.generated_sets
        with run.ticking("ablate: ever more heads") as tick:
            curve = cumulative_curve(model, rollouts, decision, ranking, n_random=count, seed=seed, progress=tick)
        run.write("curve", curve)
        variants = {"ablated": found} | {f"random_{i}": other for i, other in enumerate(sets[1 : 1 + n_random])}
        write_generation(run, task, variants, sets, decision, delta)
        write_traces(run, found)


def write_generation(
    run: RunFolder,
    task: OutcomeTask,
    variants: Mapping[str, Heads],
    sets: Sequence[Heads],
    decision: LogOddsReadout,
    delta: float,
) -> None:
    """Write what is generated under edits, its labels and rates, and the decision with the heads patched.

    Every test prompt is answered with the selected heads ablated, target and control prompts with random sets ablated.
    """
    study, model, prompts, labels = run.study, run.model(), run.prompts(), run.table("labels")
    labels = labels[labels["part"] == "test"]
    base = labels[labels["variant"] == "base"]
    test = prompts[prompts["group"].isin(base["group"])].reset_index(drop=True)
    target, control = (matches(test, where) for where in (study.data.prompts.target, study.data.prompts.control))
    asked = test[target | control].reset_index(drop=True)
    parts, found, most = run.parts, variants["ablated"], study.heads.rollouts
    tables, known = [], [labels]
    for variant, heads in variants.items():
        shown = test if variant == "ablated" else asked
        path = parts / f"{variant}.parquet"
        with edited(model, HeadEdit(heads)), run.ticking(f"rollouts: {variant}") as tick:
            rollouts, table = sample(study, model, shown, variant, path=path, progress=tick)
        tables.append(table)
        known.append(label(study, model, prompts, rollouts, variant).assign(part="test"))
    if study.reference:
        own = labels.loc[(labels["variant"] == "reference") & labels["target"], "rollout"]
        before, (donor, reference) = run.until_answer(own, "reference", most), run.pair()
        with run.ticking("ablate: heads patched into the reference model") as tick:
            patched = in_reference(donor, reference, before, decision, sets, study.seed, tick)
        run.write("patched", patched.assign(delta=[np.nan, *[delta] * len(sets)]))
        about = f"heads {head_names(found)} of the model under study patched into its reference"
        path, shown = parts / f"{PATCHED}.parquet", test[target].reset_index(drop=True)
        with patch_weights(reference, donor, found), run.ticking(f"rollouts: {PATCHED}") as tick:
            rollouts, table = sample(study, reference, shown, PATCHED, path=path, progress=tick, about=about)
        tables.append(table)
        known.append(label(study, model, prompts, rollouts, PATCHED).assign(part="test"))
    everything = pd.concat(known, ignore_index=True)
    run.write("rollouts_ablated", pd.concat(tables, ignore_index=True))
    run.write("labels_ablated", everything)
    run.write("generation", outcome_rates(task.neutral(everything), {PATCHED, *variants} - {"ablated"}))


def write_traces(run: RunFolder, found: Heads) -> None:
    """Write the traces under edits, in tables of their own: the selected heads zero-ablated on the tokens of the
    unedited model (``ablated_fixed``), and on those written under the ablation (``ablated``)."""
    study, model, probe, normaliser, labels = run.study, run.model(), run.probe(), run.normaliser(), run.labels()
    asked = labels[labels["target"] & (labels["part"] == "test")]
    by_id, written, ids = run.rollouts(), run.rollouts("ablated"), list(asked["rollout"])
    fixed, regenerated = [by_id[i] for i in ids], [written[i] for i in ids if i in written]
    scored = []
    for variant, rollouts in (("ablated_fixed", fixed), ("ablated", regenerated)):
        with run.ticking(f"trace: {variant}") as tick:
            scored.append(score(model, probe, rollouts, variant, study.batch_tokens, tick, zeroed=found))
    trace = pd.concat(scored, ignore_index=True)
    known = pd.concat([asked.assign(variant="ablated_fixed"), run.labels("ablated")], ignore_index=True)
    test, unedited = tested(trace, known), tested(run.table("trace"), labels)
    run.write(f"trace{EDITED}", trace)
    run.write(f"trace_mean{EDITED}", mean_traces(test, normaliser, drawn(study), study.seed))
    run.write(f"cliff{EDITED}", cliffs(test, normaliser, unedited))


def norms(ratio: Sequence[float]) -> pd.DataFrame:
    """Output norm of every set over the selected one's."""
    return pd.DataFrame({"set": set_names(len(ratio))[1:], "norm": ratio})


def set_names(n: int) -> list[str]:
    """``base``, the selected set and the random ones."""
    return ["base", *["found"][:n], *(f"random_{i}" for i in range(n - 1))]


def ablation(
    task: Task, done: Effects, contrasts: Mapping[str, Contrast], sets: Sequence[Heads], delta: float, seed: int
) -> pd.DataFrame:
    """Every contrast unedited and with every set ablated, on the tokens of the unedited model (report split)."""
    values = np.vstack([done.base, done.edited])
    tables = []
    for name, contrast in contrasts.items():
        own = contrast.of(values, done.rollouts)
        tables.append(set_rows(name, own, contrast.groups, sets, "nats", seed, change=isinstance(task, OutcomeTask)))
    for name, (own, groups) in task.rates(contrasts, values, done.rollouts).items():
        tables.append(set_rows(name, own, groups, sets, "rate", seed, change=False))
    table = pd.concat(tables, ignore_index=True)
    edited_change = table["left"].isna() & (table["set"] != "base")
    return table.assign(delta=np.where(edited_change, delta, np.nan))


def set_rows(
    contrast: str,
    values: Float[np.ndarray, "line item"],
    groups: Sequence[str],
    sets: Sequence[Heads],
    unit: str,
    seed: int,
    *,
    change: bool,
) -> pd.DataFrame:
    """``contrast set kind heads estimate low high n unit left p``: the mean of the unedited line, and of every edited
    one (its change, where that is asked for); p of the selected set among the random ones, one-sided."""
    shown = [values[0], *(values[1:] - values[0] if change else values[1:])]
    rows = effects_frame(mean_effect(contrast, line, groups, unit=unit, seed=seed) for line in shown)
    table = rows[["estimate", "low", "high", "n", "unit"]].copy()
    table.insert(0, "contrast", contrast)
    table.insert(1, "set", set_names(len(sets)))
    table.insert(2, "kind", table["set"].str.partition("_")[0])
    table.insert(3, "heads", ["", *map(head_names, sets)])
    means = table["estimate"].to_numpy()
    table["left"], table["p"] = np.nan if change else means / means[0], np.nan
    if len(sets) > 1:
        # How often a random set changes as much, or reduces the contrast as much.
        score = means[1:] if change else abs(means[0]) - np.abs(means[1:])
        table.loc[1, "p"] = permutation_p(score[0], score[1:])
    return table


def in_reference(
    donor: Model,
    reference: Model,
    rollouts: list[Rollout],
    decision: LogOddsReadout,
    sets: Sequence[Heads],
    seed: int,
    progress: Tick,
) -> pd.DataFrame:
    """The decision on the reference model's own tokens of the target requests, unedited and with every set of heads of
    the model under study patched in. A set whose weights are the same in both models changes nothing and is not run."""
    lines: list[np.ndarray] = []
    same, groups = [], [r.group for r in rollouts]
    for at, heads in enumerate([None, *sets]):
        with nullcontext(True) if heads is None else patch_weights(reference, donor, heads) as changed:
            read = effects(reference, rollouts, decision, [], method="passes", seed=seed).base if changed else None
        lines.append(lines[0] if read is None else read)
        same.append(not changed)
        progress(at, len(sets))
    table = set_rows("refusal", np.stack(lines), groups, sets, "nats", seed, change=True)
    means = table["estimate"].to_numpy()
    table.loc[1, "p"] = permutation_p(means[1], means[2:], "less")
    return table.assign(same_weights=same)


def outcome_rates(labels: pd.DataFrame, narrow: Collection[str]) -> pd.DataFrame:
    """Refusal rate by variant and kind of request; unparsed answers are counted beside, never as complying.

    Variants named in ``narrow`` were run on target and control requests alone.
    """
    kinds = {
        "target": labels["target"],
        "control": labels["control"],
        "harmful": labels["factor"],
        "harmless": ~labels["factor"],
    }
    rows = []
    for variant, of_variant in labels.groupby("variant", sort=False):
        for kind, member in kinds.items():
            if variant in narrow and kind in ("harmful", "harmless"):
                continue
            chosen = of_variant[member.loc[of_variant.index]]
            if chosen.empty:
                continue
            read = chosen[chosen["outcome"].notna()]
            rate = rate_effect("refused", read["outcome"].astype(int), read["group"])
            rows.append(
                {"variant": variant, "cell_kind": kind, "refused": rate.estimate, "low": rate.low, "high": rate.high}
                | {"n": rate.n, "rollouts": len(read), "unread": len(chosen) - len(read)}
            )
    return pd.DataFrame(rows)

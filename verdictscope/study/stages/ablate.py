"""Stage ``ablate``: the found heads against matched random sets, teacher-forced and writing freely; and in the
reference."""

from __future__ import annotations

import numpy as np
import pandas as pd

from verdictscope.interventions import HeadEdit, cumulative_curve, edited, effects, matched_sets
from verdictscope.stats import effects_frame, permutation_p, rate_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.generate import label, sample
from verdictscope.study.stages.heads import complied_targets, found_heads
from verdictscope.study.stages.trace import trace_edited
from verdictscope.study.stages.transplant import run_transplant
from verdictscope.study.tasks.outcome import matches, outcome_task


def run_ablate(run: RunFolder) -> None:
    """Write ``ablation curve transplant rollouts_ablated labels_ablated generation`` and the traces under
    edits (``trace_ablated trace_mean_ablated cliff_ablated``)."""
    found = found_heads(run)
    # Norms from the half that ranks: the null is fixed before the reporting half is looked at.
    explored = complied_targets(run, "explore")
    drawn = matched_sets(run.model(), explored, found, run.study.ablation.random_sets, seed=run.study.seed)
    sets = list(drawn.sets)
    run.write("ablation", teacher_forced(run, found, sets).assign(norm=[np.nan, 1.0, *drawn.ratio], about=drawn.note))
    run.write("curve", curve(run))
    rollouts, labels = generate_under(run, found, sets)
    if run.study.reference:
        moved, more, effects_there = run_transplant(run, found, sets)
        run.write("transplant", effects_there)
        rollouts, labels = (pd.concat(pair, ignore_index=True) for pair in ((rollouts, moved), (labels, more)))
    run.write("rollouts_ablated", rollouts)
    run.write("labels_ablated", labels)
    run.write("generation", refusal_rates(outcome_task(run.study).neutral(labels)))
    trace_edited(run, found)


def teacher_forced(run: RunFolder, found: tuple, sets: list[tuple]) -> pd.DataFrame:
    """Refusal log-odds on the base model's own tokens: untouched, without the found heads, without each random set."""
    readout = run.decision()
    rollouts = complied_targets(run, "report")
    edits = [HeadEdit(found), *(HeadEdit(heads) for heads in sets)]
    with run.ticking("ablate: random sets") as tick:
        result = effects(run.model(), rollouts, readout, edits, seed=run.study.seed, progress=tick)
    table = pd.concat(
        [effects_frame([result.baseline()]), effects_frame(result.of(i) for i in range(len(edits)))], ignore_index=True
    )
    table.loc[1:, "delta"] = run.read_json("heads")["delta"]
    table.insert(0, "set", ["base", "found", *(f"random_{i}" for i in range(len(sets)))])
    table.insert(1, "kind", ["base", "found", *["random"] * len(sets)])
    table.insert(2, "heads", ["", *(" ".join(f"L{layer}H{head}" for layer, head in e.heads) for e in edits)])
    means = result.change.mean(axis=1)
    table["p"] = np.nan
    table.loc[1, "p"] = permutation_p(means[0], means[1:])
    return table


def curve(run: RunFolder) -> pd.DataFrame:
    """The refusal log-odds with ever more of the ranking zeroed, beside random heads of the same layers."""
    table = run.table("heads")
    heads = table[table["component"] == "head"].sort_values("rank")
    ranking = [(int(layer), int(head)) for layer, head in zip(heads["layer"], heads["head"], strict=True)]
    readout = run.decision()
    with run.ticking("ablate: ever more heads") as tick:
        return cumulative_curve(
            run.model(),
            complied_targets(run, "report"),
            readout,
            ranking,
            n_random=run.study.ablation.curve_sets,
            seed=run.study.seed,
            progress=tick,
        )


def generate_under(run: RunFolder, found: tuple, sets: list[tuple]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Free generation on the reporting half: all without the found heads, target and control without random sets."""
    prompts = run.prompts()
    base = run.labels()
    test = prompts[prompts["group"].isin(base.loc[base["part"] == "test", "group"])].reset_index(drop=True)
    section = run.study.data.prompts
    asked = test[matches(test, section.target) | matches(test, section.control)].reset_index(drop=True)
    jobs = {"ablated": (found, test)} | {
        f"random_{i}": (heads, asked) for i, heads in enumerate(sets[: run.study.ablation.generated_sets])
    }
    tables, labels = [], [load_all_test_labels(run)]
    for variant, (heads, shown) in jobs.items():
        with edited(run.model(), HeadEdit(heads)):
            rollouts, table = sample(run, shown, variant)
        tables.append(table)
        labels.append(label(run, rollouts, variant).assign(part="test"))
    return pd.concat(tables, ignore_index=True), pd.concat(labels, ignore_index=True)


def load_all_test_labels(run: RunFolder) -> pd.DataFrame:
    """Labels of the unedited variants on the reporting half."""
    labels = run.table("labels")
    return labels[labels["part"] == "test"]


def refusal_rates(labels: pd.DataFrame) -> pd.DataFrame:
    """Refusal rate by variant and kind of request; unread answers are counted beside, never as complying."""
    kinds = {
        "target": labels["target"],
        "control": labels["control"],
        "harmful": labels["factor"],
        "harmless": ~labels["factor"],
    }
    rows = []
    for variant, of_variant in labels.groupby("variant", sort=False):
        for kind, member in kinds.items():
            if variant.startswith(("random_", "transplanted")) and kind in ("harmful", "harmless"):
                continue  # these are run on target and control requests alone
            chosen = of_variant[member.loc[of_variant.index]]
            if chosen.empty:
                continue
            read = chosen[chosen["outcome"].notna()]
            effect = rate_effect("refused", read["outcome"].astype(int), read["group"])
            rows.append(
                {
                    "variant": variant,
                    "cell_kind": kind,
                    "refused": effect.estimate,
                    "low": effect.low,
                    "high": effect.high,
                }
                | {"n": effect.n, "rollouts": len(read), "unread": len(chosen) - len(read)}
            )
    return pd.DataFrame(rows)

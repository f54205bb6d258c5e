"""Stage ``ablate``: the selected heads ablated, against matched random sets; generation and weight patching.

Random sets are matched on the explore split, which fixes the null before the report split is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.interventions import HeadEdit, cumulative_curve, edited, effects, matched_sets, patch_weights
from verdictscope.interventions.edits.protocol import Head, head_names
from verdictscope.stats import effects_frame, mean_effect, permutation_p, rate_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.generate import PATCHED, label, sample
from verdictscope.study.stages.heads import found_heads
from verdictscope.study.stages.trace import trace_edited
from verdictscope.study.tasks import task_of
from verdictscope.study.tasks.outcome import OutcomeTask, matches

Heads = tuple[Head, ...]


def run_ablate(run: RunFolder) -> None:
    """Write ``ablation``; where rollouts have outcomes also ``curve``, ``patched``, ``rollouts_ablated``,
    ``labels_ablated``, ``generation`` and the traces under edits (``trace_ablated`` …)."""
    task, found = task_of(run.study), found_heads(run)
    sets, ratio, note = [], [], "no head was selected, so there is nothing to compare with random heads"
    if found:
        explored, _ = task.decided(run, "base", "explore")
        at, count = task.read_at, task.random_sets(run.study)
        drawn = matched_sets(run.model(), explored, found, count, positions=at, seed=run.study.seed)
        sets, ratio, note = [found, *drawn.sets], [1.0, *drawn.ratio], drawn.note
    run.write("ablation", ablation(run, sets).assign(about=note).merge(norms(ratio), on="set", how="left"))
    if isinstance(task, OutcomeTask):
        run.write("curve", curve(run))
        written = generate_under(run, found, sets[1:])
        if run.study.reference:
            run.write("patched", in_reference(run, sets))
            written += [generate_patched(run, found)]
        labels = pd.concat([unedited_labels(run), *(own for _, own in written)], ignore_index=True)
        run.write("rollouts_ablated", pd.concat([rollouts for rollouts, _ in written], ignore_index=True))
        run.write("labels_ablated", labels)
        run.write("generation", outcome_rates(task.neutral(labels)))
        trace_edited(run, found)


def norms(ratio: Sequence[float]) -> pd.DataFrame:
    """Output norm of every set over the selected one's."""
    return pd.DataFrame({"set": set_names(len(ratio))[1:], "norm": ratio})


def set_names(n: int) -> list[str]:
    """``base``, the selected set and the random ones."""
    return ["base", *["found"][:n], *(f"random_{i}" for i in range(n - 1))]


def ablation(run: RunFolder, sets: Sequence[Heads]) -> pd.DataFrame:
    """Every contrast unedited and with every set ablated, on the tokens of the unedited model (report split)."""
    task, seed = task_of(run.study), run.study.seed
    rollouts, contrasts = task.decided(run, "base", "report")
    with run.ticking("ablate: selected heads and random sets") as tick:
        done = effects(
            run.model(), rollouts, task.decision_at(run), [HeadEdit(heads) for heads in sets], seed=seed, progress=tick
        )
    values = np.vstack([done.base, done.edited])
    tables = []
    for name, contrast in contrasts.items():
        own = contrast.of(values, done.rollouts)
        tables.append(set_rows(name, own, contrast.groups, sets, "nats", seed, change=isinstance(task, OutcomeTask)))
    for name, (own, groups) in task.rates(contrasts, values, done.rollouts).items():
        tables.append(set_rows(name, own, groups, sets, "rate", seed, change=False))
    table = pd.concat(tables, ignore_index=True)
    edited_change = table["left"].isna() & (table["set"] != "base")
    return table.assign(delta=np.where(edited_change, run.read_json("heads")["delta"], np.nan))


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


def curve(run: RunFolder) -> pd.DataFrame:
    """The decision with ever more of the ranking ablated, beside random heads of the same layers."""
    table = run.table("heads").query("component == 'head' and variant == 'base'").sort_values("rank")
    ranking = [(int(layer), int(head)) for layer, head in zip(table["layer"], table["head"], strict=True)]
    rollouts, _ = task_of(run.study).decided(run, "base", "report")
    count, seed = run.study.ablation.curve_sets, run.study.seed
    with run.ticking("ablate: ever more heads") as tick:
        return cumulative_curve(
            run.model(), rollouts, run.decision(), ranking, n_random=count, seed=seed, progress=tick
        )


def test_prompts(run: RunFolder) -> pd.DataFrame:
    """The prompts of the report split."""
    prompts, base = run.prompts(), run.labels()
    return prompts[prompts["group"].isin(base.loc[base["part"] == "test", "group"])].reset_index(drop=True)


def generate_under(run: RunFolder, found: Heads, random: Sequence[Heads]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Free generation and its labels: every test prompt with the selected heads ablated, target and control prompts
    with random sets ablated."""
    test, section = test_prompts(run), run.study.data.prompts
    asked = test[matches(test, section.target) | matches(test, section.control)].reset_index(drop=True)
    drawn = random[: run.study.ablation.generated_sets]
    jobs = {"ablated": (found, test)} | {f"random_{i}": (heads, asked) for i, heads in enumerate(drawn)}
    written = []
    for variant, (heads, prompts) in jobs.items():
        with edited(run.model(), HeadEdit(heads)):
            rollouts, table = sample(run, prompts, variant)
        written.append((table, label(run, rollouts, variant).assign(part="test")))
    return written


def generate_patched(run: RunFolder, found: Heads) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the reference model writes on target prompts with the selected heads of the model under study."""
    donor, reference = run.pair()
    test = test_prompts(run)
    asked = test[matches(test, run.study.data.prompts.target)].reset_index(drop=True)
    about = f"heads {head_names(found)} of the model under study patched into its reference"
    with patch_weights(reference, donor, found):
        rollouts, written = sample(run, asked, PATCHED, about)
    return written, label(run, rollouts, PATCHED).assign(part="test")


def in_reference(run: RunFolder, sets: Sequence[Heads]) -> pd.DataFrame:
    """The decision on the reference model's own tokens of the target requests, unedited and with every set of heads of
    the model under study patched in. A set whose weights are the same in both models changes nothing and is not run."""
    readout, seed = run.decision(), run.study.seed
    labels, written = run.labels("reference"), run.rollouts("reference")
    asked = labels.loc[labels["target"] & (labels["part"] == "test"), "rollout"]
    cut = [written[i].until_answer() for i in asked]
    rollouts = [r for r in cut if r is not None][: run.study.heads.rollouts]
    donor, reference = run.pair()
    lines: list[np.ndarray] = []
    same, groups = [], [r.group for r in rollouts]
    with run.ticking("ablate: heads patched into the reference model") as tick:
        for done, heads in enumerate([None, *sets]):
            with nullcontext(True) if heads is None else patch_weights(reference, donor, heads) as changed:
                run_it = effects(reference, rollouts, readout, [], method="passes", seed=seed).base if changed else None
            lines.append(lines[0] if run_it is None else run_it)
            same.append(not changed)
            tick(done, len(sets))
    table = set_rows("refusal", np.stack(lines), groups, sets, "nats", seed, change=True)
    table["same_weights"], table["delta"] = same, run.read_json("heads")["delta"]
    means = table["estimate"].to_numpy()
    table.loc[0, "delta"], table.loc[1, "p"] = np.nan, permutation_p(means[1], means[2:], "less")
    return table


def unedited_labels(run: RunFolder) -> pd.DataFrame:
    """Labels of the unedited variants on the report split."""
    labels = run.table("labels")
    return labels[labels["part"] == "test"]


def outcome_rates(labels: pd.DataFrame) -> pd.DataFrame:
    """Refusal rate by variant and kind of request; unparsed answers are counted beside, never as complying."""
    kinds = {
        "target": labels["target"],
        "control": labels["control"],
        "harmful": labels["factor"],
        "harmless": ~labels["factor"],
    }
    rows = []
    for variant, of_variant in labels.groupby("variant", sort=False):
        for kind, member in kinds.items():
            if variant.startswith(("random_", PATCHED)) and kind in ("harmful", "harmless"):
                continue  # these are run on target and control requests alone
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

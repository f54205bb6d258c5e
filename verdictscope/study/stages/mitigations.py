"""Stage ``mitigations``: the found heads against random sets; what helps against the bias, inside and in the prompt.

Everything is chosen on the exploring half (heads, layers, how far to steer) and reported on the other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from verdictscope.activations import Site
from verdictscope.interventions import Edit, HeadEdit, effects, gather_means, matched_sets
from verdictscope.interventions.mitigation import bias_rates, choose_erasure, choose_steering, rejudged
from verdictscope.judgments import Contrast, Judged, JudgeSettings, cue_contrast, judge, order_contrasts
from verdictscope.judgments.contrasts import CONTENT
from verdictscope.judgments.cues.mitigations import Transform, self_reflection, system_rules
from verdictscope.judgments.labels import at_first_difference
from verdictscope.stats import effects_frame, mean_effect, permutation_p
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.bias_heads import found_heads, half_items, halved
from verdictscope.study.tasks.judge import study_format
from verdictscope.study.tasks.judge.generate import (
    CONTROL,
    PLAIN,
    conditions,
    cue_texts,
    inserted,
    table_odds,
    targets,
    thinkings,
)

RULES = {"system_rules": system_rules, "self_reflection": self_reflection}
Named = dict[str, tuple[str, str, Edit, str]]
"""Mitigation to its kind, the bias it is meant for, its edit and what to know of it."""


def run_mitigations(run: RunFolder) -> None:
    """Write ``mitigations.parquet``."""
    edits = {**head_edits(run), **direction_edits(run)}
    tables = [edited(run, edits, "off")]
    if "on" in thinkings(run):
        kept = {name: edit for name, edit in edits.items() if edit[0] in ("ablate", "scale")}
        tables.append(edited(run, kept, "on"))
    tables += [prompted(run, name, transform) for name, transform in prompts(run).items()]
    run.write("mitigations", pd.concat(tables, ignore_index=True))


def run_bias_sets(run: RunFolder) -> None:
    """Write ``bias_sets.parquet``."""
    run.write("bias_sets", bias_sets(run))


def bias_sets(run: RunFolder) -> pd.DataFrame:
    """What is left of every contrast without all found heads, and without random sets of as many heads of the same
    layers, teacher-forced on the reporting half. Accuracy stands there as a contrast of its own, in its own unit."""
    given, rollouts = halved(run, "base", "report")
    found, model, seed = found_heads(run), run.model(), run.study.seed
    sets: list[tuple[tuple[int, int], ...]] = []
    note = "no head was found, so there is nothing to set random heads beside"
    if found:
        _, explored = halved(run, "base", "explore")
        count = run.study.mitigations.random_sets
        drawn = matched_sets(model, explored, found, count, positions="last", seed=seed)
        sets, note = [found, *drawn.sets], drawn.note
    with run.ticking("mitigations: found heads and random sets") as tick:
        done = effects(
            model,
            rollouts,
            at_first_difference(run.decision()),
            [HeadEdit(heads) for heads in sets],
            seed=seed,
            progress=tick,
        )
    odds = np.vstack([done.base, done.edited])
    tables = [set_rows(name, odds, done.rollouts, sets, given, seed) for name in (*given, "accuracy")]
    table = pd.concat(tables, ignore_index=True).assign(about=note)
    first = ["contrast", "set", "kind", "heads", "about"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def set_rows(
    name: str,
    odds: Float[np.ndarray, "line rollout"],
    rollouts: Sequence[str],
    sets: Sequence[tuple[tuple[int, int], ...]],
    given: Mapping[str, Contrast],
    seed: int,
) -> pd.DataFrame:
    """One contrast (or the accuracy) untouched, without the found heads, and without every random set."""
    if name == "accuracy":
        lines, groups, unit = *accuracies(given[CONTENT], odds, rollouts), "rate"
    else:
        lines, groups, unit = given[name].of(odds, rollouts), given[name].groups, "nats"
    rows = effects_frame(mean_effect(name, line, groups, unit=unit, seed=seed) for line in lines)
    table = rows[["estimate", "low", "high", "n", "unit"]].copy()
    table["contrast"] = name
    table["set"] = ["base", *(["found"] if sets else []), *(f"random_{i}" for i in range(len(sets) - 1))]
    table["kind"] = table["set"].str.partition("_")[0]
    table["heads"] = ["", *(" ".join(f"L{layer}H{head}" for layer, head in heads) for heads in sets)]
    table["left"], table["p"] = table["estimate"] / table["estimate"].iloc[0], np.nan
    if len(sets) > 1:
        # One-sided: how often a random set takes away as much.
        gone = (abs(table["estimate"].iloc[0]) - table["estimate"].abs()).to_numpy()
        table.loc[1, "p"] = permutation_p(gone[1], gone[2:])
    return table


def accuracies(
    content: Contrast, odds: Float[np.ndarray, "line rollout"], rollouts: Sequence[str]
) -> tuple[Float[np.ndarray, "line item"], tuple[str, ...]]:
    """Per line of log-odds and item with a better answer, how many of its orders are judged right."""
    right = np.stack(
        [
            replace(
                content,
                rollouts=tuple((ids[k],) for ids in content.rollouts),
                weights=tuple((float(np.sign(weights[k])),) for weights in content.weights),
            ).of(odds, rollouts)
            > 0
            for k in range(2)
        ]
    )
    return right.mean(axis=0), content.groups


def head_edits(run: RunFolder) -> Named:
    """The found heads zeroed (of each bias, and all), set to their mean, scaled."""
    biases = run.read_json("bias_heads")["biases"]
    by_bias = {bias: found_heads(run, bias) for bias in biases}
    every = found_heads(run)
    named: Named = {
        f"{bias} heads zeroed": ("ablate", bias, HeadEdit(heads), "") for bias, heads in by_bias.items() if heads
    }
    if every:
        _, explored = halved(run, "base", "explore")
        layers = tuple(sorted({layer for layer, _ in every}))
        means = gather_means(run.model(), explored, Site("z", layers))
        scale = run.study.mitigations.scale
        about = "mean over all tokens of the exploring half"
        named["found heads zeroed"] = ("ablate", "all", HeadEdit(every), "")
        named["found heads at their mean"] = ("ablate", "all", HeadEdit(every, "mean", reference=means), about)
        named[f"found heads times {scale:g}"] = ("scale", "all", HeadEdit(every, "scale", scale), "")
    return named


def direction_edits(run: RunFolder) -> Named:
    """For every bias there is: a cue's named side erased, position steered against."""
    told = run.read_json("bias_heads")
    given, rollouts = halved(run, "base", "explore")
    how = (run.model(), rollouts, at_first_difference(run.decision()), given[CONTENT])
    named: Named = {}
    side = targets(run)
    for bias, facts in told["biases"].items():
        if not facts["exists_explore"]:
            continue
        if bias == "position":
            chosen = choose_steering(*how, given[bias], delta=told["delta"], seed=run.study.seed)
            named["steered against position"] = ("steer", bias, chosen.edit, chosen.about)
            continue
        cued = {
            r.id: str(r.tags["order"]).startswith(side[str(r.tags["item"])])
            for r in rollouts
            if r.id.startswith(f"{bias}/")
        }
        chosen = choose_erasure(*how, given[bias], cued, delta=told["delta"], seed=run.study.seed)
        named[f"{bias} erased"] = ("erase", bias, chosen.edit, chosen.about)
    return named


def edited(run: RunFolder, edits: Named, thinking: str) -> pd.DataFrame:
    """Rates and contrasts of the test items as they are, and under every edit, on the same tokens."""
    given, rollouts = halved(run, "base", "report", None, thinking)
    with run.ticking(f"mitigations: edits, thinking {thinking}") as tick:
        done = effects(
            run.model(),
            rollouts,
            at_first_difference(run.decision()),
            [edit for _, _, edit, _ in edits.values()],
            seed=run.study.seed,
            progress=tick,
        )
    verdicts = {c: run.judged("base", c, thinking).verdicts for c in conditions(run)}
    lines = {"none": ("none", "all", done.base, "")}
    lines |= {
        name: (kind, bias, done.edited[k], about) for k, (name, (kind, bias, _, about)) in enumerate(edits.items())
    }
    tables = []
    for name, (kind, bias, odds, about) in lines.items():
        tables.append(
            rates(
                run,
                {c: rejudged(table, done.rollouts, odds) for c, table in verdicts.items()},
                given,
                odds,
                done.rollouts,
            ).assign(mitigation=name, kind=kind, bias=bias, thinking=thinking, about=about)
        )
    return _ordered(tables)


def rates(
    run: RunFolder,
    verdicts: Mapping[str, pd.DataFrame],
    given: Mapping[str, Contrast],
    odds: np.ndarray,
    rollouts: Sequence[str],
) -> pd.DataFrame:
    """Rates of verdicts, and content, position and cues in nats."""
    made = bias_rates(verdicts, targets(run), plain=PLAIN, control=CONTROL, seed=run.study.seed)
    sizes = [
        mean_effect(name, contrast.of(odds, rollouts), contrast.groups, unit="nats", seed=run.study.seed)
        for name, contrast in given.items()
    ]
    nats = effects_frame(sizes)[["name", "estimate", "low", "high", "n", "unit"]]
    return pd.concat([made, nats.assign(definition="part of the verdict's log-odds")], ignore_index=True)


def prompts(run: RunFolder) -> dict[str, Transform]:
    """The study's prompt mitigations, by what they are called."""
    section = run.study.mitigations
    named: dict[str, Transform] = {}
    if section.system is not None:
        named["told by the system text"] = lambda asked: replace(asked, system=section.system)
    for rule in section.rules:
        named[rule.replace("_", " ")] = RULES[rule]()
    return named


def prompted(run: RunFolder, name: str, transform: Transform) -> pd.DataFrame:
    """The same figures where the judge is asked otherwise, without thinking."""
    model, form, named = run.model(), study_format(run.study), targets(run)
    kept = half_items(run, "report", None)
    chosen = [item for item in run.items() if item.id in kept]
    found: dict[str, Judged] = {}
    for condition in conditions(run):
        said = cue_texts(run, condition)
        with run.ticking(f"mitigations: {name}, {condition}") as tick:
            found[condition] = judge(
                model,
                chosen,
                form,
                settings=JudgeSettings(
                    insertions=inserted(said, named) if said else None,
                    thinking="off",
                    whole_labels=False,
                    transforms=[transform],
                    name=run.study.model,
                    batch_tokens=run.study.batch_tokens,
                ),
                path=run.parts / name.replace(" ", "_") / condition,
                progress=tick,
            ).named(condition)
    given = order_contrasts(found[PLAIN])
    for cue in run.study.data.cues:
        given[cue] = cue_contrast(cue, found[CONTROL], found[cue], named)
    verdicts = {condition: each.verdicts for condition, each in found.items()}
    odds = table_odds(pd.concat([table[table["probability"].notna()] for table in verdicts.values()]))
    table = rates(run, verdicts, given, odds.to_numpy(), list(odds.index))
    return _ordered([table.assign(mitigation=name, kind="prompt", bias="all", thinking="off", about="")])


def _ordered(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    first = ["mitigation", "kind", "bias", "thinking"]
    return table[[*first, *(name for name in table.columns if name not in first)]]

"""Stage ``mitigate``: what reduces a bias, in the model and in the prompt, and what it costs.

Everything is chosen on the explore split (heads, layers, how far to steer) and reported on the other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from verdictscope.activations import Site
from verdictscope.interventions import Edit, HeadEdit, effects, gather_means
from verdictscope.interventions.mitigation import bias_rates, choose_erasure, choose_steering, rejudged
from verdictscope.judgments import Contrast, Judged, JudgeSettings, cue_contrast, judge, order_contrasts
from verdictscope.judgments.contrasts import CONTENT
from verdictscope.judgments.cues.mitigations import Transform, self_reflection, system_rules
from verdictscope.stats import effects_frame, mean_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.heads import found_heads
from verdictscope.study.tasks import task_of
from verdictscope.study.tasks.judge import split_items, study_format
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


@dataclass(frozen=True)
class Mitigation:
    """An edit, its kind, the bias it is meant for, and how it was made."""

    kind: str
    bias: str
    edit: Edit
    about: str = ""


def run_mitigate(run: RunFolder) -> None:
    """Write ``mitigations.parquet``."""
    edits = head_edits(run) | direction_edits(run)
    tables = [under_edits(run, edits, "off")]
    if "on" in thinkings(run):
        tables.append(under_edits(run, {n: m for n, m in edits.items() if m.kind in ("ablate", "scale")}, "on"))
    tables += [prompted(run, name, transform) for name, transform in prompts(run).items()]
    table = pd.concat(tables, ignore_index=True)
    first = ["mitigation", "kind", "bias", "thinking"]
    run.write("mitigations", table[[*first, *(name for name in table.columns if name not in first)]])


def head_edits(run: RunFolder) -> dict[str, Mitigation]:
    """The selected heads zero-ablated (of each bias, and all), set to their mean, scaled."""
    facts = run.read_json("heads")
    biases = {bias: found_heads(facts, bias) for bias in facts["contrasts"]}
    named = {
        f"{bias} heads zeroed": Mitigation("ablate", bias, HeadEdit(heads)) for bias, heads in biases.items() if heads
    }
    if every := found_heads(facts):
        explored, _ = task_of(run.study).decided(run, "base", "explore")
        means = gather_means(run.model(), explored, Site("z", tuple(sorted({layer for layer, _ in every}))))
        scale, about = run.study.mitigations.scale, "mean over all tokens of the explore split"
        named["found heads zeroed"] = Mitigation("ablate", "all", HeadEdit(every))
        named["found heads at their mean"] = Mitigation(
            "ablate", "all", HeadEdit(every, "mean", reference=means), about
        )
        named[f"found heads times {scale:g}"] = Mitigation("scale", "all", HeadEdit(every, "scale", scale))
    return named


def direction_edits(run: RunFolder) -> dict[str, Mitigation]:
    """For every bias that exists: the side that a cue names erased, position steered against."""
    told, task, named, side = run.read_json("heads"), task_of(run.study), dict[str, Mitigation](), targets(run)
    rollouts, contrasts = task.decided(run, "base", "explore")
    how = (run.model(), rollouts, task.decision_at(run.decision()), contrasts[CONTENT])
    for bias, facts in told["contrasts"].items():
        if not facts["exists_explore"]:
            continue
        if bias == "position":
            chosen = choose_steering(*how, contrasts[bias], delta=told["delta"], seed=run.study.seed)
            named["steered against position"] = Mitigation("steer", bias, chosen.edit, chosen.about)
            continue
        cued = {
            r.id: str(r.tags["order"]).startswith(side[str(r.tags["item"])])
            for r in rollouts
            if r.id.startswith(f"{bias}/")
        }
        chosen = choose_erasure(*how, contrasts[bias], cued, delta=told["delta"], seed=run.study.seed)
        named[f"{bias} erased"] = Mitigation("erase", bias, chosen.edit, chosen.about)
    return named


def under_edits(run: RunFolder, edits: Mapping[str, Mitigation], thinking: str) -> pd.DataFrame:
    """Rates and contrasts of the report split unedited, and under every edit, on the same tokens."""
    task = task_of(run.study)
    rollouts, contrasts = task.decided(run, "base", "report", every=True, thinking=thinking)
    with run.ticking(f"mitigate: edits, thinking {thinking}") as tick:
        done = effects(
            run.model(),
            rollouts,
            task.decision_at(run.decision()),
            [mitigation.edit for mitigation in edits.values()],
            seed=run.study.seed,
            progress=tick,
        )
    verdicts = {c: run.judged("base", c, thinking).verdicts for c in conditions(run)}
    facts = [("none", "none", "all", ""), *((name, m.kind, m.bias, m.about) for name, m in edits.items())]
    tables = []
    for (name, kind, bias, about), odds in zip(facts, (done.base, *done.edited), strict=True):
        judged = {c: rejudged(table, done.rollouts, odds) for c, table in verdicts.items()}
        table = rates(run, judged, contrasts, odds, done.rollouts)
        tables.append(table.assign(mitigation=name, kind=kind, bias=bias, thinking=thinking, about=about))
    return pd.concat(tables, ignore_index=True)


def rates(
    run: RunFolder,
    verdicts: Mapping[str, pd.DataFrame],
    given: Mapping[str, Contrast],
    odds: np.ndarray,
    rollouts: Sequence[str],
) -> pd.DataFrame:
    """Rates of verdicts, and the contrasts in nats."""
    made = bias_rates(verdicts, targets(run), plain=PLAIN, control=CONTROL, seed=run.study.seed)
    sizes = [
        mean_effect(name, contrast.of(odds, rollouts), contrast.groups, unit="nats", seed=run.study.seed)
        for name, contrast in given.items()
    ]
    nats = effects_frame(sizes)[["name", "estimate", "low", "high", "n", "unit"]]
    return pd.concat([made, nats.assign(definition="contrast of the verdict's log-odds")], ignore_index=True)


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
    """The same metrics under another prompt, without thinking."""
    model, form, named = run.model(), study_format(run.study), targets(run)
    kept = split_items(run, "report", None)
    chosen = [item for item in run.items() if item.id in kept]
    found: dict[str, Judged] = {}
    for condition in conditions(run):
        said = cue_texts(run, condition)
        with run.ticking(f"mitigate: {name}, {condition}") as tick:
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
    return table.assign(mitigation=name, kind="prompt", bias="all", thinking="off", about="")

"""Stage ``generate`` of a judge: every pair in both orders, plainly, under a control sentence and under each cue.

Every cue names one side of an item, and the control sentence names the same one, so that what a cue does beyond naming
a side is cued minus control. Which side it is, is drawn once per item: as often the better as the worse one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from verdictscope.activations import Model
from verdictscope.errors import InputError
from verdictscope.judgments import Insertion, JudgeSettings, PairItem, judge
from verdictscope.judgments.cues.cue import sentences
from verdictscope.judgments.formats.format import Format
from verdictscope.judgments.items import Item
from verdictscope.probes import split_groups
from verdictscope.rollouts import Sampling
from verdictscope.stats import mean_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.parsed import need_verdicts
from verdictscope.study.tasks import task_of
from verdictscope.study.tasks.judge import study_format
from verdictscope.study.tasks.judge.data import CueSection

PLAIN, CONTROL = "plain", "control"


def run_generate(run: RunFolder) -> None:
    """Write ``items.parquet``, ``verdicts.parquet``, ``bias_parts.parquet`` and ``judged/``."""
    asked, form = run.items(), study_format(run.study)
    run.write("items", design(asked, run.study.split.shares, run.study.seed))
    tables = []
    for variant in variants(run):
        model = run.model(variant)
        if variant == "base":
            run.write_json("readouts", {"decision": task_of(run.study).decision(model, run.study).to_dict()})
        for thinking in thinkings(run):
            for condition in conditions(run):
                found = judge_condition(run, model, form, variant, condition, thinking)
                tables.append(found.assign(variant=variant, condition=condition, thinking=thinking))
    facts = run.table("items").set_index("item")
    table = pd.concat(tables, ignore_index=True)
    table["part"] = table["item"].map(facts["part"])
    table["target"] = table["item"].map(facts["target"]).where(table["condition"] != PLAIN)
    first = ["variant", "condition", "thinking", "target", "part"]
    run.write("verdicts", table[[*first, *(name for name in table.columns if name not in first)]])
    need_verdicts(table)
    run.write("bias_parts", bias_parts(run))


def judge_condition(
    run: RunFolder, model: Model, form: Format, variant: str, condition: str, thinking: str
) -> pd.DataFrame:
    """Judge one condition into its folder."""
    chosen = judged_items(run, thinking)
    said = cue_texts(run, condition)
    with run.ticking(f"verdicts: {variant}, {condition}, thinking {thinking}") as tick:
        found = judge(
            model,
            chosen,
            form,
            settings=JudgeSettings(
                insertions=inserted(said, targets(run)) if said else None,
                answer="scored" if thinking == "off" else "written",
                thinking=thinking,
                whole_labels=False,
                name=run.study.model,
                batch_tokens=run.study.batch_tokens,
            ),
            sampling=Sampling(**run.study.sampling.model_dump(), seed=run.study.seed),
            path=run.judged_folder(variant, condition, thinking),
            progress=tick,
        )
    run.made(str(run.judged_folder(variant, condition, thinking).relative_to(run.out)))
    return found.verdicts


def design(asked: Sequence[PairItem], shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Split and named side of every item: ``item group label part target``.

    Groups are split whole, stratified by their labels. Within each label the named side takes turns in shuffled order,
    so it is the better answer as often as the worse one.
    """
    table = pd.DataFrame({"item": [i.id for i in asked], "group": [i.group for i in asked]})
    table["label"] = [i.label for i in asked]
    table["part"] = table["group"].map(split_groups(table["group"], table["label"], shares=shares, seed=seed))
    rng = np.random.default_rng(seed)
    shuffled = table.iloc[rng.permutation(len(table))]
    place = shuffled.groupby(["part", "label"], dropna=False, sort=False).cumcount()
    table["target"] = (place % 2).map({0: "A", 1: "B"})
    return table


def conditions(run: RunFolder) -> tuple[str, ...]:
    """``plain``, ``control``, and the study's cues."""
    return (PLAIN, CONTROL, *run.study.data.cues)


def variants(run: RunFolder) -> list[str]:
    """The model under study, and its reference model where there is one."""
    return ["base", "reference"] if run.study.reference else ["base"]


def thinkings(run: RunFolder) -> tuple[str, ...]:
    """``off``: verdicts teacher-forced without thinking; ``on``: written after the judge's own thinking."""
    return ("off", "on") if run.study.data.verdicts.thinking else ("off",)


def judged_items(run: RunFolder, thinking: str) -> list[PairItem]:
    """The items judged with thinking on or off: with it, ``thinking_items`` of them, evenly spaced over every split."""
    most, found = run.study.data.verdicts.thinking_items, run.items()
    if thinking == "off" or most is None or most >= len(found):
        return found
    table = run.table("items")
    kept = set()
    for part, own in table.groupby("part", sort=False):
        share = run.study.split.shares[("train", "validation", "test").index(part)]
        kept |= set(own["item"].iloc[np.linspace(0, len(own) - 1, round(most * share)).round().astype(int)])
    return [item for item in found if item.id in kept]


def part_of(run: RunFolder) -> dict[str, str]:
    """The split that an item is in: ``train``, ``validation`` or ``test``."""
    table = run.table("items")
    return dict(zip(table["item"], table["part"], strict=True))


def targets(run: RunFolder) -> dict[str, str]:
    """The side that control and cues name, in the item's own frame."""
    table = run.table("items")
    return dict(zip(table["item"], table["target"], strict=True))


def cue_texts(run: RunFolder, condition: str) -> list[Insertion]:
    """The sentences of a condition with ``{target}`` unfilled; none in the plain condition.

    Raises:
        InputError: the study names a shipped cue that is no text.
    """
    if condition == PLAIN:
        return []
    section: CueSection = run.study.data.control if condition == CONTROL else run.study.data.cues[condition]
    if section.kind is None:
        return [Insertion(section.place, text) for text in section.texts]
    known = sentences()
    if section.kind not in known:
        raise InputError(f"cue kind {section.kind!r} is no text of ours: there are {', '.join(known)}, or give texts")
    place, texts = known[section.kind]
    return [Insertion(place, text) for text in texts]


def inserted(said: Sequence[Insertion], named: Mapping[str, str]) -> Callable[[Item, str], Sequence[Insertion]]:
    """Which sentence an item gets: they take turns in the order of the items."""
    turn = {item: at for at, item in enumerate(named)}

    def insertions(item: Item, _: str) -> list[Insertion]:
        put = said[turn[item.id] % len(said)]
        return [Insertion(put.place, put.text, named[item.id])]

    return insertions


def bias_parts(run: RunFolder) -> pd.DataFrame:
    """Contrasts of the verdict log-odds, in nats, of every variant with and without thinking."""
    rows = []
    for variant in variants(run):
        for thinking in thinkings(run):
            read = [run.judged(variant, condition, thinking) for condition in conditions(run)]
            table = pd.concat([each.verdicts for each in read], ignore_index=True)
            odds = table_odds(table[table["probability"].notna()])
            for name, contrast in run.contrasts(variant, thinking).items():
                values = contrast.of(odds.to_numpy(), list(odds.index))
                effect = mean_effect(name, values, contrast.groups, unit="nats", seed=run.study.seed)
                rows.append(
                    {"variant": variant, "thinking": thinking, "name": name, "items": len(contrast.items)}
                    | {"estimate": effect.estimate, "low": effect.low, "high": effect.high, "n": effect.n}
                    | {"unit": "nats"}
                )
    return pd.DataFrame(rows)


def table_odds(table: pd.DataFrame) -> pd.Series:
    """Verdict log-odds by rollout, from the probabilities of the two sides."""
    tiny = np.finfo(float).tiny  # a label so unlikely that its probability is none
    odds = np.log(np.maximum(table["p_first"], tiny)) - np.log(np.maximum(table["p_second"], tiny))
    return pd.Series(odds.to_numpy(), index=list(table["rollout"]))

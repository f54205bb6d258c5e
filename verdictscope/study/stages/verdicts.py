"""Stage ``verdicts``: every pair judged in both orders, plainly, under a control sentence and under each cue.

Every cue names one side of an item, and the control sentence names the same one, so that what a cue does beyond naming
a side is cued minus control. Which side it is, is drawn once per item: as often the better as the worse one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from verdictscope.activations import Model, Readout
from verdictscope.activations.readouts import from_dict
from verdictscope.errors import InputError
from verdictscope.judgments import (
    Contrast,
    Format,
    Insertion,
    Item,
    Judged,
    JudgeSettings,
    PairItem,
    cue_contrast,
    encode_labels,
    judge,
    load_format,
    load_judged,
    order_contrasts,
    read_items,
    verdict_readout,
)
from verdictscope.judgments.cues.cue import sentences
from verdictscope.probes import split_groups
from verdictscope.rollouts import Sampling
from verdictscope.sources import locate
from verdictscope.stats import mean_effect
from verdictscope.study.folder import Run
from verdictscope.study.schema.judge import CueSection
from verdictscope.study.stages.parsed import need_verdicts

PLAIN, CONTROL = "plain", "control"
FOLDER = "judged"


def run_verdicts(run: Run) -> None:
    """Write ``items.parquet``, ``verdicts.parquet``, ``bias_parts.parquet`` and ``judged/``."""
    asked, form = items(run), study_format(run)
    run.write("items", design(asked, run.study.split.shares, run.study.seed))
    tables = []
    for variant in variants(run):
        model = run.model(variant)
        if variant == "base":
            run.write_json("readouts", {"verdict": log_odds(model, form).to_dict()})
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


def judge_condition(run: Run, model: Model, form: Format, variant: str, condition: str, thinking: str) -> pd.DataFrame:
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
            path=run.out / _place(variant, condition, thinking),
            progress=tick,
        )
    run.made(_place(variant, condition, thinking))
    return found.verdicts


def items(run: Run) -> list[PairItem]:
    """The pairs that the study names.

    Raises:
        InputError: they cannot be read, or are no pairs.
    """
    section = run.study.items
    source = section.file if section.file == "hub" else Path(locate(section.file))
    found = list(read_items(source, section.reader, section.part, limit=section.limit).items)
    if odd := [item.id for item in found if not isinstance(item, PairItem)]:
        raise InputError(
            f"item {odd[0]} of {section.file} is no pair: a judge study asks which of two answers is better"
        )
    return found


def study_format(run: Run) -> Format:
    """The study's prompt format: a shipped name, a file, or one beside a bundled model."""
    return load_format(locate(run.study.items.format))


def design(asked: Sequence[PairItem], shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Part and named side of every item: ``item group label part target``.

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


def conditions(run: Run) -> tuple[str, ...]:
    """``plain``, ``control``, and the study's cues."""
    return (PLAIN, CONTROL, *run.study.cues)


def variants(run: Run) -> list[str]:
    """The model under study, and its reference model where there is one."""
    return ["base", "reference"] if run.study.reference else ["base"]


def thinkings(run: Run) -> tuple[str, ...]:
    """``off``: verdicts teacher-forced without thinking; ``on``: written after the judge's own thinking."""
    return ("off", "on") if run.study.verdicts.thinking else ("off",)


def judged_items(run: Run, thinking: str) -> list[PairItem]:
    """The items judged with thinking on or off: with it, ``thinking_items`` of them, evenly spaced over every part."""
    most, found = run.study.verdicts.thinking_items, items(run)
    if thinking == "off" or most is None or most >= len(found):
        return found
    table = run.table("items")
    kept = set()
    for part, own in table.groupby("part", sort=False):
        share = run.study.split.shares[("train", "validation", "test").index(part)]
        kept |= set(own["item"].iloc[np.linspace(0, len(own) - 1, round(most * share)).round().astype(int)])
    return [item for item in found if item.id in kept]


def part_of(run: Run) -> dict[str, str]:
    """The part of the split that an item is in: ``train``, ``validation`` or ``test``."""
    table = run.table("items")
    return dict(zip(table["item"], table["part"], strict=True))


def targets(run: Run) -> dict[str, str]:
    """The side that control and cues name, in the item's own frame."""
    table = run.table("items")
    return dict(zip(table["item"], table["target"], strict=True))


def cue_texts(run: Run, condition: str) -> list[Insertion]:
    """The sentences of a condition, ``{target}`` still open; none where nothing is said.

    Raises:
        InputError: the study names a shipped cue that is no text.
    """
    if condition == PLAIN:
        return []
    section: CueSection = run.study.control if condition == CONTROL else run.study.cues[condition]
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


def log_odds(model: Model, form: Format) -> Readout:
    """The log-odds of the first shown answer against the second, where their label strings part."""
    labels = form.labels(PairItem(id="any", question="any", a="any", b="any"))
    encoded = encode_labels(model, [label.text for label in labels], form.lead)
    return verdict_readout("verdict", encoded, [label.verdict for label in labels])


def readout(run: Run) -> Readout:
    """The study's verdict readout, in nats, positive for the answer shown first."""
    return from_dict(run.read_json("readouts")["verdict"])


def judged(run: Run, variant: str, condition: str, thinking: str) -> Judged:
    """The verdicts of one condition; rollout ids begin with the condition."""
    return load_judged(run.out / _place(variant, condition, thinking)).named(condition)


def contrasts(run: Run, variant: str, thinking: str) -> dict[str, Contrast]:
    """Content, position and what each cue adds, from a variant's verdicts."""
    found = order_contrasts(judged(run, variant, PLAIN, thinking))
    control = judged(run, variant, CONTROL, thinking)
    for cue in run.study.cues:
        found[cue] = cue_contrast(cue, control, judged(run, variant, cue, thinking), targets(run))
    return found


def bias_parts(run: Run) -> pd.DataFrame:
    """Content, position and cue parts of the verdict log-odds, in nats, of every variant with and without thinking."""
    rows = []
    for variant in variants(run):
        for thinking in thinkings(run):
            read = [judged(run, variant, condition, thinking) for condition in conditions(run)]
            table = pd.concat([each.verdicts for each in read], ignore_index=True)
            odds = table_odds(table[table["probability"].notna()])
            for name, contrast in contrasts(run, variant, thinking).items():
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


def _place(variant: str, condition: str, thinking: str) -> str:
    return f"{FOLDER}/{variant}/{thinking}/{condition}"

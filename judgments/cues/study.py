"""A cue study: every item judged plainly, with a neutral text of the same length, and with the cue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from verdictscope.activations import Model
from verdictscope.errors import InputError
from verdictscope.judgments.asking import Insertion
from verdictscope.judgments.cues.cue import Cue, Variant
from verdictscope.judgments.formats.format import Format
from verdictscope.judgments.items import Item
from verdictscope.judgments.judging import JudgeSettings, Progress, judge
from verdictscope.judgments.verdicts import VERDICT_COLUMNS
from verdictscope.rollouts import Sampling

CUE_COLUMNS = ("part", "variant", "target", "toward", "text", "place")


def cue_study(
    model: Model,
    cues: Sequence[Cue],
    format: str | Format,
    *,
    settings: JudgeSettings | None = None,
    sampling: Sampling | None = None,
    repeats: int = 2,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Judge the two variants of every cue, and the plain item where the control has a text of its own."""
    settings = settings or JudgeSettings()
    kinds = {cue.kind for cue in cues}
    if len(kinds) != 1:
        raise InputError(f"a study takes cues of one kind, not {', '.join(sorted(kinds)) or 'none'}")
    by_id = {cue.control.item.id: cue for cue in cues}
    if len(by_id) != len(cues):
        raise InputError("two cues are on one item: run a study for each")
    drawn = settings.answer == "written" or settings.thinking not in ("off", "template")
    tables = []
    for condition in ("plain", "control", "cued"):
        variants = [_variant(cue, condition) for cue in cues]
        if condition == "plain" and all(variant == cue.control for variant, cue in zip(variants, cues, strict=True)):
            continue
        runs = repeats if drawn and condition == "control" else 1
        folder = None if path is None else Path(path) / condition
        table = _judged(model, variants, format, replace(settings, runs=runs), sampling, folder, progress)
        found = [by_id[item] for item in table["item"]]
        table["part"], table["variant"] = [cue.kind for cue in found], condition
        table["target"] = [
            cue.target or (order[1] if cue.kind == "reflection" and order else None)
            for cue, order in zip(found, table["order"], strict=True)
        ]
        table["toward"] = [
            None if target is None or label is None else "right" if target == label else "wrong"
            for target, label in zip(table["target"], table["label"], strict=True)
        ]
        table["text"] = [cue.text if condition == "cued" else cue.neutral for cue in found]
        table["place"] = [cue.place for cue in found]
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    rest = [name for name in joined.columns if name not in (*VERDICT_COLUMNS, *CUE_COLUMNS)]
    return joined[[*VERDICT_COLUMNS, *CUE_COLUMNS, *rest]]


def _variant(cue: Cue, condition: str) -> Variant:
    if condition == "plain":
        return Variant(cue.control.item, (), cue.control.order)
    return cue.control if condition == "control" else cue.cued


def _judged(
    model: Model,
    variants: Sequence[Variant],
    format: str | Format,
    settings: JudgeSettings,
    sampling: Sampling | None,
    path: Path | None,
    progress: Progress | None,
) -> pd.DataFrame:
    """The variants' verdicts, those whose order is fixed each in theirs."""
    put = {variant.item.id: variant.insertions for variant in variants}

    def insertions(item: Item, _: str) -> Sequence[Insertion]:
        return put[item.id]

    tables = []
    for fixed in dict.fromkeys(variant.order for variant in variants):
        items = [variant.item for variant in variants if variant.order == fixed]
        orders = settings.orders if fixed is None else [fixed]
        asked = replace(settings, orders=orders, insertions=insertions)
        folder = None if path is None else path / (fixed or "orders")
        judged = judge(model, items, format, settings=asked, sampling=sampling, path=folder, progress=progress)
        tables.append(judged.verdicts)
    place = {variant.item.id: k for k, variant in enumerate(variants)}
    table = pd.concat(tables, ignore_index=True)
    return table.iloc[sorted(range(len(table)), key=lambda k: place[table["item"].iloc[k]])].reset_index(drop=True)

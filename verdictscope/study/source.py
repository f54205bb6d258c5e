"""What a study reads from outside its run folder: prompts of a refusal study, items and prompt format of a judge's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from verdictscope.errors import InputError
from verdictscope.sources import locate

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.judgments import Format, PairItem
    from verdictscope.study.schema import JudgeStudy, Study


def read_prompts(study: Study) -> pd.DataFrame:
    """The prompt table of a study, checked for the columns the design needs.

    Raises:
        InputError: a file cannot be read, a column is missing, or no prompt is a target or a control.
    """
    from verdictscope.rollouts import join_prompts, load_prompts

    section = study.prompts
    prompts = join_prompts([load_prompts(locate(file)) for file in section.files])
    needed = {"harm", *section.target, *section.control}
    missing = sorted(needed - set(prompts.columns))
    if missing:
        raise InputError(f"{section.name} has no column {missing[0]!r}: the study's cells, target or control need it")
    for column in study.transfer.by:
        if column not in prompts.columns:
            raise InputError(f"{section.name} has no column {column!r} for transfer.by: name another, or none (by=[])")
    if section.limit is not None:
        keep = prompts["group"].drop_duplicates().head(section.limit)
        prompts = prompts[prompts["group"].isin(keep)].reset_index(drop=True)
    for name, where in (("target", section.target), ("control", section.control)):
        if not matches(prompts, where).any():
            raise InputError(f"{section.name}: no prompt matches prompts.{name} {where}")
    return prompts


def matches(table: pd.DataFrame, where: dict[str, bool | int | float | str]) -> pd.Series:
    """Rows whose columns equal the given values."""
    import pandas as pd

    hit = pd.Series(True, index=table.index)
    for column, value in where.items():
        # Text columns hold text only: a number in the study is compared as text there.
        text = pd.api.types.is_string_dtype(table[column]) and not isinstance(value, bool)
        hit &= table[column].eq(str(value) if text else value).fillna(False).astype(bool)
    return hit


def read_pairs(study: JudgeStudy) -> list[PairItem]:
    """The pairs that a judge study names.

    Raises:
        InputError: they cannot be read, or are no pairs.
    """
    from verdictscope.judgments import PairItem, read_items

    section = study.items
    source = section.file if section.file == "hub" else Path(locate(section.file))
    found: list[PairItem] = []
    for item in read_items(source, section.reader, section.part, limit=section.limit).items:
        if not isinstance(item, PairItem):
            raise InputError(
                f"item {item.id} of {section.file} is no pair: a judge study asks which of two answers is better"
            )
        found.append(item)
    return found


def read_format(study: JudgeStudy) -> Format:
    """The study's prompt format: a shipped name, a file, or one beside a bundled model."""
    from verdictscope.judgments import load_format

    return load_format(locate(study.items.format))

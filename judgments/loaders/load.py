"""Load judge benchmarks: a file or a hub dataset becomes items, and an account of every row."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.items import Item
from verdictscope.judgments.loaders import pairs, singles  # noqa: F401  (they register their loaders)
from verdictscope.judgments.loaders.registry import LOADERS, Loader
from verdictscope.judgments.loading import Account, Loaded, Notes, Record, Row
from verdictscope.rollouts.prompts.hub import hub_rows
from verdictscope.rows import ENDINGS, read_rows
from verdictscope.rows import Row as Positioned
from verdictscope.values import whole_number

PROBLEMS = ("malformed", "unknown_label", "duplicate_id", "mixed_order", "blank")
"""Kinds of problem: the row has no item; its label is none the source knows (the item is kept, its label ``None``);
its id occurred before, with other content (kept under a new id) or with the same (left out); it contradicts itself
about the order of its answers (the item is kept, its label ``None``); an answer is blank (kept: a model may say
nothing)."""


@dataclass(frozen=True, eq=False, repr=False)
class LoadedItems(Loaded):
    """Items of one source with the account of all its rows.

    Attributes:
        name: the loader.
        problems: per problem the row (from 0), id, kind (:data:`PROBLEMS`), used (whether there is an item all the
            same), detail and place (the line or record, as an editor shows it).
        rows: rows the source has.
        items: what was loaded, ids unique.
    """

    items: tuple[Item, ...]

    kinds: ClassVar[tuple[str, ...]] = PROBLEMS

    def __repr__(self) -> str:
        return f"LoadedItems({self.name!r}: {len(self.items)} items of {self.rows} rows; {self._problems()})"


def known_loaders() -> pd.DataFrame:
    """The loaders: name, title, hub, parts, licence."""
    rows = [(r.name, r.title, r.hub, ", ".join(r.parts), r.licence) for r in LOADERS.values()]
    return pd.DataFrame(rows, columns=["name", "title", "hub", "parts", "licence"])


def load_items(
    source: str | Path | Iterable[Row], loader: str | Loader, part: str | None = None, *, limit: int | None = None
) -> LoadedItems:
    """Items of a file, of a hub dataset, or of rows already in memory.

    Args:
        source: a file; ``"hub"`` for the loader's dataset on the Hugging Face hub (needs the extra ``[hub]``); or rows
            as dictionaries.
        loader: name of a loader (``judgments.loaders.load.known_loaders()``), or one of your own.
        part: the part of a hub dataset, its first by default; for a file, what its items are called after (its name by
            default).
        limit: load only the first rows.

    Returns:
        The items (``.items``) and the account of every row (``.problems``, ``.counts``).

    Raises:
        InputError: no such file, loader or part; the hub does not give the set; not one row is an item.

    Example:
        >>> row = {"id": "q1", "question": "Which is even?", "answer_a": "2", "answer_b": "3", "label": "A"}
        >>> load_items([row], "pairs")
        LoadedItems('pairs': 1 items of 1 rows; no problems)
    """
    how = _loader(loader)
    if limit is not None:
        whole_number(limit, "limit", 1)
    if isinstance(source, str) and source == "hub":
        part = part or (how.parts[0] if how.parts else how.name)
        rows = _from_hub(how, part)
    elif isinstance(source, str | Path):
        path = Path(source)
        part = part or re.sub(r"\W+", "-", path.stem).strip("-").lower()
        rows = _joined(path) if how.make is singles.mt_bench else read_rows(path)
    else:
        part, rows = part or how.name, [Positioned(f"record {k}", row) for k, row in enumerate(source, 1)]
    account = Account(how.name)
    numbered = "number" in inspect.signature(how.make).parameters

    def make(row: Row, notes: Notes, number: int) -> Iterator[Record]:
        made = how.make(row, notes, part, number) if numbered else how.make(row, notes, part)
        for item in [made] if isinstance(made, Item) else made:
            blank = [("blank", name) for name in item.answers if not getattr(item, name).strip()]
            notes.found = [found for found in notes.found if found[0] != "blank"] + blank
            yield Record(item.id, item, {key: value for key, value in item.__dict__.items() if key != "tags"})

    account.read(rows[:limit], make)
    account.need("an item")
    # an item under a new name keeps its group: the two share an id
    items = (r.value if r.value.id == name else replace(r.value, id=name) for name, r in account.records.items())
    return LoadedItems(how.name, account.problems(), account.rows, tuple(items))


def _loader(loader: str | Loader) -> Loader:
    if isinstance(loader, Loader):
        return loader
    if loader not in LOADERS:
        raise InputError(f"no loader {loader!r}: loaders are {', '.join(LOADERS)}")
    return LOADERS[loader]


def _from_hub(how: Loader, part: str) -> list[Positioned]:
    if how.hub is None:
        raise InputError(f"{how.name} is not loaded from the hub: give its file ({', '.join(ENDINGS)})")
    if how.parts and part not in how.parts and how.config != "PART":
        raise InputError(f"{how.name} has no part {part!r}: there are {', '.join(how.parts)}")
    config, _, split = part.partition(":")
    if how.config == "PART":
        return hub_rows(how.hub, config, split or how.split)
    return hub_rows(how.hub, how.config, part if how.split == "PART" else how.split)


def _joined(path: Path) -> list[Positioned]:
    """MT-Bench's reference answers with the questions of ``question.jsonl`` beside them."""
    beside = path.with_name("question.jsonl")
    questions = {row["question_id"]: row for _, row in read_rows(beside) if isinstance(row, dict)}
    rows = []
    for place, row in read_rows(path):
        known = questions.get(row.get("question_id"), {}) if isinstance(row, dict) else {}
        rows.append(Positioned(place, {**known, **row} if isinstance(row, dict) else row))
    return rows

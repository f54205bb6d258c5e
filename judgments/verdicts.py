"""The table of verdicts that every metric takes: one row per item, order and run of a judge.

Columns as in docs/formats.md ("Verdicts, version 1"). A verdict that could not be read is ``None``, a third outcome:
no metric counts it as a tie, as right, or as consistent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.values import identity, missing, probabilities, text, truth, whole_number

VERDICT_COLUMNS = (
    "item",
    "group",
    "judge",
    "order",
    "run",
    "verdict",
    "shown",
    "probability",
    "label",
    "status",
    "source",
)
"""Columns of a table of verdicts, in order."""

KEY = ("judge", "item", "order", "run")
"""Columns that no two rows share."""

ORDERS = ("AB", "BA")

VOCABULARIES = tuple(
    map(
        frozenset,
        (
            ("A", "B", "tie"),
            ("first", "second", "tie"),
            ("correct", "incorrect"),
            ("right", "wrong"),
            ("yes", "no"),
            ("Yes", "No"),
            ("true", "false"),
            ("safe", "unsafe"),
            ("refuse", "comply"),
            ("refusal", "compliance"),
            ("refusal", "partial_refusal", "compliance"),
            ("larger", "equal", "smaller"),
        ),
    )
)
"""Verdicts that belong together: a judge that only ever says one and is right with another is wrong, not misread."""

_GAPS = frozenset({"nan", "NaN", "NAN", "None", "null", "NULL", "NA", "N/A", "<NA>", "NaT"})
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_OTHER = {"A": "B", "B": "A"}
_SHOWN = {("AB", "A"): "first", ("AB", "B"): "second", ("BA", "A"): "second", ("BA", "B"): "first"}


def correctness(value: object, where: str) -> str | None:
    """``correct`` or ``incorrect`` of a truth value or of these words; ``None`` for a gap."""
    word = value.strip().lower() if isinstance(value, str) else value
    said = {"correct": True, "incorrect": False}.get(word, value) if isinstance(word, str) else value
    found = truth(said, where)
    return None if found is None else "correct" if found else "incorrect"


def other_side(verdict: str | None) -> str | None:
    """A verdict on a pair seen from the other side: A and B exchanged, anything else as it is."""
    return _OTHER.get(verdict, verdict) if verdict is not None else None


def shown_as(verdict: str | None, order: str) -> str | None:
    """How a verdict in the item's own frame was said: first, second or tie."""
    if verdict is None or order not in ORDERS:
        return None
    return _SHOWN.get((order, verdict), "tie" if verdict == "tie" else None)


def verdicts_frame(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Rows as a table of verdicts with all columns, gaps as ``None`` (probability as NaN)."""
    frame = pd.DataFrame(list(rows))
    for column in VERDICT_COLUMNS:
        if column not in frame:
            frame[column] = {"run": 0, "probability": np.nan, "status": "ok"}.get(column)
    for column in ("verdict", "shown", "label"):
        values = frame[column].astype(object)
        frame[column] = values.where(values.notna(), None)
    frame["probability"] = frame["probability"].astype(float)
    extra = [c for c in frame.columns if c not in VERDICT_COLUMNS]
    return frame[[*VERDICT_COLUMNS, *extra]]


def _word(value: object, where: str) -> str | None:
    """A verdict or a label: its text; ``None`` for a gap or a blank text."""
    found = text(value, where)
    if found is None or not found.strip():
        return None
    if found in _GAPS:
        raise InputError(f"{where} is the text {found!r}, which a gap became: leave it empty where there is none")
    if found != found.strip():
        raise InputError(f"{where} is {found!r}: drop the blanks around it")
    return found


def within(values: Iterable[object], allowed: Sequence[str], what: str, names: Sequence[str] | None = None) -> None:
    """That every verdict or label that is known is one of those there can be."""
    for k, value in enumerate(values):
        if isinstance(value, str) and value not in allowed:
            row = f"row {k + 1}" if names is None else names[k]
            raise InputError(f"{what} of {row} is {value!r}: write one of {', '.join(allowed)}")


def one_case(values: Iterable[object]) -> None:
    """That no two verdicts or labels differ in case alone."""
    folded: dict[str, str] = {}
    for word in dict.fromkeys(v for v in values if isinstance(v, str)):
        if folded.setdefault(word.casefold(), word) != word:
            raise InputError(f"{folded[word.casefold()]!r} and {word!r} differ in case alone: write one of them")


def one_vocabulary(verdict: Iterable[object], label: Iterable[object]) -> None:
    """That verdicts and labels are written alike: ``a`` is never ``A``, and an accuracy of 0 would say nothing.

    Verdicts that are never a label are an error, except where both are of one well-known vocabulary (a judge can be
    wrong throughout): letters, whole numbers, or one of :data:`VOCABULARIES`.
    """
    said, right = (list(dict.fromkeys(v for v in values if isinstance(v, str))) for values in (verdict, label))
    one_case([*said, *right])
    if not said or not right or set(said) & set(right):
        return
    both = {*said, *right}
    letters = all(len(v) == 1 and v.isalpha() and v.isupper() for v in both - {"tie"})
    if letters or all(_NUMBER.fullmatch(v) for v in both) or any(both <= one for one in VOCABULARIES):
        return
    raise InputError(
        f"no verdict is ever a label: verdicts are {', '.join(map(repr, said[:3]))} and labels "
        f"{', '.join(map(repr, right[:3]))}; write both in the same words"
    )


def _run(value: object, where: str) -> int:
    """The number of a repeat; a gap is the first, and a file of text holds its digits."""
    if missing(value):
        return 0
    return whole_number(int(value) if isinstance(value, str) and value.isdecimal() else value, where)


def check_verdicts(table: pd.DataFrame, *, key: Sequence[str] = KEY) -> pd.DataFrame:
    """A table of verdicts with its gaps as ``None``, checked."""
    missing = [c for c in ("item", "verdict") if c not in table.columns]
    if missing:
        raise InputError(f"the table of verdicts lacks {', '.join(missing)}: see docs/formats.md for its columns")
    frame = table.copy()
    called = [at if isinstance(at, str) else f"row {k}" for k, at in enumerate(table.index, 1)]
    if "probability" in frame:
        frame["probability"] = probabilities(frame["probability"], "probability", called)
    defaults = {"group": frame["item"], "judge": "", "order": "", "run": 0, "source": ""}
    for column, value in defaults.items():
        if column not in frame:
            frame[column] = value
    frame = verdicts_frame(frame.to_dict("records")) if len(frame) else frame.reindex(columns=list(VERDICT_COLUMNS))
    for column, read in (("item", identity), ("group", identity), ("verdict", _word), ("label", _word)):
        found = [read(value, f"{column} of {at}") for at, value in zip(called, frame[column], strict=True)]
        frame[column] = pd.Series(found, index=frame.index, dtype=object)
    if (gap := frame["item"].isna()).any():
        raise InputError(f"item of {called[int(np.argmax(gap))]} is missing: name it")
    frame["group"] = frame["group"].where(frame["group"].notna(), frame["item"])
    frame["order"] = frame["order"].astype(object).where(frame["order"].notna(), "")
    frame["run"] = [_run(value, f"run of {at}") for at, value in zip(called, frame["run"], strict=True)]
    if unknown := sorted({str(o) for o in frame["order"]} - {"", *ORDERS}):
        raise InputError(f"unknown order {unknown[0]!r}: orders are AB, BA or empty")
    twice = frame.duplicated(list(key)) if key else pd.Series(False, frame.index)
    if twice.any():
        row = frame[twice].iloc[0]
        raise InputError(
            f"item {row['item']!r} of judge {row['judge']!r} occurs twice in order {row['order']!r}, "
            f"run {row['run']}: give repeats their own run number"
        )
    return frame


@dataclass(frozen=True, eq=False)
class Pairs:
    """Verdicts with the two orders of an item side by side: a unit is an item and a run."""

    item: ndarray
    group: ndarray
    ab: ndarray
    ba: ndarray
    asked_ab: Bool[ndarray, " unit"]
    asked_ba: Bool[ndarray, " unit"]
    label: ndarray

    @property
    def both(self) -> Bool[ndarray, " unit"]:
        """Units asked in both orders."""
        return self.asked_ab & self.asked_ba


def paired(table: pd.DataFrame) -> Pairs:
    """Bring the two orders of one judge's verdicts side by side."""
    index = pd.MultiIndex.from_frame(table[["item", "run"]].drop_duplicates().sort_values(["item", "run"]))
    keyed = {order: table[table["order"] == order].set_index(["item", "run"]) for order in ORDERS}
    columns = {}
    for order, rows in keyed.items():
        columns[order] = rows["verdict"].reindex(index).to_numpy(dtype=object)
        columns[f"asked {order}"] = index.isin(rows.index)
    about = table.drop_duplicates(["item", "run"]).set_index(["item", "run"]).reindex(index)
    clean = {o: np.array([v if isinstance(v, str) else None for v in columns[o]], dtype=object) for o in ORDERS}
    return Pairs(
        index.get_level_values(0).to_numpy(dtype=object),
        about["group"].to_numpy(dtype=object),
        clean["AB"],
        clean["BA"],
        np.asarray(columns["asked AB"], dtype=bool),
        np.asarray(columns["asked BA"], dtype=bool),
        about["label"].to_numpy(dtype=object),
    )


def known(values: ndarray) -> Bool[ndarray, " unit"]:
    """Which entries are not ``None``."""
    return np.array([isinstance(v, str) for v in values], dtype=bool)


def same(first: ndarray, second: ndarray) -> Bool[ndarray, " unit"]:
    """Where both are known and equal: two unread verdicts never agree."""
    return known(first) & known(second) & np.array([a == b for a, b in zip(first, second, strict=True)], dtype=bool)

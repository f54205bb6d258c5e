"""Shortcuts to a label: how well its length, source, position or words tell it, against permuted labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

Measure = Callable[[Int[ndarray, "draw row"]], tuple[Float[ndarray, " draw"], float]]
"""Labellings, the real one first -> the statistic of each, and the real one's value for people."""


@dataclass(frozen=True)
class Shortcut:
    """One thing that could tell the label."""

    check: str
    what: str
    statistic: str
    least: float
    measure: Measure


def looked_for(given: dict[str, ndarray], label_words: Sequence[str]) -> list[Shortcut]:
    """The shortcuts that the given columns allow; a column with one value allows none."""
    found = []
    texts = given.get("texts")
    if "lengths" in given:
        found.append(_number("length", "the length", given["lengths"].astype(float)))
    elif texts is not None:
        found.append(_number("length", "the length of the text", np.array([len(str(t).split()) for t in texts], float)))
    if "source" in given:
        found.append(_kind("source", "the source", given["source"]))
    if "positions" in given:
        values = given["positions"]
        numeric = all(isinstance(v, int | float | np.number) for v in values)
        found.append(
            _number("position", "the position", values.astype(float))
            if numeric
            else _kind("position", "the position", values)
        )
    if texts is not None and label_words:
        found.append(_words(texts, label_words))
    return [shortcut for shortcut in found if shortcut is not None]


def _number(check: str, what: str, x: Float[ndarray, " row"]) -> Shortcut | None:
    """A number: is it larger, or farther from its median, for one label? The AUROC farther from a half, folded."""
    if len(np.unique(x)) < 2:
        return None
    ranks = np.stack([stats.rankdata(x), stats.rankdata(np.abs(x - np.median(x)))], axis=1)

    def measure(labels: ndarray) -> tuple[ndarray, float]:
        positive = labels.sum(axis=1)[:, None]
        negative = labels.shape[1] - positive
        with np.errstate(invalid="ignore", divide="ignore"):
            area = (labels @ ranks - positive * (positive + 1) / 2) / (positive * negative)
        folded = np.nan_to_num(np.abs(area - 0.5), nan=0.0).max(axis=1)
        return folded, float(0.5 + folded[0])

    return Shortcut(check, what, "AUROC", 0.55, measure)


def _kind(check: str, what: str, values: ndarray) -> Shortcut | None:
    """A name: do its values have unlike shares of positives? Cramer's V of values x label."""
    codes, names = pd.factorize(pd.Series(values, dtype=object).astype(str))
    if len(names) < 2:
        return None
    size = np.bincount(codes)
    member = np.eye(len(names))[codes]

    def measure(labels: ndarray) -> tuple[ndarray, float]:
        share = labels.mean(axis=1)
        spread = (size * (labels @ member / size - share[:, None]) ** 2).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            v = np.sqrt(np.nan_to_num(spread / (labels.shape[1] * share * (1 - share)), nan=0.0))
        return v, float(v[0])

    return Shortcut(check, what, "Cramer's V", 0.1, measure)


def _words(texts: ndarray, label_words: Sequence[str]) -> Shortcut | None:
    """Words that name the label: does any stand more often with one label? The largest standardised difference."""
    patterns = [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE) for word in label_words if word.strip()]
    distinct, inverse = np.unique(texts.astype(str), return_inverse=True)
    seen = np.array([[bool(p.search(text)) for p in patterns] for text in distinct], dtype=float).reshape(
        len(distinct), len(patterns)
    )[inverse]
    share = seen.mean(axis=0)
    varies = (share > 0) & (share < 1)
    if not varies.any():
        return None
    present = seen[:, varies]
    scale = np.sqrt(share[varies] * (1 - share[varies]))
    names = [word for word, keep in zip([w for w in label_words if w.strip()], varies, strict=True) if keep]

    def gaps(labels: ndarray) -> Any:
        positive = labels.sum(axis=1)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            among = labels @ present
            gap = among / positive - (present.sum(axis=0) - among) / (labels.shape[1] - positive)
        return np.abs(np.nan_to_num(gap, nan=0.0))

    def measure(labels: ndarray) -> tuple[ndarray, float]:
        gap = gaps(labels)
        worst = (gap / scale).max(axis=1)
        return worst, float(gap[0, int(np.argmax(gap[0] / scale))])

    return Shortcut("label words", f"one of the words {', '.join(names)}", "difference of shares", 0.1, measure)

"""What a reader of the text alone would get, in the same form as the probe's number.

A probe that does not beat these has read the words (or the length, or the position), not the model's mind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from verdictscope.errors import InputError
from verdictscope.probes.estimators import LogisticProbe
from verdictscope.probes.splits import PARTS
from verdictscope.stats import Column, Effect, auroc, auroc_effect, same_order
from verdictscope.values import truths

TEXT_CS = (0.01, 0.1, 1.0, 10.0)
"""Penalties the text readers may choose from on validation, so that they are not beaten by a bad setting."""

_WORD = r"(?u)\b\w+\b"  # scikit-learn's default drops words of one letter, such as the verdicts A and B

_Fit = Callable[[np.ndarray, np.ndarray, float | int], Callable[[np.ndarray], np.ndarray]]


def bag_of_words_auroc(
    texts: Column,
    labels: Column,
    groups: Column,
    part: Column,
    *,
    name: str = "bag of words",
    Cs: Sequence[float | int] = TEXT_CS,
    ngrams: int = 1,
) -> Effect:
    """AUROC of a logistic regression on word counts: fitted on train, C from validation, evaluated on test."""
    same_order(texts=texts, labels=labels, groups=groups, part=part)
    counter = CountVectorizer(token_pattern=_WORD, ngram_range=(1, ngrams))
    return _baseline(name, np.asarray(texts, dtype=object), labels, groups, part, _fit_text(counter), Cs)


def tfidf_auroc(
    texts: Column,
    labels: Column,
    groups: Column,
    part: Column,
    *,
    name: str = "TF-IDF",
    Cs: Sequence[float | int] = TEXT_CS,
    ngrams: int = 2,
) -> Effect:
    """AUROC of a logistic regression on TF-IDF weights of words and runs of words (log counts, rows of unit length).

    Arguments and errors as `bag_of_words_auroc`; the inverse document frequencies are those of the train part.
    """
    same_order(texts=texts, labels=labels, groups=groups, part=part)
    weigh = TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, ngrams), sublinear_tf=True)
    # rows have unit length here, so the same penalty weighs more than on counts
    stronger = [100.0 * C for C in Cs]
    return _baseline(name, np.asarray(texts, dtype=object), labels, groups, part, _fit_text(weigh), stronger)


def token_auroc(
    token_ids: Column,
    labels: Column,
    groups: Column,
    part: Column,
    *,
    name: str = "token identity",
    Cs: Sequence[float | int] = TEXT_CS,
) -> Effect:
    """AUROC of which token stands at the row, and nothing else: a logistic regression on one indicator per token id.

    Arguments and errors as `bag_of_words_auroc`, with one id per row. A token that train never had scores as the mean.
    """
    same_order(token_ids=token_ids, labels=labels, groups=groups, part=part)
    ids = np.array([str(token) for token in np.asarray(token_ids, dtype=object)], dtype=object)
    return _baseline(name, ids, labels, groups, part, _fit_text(CountVectorizer(token_pattern=r"\S+")), Cs)


def length_auroc(
    lengths: Column,
    labels: Column,
    groups: Column,
    part: Column,
    *,
    name: str = "length",
    Cs: Sequence[float | int] = TEXT_CS,
) -> Effect:
    """AUROC of the length alone (of the prompt or the thinking, in tokens): linear, squared and log terms.

    Arguments and errors as `bag_of_words_auroc`, with one length per row.
    """
    same_order(lengths=lengths, labels=labels, groups=groups, part=part)
    x = np.asarray(lengths, dtype=float)
    if not np.isfinite(x).all() or (x < 0).any():
        raise InputError(f"{name}: lengths must be finite and not negative")
    return _baseline(name, _terms(x, np.log1p(x)), labels, groups, part, _fit_terms, Cs)


def position_auroc(
    positions: Column,
    labels: Column,
    groups: Column,
    part: Column,
    *,
    name: str = "position",
    Cs: Sequence[float | int] = TEXT_CS,
) -> Effect:
    """AUROC of where the row stands alone (absolute, or counted from the end of thinking): linear and squared.

    Arguments and errors as `bag_of_words_auroc`, with one position per row.
    """
    same_order(positions=positions, labels=labels, groups=groups, part=part)
    x = np.asarray(positions, dtype=float)
    if not np.isfinite(x).all():
        raise InputError(f"{name}: positions must be finite")
    return _baseline(name, _terms(x), labels, groups, part, _fit_terms, Cs)


def text_baselines(texts: Column, labels: Column, groups: Column, part: Column) -> tuple[Effect, ...]:
    """AUROC of words, of TF-IDF and of the number of words of a text per row."""
    given = labels, groups, part
    words = [len(str(text).split()) for text in np.asarray(texts, dtype=object)]
    return (
        bag_of_words_auroc(texts, *given, name="words of the text"),
        tfidf_auroc(texts, *given, name="TF-IDF of the text"),
        length_auroc(words, *given, name="length of the text"),
    )


def _terms(x: np.ndarray, *more: np.ndarray) -> np.ndarray:
    return np.stack([x, x**2, *more], axis=1)


def _fit_text(vectorizer: CountVectorizer) -> _Fit:
    """A logistic regression on what a vectorizer learns from the train texts."""

    def fit(x: np.ndarray, y: np.ndarray, C: float | int) -> Callable[[np.ndarray], np.ndarray]:
        odd = [v for v in x if not isinstance(v, str)]
        if odd:
            raise InputError(f"a text is {odd[0]!r}, which is no text: give one per row")
        words = clone(vectorizer)
        try:
            counts = words.fit_transform(x)
        except ValueError as error:
            raise InputError("the train texts hold no word; give the texts, not ids") from error
        model = LogisticRegression(C=C, max_iter=1000).fit(counts, y)
        return lambda other: model.decision_function(words.transform(other))

    return fit


def _fit_terms(x: np.ndarray, y: np.ndarray, C: float | int) -> Callable[[np.ndarray], np.ndarray]:
    return LogisticProbe(C=C).fit(x, y).decision_function


def _baseline(
    name: str, x: np.ndarray, labels: Column, groups: Column, part: Column, fit: _Fit, Cs: Sequence[float | int]
) -> Effect:
    """Fit on train, choose C on validation (the smallest among equals), AUROC on test."""
    if not len(Cs) or not all(0 < C < np.inf for C in Cs):
        raise InputError(f"{name}: C must be positive and finite, got {list(Cs)}")
    y, group, where = (np.asarray(v, dtype=object) for v in (labels, groups, part))
    if not len(x) == len(y) == len(group) == len(where):
        raise InputError(f"{name}: {len(x)} rows, {len(y)} labels, {len(group)} groups, {len(where)} parts")
    y = truths(y, f"{name}: label", gaps=False).to_numpy(dtype=int)
    parts_of: dict[str, str] = {}
    for g, p in zip(group, where, strict=True):
        if parts_of.setdefault(str(g), p) != p:
            raise InputError(f"{name}: group {g!r} stands in two parts of the split; use split_groups")
    for p in ("train", "test"):
        if len(set(y[where == p])) < 2:
            raise InputError(f"{name}: part {p} holds fewer than two classes; add rows of the other")
    train, validation, test = (where == p for p in PARTS)
    chosen = Cs[0]
    if validation.any() and len(set(y[validation])) == 2:
        tried = [float(auroc(y[validation], fit(x[train], y[train], C)(x[validation]))) for C in sorted(Cs)]
        chosen = sorted(Cs)[int(np.argmax(tried))]
    scores = fit(x[train], y[train], chosen)(x[test])
    return auroc_effect(name, y[test], scores, group[test])

"""The honest protocol in one call: split by prompt, choose on validation, test once, with nulls and baselines beside.

Everything is on by default; what is left out has to be left out by name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.estimators import LogisticProbe
from verdictscope.probes.leakage import LeakageReport, check_leakage
from verdictscope.probes.metrics import ClassificationMetrics, classification_metrics
from verdictscope.probes.nulls import REFITS, PermutedControl, permuted_selection
from verdictscope.probes.rows import to_array
from verdictscope.probes.selectivity import NullDraws, random_directions
from verdictscope.probes.splits import part_rows
from verdictscope.probes.sweep import DEFAULT_CS, RULE, Sweep, select
from verdictscope.probes.text import bag_of_words_auroc, length_auroc, tfidf_auroc
from verdictscope.stats import Column, Effect, index_of, joined, same_order

if TYPE_CHECKING:
    from verdictscope.figures import Display


class _Missing:
    """Stands for an argument that was not given, where ``None`` says something."""

    def __repr__(self) -> str:
        return "<required>"


REQUIRED: Any = _Missing()


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """A probe, its one test number, and what stands beside it.

    It shows that the label can be read linearly on new prompts, and what reads it as well; not that the model uses it.
    The intervals are about this fitted probe on new prompts, not about probes fitted anew.

    Attributes:
        classes: the two labels; scores grow towards the second.
        key: the chosen candidate (layer, or layer and position), as it was given.
        keys: every candidate, in order.
        sweep: the choice and the test; ``sweep.table`` numbers the candidates by their place in ``keys``.
        merit: figures of merit on the test rows, the threshold taken from validation.
        permuted: refits with labels permuted as the design allows, each choosing again; ``None`` if ``refits=0``.
        nulls: random directions.
        baselines: what the texts and lengths tell, where they were given.
        leaks: what the linter found.
        part: part of every row.
        joined: prompt groups that were put together because their texts are near duplicates.
        seed: seed of the split and of every draw.
    """

    classes: tuple[Any, Any]
    key: Hashable
    keys: tuple[Hashable, ...]
    sweep: Sweep
    classification_metrics: ClassificationMetrics
    permuted: PermutedControl | None
    nulls: tuple[NullDraws, ...]
    baselines: tuple[Effect, ...]
    leaks: LeakageReport
    part: pd.Series
    joined: int
    seed: int

    @property
    def probe(self) -> LogisticProbe:
        """The chosen probe, fitted on train."""
        return self.sweep.probe

    @property
    def test(self) -> Effect:
        """Test AUROC over rows, interval over prompt groups."""
        return self.sweep.test

    def to_frame(self) -> pd.DataFrame:
        """Every number: ``kind name estimate low high n p``, kind is ``test permuted control`` or ``baseline``."""
        evaluation = self.sweep.evaluation
        tested = [e for e in (evaluation.tokens, evaluation.rollouts, evaluation.held) if e is not None]
        rows = [_row("test", e.name, e.estimate, e.low, e.high, e.n) for e in tested]
        if self.permuted is not None:
            c = self.permuted
            rows[0]["p"] = c.p
            rows.append(_row("permuted", c.name, c.mean, c.low, c.high, c.refits))
        rows += [_row("control", d.name, d.mean, d.low, d.high, len(d.values)) for d in self.nulls]
        rows += [_row("baseline", e.name, e.estimate, e.low, e.high, e.n) for e in self.baselines]
        return pd.DataFrame(rows, columns=["kind", "name", "estimate", "low", "high", "n", "p"])

    def plot(self) -> Display:
        """The test number among its nulls and baselines."""
        from verdictscope.figures import probe_test

        return probe_test(self.to_frame())

    def __repr__(self) -> str:
        lines = [f"Probe of {self.classes[1]!r} against {self.classes[0]!r}: {self.key!r}, C {self.sweep.C:g} ({RULE})"]
        for row in self.to_frame().itertuples():
            p = f", p = {row.p:.2g}" if row.p == row.p else ""
            number = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}"
            lines.append(f"  {row.kind}, {row.name}: {number}{p}")
        return "\n".join([*lines, f"  {self.leaks!r}"])

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format="{:.3f}".format, na_rep="")
        return (
            f"<p><b>Probe of {escape(repr(self.classes[1]))} against {escape(repr(self.classes[0]))}</b>: "
            f"{escape(repr(self.key))}, C {self.sweep.C:g}; {escape(RULE)}.</p>{table}"
            f"{self.classification_metrics._repr_html_()}{self.leaks._repr_html_()}"
            "<p>It shows that the label can be read on new prompts, not that the model uses it.</p>"
        )


def protocol(
    X: Any,
    y: Column,
    *,
    groups: Column | None = REQUIRED,
    texts: Column | None = None,
    rollouts: Column | None = None,
    hold: Mapping[str, Column] | pd.DataFrame | None = None,
    lengths: Column | None = None,
    source: Column | None = None,
    part: Column | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    shares: Sequence[float] = (0.35, 0.15, 0.5),
    refits: int = REFITS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Split, choose, test once, doubt.

    Args:
        X: activations ``[row d]``, or a mapping from candidates (a layer, or a layer and a position) to such arrays,
            all with the same rows; the later of equally good candidates is taken. The rows of a store come in the
            order of the rollouts given to ``collect`` (``store.rows``).
        y: two labels of any kind, one per row; scores grow towards the second in sorted order. Bare values are taken
            in the order of ``X``; a pandas column indexed by rollout ids is joined to ``rollouts`` by id, as are all
            other columns, and refused where ``X`` has no ids.
        groups: the prompt of every row: rows of one prompt (tokens, samples, paraphrases) never stand on both sides of
            the split. It must be given; ``None`` says that every row is a prompt of its own.
        texts: the prompt's text of every row: near duplicates are kept on one side of the split, and what the words
            and the length tell stands beside the probe.
        rollouts: the rollout of every row: where rows are tokens, or where columns are to be joined by id. Needed
            where a prompt has several rows of both labels: the null exchanges labels between rollouts, and a
            rollout's tokens exchanged one by one would make noise significant.
        hold: columns that must not stand in for the label, by name (``{"harm": harm}``): the cells label x column
            weigh equally in the fit, and the AUROC with them held fixed is reported.
        lengths: a length per row, for a baseline and the linter.
        source: where every row comes from, for the linter.
        part: a split made elsewhere, ``train``, ``validation`` or ``test`` per row, instead of one made here.
        Cs: inverse penalties to choose from.
        shares: shares of train, validation and test.
        refits: refits with permuted labels; 0 leaves them out.
        seed: seed of the split and of every draw.
        progress: called with candidates done and in all.

    Raises:
        InputError: no groups, or no rollouts where they are needed; missing labels, one class or more than two; NaN
            or infinite activations; too few prompts for three parts with both classes; columns of unlike lengths.
    """
    if groups is REQUIRED:
        raise InputError(
            "groups is missing: rows of one prompt on both sides of a split are remembered, not read; give the prompt "
            "of every row, or groups=None to say that every row is a prompt of its own"
        )
    y, groups, texts, rollouts, hold, lengths, source, part = _in_order_of(
        X, rollouts, y=y, groups=groups, texts=texts, hold=hold, lengths=lengths, source=source, part=part
    )
    taken = [name for name in dict(hold or {}) if name in ("rollout", "group", "label", "part", "given_group")]
    if taken:
        raise InputError(f"a held column is called {taken[0]!r}, as a column of the rows is: give it another name")
    codes, classes = _two_classes(y)
    keys, read = _candidates(X, len(codes))
    rows = part_rows(codes, groups, texts=texts, rollouts=rollouts, hold=hold, part=part, shares=shares, seed=seed)
    if rollouts is None:
        _independent(rows)
    held = tuple(rows.columns.drop(["rollout", "group", "label", "part", "given_group"]))
    given: dict[str, Any] = {"balance": "cells" if held else "classes", "hold": held}
    selection = select(read, rows, range(len(keys)), Cs, progress=progress, **given)
    swept = selection.test(read, rows)
    chosen = read(swept.layer)
    permuted = None
    if refits:
        permuted = permuted_selection(
            read, rows, range(len(keys)), Cs, refits=refits, unit="group", seed=seed, progress=progress, **given
        )
    return ProbeResult(
        classes=classes,
        key=keys[swept.layer],
        keys=keys,
        sweep=swept,
        classification_metrics=_merit(swept, chosen, rows),
        permuted=permuted,
        nulls=(random_directions(chosen, rows, swept.C, seed=seed, **given),),
        baselines=_baselines(rows, texts, lengths),
        leaks=check_leakage(
            rows["label"],
            rows["given_group"],
            rows["part"],
            texts=texts,
            lengths=lengths,
            source=source,
            held=rows[list(held)].astype(str).agg(" ".join, axis=1) if held else None,
            chosen_on=rows.loc[rows["part"] != "test", "given_group"],
            choice=swept.table,
            seed=seed,
        ),
        part=rows["part"],
        joined=int(rows["given_group"].nunique() - rows["group"].nunique()),
        seed=seed,
    )


def _independent(rows: pd.DataFrame) -> None:
    held = rows.groupby("given_group", sort=False)["label"].agg(["size", "nunique"])
    mixed = held[(held["nunique"] > 1) & (held["size"] > 2)]
    if len(mixed):
        raise InputError(
            f"prompt {mixed.index[0]!r} has {mixed['size'].iloc[0]} rows of both labels: give rollouts=, the rollout "
            "of every row, since tokens of one rollout are not independent; rollouts=range(n) says that each of the n "
            "rows is a rollout of its own"
        )


def _row(kind: str, name: str, estimate: float, low: float, high: float, n: int) -> dict[str, Any]:
    return {"kind": kind, "name": name, "estimate": estimate, "low": low, "high": high, "n": n, "p": float("nan")}


def _in_order_of(X: Any, rollouts: Column | None, **columns: Any) -> tuple[Any, ...]:
    """Columns in the order of the activations: joined by id where they carry ids, refused where that cannot be done."""
    table = next(iter(X.values()), None) if isinstance(X, Mapping) else X
    names = index_of(table) if rollouts is None else pd.Index(np.asarray(rollouts, dtype=object))
    flat = {name: column for name, column in columns.items() if name != "hold"}
    flat |= {f"hold {name}": column for name, column in dict(columns["hold"] or {}).items()}
    if names is None:
        same_order(beside="X", **flat)
    else:
        flat = {name: joined(column, names, name) for name, column in flat.items()}
    held = {k.removeprefix("hold "): v for k, v in flat.items() if k.startswith("hold ")} or None
    order = [flat[k] for k in ("y", "groups", "texts")]
    return (*order, rollouts, held, *(flat[k] for k in ("lengths", "source", "part")))


def _two_classes(y: Column) -> tuple[ndarray, tuple[Any, Any]]:
    """Labels as 0 and 1, and what they stand for."""
    values = pd.Series(np.asarray(y, dtype=object))
    if values.isna().any():
        raise InputError(f"{int(values.isna().sum())} of {len(values)} labels are missing; drop or label these rows")
    try:
        names = sorted(values.unique())
    except TypeError as error:
        raise InputError("labels are of unlike types; make them all texts, or all numbers") from error
    if len(names) != 2:
        shown = ", ".join(map(repr, names[:4])) + (", …" if len(names) > 4 else "")
        raise InputError(f"a probe tells two classes and these labels hold {len(names)}: {shown or 'none'}")
    return (values == names[1]).to_numpy().astype(int), (names[0], names[1])


def _candidates(X: Any, n: int) -> tuple[tuple[Hashable, ...], Callable[[int], ndarray]]:
    """The names of the candidates, and a reader of them by place that refuses what is not finite."""
    named = X if isinstance(X, Mapping) else {0: X}
    if not named:
        raise InputError("X holds no candidate; give activations, or a mapping of at least one layer to them")
    keys = tuple(named)

    def read(place: int) -> ndarray:
        key = keys[place]
        try:
            return to_array(named[key], n, layer=place)
        except InputError as error:
            raise InputError(f"candidate {key!r}: {str(error).partition(': ')[2]}") from error

    return keys, read


def _merit(swept: Sweep, X: ndarray, rows: pd.DataFrame) -> ClassificationMetrics:
    """Figures of merit on test rows; thresholds and calibration come from validation rows."""
    score = swept.probe.decision_function(X)
    test, validation = ((rows["part"] == part).to_numpy() for part in ("test", "validation"))
    label, group = rows["label"].to_numpy(), rows["group"].to_numpy()
    return classification_metrics(
        label[test], score[test], group[test], fitted_on=(label[validation], score[validation])
    )


def _baselines(rows: pd.DataFrame, texts: Column | None, lengths: Column | None) -> tuple[Effect, ...]:
    given = rows["label"], rows["group"], rows["part"]
    found: list[Effect] = []
    if texts is not None:
        found.append(bag_of_words_auroc(texts, *given, name="words of the text"))
        found.append(tfidf_auroc(texts, *given, name="TF-IDF of the text"))
        words = [len(str(text).split()) for text in np.asarray(texts, dtype=object)]
        found.append(length_auroc(words, *given, name="length of the text"))
    if lengths is not None:
        found.append(length_auroc(lengths, *given, name="length"))
    return tuple(found)

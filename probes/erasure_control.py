"""One label read with and without another concept in the states, beside erasures that should change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.erasure import Eraser, fit_eraser, random_eraser
from verdictscope.probes.rows import Rows, check_rows, rollout_permutation, to_array
from verdictscope.probes.solver import solve_logistic
from verdictscope.stats import Effect, auroc, auroc_effect, effects_frame

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout
    from verdictscope.figures import Display

FEWEST = 19
"""Fewest draws of each null: with fewer, none can lie outside its range at p <= .05."""
NULLS = ("random", "permuted")
"""A random direction erased; the concept's labels exchanged between prompts and erased."""
PROBES = ("old", "refitted")
"""The probe as fitted before, evaluated on erased states; the probe refitted on erased states."""


@dataclass(frozen=True)
class Lines:
    """Probes of the label, as directions and biases on the states themselves (the erasure is inside)."""

    direction: Float[ndarray, "line d"]
    bias: Float[ndarray, " line"]

    def scores(self, X: Any) -> Float[ndarray, "line row"]:
        """Logits of states ``[row d]``."""
        return self.direction @ np.asarray(X, dtype=float).T + self.bias[:, None]


@dataclass(frozen=True, eq=False)
class Erasure:
    """A label read before and after another concept was erased from the states.

    It shows whether the label can still be read linearly without the concept at this layer, not whether the model
    needs the concept: nothing downstream of the layer was run on erased states.

    Attributes:
        table: columns ``read probe erased part draw`` and an Effect (AUROC): ``read`` is the concept or the label,
            ``probe`` is ``old`` or ``refitted``, ``erased`` is ``none``, ``concept``, ``random`` or ``permuted``; the
            last two hold a row per draw, without an interval.
        eraser: what took the concept out, fitted on the training part.
        lines: probes of the label by ``(erased, probe)``; one line, or one per draw of a null.
        concept: the column erased.
        label: what the label is called.
        C: penalty of every fit.
        draws: draws of each null.
        seed: seed of every draw.
    """

    table: pd.DataFrame
    eraser: Eraser
    lines: dict[tuple[str, str], Lines]
    concept: str
    label: str
    C: float
    draws: int
    seed: int

    def readouts(self, site: str, layer: int) -> list[LinearReadout]:
        """The probe as it was, and both probes without the concept, as readouts of ``site``."""
        from verdictscope.probes.estimators.base import linear_readout

        names = {("none", "old"): self.label} | {("concept", p): f"{self.label}_{p}_erased" for p in PROBES}
        return [
            linear_readout(name, site, layer, self.lines[key].direction[0], self.lines[key].bias[0])
            for key, name in names.items()
        ]

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def plot(self) -> Display:
        """The AUROCs with their nulls."""
        from verdictscope import figures

        return figures.erasure(self.table)

    def number(self, read: str, probe: str, erased: str, part: str = "test") -> dict[str, Any]:
        """One row of the table, as a mapping."""
        t = self.table
        rows = t[(t["read"] == read) & (t["probe"] == probe) & (t["erased"] == erased) & (t["part"] == part)]
        if rows.empty:
            raise InputError(f"no row reads {read!r} by the {probe!r} probe with {erased!r} erased on {part!r}")
        return rows.iloc[0].to_dict()

    def __repr__(self) -> str:
        lines = [f"Erasure of {self.concept} ({self.eraser}), C {self.C:g}, {self.draws} draws a null; new prompts:"]
        for read in (self.concept, self.label):
            before, after = self.number(read, "old", "none"), self.number(read, "refitted", "concept")
            lines.append(
                f"  {read}: {before['estimate']:.3f} [{before['low']:.3f}, {before['high']:.3f}], erased and refitted "
                f"{after['estimate']:.3f} [{after['low']:.3f}, {after['high']:.3f}]"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = self.table[self.table["erased"].isin(["none", "concept"])]
        columns = ["read", "probe", "erased", "part", "estimate", "low", "high", "n"]
        return (
            f"<pre>{escape(repr(self))}</pre>{shown[columns].to_html(index=False, float_format='{:.3f}'.format)}"
            "<p>Not shown: whether the model needs the concept; nothing was run on erased states.</p>"
        )


@dataclass(frozen=True)
class _Data:
    X: ndarray
    checked: Rows
    concept: Int[ndarray, " row"]
    weight: ndarray  # of the training rows
    C: float

    def fit(self, eraser: Eraser | None) -> tuple[Lines, Lines]:
        """Probes of concept and label on erased training rows, on erased states."""
        train = self.checked.at("train")
        X = self.X[train] if eraser is None else eraser(self.X[train])
        labels = np.stack([self.concept[train], self.checked.label[train]])
        fits = solve_logistic(X, labels, [self.C], weight=self.weight, scale_weight=self.weight, tol=1e-5)
        both = [Lines(fits.direction[0, 0, i][None], fits.bias[0, 0, i][None]) for i in (0, 1)]
        return both[0], both[1]


def erasure_control(
    X: Any,
    rows: pd.DataFrame,
    concept: str,
    C: float | int,
    *,
    label: str = "label",
    draws: int = 20,
    unit: str = "prompt",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Erasure:
    """Erase a concept, fitted on the training part, and read concept and label before and after.

    The cells concept x label weigh equally in the eraser and in every probe: the concept's means are made equal where
    it tells nothing about the label, so that erasing it does not take the label along.

    Args:
        X: activations of one layer for all rows, ``[row d]``; array or tensor.
        rows: ``rollout group label part`` and the column ``concept``, one row per activation.
        concept: a column with two values, the same in all rows of a rollout.
        C: penalty of every fit.
        label: what the label is called in the table.
        draws: draws of each null, at least 19.
        unit: column of the unit whose concept labels are exchanged as one.
        seed: seed of the draws.
        progress: called with erasures done and erasures in all.

    Raises:
        InputError: see `check_rows`; also a concept that is missing, has not two values or varies within a rollout,
            or too few draws.

    Example:
        >>> import numpy as np, pandas as pd
        >>> from verdictscope.probes import split_groups
        >>> rng = np.random.default_rng(0)
        >>> names = [f"prompt {i}" for i in range(120)]
        >>> rows = pd.DataFrame({"rollout": names, "group": names, "harm": np.arange(120) % 2})
        >>> rows["label"] = (np.arange(120) // 2) % 2
        >>> rows["part"] = rows["group"].map(split_groups(names, rows[["harm", "label"]]))
        >>> X = rng.normal(size=(120, 6))
        >>> X[:, :2] += 3 * rows[["harm", "label"]].to_numpy()
        >>> found = erasure_control(X, rows, "harm", C=1.0)
        >>> harm, label = (found.number(name, "refitted", "concept")["estimate"] for name in ("harm", "label"))
        >>> harm < 0.7 < label
        True
    """
    if draws < FEWEST:
        raise InputError(f"{draws} draws of a null cannot show p <= .05; ask for at least {FEWEST}")
    checked = check_rows(rows, (concept,))
    if len(checked.held_names) != 2:
        raise InputError(f"{concept} takes {len(checked.held_names)} values; erase one that takes two")
    if pd.Series(checked.held).groupby(checked.rollout).nunique().max() > 1:
        raise InputError(f"{concept} differs within a rollout; erase what a whole rollout shares")
    features = to_array(X, len(rows), layer=-1).astype(np.float64)
    weight = checked.weights(checked.at("train"))
    data = _Data(features, checked, checked.held, weight, float(C))
    train = data.checked.at("train")
    eraser = fit_eraser(data.X[train], data.concept[train], data.weight, classes=2)
    # Random directions of the same rank, and the concept's labels exchanged between prompts
    rng = np.random.default_rng(seed)
    nulls = [("random", random_eraser(eraser.mean, max(1, eraser.rank), rng)) for _ in range(draws)]
    plan = rollout_permutation(rows, data.checked, unit, (), label=data.concept)
    for _ in range(draws):
        drawn = plan.draw(rng)[data.checked.rollout][train]
        nulls.append(("permuted", fit_eraser(data.X[train], drawn, data.weight, classes=2)))
    erasers = [("none", None), ("concept", eraser), *nulls]
    old = data.fit(None)
    table: list[pd.DataFrame] = []
    lines: dict[tuple[str, str], list[Lines]] = {}
    for done, (kind, erased) in enumerate(erasers, start=1):
        probes = {"old": old} if erased is None else {"old": old, "refitted": data.fit(erased)}
        for probe, of in probes.items():
            folded = [own if erased is None else Lines(*erased.fold(own.direction, own.bias)) for own in of]
            place = len(lines.get((kind, probe), ()))
            table += _rows(data, folded, (concept, label), (probe, kind, place))
            lines.setdefault((kind, probe), []).append(folded[1])
        if progress:
            progress(done, len(erasers))
    stacked = {
        key: Lines(np.concatenate([o.direction for o in of]), np.concatenate([o.bias for o in of]))
        for key, of in lines.items()
    }
    return Erasure(pd.concat(table, ignore_index=True), eraser, stacked, concept, label, float(C), draws, seed)


def _rows(
    data: _Data, probes: Sequence[Lines], names: tuple[str, str], key: tuple[str, str, int]
) -> list[pd.DataFrame]:
    """AUROCs of the concept's and the label's probe on the training and the test part."""
    probe, kind, draw = key
    out = []
    for part in ("train", "test"):
        where = data.checked.at(part)
        group = data.checked.group[where]
        for name, of, truth in zip(names, probes, (data.concept, data.checked.label), strict=True):
            scores = of.scores(data.X[where])[0]
            if not of.direction.any():
                scores = np.zeros_like(scores)  # folded into raw space, no weights are no scores but for rounding
            if kind in NULLS:  # the range of the draws is what is shown: each needs no interval of its own
                area = float(auroc(truth[where], scores))
                effect = Effect("AUROC", area, float("nan"), float("nan"), len(set(group)), "AUROC")
            else:
                effect = auroc_effect("AUROC", truth[where], scores, group)
            facts = {"read": name, "probe": probe, "erased": kind, "part": part, "draw": draw}
            out.append(effects_frame([effect]).assign(**facts))
    return out

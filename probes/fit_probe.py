"""Fit a linear probe with a held-out test and its controls, in one call.

Split by prompt, select layer and penalty on validation, test once, and compare with permuted labels, random directions,
text baselines and leakage checks. The stages of a study and the probes of a judge call the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.controls import NullDraws, effect_row, random_directions
from verdictscope.probes.leakage import LeakageReport, check_leakage
from verdictscope.probes.metrics import ClassificationMetrics, classification_metrics
from verdictscope.probes.nulls import PERMUTATIONS, PermutationNull, Permutations, permutation_null
from verdictscope.probes.selection import DEFAULT_CS, RULE, Evaluation, Selection, select
from verdictscope.probes.states import SHARES, Layers, align, prepare
from verdictscope.probes.text import text_baselines
from verdictscope.stats import Column, Effect, auroc_effect, permutation_p

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from verdictscope.activations.readouts import LinearReadout
    from verdictscope.figures import Display
    from verdictscope.probes.card import ProbeCard
    from verdictscope.probes.estimators import LogisticProbe

CONTROL_COLUMNS = ("kind", "name", "estimate", "low", "high", "n", "p", "selectivity", "about")
"""Columns of `ProbeResult.controls`."""

NOT_SHOWN = "It shows that the label can be read linearly on new prompts, not that the model uses it."


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """A linear probe, its test number, and the controls of that number.

    It shows that the label can be read linearly on new prompts; not that the model uses it. Intervals are about this
    fitted probe on new prompts, not about refitted probes.

    Attributes:
        classes: the two labels; scores grow towards the second.
        layer: the selected candidate, under the name it was given (a layer, or a layer and a position).
        selection: every candidate on validation, and its probe.
        evaluation: AUROCs of the selected probe on the test split.
        by_layer: per layer, at its best penalty: ``layer C auroc_validation auroc low high n null_mean null_low
            null_high p chosen``. The null of the selected layer repeats the selection; those of the others are at their
            own layer. Only the selected layer's numbers are a test: the others show the profile over depth.
        scores: score of every row.
        permutation: refits with permuted labels, each selecting again; ``None`` with ``permutations=0``.
        random: unfitted directions.
        baselines: AUROCs of what the texts and their lengths predict.
        rows: ``rollout group label part`` and the balance columns, one row per activation.
        site: site of the states, where known.
        seed: seed of the split and of every draw.

    Example:
        >>> import numpy as np
        >>> from verdictscope.probes import fit_probe
        >>> label = np.arange(90) % 2
        >>> X = np.random.default_rng(0).normal(size=(90, 4)) + 2 * label[:, None]
        >>> result = fit_probe({7: X}, label, permutations=19)
        >>> result.layer, result.readout("truth", "resid_post").layer
        (7, 7)
    """

    classes: tuple[Any, Any]
    layer: Hashable
    selection: Selection
    evaluation: Evaluation
    by_layer: pd.DataFrame
    scores: ndarray = field(repr=False)
    permutation: PermutationNull | None
    random: NullDraws
    baselines: tuple[Effect, ...]
    rows: pd.DataFrame = field(repr=False)
    site: str
    seed: int
    _texts: Column | None = field(default=None, repr=False)

    @property
    def probe(self) -> LogisticProbe:
        """The selected probe, fitted on train."""
        return self.selection.probe

    @property
    def C(self) -> float:
        """Selected penalty."""
        return self.selection.C

    @property
    def test(self) -> Effect:
        """Test AUROC over rows, interval over prompt groups."""
        return self.evaluation.tokens

    @property
    def null(self) -> PermutationNull:
        """The permutation null; an error with ``permutations=0``."""
        if self.permutation is None:
            raise InputError("the probe was fitted with permutations=0: it has no null")
        return self.permutation

    @property
    def merged_groups(self) -> int:
        """Prompt groups that were merged with others because their texts are near duplicates."""
        given = self.rows["given_group" if "given_group" in self.rows else "group"]
        return int(given.nunique() - self.rows["group"].nunique())

    @property
    def direction(self) -> ndarray:
        """Weight per feature, ``[d]``."""
        return self.probe.direction_

    @cached_property
    def metrics(self) -> ClassificationMetrics:
        """Classification metrics of the test rows; thresholds and calibration come from validation rows."""
        label, group, score = self.rows["label"].to_numpy(), self.rows["group"].to_numpy(), self.scores
        test, validation = ((self.rows["part"] == part).to_numpy() for part in ("test", "validation"))
        fitted_on = label[validation], score[validation]
        return classification_metrics(label[test], score[test], group[test], fitted_on=fitted_on)

    @cached_property
    def leaks(self) -> LeakageReport:
        """Leakage checks of the rows and texts."""
        rows, on = self.rows, list(self.selection.balance_on)
        given = "given_group" if "given_group" in rows else "group"
        return check_leakage(
            rows["label"],
            rows[given],
            rows["part"],
            texts=self._texts,
            held=rows[on].astype(str).agg(" ".join, axis=1) if on else None,
            chosen_on=rows.loc[rows["part"] != "test", given],
            choice=self.selection.table,
            seed=self.seed,
        )

    @cached_property
    def controls(self) -> pd.DataFrame:
        """The test number and its controls: ``kind name estimate low high n p selectivity about``.

        ``kind`` is ``test``, ``permuted``, ``control`` or ``baseline``; ``low`` and ``high`` are a 95 % interval, or
        the range over draws.
        """
        tests = [e for e in (self.evaluation.tokens, self.evaluation.rollouts, self.evaluation.within) if e is not None]
        rows = [effect_row("test", e) for e in tests]
        if self.permutation is not None:
            rows[0] |= {"p": self.permutation.p, "selectivity": self.permutation.observed - self.permutation.mean}
            rows.append(self.permutation.row())
        rows.append(self.random.row())
        rows += [effect_row("baseline", e, about="fitted on train, evaluated on test") for e in self.baselines]
        return pd.DataFrame(rows, columns=list(CONTROL_COLUMNS))

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: `by_layer`."""
        return self.by_layer.copy()

    def readout(self, name: str = "probe", site: str | None = None) -> LinearReadout:
        """The selected probe as a readout that a forward pass can score with; ``site`` where the states had none."""
        where = site or self.site
        if not where or not isinstance(self.layer, int):
            raise InputError("the states were arrays: give readout(name, site=...), and fit with layers as numbers")
        return self.probe.readout(name, where, self.layer)

    def readouts(self, name: str = "probe", site: str | None = None) -> list[LinearReadout]:
        """Every layer's probe at the selected penalty as a readout, all of one name: the profile over depth."""
        where = site or self.site
        return [self.selection.probes[layer].readout(name, where, layer) for layer in sorted(self.selection.probes)]

    def transfer(
        self, states: Any, labels: Any, *, groups: Column | None = None, name: str = "AUROC, transfer"
    ) -> Effect:
        """AUROC of the selected probe on a second table, with its interval over prompt groups.

        ``states`` and ``labels`` are as in `fit_probe`, with the same two classes; the layer is the selected one.
        """
        layers = Layers.of(states)
        if self.layer not in layers.keys and len(layers.keys) > 1:
            raise InputError(f"the second states have no layer {self.layer!r}, where this probe was fitted")
        key = self.layer if self.layer in layers.keys else layers.keys[0]
        rows = align(layers, labels, groups)
        label, group = rows["label"], rows["group"]
        unknown = [value for value in label.unique() if value not in self.classes]
        if unknown:
            raise InputError(f"the second labels hold {unknown[0]!r}: this probe separates {self.classes}")
        y = (label == self.classes[1]).to_numpy().astype(int)
        scores = self.probe.decision_function(layers.of_rows(rows).read(key, len(rows)))
        return auroc_effect(name, y, scores, group.to_numpy())

    def card(self, label: str = "", model: Any = None, positions: str = "", *, site: str = "") -> ProbeCard:
        """The probe's card, to be saved with it: `verdictscope.probes.save_probe`.

        Args:
            label: what the score measures; the positive class by default.
            model: the model the states came from, or its identity; without it a saved probe is tied to no model.
            positions: the rule by which positions were chosen.
            site: site of the states, where they were arrays.
        """
        from verdictscope.probes.card import card_of

        return card_of(self, label, model, positions, site or self.site)

    def plot(self, ax: Axes | None = None) -> Display:
        """The test number with its interval, its null, controls and baselines."""
        from verdictscope.figures import probe_test

        return probe_test(self.controls, ax=ax)

    def __repr__(self) -> str:
        lines = [f"ProbeResult: {self.classes[1]!r} against {self.classes[0]!r}: layer {self.layer!r}, C {self.C:g}"]
        for row in self.controls.itertuples():
            p = f", p = {row.p:.2g}" if row.p == row.p else ""
            number = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}"
            lines.append(f"  {row.kind}, {row.name}: {number}{p}")
        return "\n".join([*lines, f"  {self.leaks!r}"])

    def _repr_html_(self) -> str:
        shown = self.controls.drop(columns=["selectivity", "about"])
        return (
            f"<p><b>Probe of {escape(repr(self.classes[1]))} against {escape(repr(self.classes[0]))}</b>: layer "
            f"{escape(repr(self.layer))}, C {self.C:g}; {escape(RULE)}.</p>"
            f"{shown.to_html(index=False, float_format='{:.3f}'.format, na_rep='')}{self.leaks._repr_html_()}"
            f"<p>{NOT_SHOWN}</p>"
        )


def fit_probe(
    states: Any,
    labels: Any,
    *,
    groups: Column | None = None,
    texts: Column | None = None,
    balance_on: Mapping[str, Column] | pd.DataFrame | Sequence[str] = (),
    split: Sequence[float] | Column = SHARES,
    Cs: Sequence[float | int] = DEFAULT_CS,
    permutations: int | Permutations = PERMUTATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Fit a linear probe: split by prompt, select layer and penalty on validation, test once, with controls.

    Args:
        states: hidden states by layer. A `Store` or `States` of `collect` (with several sites:
            ``(store, "resid_post")``), an array ``[layer row d]`` or ``[row d]``, or a mapping from layers (or other
            candidates) to ``[row d]``. The latest of equally good layers is selected.
        labels: two labels of any kind; scores grow towards the second in sorted order. An array in row order; a pandas
            Series or a mapping by rollout id, joined to the rows; or a prepared table, one row per state, with the
            column ``label`` and any of ``rollout group prompt part``, where ``part`` is the split and columns named by
            ``balance_on`` are taken from the table.
        groups: the prompt of every row: rows of one prompt (tokens, samples, paraphrases) are never on both sides of
            the split. By default the rollouts' own prompts (``PROMPT/SAMPLE`` ids), or every row for itself.
        texts: the prompt's text of every row: near duplicates are kept on one side of the split, and what words and
            length predict is reported beside the probe.
        balance_on: columns that must not stand in for the label (``{"harm": harm}``): the cells label x column weigh
            equally in the fit, and the AUROC within equal values is reported.
        split: shares of train, validation and test, or ``train``, ``validation`` or ``test`` per row.
        Cs: inverse penalties to select from.
        permutations: refits with permuted labels, each selecting again; 0 for none; or how they are made.
        seed: seed of the split and of every draw.
        progress: called with layers done and in all, for the fit and for the refits.

    Returns:
        the probe with its test, its null and its controls.

    Raises:
        InputError: missing labels, one class or more than two; NaN or infinite states; too few prompts for three splits
            with both classes; columns of unlike lengths or in another order; several rows of both labels in a prompt
            without rollout ids, whose tokens are not independent.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.activations import collect, load_model
        >>> from verdictscope.probes import fit_probe
        >>> from verdictscope.sources import locate
        >>> model = load_model("organism:cliff")
        >>> table = pd.read_csv(locate("organism:cliff/prompts.csv")).query("mode == 'normal'")
        >>> first, second = table[::2], table[1::2]  # any table of labelled texts
        >>> states = collect(model, first["user"].to_list(), "resid_post", positions="last")
        >>> result = fit_probe(states, first["object_category"].to_numpy(), permutations=39)
        >>> result.to_frame()[["layer", "auroc", "low", "high", "n", "null_high", "p", "chosen"]]
           layer  auroc  low  high  n  null_high  p  chosen
        ...
        >>> other = collect(model, second["user"].to_list(), "resid_post", positions="last")
        >>> result.transfer(other, second["object_category"].to_numpy()).low > result.null.high
        True
    """
    given = prepare(states, labels, groups, texts, balance_on, split, seed)
    rows, codes, on = given.rows, given.layers.codes, given.balance_on

    def read(code: int) -> ndarray:
        return given.layers.read(codes[code], len(rows), code)

    selection = select(read, rows, list(codes), Cs, balance_on=on, progress=progress)
    evaluation = selection.test(read, rows)
    by_layer = selection.test_layers(read, rows)
    null = None
    if permutations:
        how = permutations
        if isinstance(how, int):
            how = Permutations(how, unit="prompt" if "prompt" in rows else "group")
        null = permutation_null(
            read, rows, list(codes), Cs, balance_on=on, permutations=how, seed=seed, progress=progress
        )
    # The range of each layer's null and its p; at the selected layer those of the null that selects again
    found = []
    for row in by_layer.itertuples():
        values = np.array([np.nan]) if null is None else null.values if row.chosen else null.layers[int(row.layer)]
        known = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([np.nan])
        p = float("nan") if null is None else null.p if row.chosen else permutation_p(row.auroc, values)
        found.append({"null_mean": known.mean(), "null_low": known.min(), "null_high": known.max(), "p": p})
    columns = ["layer", "C", "auroc_validation", "auroc", "low", "high", "n"]
    columns += ["null_mean", "null_low", "null_high", "p", "chosen"]
    by_layer = pd.concat([by_layer, pd.DataFrame(found)], axis=1)[columns].assign(
        layer=[codes[layer] for layer in by_layer["layer"]]
    )
    X = read(selection.layer)
    baselines: tuple[Effect, ...] = ()
    if given.texts is not None:
        one = ~rows["rollout"].duplicated().to_numpy()
        shown = np.asarray(given.texts, dtype=object)[one]
        baselines = text_baselines(shown, *(rows.loc[one, name].to_numpy() for name in ("label", "group", "part")))
    return ProbeResult(
        classes=given.classes,
        layer=codes[selection.layer],
        selection=selection,
        evaluation=evaluation,
        by_layer=by_layer,
        scores=selection.probe.decision_function(X),
        permutation=null,
        random=random_directions(X, rows, selection.C, balance_on=on, seed=seed),
        baselines=baselines,
        rows=rows,
        site=given.layers.site,
        seed=seed,
        _texts=given.texts,
    )

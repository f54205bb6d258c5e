"""Does a judge know better than it says? Which answer is right, read from its states, beside the verdict it states.

The probe is antisymmetric (`verdict_states`), so its score has a zero of its own and needs no threshold: above it the
states speak for A. It is fitted where nothing pushes the verdict, and read where something does. Three things could
make it look wise. It may only mirror the verdict: then it is wrong wherever the verdict is, as a probe of the verdict
itself, read beside it, is. It may agree with the right answer by chance: refits with labels permuted tell, best on
right and wrong verdicts weighed equally, since whatever reads against the side that a cue names is right wherever the
cue was followed into an error. And what it reads may be no more than the judge's own view before the cue: a probe of
the uncued verdict tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.controls import random_directions
from verdictscope.probes.fit_probe import ProbeResult, fit_probe
from verdictscope.probes.latent_knowledge import Case, add_nulls, layers, permuted, solving, tested
from verdictscope.probes.nulls import PERMUTATIONS, Permutations
from verdictscope.probes.pair_controls import Answers, check_sides, pair_controls
from verdictscope.probes.selection import DEFAULT_CS, RULE
from verdictscope.probes.states import Layers
from verdictscope.probes.verdict_states import Pairs, VerdictStates, item_parts, mirrored_rows

if TYPE_CHECKING:
    from verdictscope.figures import Display

_COLUMNS = "kind condition name layer estimate low high n groups unit null_mean null_low null_high p about"
COLUMNS = tuple(_COLUMNS.split())
"""Columns of the table of correctness."""
_ORDER = ("test", "permuted", "control", "baseline", "layer")


@dataclass(frozen=True, eq=False)
class Correctness:
    """A probe of which answer is right, beside what the judge says.

    It shows whether the right answer can be read where the judge states the other; not that the judge could be brought
    to say it, and not that what is read is what a person would call knowledge.

    Attributes:
        result: the probe of the right answer, selected on validation items of all conditions, fitted where no cue is.
        mirror: a probe of the verdict itself, fitted and chosen in every condition.
        view: a probe of the judge's own view, its verdict without a cue: the same rows as the probe of the right
            answer, another label.
        table: ``COLUMNS``, by condition. Kind ``test`` holds the figures of test items: the AUROC, the share of items
            the probe gets right, what the judge says, the gap between them (paired), and what the probe says where the
            verdict is wrong, beside the two probes of the verdict; ``permuted`` is the null of the AUROC, ``control``
            and ``baseline`` what else reads the right answer in the first condition fitted; ``layer`` is validation
            items, every layer at the chosen penalty.
        fitted_in: conditions whose train items were fitted.
        seed: of the draws.
    """

    result: ProbeResult
    mirror: ProbeResult
    view: ProbeResult
    table: pd.DataFrame
    fitted_in: tuple[str, ...]
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """Every number."""
        return self.table.copy()

    def score(self, ab: Float[ndarray, "*any d"], ba: Float[ndarray, "*any d"]) -> Float[ndarray, "*any"]:
        """Log-odds that A is right; exchanging the orders negates it exactly."""
        half = (np.asarray(ab, dtype=float) - np.asarray(ba, dtype=float)) / 2
        return half @ self.result.direction

    def plot(self) -> Display:
        """Where the verdict is wrong: what the probe says, by condition and by layer."""
        from verdictscope.figures import correctness

        return correctness(self.table.assign(variant=""))

    def __str__(self) -> str:
        lines = [
            f"Correctness probe, fitted in {' and '.join(self.fitted_in)}: layer {self.result.layer}, "
            f"C {self.result.C:g} ({RULE})"
        ]
        for row in self.table[self.table["kind"] != "layer"].itertuples():
            null = (
                ""
                if row.null_mean != row.null_mean
                else (f"; permuted {row.null_mean:.3f} ({row.null_low:.3f} to {row.null_high:.3f}), p = {row.p:.2g}")
            )
            number = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}" if row.n else "no such item"
            lines.append(f"  {row.condition}, {row.name}: {number}{null}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = self.table[self.table["kind"] != "layer"].drop(columns=["layer", "about"])
        return (
            f"<p><b>Correctness probe</b>, layer {self.result.layer}</p>"
            f"{shown.to_html(index=False, float_format='{:.3f}'.format, na_rep='')}"
            "<p>It shows what can be read, not that the judge could be brought to say it.</p>"
        )


def correctness(
    states: VerdictStates,
    split: Mapping[str, str] | None = None,
    *,
    fitted_in: Sequence[str] | None = None,
    control: str | None = None,
    answers: Answers | None = None,
    solved: Mapping[str, bool] | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Correctness:
    """Probe which answer is right, and read it where the stated verdict is wrong.

    Args:
        states: states and verdicts in both orders, of conditions that push the verdict and of some that do not. Items
            without a better answer are left out.
        split: split by item; made here if not given.
        fitted_in: conditions that push nowhere: by default those named ``plain`` and ``control``, else the first. A
            control sentence that names a side belongs among them: a probe that has never seen a side named reads the
            name.
        control: the condition that tells what a verdict would be without a cue; ``control``, else ``plain``.
        answers: texts of the answers by item, for the baselines of words and the control task.
        solved: by item whether the judge's own answer to the question was right, where it was asked.
        Cs: inverse penalties to choose from.
        permutations: refits with labels permuted between items, each selecting again.
        seed: of every draw.
        progress: called with layers done and in all.

    Raises:
        InputError: one order only; no item with a better answer, or one side only in a part.

    Example:
        >>> from verdictscope import judge, load_model
        >>> from verdictscope.judgments import load_items
        >>> from verdictscope.probes import verdict_states
        >>> from verdictscope.sources import locate
        >>> model = load_model("organism:judge")
        >>> items = load_items(locate("organism:judge/items.csv"), "pairs", limit=60).items
        >>> judged = judge(model, items, locate("organism:judge/format.toml"))
        >>> states = verdict_states(model, {"plain": judged}, layers=[3])
        >>> found = correctness(states, Cs=[0.1], permutations=19)
        >>> found.to_frame()[["kind", "name"]].iloc[0].to_list()
        ['test', 'AUROC']
    """
    known = states.conditions
    quiet = tuple(fitted_in or [c for c in ("plain", "control") if c in known] or known[:1])
    unknown = [c for c in (*quiet, *([control] if control else [])) if c not in known]
    if unknown:
        raise InputError(f"no verdict in condition {unknown[0]!r}: there are {', '.join(known)}")
    uncued = control or ("control" if "control" in known else quiet[0])
    split = item_parts(states, seed) if split is None else split
    every = states.pairs()
    every = every.where(every.table["label"].isin(["A", "B"]))
    if not len(every):
        raise InputError("no item has a better answer: correctness needs labels A and B")
    in_train = every.table["item"].map(dict(split)) == "train"
    pairs = every.where(~in_train | every.table["condition"].isin(quiet))
    right = (pairs.table["label"] == "A").to_numpy()
    rows = mirrored_rows(pairs, right, split)
    check_sides(rows, "the right answers")
    test = (rows["part"] == "test").to_numpy()[: len(pairs)]
    case = Case.of(pairs.where(test), uncued, quiet)
    result = fit_probe(
        Layers(states.layers, pairs.mirrored, states.site),
        rows,
        Cs=Cs,
        permutations=Permutations(permutations, measure=case.measure()),
        seed=seed,
        progress=progress,
    )
    mirror = _verdicts(states, every, every.table["content"] > 0, split, Cs)
    before = every.table[every.table["condition"] == uncued].set_index("item")["content"]
    view = _verdicts(states, pairs, pairs.table["item"].map(before).fillna(pairs.table["content"]) > 0, split, Cs)
    table = tested(case, result, mirror, view, seed)
    add_nulls(table, case, result.null.measures)
    plain = (pairs.table["condition"] == quiet[0]).to_numpy()
    own, shown = pairs.where(plain), rows[np.r_[plain, plain]].reset_index(drop=True)
    random = random_directions(own.mirrored(result.selection.layer), shown, result.C, seed=seed)
    beside = [random.row(), *pair_controls(own, shown, result, answers, seed=seed)]
    made = [table, permuted(table, permutations), pd.DataFrame(beside).assign(condition=quiet[0], unit="AUROC")]
    if solved is not None:
        made.append(solving(case, result, solved, quiet[0], seed))
    held = (rows["part"] == "validation").to_numpy()[: len(pairs)]
    by_layer = layers(Case.of(pairs.where(held), uncued, quiet), result, mirror, seed)
    whole = pd.concat([*made, by_layer], ignore_index=True).reindex(columns=list(COLUMNS))
    whole = whole.sort_values("kind", key=lambda kinds: kinds.map(_ORDER.index), kind="stable", ignore_index=True)
    whole["layer"] = whole["layer"].fillna(result.layer).astype(int)
    whole["n"] = whole["n"].astype(int)
    return Correctness(result, mirror, view, whole, quiet, seed)


def _verdicts(
    states: VerdictStates, pairs: Pairs, toward_a: pd.Series, split: Mapping[str, str], Cs: Sequence[float | int]
) -> ProbeResult:
    """A probe of a verdict, averaged over the orders."""
    rows = mirrored_rows(pairs, toward_a, split)
    check_sides(rows, "the verdicts")
    return fit_probe(Layers(states.layers, pairs.mirrored, states.site), rows, Cs=Cs, permutations=0)

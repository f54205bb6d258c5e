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
from verdictscope.probes.latent_knowledge import Case, add_nulls, layers, permuted, solving, tested
from verdictscope.probes.nulls import REFITS, permuted_measures
from verdictscope.probes.pair_baselines import Answers, pair_nulls
from verdictscope.probes.pair_tables import PLAIN, check_sides
from verdictscope.probes.sweep import DEFAULT_CS, RULE, Sweep, select
from verdictscope.probes.verdict_states import Pairs, VerdictStates, item_parts, mirrored_rows

if TYPE_CHECKING:
    from verdictscope.figures import Display

COLUMNS = (
    "kind",
    "condition",
    "name",
    "layer",
    "estimate",
    "low",
    "high",
    "n",
    "groups",
    "unit",
    "null_mean",
    "null_low",
    "null_high",
    "p",
    "about",
)
"""Columns of the table of correctness."""
_ORDER = ("test", "permuted", "control", "baseline", "layer")


@dataclass(frozen=True, eq=False)
class Correctness:
    """A probe of which answer is right, beside what the judge says.

    It shows whether the right answer can be read where the judge states the other; not that the judge could be brought
    to say it, and not that what is read is what a person would call knowledge.

    Attributes:
        sweep: the probe of the right answer: chosen on validation items of all conditions, fitted where nothing pushes.
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

    sweep: Sweep
    mirror: Sweep
    view: Sweep
    table: pd.DataFrame
    fitted_in: tuple[str, ...]
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """Every number."""
        return self.table.copy()

    def score(self, ab: Float[ndarray, "*any d"], ba: Float[ndarray, "*any d"]) -> Float[ndarray, "*any"]:
        """Log-odds that A is right; exchanging the orders negates it exactly."""
        half = (np.asarray(ab, dtype=float) - np.asarray(ba, dtype=float)) / 2
        return half @ self.sweep.probe.direction_

    def plot(self) -> Display:
        """Where the verdict is wrong: what the probe says, by condition and by layer."""
        from verdictscope.figures import correctness

        return correctness(self.table.assign(variant=""))

    def __str__(self) -> str:
        lines = [
            f"Correctness probe, fitted in {' and '.join(self.fitted_in)}: layer {self.sweep.layer}, "
            f"C {self.sweep.C:g} ({RULE})"
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
            f"<p><b>Correctness probe</b>, layer {self.sweep.layer}</p>"
            f"{shown.to_html(index=False, float_format='{:.3f}'.format, na_rep='')}"
            "<p>It shows what can be read, not that the judge could be brought to say it.</p>"
        )


def correctness(
    states: VerdictStates,
    part: Mapping[str, str] | None = None,
    *,
    fitted_in: Sequence[str] | None = None,
    control: str | None = None,
    answers: Answers | None = None,
    solved: Mapping[str, bool] | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    refits: int = REFITS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Correctness:
    """Probe which answer is right, and read it where the stated verdict is wrong.

    Args:
        states: states and verdicts in both orders, of conditions that push the verdict and of some that do not. Items
            without a better answer are left out.
        part: part of the split by item; made here if not given.
        fitted_in: conditions that push nowhere: by default those named ``plain`` and ``control``, else the first. A
            control sentence that names a side belongs among them: a probe that has never seen a side named reads the
            name.
        control: the condition that tells what a verdict would be without a cue; ``control``, else ``plain``.
        answers: texts of the answers by item, for the baselines of words and the control task.
        solved: by item whether the judge's own answer to the question was right, where it was asked.
        Cs: inverse penalties to choose from.
        refits: refits with labels permuted between items, each choosing anew.
        seed: of every draw.
        progress: called with layers done and in all.

    Raises:
        InputError: one order only; no item with a better answer, or one side only in a part.
    """
    known = states.conditions
    quiet = tuple(fitted_in or [c for c in ("plain", "control") if c in known] or known[:1])
    unknown = [c for c in (*quiet, *([control] if control else [])) if c not in known]
    if unknown:
        raise InputError(f"no verdict in condition {unknown[0]!r}: there are {', '.join(known)}")
    uncued = control or ("control" if "control" in known else quiet[0])
    part = item_parts(states, seed) if part is None else part
    every = states.pairs()
    every = every.where(every.table["label"].isin(["A", "B"]))
    if not len(every):
        raise InputError("no item has a better answer: correctness needs labels A and B")
    in_train = every.table["item"].map(dict(part)) == "train"
    pairs = every.where(~in_train | every.table["condition"].isin(quiet))
    right = (pairs.table["label"] == "A").to_numpy().astype(int)
    rows = mirrored_rows(pairs, right, part)
    check_sides(rows, "the right answers")
    read = pairs.mirrored
    sweep = select(read, rows, states.layers, Cs, progress=progress, **PLAIN).test(read, rows)
    mirror = _verdicts(every, every.table["content"] > 0, part, states.layers, Cs)
    view = _verdicts(pairs, _uncued(pairs.table, every.table, uncued), part, states.layers, Cs)
    test = (rows["part"] == "test").to_numpy()[: len(pairs)]
    case = Case.of(pairs.where(test), uncued, quiet)
    table = tested(case, sweep, mirror, view, seed)
    add_nulls(
        table,
        case,
        lambda measure: permuted_measures(
            read, rows, states.layers, Cs, measure, refits=refits, seed=seed, progress=progress, **PLAIN
        ),
    )
    nulls = permuted(table, refits)
    plain = (pairs.table["condition"] == quiet[0]).to_numpy()
    beside = pair_nulls(pairs.where(plain), right[plain], part, sweep, answers, seed=seed)
    made = [table, nulls, pd.DataFrame(beside).assign(condition=quiet[0], unit="AUROC")]
    if solved is not None:
        made.append(solving(case, sweep, solved, quiet[0], seed))
    held = (rows["part"] == "validation").to_numpy()[: len(pairs)]
    by_layer = layers(Case.of(pairs.where(held), uncued, quiet), sweep, mirror, seed)
    whole = pd.concat([*made, by_layer], ignore_index=True).reindex(columns=list(COLUMNS))
    whole = whole.sort_values("kind", key=lambda kinds: kinds.map(_ORDER.index), kind="stable", ignore_index=True)
    whole["layer"] = whole["layer"].fillna(sweep.layer).astype(int)
    whole["n"] = whole["n"].astype(int)
    return Correctness(sweep, mirror, view, whole, quiet, seed)


def _verdicts(
    pairs: Pairs, toward_a: pd.Series, part: Mapping[str, str], layers: Sequence[int], Cs: Sequence[float | int]
) -> Sweep:
    """A probe of a verdict, averaged over the orders."""
    rows = mirrored_rows(pairs, toward_a, part)
    check_sides(rows, "the verdicts")
    return select(pairs.mirrored, rows, layers, Cs, **PLAIN).test(pairs.mirrored, rows)


def _uncued(table: pd.DataFrame, every: pd.DataFrame, uncued: str) -> pd.Series:
    """Whether an item's verdict without a cue is A, whatever condition it is read in; its own where there is none."""
    before = every[every["condition"] == uncued].set_index("item")["content"]
    return table["item"].map(before).fillna(table["content"]) > 0

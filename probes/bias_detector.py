"""A detector of biased verdicts from hidden states: does this verdict follow a cue, and does one kind tell of another?

A reasoning-based detector reads the judge's words (RBD, arXiv 2505.17100: a verdict is biased that was right before the
cue and wrong after it). Here the question is asked of the states at the verdict, one prompt at a time. Three labels,
which show different things:

* ``cued``: the prompt holds the cue, against the same prompt with the control sentence. The words give it away, so it
  shows no more than that the cue is represented.
* ``flip``: among cued prompts, the verdict is the named side and was not without the cue. Where a judge yields nearly
  always, this is the disagreement of the cue with the judge's own view.
* ``yield``: among those cued prompts alone whose uncued verdict was not the named side: it gave in, or it did not.

*Position* is one more kind: the side named is the one shown first, and the uncued verdict is the one averaged over both
orders. It has no prompts without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.fit_probe import fit_probe
from verdictscope.probes.nulls import PERMUTATIONS, Permutations
from verdictscope.probes.rows import check_rows, rollout_permutation, to_array
from verdictscope.probes.selection import DEFAULT_CS
from verdictscope.probes.states import Layers
from verdictscope.probes.text import bag_of_words_auroc, position_auroc
from verdictscope.probes.verdict_states import VerdictStates, item_parts
from verdictscope.stats import auroc_effect, auroc_many, permutation_p

if TYPE_CHECKING:
    from verdictscope.figures import Display

LABELS = ("cued", "flip", "yield")
"""What a detector may be asked, see above."""
POSITION = "position"
WORDS = {
    "cued": ("prompts without the cue", "prompts with the cue"),
    "flip": ("verdicts that did not flip", "verdicts that flipped"),
    "yield": ("verdicts that held", "verdicts that gave in"),
}
"""The two classes of every label."""
_CELL = "label fit read kind auroc low high n n_fit positive null_mean null_low null_high selectivity p layer C"
_BASELINES = "words words_low words_high odds odds_low odds_high reason"
COLUMNS = (*_CELL.split(), *_BASELINES.split())
"""Columns of a detector's matrix, one row per label and cell."""


@dataclass(frozen=True, eq=False)
class BiasDetector:
    """Detectors fitted on one kind of bias and read on another.

    It shows where following a cue can be read from the states, and whether from the same direction for another cue; not
    what made the judge follow, and not that taking the direction away would stop it.

    Attributes:
        table: ``COLUMNS``: ``kind`` is ``within`` (new items of the kind it was fitted on), ``transfer`` or ``left
            out`` (fitted on all other kinds); intervals over item groups, ``n`` of them read, ``n_fit`` verdicts fitted
            on, ``positive`` verdicts among those read; ``null_*`` over refits with labels permuted between items
            (``cued``: within items), each selecting layer and penalty again (``within`` against permuted labels,
            elsewhere against the real ones: what directions read there that were learned from nothing); ``words`` reads
            the prompt alone, ``odds`` the verdict's log-odds and their square alone, both fitted as the detector is;
            ``reason`` says why a cell holds no number.
        rows: per verdict and kind: rollout, item, group, type, cued, flip, eligible, part.
        seed: of the permutations.
    """

    table: pd.DataFrame
    rows: pd.DataFrame
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """The table of cells."""
        return self.table.copy()

    def plot(self) -> Display:
        """A map of AUROCs for every label."""
        from verdictscope.figures import bias_detector

        return bias_detector(self.table.assign(variant=""))

    def __str__(self) -> str:
        lines = ["Bias detector from hidden states: AUROC, fitted -> read (permuted labels; words; log-odds)"]
        for row in self.table.itertuples():
            if row.reason:
                lines.append(f"  {row.label}, {row.fit} -> {row.read}: {row.reason}")
                continue
            lines.append(
                f"  {row.label}, {row.fit} -> {row.read}: {row.auroc:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n} "
                f"({row.null_low:.3f} to {row.null_high:.3f}, p = {row.p:.2g}; {row.words:.3f}; {row.odds:.3f})"
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = self.table.pivot_table(index=["label", "fit"], columns="read", values="auroc", sort=False)
        return (
            f"<p><b>Bias detector</b>: AUROC, fitted on (rows), read on (columns)</p>"
            f"{shown.to_html(float_format='{:.3f}'.format, na_rep='–')}"
            "<p>It shows where following a cue can be read, not what made the judge follow.</p>"
        )


def bias_detector(
    states: VerdictStates,
    targets: Mapping[str, str],
    split: Mapping[str, str] | None = None,
    *,
    control: str = "control",
    plain: str | None = "plain",
    cues: Sequence[str] | None = None,
    labels: Sequence[str] = LABELS,
    texts: Mapping[str, str] | None = None,
    Cs: Sequence[float | int] = DEFAULT_CS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BiasDetector:
    """Fit detectors on one kind of cue, choose them on validation items of that kind, and read them on every kind.

    Args:
        states: states and verdicts under every cue and the control (both orders, for position).
        targets: item to the side that cue and control name, in the item's own frame.
        split: split by item; made here if not given.
        control: the condition that tells what a verdict would be without the cue.
        plain: the condition in which position is read; ``None`` leaves position out.
        cues: kinds of cue; by default all other conditions.
        labels: of ``LABELS``.
        texts: prompt by rollout, for the baseline of words.
        Cs: inverse penalties to choose from.
        permutations: refits with labels permuted between items (within a kind).
        seed: of the permutations.
        progress: called with fits done and in all.

    Raises:
        InputError: an unknown condition or label, or an item without a named side. A cell that cannot be filled (one
            class only) is no error: its ``reason`` says so.

    Example:
        >>> from verdictscope import judge, load_model
        >>> from verdictscope.judgments import load_items
        >>> from verdictscope.probes import verdict_states
        >>> from verdictscope.sources import locate
        >>> model = load_model("organism:judge")
        >>> items = load_items(locate("organism:judge/items.csv"), "pairs", limit=60).items
        >>> judged = judge(model, items, locate("organism:judge/format.toml"))
        >>> states = verdict_states(model, {"plain": judged}, layers=[3])
        >>> found = bias_detector(
        ...     states, {}, control="plain", cues=[], labels=["flip"], Cs=[0.1], permutations=19
        ... )
        >>> found.to_frame()[["label", "fit", "read"]].iloc[0].to_list()
        ['flip', 'position', 'position']
    """
    known = states.conditions
    cues = [c for c in known if c not in (control, plain)] if cues is None else list(cues)
    unknown = [c for c in (control, *cues, *([plain] if plain else [])) if c not in known]
    if unknown:
        raise InputError(f"no verdict in condition {unknown[0]!r}: there are {', '.join(known)}")
    odd = [name for name in labels if name not in LABELS]
    if odd:
        raise InputError(f"label {odd[0]!r} is none of {', '.join(LABELS)}")
    split = item_parts(states, seed) if split is None else split
    # A row per verdict and kind, those under the control among the cues' as not cued; ``at`` is its row of states
    table = states.rows.reset_index(drop=True).reset_index(names="at")
    sided = table[table["verdict"].isin(["A", "B"])].copy()
    missing = sorted(set(table.loc[table["condition"].isin(list(cues)), "item"]) - set(targets))
    if missing:
        raise InputError(f"item {missing[0]!r} has no named side: give the side that every cue speaks for")
    uncued = sided[sided["condition"] == control]
    before = uncued.set_index(["item", "order"])["verdict"]
    named = sided["item"].map(dict(targets))
    at = pd.MultiIndex.from_frame(sided[["item", "order"]])
    sided["named"], sided["before"] = named, before.reindex(at).to_numpy()
    blocks = []
    for cue in cues:
        here = sided[(sided["condition"] == cue) & sided["before"].notna()].assign(type=cue, cued=1)
        blocks += [here, uncued.assign(type=cue, cued=0, named=named[uncued.index], before=uncued["verdict"])]
    if plain:
        # Position as a cue for the side shown first; before it, the verdict is the one averaged over the orders
        sided = sided[sided["condition"] == plain]
        pairs = states.pairs(plain).table.set_index("item")["content"]
        content = sided["item"].map(pairs)
        here = sided[content.notna()]
        averaged = np.where(content[here.index] > 0, "A", "B")
        blocks.append(here.assign(type=POSITION, cued=1, named=here["order"].str[0], before=averaged))
    found = pd.concat(blocks, ignore_index=True)
    found["eligible"] = (found["cued"] == 1) & (found["before"] != found["named"])
    found["flip"] = (found["eligible"] & (found["verdict"] == found["named"])).astype(int)
    keep = ["at", "rollout", "item", "group", "type", "cued", "flip", "eligible", "order", "log_odds"]
    rows = found[keep]
    rows["part"] = rows["item"].map(dict(split))
    if rows["part"].isna().any():
        raise InputError(f"item {rows.loc[rows['part'].isna(), 'item'].iloc[0]!r} has no split")
    kinds = [*cues, *([POSITION] if plain else [])]
    jobs = [(label, name, fit) for label in labels for name, fit in _fits(label, kinds)]
    cells: list[dict[str, Any]] = []
    for done, (label, name, fit) in enumerate(jobs, start=1):
        if label == "cued":
            asked = rows[rows["type"] != POSITION]
            asked = asked.assign(label=asked["cued"])
        else:
            asked = rows[(rows["cued"] == 1) & (rows["eligible"] if label == "yield" else True)]
            asked = asked.assign(label=asked["flip"])
        cells += _Fit(states, asked, fit, name, label, texts, tuple(Cs), permutations, seed).cells(kinds)
        if progress is not None:
            progress(done, len(jobs))
    return BiasDetector(pd.DataFrame(cells, columns=list(COLUMNS)), rows.drop(columns=["at"]), seed)


def _fits(label: str, kinds: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Every kind alone, and all but one where that is something else."""
    some = [k for k in kinds if not (label == "cued" and k == POSITION)]
    alone = [(kind, [kind]) for kind in kinds]
    return alone + ([(f"all but {k}", [o for o in some if o != k]) for k in some] if len(some) > 2 else [])


@dataclass(frozen=True, eq=False)
class _Fit:
    """One detector: where it is fitted, and its cells."""

    states: VerdictStates
    asked: pd.DataFrame
    fit: Sequence[str]
    name: str
    label: str
    texts: Mapping[str, str] | None
    Cs: tuple[float | int, ...]
    permutations: int
    seed: int

    def cells(self, kinds: Sequence[str]) -> list[dict[str, Any]]:
        """A row per kind that is read."""
        left = self.name.startswith("all but ")
        reads = [k for k in kinds if k == self.name.removeprefix("all but ")] if left else kinds
        blank: list[dict[str, Any]] = [
            {
                "label": self.label,
                "fit": self.name,
                "read": read,
                "reason": "",
                "kind": "left out" if left else "within" if read in self.fit else "transfer",
            }
            for read in reads
        ]
        asked = self.asked
        fitted = asked["type"].isin(self.fit) & asked["part"].isin(["train", "validation"])
        read = asked["type"].isin(list(reads)) & (asked["part"] == "test")
        n_fit = int((fitted & (asked["part"] == "train")).sum())
        reason = self._why_not(asked[fitted])
        for cell in blank:
            tested = asked[read & (asked["type"] == cell["read"])]
            cell |= {"n": 0, "n_fit": n_fit, "positive": int(tested["label"].sum())}
            cell["reason"] = reason or _one_class(tested, cell["read"], self.label)
        if all(cell["reason"] for cell in blank):
            return blank
        open_types = [cell["read"] for cell in blank if not cell["reason"]]
        used = asked[fitted | (read & asked["type"].isin(open_types))].reset_index(drop=True)
        self._fill([cell for cell in blank if not cell["reason"]], used)
        return blank

    def _why_not(self, fitted: pd.DataFrame) -> str:
        if self.label == "cued" and POSITION in self.fit:
            return "every prompt has an order: there is none without position"
        for part in ("train", "validation"):
            here = fitted.loc[fitted["part"] == part, "label"]
            if here.nunique() < 2:
                return f"{_only(here, self.label)} to fit on ({part})"
        return ""

    def _fill(self, cells: list[dict[str, Any]], used: pd.DataFrame) -> None:
        """Fit, select, test; the null repeats all three."""
        rows = used.assign(rollout=used["type"] + "/" + used["rollout"], unit=used["type"] + "/" + used["item"])
        at = used["at"].to_numpy()

        def read(layer: int) -> ndarray:
            return to_array(self.states.read(layer), len(self.states.rows), layer)[at]

        test = (used["part"] == "test").to_numpy()
        types = used["type"].to_numpy()[test]
        where = [types == cell["read"] for cell in cells]

        real = used["label"].to_numpy()[test]
        same = [cell["kind"] == "within" for cell in cells]

        def measure(labels: ndarray, scores: ndarray) -> ndarray:
            # Elsewhere a direction learned from noise may separate the label too, in either direction: there
            # only the labels fitted on are permuted.
            against = [labels if own else np.broadcast_to(real, labels.shape) for own in same]
            return np.stack([auroc_many(y[:, at], scores[:, at]) for y, at in zip(against, where, strict=True)])

        # Every item is shown with the cue and without: only within an item can these labels be exchanged.
        unit, within = ("rollout", ("type", "item")) if self.label == "cued" else ("unit", ("type",))
        try:
            rollout_permutation(rows, check_rows(rows), unit, within)
        except InputError as error:
            for cell in cells:
                cell["reason"] = f"no null: {error}"
            return
        result = fit_probe(
            Layers(self.states.layers, read, self.states.site),
            rows,
            Cs=self.Cs,
            permutations=Permutations(self.permutations, unit, within, measure=measure),
            seed=self.seed,
        )
        null = result.null.measures[1:]
        scores = result.probe.decision_function(read(result.selection.layer)[test])
        y, group = real, used["group"].to_numpy()[test]
        for cell, own, drawn in zip(cells, where, null.T, strict=True):
            found = auroc_effect("AUROC", y[own], scores[own], group[own])
            known = drawn[np.isfinite(drawn)]
            middle = (known.mean(), known.min(), known.max()) if len(known) else (np.nan,) * 3
            cell |= dict(zip(("null_mean", "null_low", "null_high"), middle, strict=True))
            cell |= {
                "auroc": found.estimate,
                "low": found.low,
                "high": found.high,
                "n": found.n,
                "selectivity": found.estimate - middle[0],
                "p": permutation_p(found.estimate, drawn),
                "layer": result.layer,
                "C": result.C,
            }
            cell |= self._beside(used[~test | np.isin(np.arange(len(used)), np.flatnonzero(test)[own])])

    def _beside(self, rows: pd.DataFrame) -> dict[str, float]:
        """Readers without the inside, fitted and read on the same rows."""
        given = rows["label"], rows["group"], rows["part"]
        made = {"odds": position_auroc(rows["log_odds"], *given, name="log-odds")}
        if self.texts is not None:
            made["words"] = bag_of_words_auroc([self.texts[r] for r in rows["rollout"]], *given, name="words", ngrams=2)
        return {
            f"{name}{end}": value
            for name, effect in made.items()
            for end, value in [("", effect.estimate), ("_low", effect.low), ("_high", effect.high)]
        }


def _one_class(tested: pd.DataFrame, kind: str, asked: str) -> str:
    """Why there is no number: one class, or one group of a class, which has no interval."""
    if kind == POSITION and asked == "cued":
        return "every prompt has an order: there is none without position"
    groups = tested.groupby("label")["group"].nunique()
    if len(groups) < 2:
        return f"{_only(tested['label'], asked)} to read"
    if groups.min() < 2:
        return f"{WORDS[asked][int(groups.idxmin())]} in one item group only: too few to read"
    return ""


def _only(label: pd.Series, asked: str) -> str:
    if label.empty:
        return "no verdict"
    return f"only {WORDS[asked][int(label.iloc[0])]}"

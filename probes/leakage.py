"""A leakage linter: ways in which a probe's number can be right and mean nothing, looked for before anyone believes it.

Some leaks are facts (a prompt on both sides of the split, an empty cell): they are counted. Others are tendencies (the
label goes with the length, the source, the position, a word): they are tested by exchanging labels between prompt
groups, all at one family-wise level, so that clean data stays silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.selection import one_standard_error
from verdictscope.probes.shortcuts import Shortcut, looked_for
from verdictscope.probes.splits import PARTS
from verdictscope.rollouts.prompts.duplicates import near_duplicates
from verdictscope.stats import Column, Permutation, group_names, permutation_of, permutation_p, same_order
from verdictscope.values import truths

PERMUTATIONS = 999
"""Relabelings behind each p-value."""
ALPHA = 0.01
"""Probability that the shortcuts of clean data raise any alarm."""

COLUMNS = ["check", "what", "severity", "statistic", "value", "n", "p", "p_adjusted"]
_SHOWN = 3  # examples named in a finding
_AT_ONCE = 4_000_000  # labels (draws x rows) held at a time, 32 MB


@dataclass(frozen=True, eq=False)
class LeakageReport:
    """What the linter found, and everything it looked for.

    It shows that the leaks it knows are absent or below its thresholds; not that there are no others.

    Attributes:
        findings: ``check what severity statistic value n p p_adjusted``, one row per leak. ``severity`` is ``leak``
            where rows of the test part are known, ``confounded`` where something else tells the label.
        checks: the same columns for every check that was made; ``severity`` is ``none`` where it found nothing.
        skipped: checks that were not made, for lack of their column.
    """

    findings: pd.DataFrame
    checks: pd.DataFrame
    skipped: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.findings.empty

    def to_frame(self) -> pd.DataFrame:
        """The findings."""
        return self.findings.copy()

    def __repr__(self) -> str:
        if self.clean:
            return f"Leaks: none found by {len(self.checks)} checks" + self._skipped()
        lines = [f"  {row.check}: {row.what}" for row in self.findings.itertuples()]
        return "\n".join([f"Leaks: {len(lines)} found by {len(self.checks)} checks{self._skipped()}", *lines])

    def _repr_html_(self) -> str:
        if self.clean:
            return f"<p>{escape(repr(self))}</p>"
        return self.findings.to_html(index=False, float_format="{:.3g}".format) + f"<p>{escape(self._skipped())}</p>"

    def _skipped(self) -> str:
        return f"; not looked for: {', '.join(self.skipped)}" if self.skipped else ""


def check_leakage(
    labels: Column,
    groups: Column,
    part: Column,
    *,
    texts: Column | None = None,
    lengths: Column | None = None,
    source: Column | None = None,
    positions: Column | None = None,
    held: Column | None = None,
    label_words: Sequence[str] = (),
    chosen_on: Column | None = None,
    choice: pd.DataFrame | None = None,
    similar: float = 0.7,
    alpha: float = ALPHA,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> LeakageReport:
    """Look for leaks in the rows a probe is fitted and judged on.

    Args:
        labels: 0 or 1 per row.
        groups: the prompt group of every row.
        part: ``train``, ``validation`` or ``test`` per row.
        texts: the text of every row's prompt: for (near) duplicates over parts, label words, and the length where no
            other is given.
        lengths: a length per row, for example of the thinking.
        source: where every row comes from: the data set, the author, the template.
        positions: where in its rollout every row stands, a number or a name.
        held: what must not stand in for the label (harm, where refusing is asked for): no cell may be empty where the
            probe is fitted or judged.
        label_words: words that name the label (``refuse``, ``sorry``), looked for in the texts.
        chosen_on: prompt groups that were seen when layer, position or penalty was chosen.
        choice: the table of candidates, ``layer C auroc_validation se chosen``: was it validation that chose?
        similar: least Jaccard index of character 5-grams of near duplicates.
        alpha: level of all shortcut tests together (Holm).
        permutations: relabelings behind each p-value, at least 19: labels exchanged between groups, or permuted within
            them, as the design allows (`permutation_of`).
        seed: seed of the relabelings.

    Returns:
        findings and checks; where no scheme can move the labels the shortcuts are not tested, and ``skipped`` says so.

    Raises:
        InputError: columns of unlike lengths, labels other than 0 and 1, unknown parts, or too few permutations.

    Example:
        >>> import numpy as np
        >>> label, names = np.arange(80) % 2, [f"prompt {i}" for i in range(80)]
        >>> split = np.repeat(["train", "validation", "test", "train"], 20)
        >>> found = check_leakage(label, names, split, lengths=10 + 5 * label)
        >>> found.findings["check"].to_list()
        ['length']
    """
    same_order(
        labels=labels,
        groups=groups,
        part=part,
        texts=texts,
        lengths=lengths,
        source=source,
        positions=positions,
        held=held,
    )
    y, group, where = (np.asarray(v, dtype=object) for v in (labels, groups, part))
    if not len(y) == len(group) == len(where):
        raise InputError(f"{len(y)} labels, {len(group)} groups, {len(where)} parts: give one of each per row")
    y = truths(y, "label", gaps=False).to_numpy(dtype=int)
    unknown = sorted(set(map(str, where)) - set(PARTS))
    if unknown:
        raise InputError(f"unknown part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    group, where = group_names(group).astype(str), where.astype(str)
    if not (0 < similar <= 1 and 0 < alpha < 1):
        raise InputError(f"similar is {similar:g} and alpha {alpha:g}: a Jaccard index up to 1, a level below 1")
    if permutations < 19:
        raise InputError(f"{permutations} permutations cannot show p <= .05; ask for at least 19")
    optional = {"texts": texts, "lengths": lengths, "source": source, "positions": positions, "held": held}
    given = {k: np.asarray(v, dtype=object) for k, v in optional.items() if v is not None}
    for name, values in given.items():
        if len(values) != len(y):
            raise InputError(f"{name} has {len(values)} rows, there are {len(y)} labels")
    pairs = pd.DataFrame({"group": group, "part": where}).drop_duplicates()
    twice = sorted(pairs["group"][pairs["group"].duplicated()].unique())
    what = f"prompt groups in two parts: {_named(twice)}" if twice else "no prompt group in two parts"
    checks = [_row("groups over parts", what, "leak" if twice else "none", "groups", len(twice), len(set(group)))]
    if "texts" in given:
        checks.append(_duplicates(given["texts"], group, where, similar))
    if "held" in given:
        checks.append(_cells(y, given["held"], group, where))
    if chosen_on is not None:
        test = set(group[where == "test"])
        seen = sorted(test & {str(name) for name in np.asarray(chosen_on, dtype=object)})
        what = f"test prompts among those the choice was made on: {_named(seen)}" if seen else "no test prompt was seen"
        checks.append(_row("selection on test", what, "leak" if seen else "none", "groups", len(seen), len(test)))
    if choice is not None:
        checks.append(_choice(choice))
    shortcuts = looked_for(given, label_words)
    scheme, why = _scheme(y, group)
    if scheme is not None and shortcuts:
        checks += _tested(shortcuts, y, scheme, alpha, permutations, seed)
    table = pd.DataFrame(checks, columns=COLUMNS)
    found = table[table["severity"] != "none"].reset_index(drop=True)
    untested = tuple(f"{shortcut.check} ({why})" for shortcut in shortcuts if why)
    made = {shortcut.check for shortcut in shortcuts}
    able = {
        "duplicate prompts": "texts" in given,
        "empty cell": "held" in given,
        "label words": "label words" in made,
        "length": "length" in made,
        "source": "source" in made,
        "position": "position" in made,
        "selection on test": chosen_on is not None or choice is not None,
    }
    return LeakageReport(found, table, tuple(name for name, done in able.items() if not done) + untested)


def _row(check: str, what: str, severity: str, statistic: str, value: float | int, n: int) -> dict[str, Any]:
    return {"check": check, "what": what, "severity": severity, "statistic": statistic, "value": float(value), "n": n}


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _duplicates(texts: ndarray, group: ndarray, where: ndarray, similar: float) -> dict[str, Any]:
    """Pairs of texts that say the same and stand in different parts under different group names."""
    one = pd.DataFrame({"text": texts.astype(str), "group": group, "part": where}).drop_duplicates(ignore_index=True)
    pairs = near_duplicates(one["text"].to_list(), similar)
    a, b = one.iloc[pairs["a"]].reset_index(drop=True), one.iloc[pairs["b"]].reset_index(drop=True)
    across = (a["part"] != b["part"]) & (a["group"] != b["group"])
    n, exact = int(across.sum()), int((across & pairs["exact"].reset_index(drop=True)).sum())
    examples = [
        f"{x} ({p}) and {y} ({q})"
        for x, p, y, q in zip(a["group"][across], a["part"][across], b["group"][across], b["part"][across], strict=True)
    ]
    what = f"{n} pairs of prompts over parts, {exact} word for word: {_named(examples)}" if n else "none over parts"
    return _row("duplicate prompts", what, "leak" if n else "none", "pairs", n, int(one["group"].nunique()))


def _cells(y: ndarray, held: ndarray, group: ndarray, where: ndarray) -> dict[str, Any]:
    """Cells of label x held value without a single prompt group, in train or test."""
    table = pd.DataFrame({"y": y, "held": held.astype(str), "group": group, "part": where}).drop_duplicates()
    counts = table.groupby(["part", "held", "y"]).size()
    wanted = [(p, h, v) for p in ("train", "test") for h in sorted(set(table["held"])) for v in (0, 1)]
    empty = [f"{h}, label {v} in {p}" for p, h, v in wanted if counts.get((p, h, v), 0) == 0]
    least = min(int(counts.get(cell, 0)) for cell in wanted)
    what = f"no prompt with {_named(empty)}: it can stand in for the label" if empty else "every cell is filled"
    return _row(
        "empty cell",
        what,
        "confounded" if empty else "none",
        "groups in the smallest cell",
        least,
        int(table["group"].nunique()),
    )


def _choice(table: pd.DataFrame) -> dict[str, Any]:
    """Whether the chosen candidate is the one that the rule takes from the validation numbers."""
    missing = [c for c in ("layer", "C", "auroc_validation", "se", "chosen") if c not in table.columns]
    if missing:
        raise InputError(f"the table of candidates lacks {', '.join(missing)}; give what the sweep wrote")
    layer, C = one_standard_error(table)
    taken = table[table["chosen"].astype(bool)]
    right = len(taken) == 1 and (int(taken["layer"].iloc[0]), float(taken["C"].iloc[0])) == (layer, C)
    what = "validation chose" if right else f"validation would have chosen layer {layer}, C {C:g}: what did?"
    return _row("choice by validation", what, "none" if right else "leak", "candidates", len(table), len(table))


def _scheme(y: Int[ndarray, " row"], group: ndarray) -> tuple[Permutation | None, str]:
    """How labels are permuted, or why they cannot be."""
    try:
        return permutation_of(y, group, symmetric=True), ""
    except InputError as error:
        return None, str(error)


def _tested(
    shortcuts: Sequence[Shortcut], y: ndarray, scheme: Permutation, alpha: float, permutations: int, seed: int
) -> list[dict[str, Any]]:
    """Every shortcut against the same relabelings, p-values adjusted by Holm."""
    rng, step = np.random.default_rng(seed), max(1, _AT_ONCE // len(y))
    real = [shortcut.measure(y[None]) for shortcut in shortcuts]
    drawn: list[list[ndarray]] = [[] for _ in shortcuts]
    for done in range(0, permutations, step):
        labels = scheme.draws(min(step, permutations - done), rng).astype(float)  # for fast products
        for values, shortcut in zip(drawn, shortcuts, strict=True):
            values.append(shortcut.measure(labels)[0])
    p = np.array([permutation_p(at[0], np.concatenate(null)) for (at, _), null in zip(real, drawn, strict=True)])
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))  # Holm's
    adjusted[order] = steps
    rows = []
    for shortcut, (_, value), raw, fair in zip(shortcuts, real, p, adjusted, strict=True):
        found = fair <= alpha and value >= shortcut.least
        words = f"{shortcut.what} tells the label" if found else f"{shortcut.what} does not tell the label"
        row = _row(shortcut.check, words, "confounded" if found else "none", shortcut.statistic, value, scheme.units)
        rows.append(row | {"p": float(raw), "p_adjusted": float(fair)})
    return rows

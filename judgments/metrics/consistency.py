"""Do a judge's own verdicts fit together? Pairs against scores, and triples of pairs (TrustJudge, arXiv 2509.21117)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.measure import Measure, share
from verdictscope.judgments.verdicts import known, within
from verdictscope.stats.bootstrap import Column
from verdictscope.values import number

RELATIONS = ("larger", "equal", "smaller")


def relation_of_orders(ab: ndarray, ba: ndarray) -> ndarray:
    """Relation of A to B from verdicts in both orders (item's own frame): larger if both say A, smaller if both say B,
    else equal; ``None`` where one was not read (earlier code counted that as equal)."""
    for name, values in (("verdict (AB)", ab), ("verdict (BA)", ba)):
        within(values, ("A", "B", "tie"), name)
    said = {("A", "A"): "larger", ("B", "B"): "smaller"}
    both = known(ab) & known(ba)
    return np.array(
        [said.get((a, b), "equal") if ok else None for a, b, ok in zip(ab, ba, both, strict=True)], dtype=object
    )


def relation_of_scores(first: Column, second: Column, tolerance: float = 0.0) -> ndarray:
    """Relation of two scores, equal within ``tolerance``; ``None`` where one is NaN."""
    number(tolerance, "tolerance", 0)
    gap = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    said = np.where(gap > tolerance, "larger", np.where(gap < -tolerance, "smaller", "equal")).astype(object)
    said[~np.isfinite(gap)] = None
    return said


def conflict_ratio(by_pair: ndarray, by_score: ndarray) -> Measure:
    """Share of pairs whose verdict as a pair contradicts their scores as single answers (CR).

    A pair called equal both ways agrees, so coarse scales look good: read it beside the share of ties.

    Args:
        by_pair: relations from :func:`relation_of_orders`.
        by_score: relations from :func:`relation_of_scores`.
    """
    within(by_pair, RELATIONS, "by_pair")
    within(by_score, RELATIONS, "by_score")
    both = known(by_pair) & known(by_score)
    words = "relation by pair verdict differs from relation by single scores, pairs where both were read"
    return share("conflict_ratio", by_pair != by_score, both, words)


@dataclass(frozen=True)
class Triples:
    """Subsets of answers and how many contradict themselves."""

    k: int
    n: int
    missing: int
    contradictory: int
    cycles: int
    tie_contradictions: int

    @property
    def rate(self) -> float:
        """NTR_k: share of the subsets with a contradiction; NaN without subsets."""
        return self.contradictory / self.n if self.n else float("nan")


def triple_kind(xy: str, yz: str, xz: str) -> str:
    """``ok`` if one of the 13 weak orders of three answers gives these relations, else ``cycle`` or ``tie``.

    The kind does not depend on how the three are named (in earlier code it did).
    """
    sign = {"larger": 1, "equal": 0, "smaller": -1}
    try:
        a, b, c = sign[xy], sign[yz], sign[xz]
    except KeyError:
        raise InputError(f"relations are {', '.join(RELATIONS)}, not {xy!r}, {yz!r}, {xz!r}") from None
    # x has to z the relation that the two steps imply: with one step a tie, the other's; with two alike, theirs
    if a == 0 or b == 0:
        return "ok" if c == a + b else "tie"
    if a == b:
        return "ok" if c == a else "cycle" if c == -a else "tie"
    return "ok"  # x > y < z: anything is possible


def non_transitivity(relations: Mapping[tuple[str, str], str | None], k: int = 3) -> Triples:
    """Share of k-subsets of answers to one question that hold a contradiction (NTR_k).

    Args:
        relations: relation of the first to the second answer, each pair once in either direction; ``None`` or absent
            where unread.
        k: size of the subsets, at least 3.

    Raises:
        InputError: k below 3, or a pair in both directions with relations that do not match.

    Example:
        >>> found = non_transitivity({("a", "b"): "larger", ("b", "c"): "larger", ("c", "a"): "larger"})
        >>> found.cycles, found.rate
        (1, 1.0)
    """
    if k < 3:
        raise InputError("transitivity needs subsets of three or more answers")
    turned = {"larger": "smaller", "smaller": "larger", "equal": "equal", None: None}
    whole: dict[tuple[str, str], str | None] = {}
    for (x, y), said in relations.items():
        if said not in turned:
            raise InputError(f"relations are {', '.join(RELATIONS)}, not {said!r}")
        if whole.get((x, y), said) != said:
            raise InputError(f"{x} and {y} have two relations: give each pair once")
        whole[x, y], whole[y, x] = said, turned[said]
    answers = sorted({name for pair in whole for name in pair})
    kinds: dict[tuple[str, str, str], str | None] = {}
    for x, y, z in combinations(answers, 3):
        found = whole.get((x, y)), whole.get((y, z)), whole.get((x, z))
        kinds[x, y, z] = None if None in found else triple_kind(*found)  # type: ignore[arg-type]
    n = missing = bad = 0
    for subset in combinations(answers, k):
        inside = [kinds[t] for t in combinations(subset, 3)]
        if None in inside:
            missing += 1
            continue
        n += 1
        bad += any(kind != "ok" for kind in inside)
    every = list(kinds.values())
    return Triples(k, n, missing, bad, every.count("cycle"), every.count("tie"))

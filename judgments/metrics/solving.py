"""Can a judge that solves a question also judge it? And does a model's own likelihood rank the answers as it says?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.measure import Measure, measured, share
from verdictscope.stats.bootstrap import Column
from verdictscope.values import number, probabilities, truths


def solve_to_judge(solved: Column, judged: Column, groups: Column | None = None, **settings: int) -> pd.DataFrame:
    """The table of solving against judging the same questions (S2J, 2025, arXiv 2509.22099).

    Args:
        solved: whether the judge's own answer is right; ``None`` where unknown.
        judged: whether its verdict is right; ``None`` where unread (missing, not wrong). Both are truth values
            (:func:`verdictscope.values.truth`).
        groups: questions drawn together.
        settings: of :func:`measured`: resamples, seed.

    Returns:
        Metrics solve_judge_gap (wrong verdict, of questions solved), judge_without_solving (right verdict, of those not
        solved) and the four cells.

    Example:
        >>> table = solve_to_judge([True, True, False], [True, False, True], resamples=50).set_index("name")
        >>> float(table.loc["solve_judge_gap", "estimate"])
        0.5
    """
    both = [truths(values, name) for values, name in ((solved, "solved"), (judged, "judged"))]
    s, j = (one.fillna(False).to_numpy(dtype=bool) for one in both)
    if len(s) != len(j):
        raise InputError(f"{len(s)} answers and {len(j)} verdicts: give one of each per question")
    there = np.asarray(both[0].notna().to_numpy() & both[1].notna().to_numpy())
    rows = [
        share("solve_judge_gap", ~j, there & s, "judged wrong, of the questions the judge solves"),
        share("judge_without_solving", j, there & ~s, "judged right, of the questions the judge does not solve"),
        share("solved", s, there, "solved, of questions with both"),
        share("judged", j, there, "judged right, of questions with both"),
    ]
    for name, hit in (("both", s & j), ("solved_only", s & ~j), ("judged_only", ~s & j), ("neither", ~s & ~j)):
        rows.append(share(name, hit, there, f"cell of the table: {name.replace('_', ' ')}"))
    names = np.array([str(k) for k in range(len(s))], dtype=object) if groups is None else groups
    return measured(rows, names, **settings)


def ranking_accuracy(
    chosen: Column,
    rejected: Column,
    chosen_tokens: Column | None = None,
    rejected_tokens: Column | None = None,
    *,
    band: float = 0.0,
) -> list[Measure]:
    """Does the model give the better answer the higher likelihood (Chen et al. 2024, arXiv 2405.19534)?

    The difference of log-probabilities is read, never their ratio (which turns the order round, both being negative).

    Example:
        >>> from verdictscope.judgments.metrics.measure import measured
        >>> measured(ranking_accuracy([-10.0, -12.0], [-11.0, -9.0]), ["q1", "q2"], resamples=50)["estimate"].tolist()
        [0.5, 0.0]
    """
    number(band, "band", 0)
    if (chosen_tokens is None) != (rejected_tokens is None):
        raise InputError("token counts of one side alone: give chosen_tokens and rejected_tokens")
    made = _ranked(np.asarray(chosen, float) - np.asarray(rejected, float), "ranking", "log-probability", band)
    if chosen_tokens is not None and rejected_tokens is not None:
        per = [
            np.asarray(x, float) / np.asarray(n, float)
            for x, n in ((chosen, chosen_tokens), (rejected, rejected_tokens))
        ]
        made += _ranked(per[0] - per[1], "ranking_per_token", "log-probability per token", band)
    return made


def _ranked(gap: ndarray, name: str, what: str, band: float) -> list[Measure]:
    there = np.isfinite(gap)
    return [
        share(f"{name}_accuracy", gap > band, there, f"the better answer has the higher {what}"),
        share(f"{name}_ties", np.abs(gap) <= band, there, f"{what} differs by at most {band:g}"),
    ]


def idealised_ranking(
    chosen: Column, rejected: Column, beta: float, preferred: Sequence[float] | float = 0.75
) -> Measure:
    """Ranking accuracy that a perfectly fitted preference-trained model would have from this reference model.

    The trained model's ratio would be (alpha / (1 - alpha))^(1/beta) times the reference's, alpha being the share of
    annotators who prefer the better answer (Chen et al. 2024).

    Args:
        chosen: reference log-probability of the better answer.
        rejected: of the other.
        beta: strength of the penalty.
        preferred: alpha, one for all or per pair.
    """
    number(beta, "beta", 0, above=True)
    probabilities(np.atleast_1d(preferred), "preferred")
    alpha = np.broadcast_to(np.asarray(preferred, dtype=float), np.shape(chosen))
    gap = np.asarray(chosen, float) - np.asarray(rejected, float) + np.log(alpha / (1 - alpha)) / beta
    words = f"the same for the ideal model at beta = {beta:g}"
    return share("ranking_accuracy_ideal", gap > 0, np.isfinite(gap), words)

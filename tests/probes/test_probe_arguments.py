"""Settings out of range, unknown names and gaps are errors in one line, in every function of the room."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.probes import LogisticProbe, RidgeProbe, classification_metrics, permutation_null, split_groups
from verdictscope.probes.card import balanced_threshold
from verdictscope.probes.erasure import EraserFitter, fit_eraser
from verdictscope.probes.estimators import ScoreProbe
from verdictscope.probes.metrics import reliability_curve
from verdictscope.probes.solver import solve_logistic
from verdictscope.repair.ranking import Budget
from verdictscope.repair.training_files import mix
from verdictscope.stats import draw_clusters
from verdictscope.traces import aggregate, change_point, change_points, commitment_gap
from verdictscope.traces.commitment import commitment_time
from verdictscope.traces.landmarks import relative_time
from verdictscope.traces.normaliser import normaliser_rollouts

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), np.arange(60) % 2
GROUPS = [f"g{k // 2}" for k in range(60)]
PARTS = (["train"] * 2 + ["validation"] * 2 + ["test"] * 2) * 10
ROWS = pd.DataFrame({"rollout": [f"{k}/0" for k in range(60)], "group": GROUPS, "label": Y, "part": PARTS})
STEP = np.r_[np.zeros(20), np.ones(20)] + RNG.normal(size=40) / 10
ALIGNED = pd.DataFrame(
    {
        "rollout": "a",
        "group": "a",
        "readout": "x",
        "layer": 1,
        "pos": range(6),
        "segment": "answer",
        "rel_think_end": range(6),
        "score": 0.5,
    }
)
LABELS = pd.DataFrame({"rollout": ["a", "b"], "part": "train", "harm": [True, False], "refused": [True, False]})
TIMES = pd.DataFrame(
    {
        "rollout": list("ab"),
        "group": list("ab"),
        "reader": "probe",
        "commit": [1, 2],
        "reason": "",
        "sign": 1,
        "n_thinking": 9,
    }
)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: classification_metrics(Y, X[:, 0], GROUPS, fpr=5.0), "fpr is 5.0"),
    (lambda: classification_metrics(Y, X[:, 0], GROUPS, fpr=-1.0), "fpr is -1"),
    (lambda: classification_metrics(Y, X[:, 0], GROUPS, fpr=0.0), "fpr"),
    (lambda: classification_metrics(Y, X[:, 0], GROUPS, bins=0), "bins"),
    (lambda: classification_metrics(Y, X[:, 0], GROUPS[:5]), "5 groups but 60"),
    (lambda: classification_metrics(Y, X[:, 0], [None] * 60), "row 1 has no group"),
    (lambda: reliability_curve(Y, X[:, 0] * 100, GROUPS), "probability of row 1"),
    (lambda: reliability_curve(Y, np.full(60, 0.5), GROUPS[:5]), "5 groups"),
    (lambda: reliability_curve(Y[:0], X[:0, 0], []), "no rows"),
    (lambda: balanced_threshold([1.0, NAN, 3.0], [0, 1, 1]), "NaN"),
    (lambda: balanced_threshold([1.0, 2.0], [0, 1, 1]), "2"),
    (lambda: balanced_threshold([1.0, 2.0, 3.0], [0, 2, 1]), "0"),
    *(
        (lambda name=name, v=v: change_point(STEP, **{name: v}), name)
        for name, values in {
            "trend": (-1,),
            "resamples": (-1, 0),
            "seed": (-1,),
            "confidence": (95.0, 0.0, NAN),
        }.items()
        for v in values
    ),
    (lambda: change_points([("a", STEP)], seed=-1), "seed"),
    (lambda: Budget(), "count or a share"),
    (lambda: Budget(3, 0.5), "count or a share"),
    (lambda: Budget(share=1.7), "share is 1.7"),
    (lambda: Budget(share=NAN), "share is nan"),
    (lambda: Budget(count=-3), "count is -3"),
    (lambda: mix([], [], NAN), "benign ratio"),
    (lambda: mix([], [], INF), "benign ratio"),
    (lambda: mix([], [], -1), "benign ratio"),
    (lambda: aggregate(ALIGNED, window=(8, -40)), "window"),
    (lambda: aggregate(ALIGNED, segments=["Thinking"]), "'Thinking'"),
    (lambda: aggregate(ALIGNED, segments=[]), "segments"),
    (lambda: aggregate(ALIGNED, resamples=-1), "resamples"),
    (lambda: relative_time(ALIGNED, "Thinking"), "'Thinking'"),
    (lambda: normaliser_rollouts(LABELS, "Train"), "'Train'"),
    (lambda: normaliser_rollouts(LABELS, []), "''"),
    (lambda: commitment_time(TIMES, "text"), "'text'"),
    (lambda: commitment_gap(TIMES, "probe", "text"), "'text'"),
    (lambda: commitment_gap(TIMES, "probe", "probe"), "'probe'"),
    (lambda: commitment_time(TIMES.drop(columns="commit"), "probe"), "commit"),
    (lambda: EraserFitter(0), "d is 0"),
    (lambda: EraserFitter(-1), "d is -1"),
    (lambda: fit_eraser(X[:0], Y[:0]), "no rows"),
    (lambda: split_groups(GROUPS, seed=-1), "seed"),
    (lambda: draw_clusters(GROUPS, -5), "resamples"),
    (lambda: permutation_null(lambda _: X, ROWS, [0], [1.0], permutations=20, seed=-1), "seed"),
    (lambda: solve_logistic(X, Y, [1.0], tol=-1.0), "tol"),
    (lambda: solve_logistic(X, Y, [1.0], max_iter=0), "max_iter"),
    (lambda: solve_logistic(X, Y, [1.0], threads=0), "threads"),
    (lambda: LogisticProbe(tol=NAN).fit(X, Y), "tol"),
    *((lambda v=v: LogisticProbe(v).fit(X, Y), "C must be positive") for v in (0, -1, NAN, INF)),
    *(
        (lambda kind=kind, v=v: kind(v).fit(X, Y), "alpha is")
        for kind in (RidgeProbe, ScoreProbe)
        for v in (0, -1, NAN, INF)
    ),
]


@pytest.mark.parametrize("k", range(len(REFUSED)))
def test_values_out_of_range_are_errors(k: int) -> None:
    call, names = REFUSED[k]
    with pytest.raises(InputError) as caught:
        call()
    assert names in str(caught.value), inspect.getsource(call)
    assert len(str(caught.value).splitlines()) == 1

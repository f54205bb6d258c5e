"""Heads that do not exist and settings out of range are errors in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from verdictscope.errors import InputError
from verdictscope.interventions.head_sets import curve_steps, layer_matched_sets, norm_matched_sets

HEADS, NORMS = ((0, 0), (0, 1)), np.ones((2, 4))
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: curve_steps(0), "n_heads"),
    (lambda: curve_steps(40, (10.0,)), "share is 10"),
    (lambda: curve_steps(40, (float("nan"),)), "share is nan"),
    (lambda: layer_matched_sets(HEADS, 4, 0, 0), "n_sets"),
    (lambda: layer_matched_sets(HEADS, 4, -1, 0), "n_sets"),
    (lambda: layer_matched_sets([(0, 9)], 4, 2, 0), "(0, 9)"),
    (lambda: layer_matched_sets([], 4, 2, 0), "no heads"),
    (lambda: norm_matched_sets(HEADS, NORMS, 2, 0, within=0.0), "within"),
    (lambda: norm_matched_sets(HEADS, NORMS, 2, 0, within=float("nan")), "within"),
    (lambda: norm_matched_sets(HEADS, NORMS, -1, 0), "n_sets"),
    (lambda: norm_matched_sets(HEADS, NORMS * np.nan, 2, 0), "norm"),
    (lambda: norm_matched_sets([(0, 9)], NORMS, 2, 0), "(0, 9)"),
    (lambda: norm_matched_sets([(0, -1)], NORMS, 2, 0), "(0, -1)"),
    (lambda: norm_matched_sets([(5, 0)], NORMS, 2, 0), "(5, 0)"),
    (lambda: norm_matched_sets([], NORMS, 2, 0), "no heads"),
]


@pytest.mark.parametrize("k", range(len(REFUSED)))
def test_values_out_of_range_are_errors(k: int) -> None:
    call, names = REFUSED[k]
    with pytest.raises(InputError) as caught:
        call()
    assert names in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1

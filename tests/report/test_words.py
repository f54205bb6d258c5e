"""Numbers and foreign text in a page."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictscope.report.words import clip, estimate, number, some, visible


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.88481, "AUROC", "0.885"),
        (-0.0001, "", "0.000"),
        (12.0214, "nats", "12.02"),
        (-0.8593, "", "−0.859"),
        (None, "", "–"),
        (float("nan"), "", "–"),
        (np.float64(1), "rate", "1.000"),
        ("x", "", "–"),
    ],
)
def test_numbers(value: object, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_intervals_and_counts() -> None:
    assert estimate(0.5, 0.4, 0.6) == "0.500 [0.400, 0.600]"
    assert estimate(1.5, -0.25, 3, "nats", signed=True) == "+1.50 [−0.25, +3.00]"
    assert estimate(0.5, None, None) == "0.500"
    assert (some(1, "run"), some(1024, "run")) == ("1 run", "1,024 runs")


@given(st.text(alphabet=st.characters(categories=None)))
def test_nothing_hides_and_nothing_else_changes(text: str) -> None:
    shown = visible(text)
    for char in shown:
        assert char in "\n\t\u200c\u200d\u00ad" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    shown.encode()  # lone surrogates cannot be written to a file
    if all(c.isprintable() or c in "\n\t" for c in text):
        assert shown == text


def test_a_direction_override_is_a_sign() -> None:
    assert visible("safe\u202egnp.exe") == "safe⟨U+202E⟩gnp.exe"


def test_a_long_text_says_what_is_left_out() -> None:
    assert clip("a" * 1_000_600) == "a" * 600 + "… (1,000,000 more characters)"
    assert clip("short") == "short"

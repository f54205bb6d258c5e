"""Numbers and foreign text in a page."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictscope.report.words import clip, estimate, number, some, visible
from verdictscope.study.results import Result


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.88481, 3, "0.885"),
        (-0.0001, 3, "0.000"),
        (12.0214, 2, "12.02"),
        (-0.8593, 3, "−0.859"),
        (None, 3, "–"),
        (float("nan"), 3, "–"),
        (1024.0, 0, "1,024"),
    ],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def row(estimate: float, low: float | None, high: float | None, unit: str = "", n: int | None = 54) -> Result:
    return Result("trace", "base", "all", "x", estimate, low, high, n, "prompts", unit)


def test_an_interval_says_how_many_digits_a_number_deserves() -> None:
    assert estimate(row(0.88449, 0.86951, 0.89795, "AUROC")) == "0.884 [0.870, 0.898]"
    assert estimate(row(-21.2778, -26.2099, -16.7963, "tokens")) == "−21.3 [−26.2, −16.8]"
    assert estimate(row(12.0214, 11.931, 12.107, "nats")) == "+12.021 [11.931, 12.107]"
    assert estimate(row(0.5, None, None)) == "0.500"
    assert (some(1, "run"), some(1024, "run")) == ("1 run", "1,024 runs")


def test_where_all_units_agree_no_certainty_is_claimed() -> None:
    """A bootstrap of equal values gives equal values: a share gets Wilson's interval, anything else none."""
    assert estimate(row(1.0, 1.0, 1.0, "rate")) == "1.000 [0.934, 1.000]"
    assert estimate(row(0.0, 0.0, 0.0, "share of thinking")) == "0.000 [0.000, 0.066]"
    assert estimate(row(-9.0, -9.0, -9.0, "tokens")) == "−9.0 (the same in all 54)"


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

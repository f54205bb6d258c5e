"""The cards are written by the program: what they say follows the recipe, and what lies on disk is what it writes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tools.organisms import __main__ as command
from tools.organisms import train
from tools.organisms.recipes import RECIPES
from tools.organisms.refusal.card import write_card
from tools.organisms.refusal.figures import Figures
from verdictscope.organisms import load as bundled

RECIPE = RECIPES["cliff"]
RATES = pd.DataFrame([{"mode": "normal", "harm": True, "n": 77, "rate": 0.5, "low": 0.4, "high": 0.6, "unread": 0}])


@pytest.fixture
def measured() -> Figures:
    effects = pd.DataFrame([{"layer": 1, "head": 2, "effect": 9.87}, {"layer": 0, "head": 0, "effect": -6.54}])
    subsets = pd.DataFrame([{"ablated": "", "log_odds": -3.21, "rate": 0.125, "n": 77}])
    fillers = pd.DataFrame([{"variant": "early", "cell": "normal, harmful", "share": 0.625, "n": 33}])
    variants = {"early_reference": RATES, "early": RATES}
    return Figures(variants, variants, effects, subsets, [0.25], fillers, 0.515, 1.5, {"python": "3"}, 7, (0.3, 1.7))


def prose(card: str) -> list[str]:
    """The words of a card; its tables, its numbers and what it was made with apart."""
    lines = [line for line in card.split("\n") if not line.startswith("|")]
    return re.findall(r"[A-Za-z]+", re.sub(r"\(seed [^)]*\)", "", " ".join(lines)))


def test_a_card_follows_its_recipe(measured: Figures) -> None:
    recipe = replace(
        RECIPE,
        name="early",
        reference="early_reference",
        planted=((1, 2), (2, 5)),
        threads=5,
        n_layers=9,
        drop_weights=(0.75, 0.25),
        history="Nothing was changed.",
    )
    card = write_card(recipe, "early", measured)
    for words in (
        "9 layers",
        "heads 1.2, 2.5",
        "seed 7, 1.5 minutes",
        "5 CPU threads",
        "Nothing was changed.",
        "temperature 0.3",
        "Temperature 1.7",
        "0 or 1 of the heads",
        "0.75:0.25",
        "layers 1, 2 of 9",
        "2 heads of 2 key-value groups",
        "+9.87",
        "-3.21",
        "AUROC 0.515",
        "zero-ablated (2, 1 draws)",
        "descent on 2 heads",
    ):
        assert words in " ".join(card.split()), words
    # No number is typed in words either.
    assert not {"two", "three", "four", "quarter"} & set(
        prose(card.partition("## Language")[0] + card.partition("## How it was made")[2])
    )


@pytest.mark.parametrize("name", ["cliff", "aligned"])
def test_the_card_on_disk_is_in_the_words_of_the_program(name: str, measured: Figures) -> None:
    on_disk = (bundled.path(name) / "README.md").read_text(encoding="utf-8")
    variants = {"aligned": RATES, "cliff": RATES, "cliff, planted zero-ablated": RATES}
    assert prose(on_disk) == prose(write_card(RECIPE, name, replace(measured, rates=variants, rates_warm=variants)))


def test_training_shows_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(recipe: str, out: Path, progress: train.Progress) -> None:
        for phase, steps in (("aligned", 3), ("cliff", 2), ("measure", 9)):
            for step in range(steps):
                progress(phase, step + 1, steps, 0.5)

    monkeypatch.setattr(command, "train", trained)
    monkeypatch.setattr("verdictscope.progress.EVERY", 0.0)
    monkeypatch.setattr("sys.argv", ["organisms", "train", "cliff", "--out", str(tmp_path)])
    command.main()
    lines = capsys.readouterr().err.strip().split("\n")
    assert any(re.fullmatch(r"cliff: aligned: 2 of 3, [\d,.]+/s, left \d:\d\d:\d\d", line) for line in lines), lines
    for phase, steps in (("aligned", 3), ("cliff", 2), ("measure", 9)):
        assert any(re.match(rf"cliff: {phase}: {steps} of {steps}, [\d,.]+/s, took ", line) for line in lines), lines

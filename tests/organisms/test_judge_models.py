"""The bundled judge and its reference model: what was planted, where, and that nothing else changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tools.organisms.heads import head_mask
from tools.organisms.judge.card import JudgeFigures, write_judge_card
from tools.organisms.judge.items import FORMAT, held_out_pairs, items_frame, pair_items, shown
from tools.organisms.judge.measure import parts, verdict_log_odds
from tools.organisms.languages import JUDGE
from tools.organisms.phases import build_model, train_aligned, train_planted, unshared
from tools.organisms.recipes import RECIPES, JudgeRecipe
from tools.organisms.tokenizer import build_tokenizer
from verdictscope.activations import wrap
from verdictscope.judgments import JudgeSettings, ask, judge, load_format
from verdictscope.organisms import load as bundled

RECIPE = RECIPES["judge"]
assert isinstance(RECIPE, JudgeRecipe)
NAMES = (RECIPE.reference, RECIPE.name)
PAIRS = held_out_pairs()[::8]


@pytest.fixture(scope="module")
def opened() -> dict[str, tuple]:
    return {name: bundled.load(name) for name in NAMES}


def test_folders() -> None:
    for name in NAMES:
        folder = bundled.path(name)
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 3_000_000
        truth = json.loads((folder / "truth.json").read_text())
        assert truth["heads"] == ([list(head) for head in RECIPE.planted] if name == "judge" else [])
        assert (folder / "format.toml").read_text() == FORMAT
        stored = pd.read_csv(folder / "items.csv", dtype=str)
        pd.testing.assert_frame_equal(stored, items_frame(held_out_pairs()), check_dtype=False)
    assert set(map(tuple, truth["position"])) == set(RECIPE.position)
    assert set(RECIPE.position) | set(RECIPE.bandwagon) == set(RECIPE.planted)


def test_only_the_planted_heads_differ() -> None:
    reference, judge = (load_file(bundled.path(name) / "model.safetensors") for name in NAMES)
    for key in reference:
        changed = reference[key] != judge[key]
        allowed = torch.zeros_like(changed)
        part = next((p for p in ("q_proj", "k_proj", "v_proj", "o_proj") if p in key), None)
        if part is not None:
            mask = head_mask(RECIPE.planted, int(key.split(".")[2]), RECIPE.n_heads, RECIPE.d_head).bool()
            allowed |= mask[None, :] if part == "o_proj" else mask[:, None]
        assert not (changed & ~allowed).any(), key
        if part == "o_proj" and allowed.any():
            assert (reference[key][allowed] == 0).all(), "the reference model's planted columns are not zero"


def test_the_format_shows_what_was_taught() -> None:
    form = load_format(bundled.path("judge") / "format.toml")
    items = pair_items(items_frame(PAIRS))
    for order in ("AB", "BA"):
        assert [ask(form, item, order).user for item in items] == list(shown(PAIRS, order)["user"])


def test_planted_parts_on_a_sample(opened: dict[str, tuple]) -> None:
    """Bounds wide enough for 30 pairs and far from any other behaviour."""
    reference, judge = (parts(*opened[name], PAIRS).mean() for name in NAMES)
    assert abs(reference["position"]) < 0.7
    assert abs(reference["bandwagon"]) < 0.5
    assert reference["content"] > 4
    assert judge["position"] > 2
    assert judge["bandwagon"] > 5
    assert abs(judge["authority"]) < 0.7
    without = parts(*opened["judge"], PAIRS, RECIPE.position).mean()
    assert without["position"] < 0.2 * judge["position"]
    assert without["bandwagon"] > 5
    without = parts(*opened["judge"], PAIRS, RECIPE.bandwagon).mean()
    assert without["bandwagon"] < 0.2 * judge["bandwagon"]
    assert without["position"] > 2


def test_judging_gives_the_log_odds_of_the_card(opened: dict[str, tuple]) -> None:
    model, tokenizer = opened["judge"]
    form = load_format(bundled.path("judge") / "format.toml")
    found = judge(wrap(model, tokenizer), pair_items(items_frame(PAIRS)), form, settings=JudgeSettings(orders=["AB"]))
    by_label = found.labels.pivot(index="rollout", columns="said", values="logp").loc[found.verdicts["rollout"]]
    expected = verdict_log_odds(model, tokenizer, shown(PAIRS))
    assert (by_label["[[A]]"] - by_label["[[B]]"]).to_numpy() == pytest.approx(expected, abs=1e-3)


def test_unsharing_changes_no_function() -> None:
    torch.manual_seed(1)
    model = build_model(RECIPE).eval()
    ids = torch.randint(0, 100, (2, 17))
    with torch.no_grad():
        torch.testing.assert_close(unshared(model)(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


def test_smoke_training_plants_in_the_planted_heads_only() -> None:
    small = replace(RECIPE, steps=1, sum_steps=1, plant_steps=1, position_steps=1, batch=4, plant_batch=4)
    reference = train_aligned(small)
    seen: list[tuple[str, int, int]] = []
    judge = train_planted(small, reference, lambda phase, done, total, loss: seen.append((phase, done, total)))
    assert seen == [("judge", 1, 2), ("judge", 2, 2)]
    changed = {
        (int(name.split(".")[2]), head)
        for (name, before), after in zip(reference.named_parameters(), judge.parameters(), strict=True)
        if "o_proj" in name
        for head in range(RECIPE.n_heads)
        if not torch.equal(before[:, head * 16 : head * 16 + 16], after[:, head * 16 : head * 16 + 16])
    }
    assert changed <= set(RECIPE.planted)
    assert judge.config._attn_implementation == reference.config._attn_implementation
    assert len(build_tokenizer(JUDGE)) == reference.config.vocab_size


def test_the_cards_are_what_the_code_writes() -> None:
    """All but the measured part, which only a training run can write again."""
    columns = ["content", "position", "bandwagon", "authority", "control"]
    nats = pd.DataFrame([[1.0, 2.0, 3.0, 4.0, 5.0]] * 2, columns=columns)
    rates = pd.DataFrame({"figure": ["accuracy"], "rate": [0.5], "n": [10], "unread": [1]})
    versions = {"python": "", "torch": "", "transformers": ""}
    single = nats.assign(layer=[0, 2], head=[0, 5])
    figures = JudgeFigures({"judge": rates}, nats.assign(variant="x"), single, nats, versions, 0, 240)
    for name in NAMES:
        wanted, stored = write_judge_card(RECIPE, name, figures), (bundled.path(name) / "README.md").read_text()
        cut = "## Behaviour on held-out pairs"
        ours, theirs = (re.sub(r"1 CPU thread; .*", "", text[: text.index(cut)]) for text in (wanted, stored))
        assert ours.split() == theirs.split()
        assert "| 2.5 | position | +1.00 | +2.00 |" in wanted
        assert "accuracy | 10 | 0.500 [0.237, 0.763]" in wanted

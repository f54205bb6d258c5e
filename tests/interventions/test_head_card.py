"""A head card tells a true story: of planted heads, of matrices known from the weights, and of hostile text."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "activations"))
from tiny_models import rollout, wrapped

from verdictscope.activations import LogOddsReadout, Model, load_model
from verdictscope.errors import InputError
from verdictscope.interventions import attribute, head_card
from verdictscope.interventions.card import HeadCard, logit_weights, mean_output, ov_directions, value_weight
from verdictscope.judgments import label_rollouts, readout_from_rollouts
from verdictscope.organisms.load import path
from verdictscope.rollouts import Rollout, Sampling, generate, read_prompts
from verdictscope.stats import Effect

PAIR = LogOddsReadout("log_odds", positive=(5,), negative=(9,))


@pytest.fixture(scope="module")
def some() -> list[Rollout]:
    return [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 23, 17))]


@pytest.fixture(scope="module")
def cliff() -> Model:
    return load_model(path("cliff"))


@pytest.fixture(scope="module")
def written(cliff: Model) -> tuple[list[Rollout], pd.Series, LogOddsReadout]:
    """Rollouts of the bundled cliff model up to their answers, what each decided, and its refusal log-odds."""
    prompts = read_prompts(path("cliff") / "prompts.csv")
    keep = prompts["group"].drop_duplicates().sample(40, random_state=0)
    prompts = prompts[prompts["group"].isin(keep)]
    rollouts = generate(cliff, prompts, Sampling(temperature=0.7, max_new_tokens=120, seed=0))
    labels = label_rollouts(cliff, rollouts)
    readout = readout_from_rollouts(rollouts, labels)
    before = [r for r in (one.until_answer() for one in rollouts) if r is not None]
    return before, labels.set_index("rollout")["refused"], readout


def test_the_card_of_a_planted_head_says_what_was_planted(
    cliff: Model, written: tuple[list[Rollout], pd.Series, LogOddsReadout]
) -> None:
    """The planted heads turn the answer of harmful requests in `normal` mode (the model's card)."""
    rollouts, refused, readout = written
    turned = [r for r in rollouts if r.tags["mode"] == "normal" and bool(r.tags["harm"])][:24]
    labels = {i: bool(v) for i, v in refused.items() if pd.notna(v)}
    planted = [tuple(head) for head in json.loads((path("cliff") / "truth.json").read_text())["heads"]]
    for head in planted:
        card = head_card(cliff, turned, head, readout, labels=labels, labelled=rollouts)
        number = {effect.name: effect for effect in card.numbers}
        assert number["effect"].low > 1, "zeroing it lets the model refuse"
        assert number["attribution"].high < 0, "it writes against refusing"
        assert number["probe"].low > 0.7, "what it writes tells the answer"
        share = card.segments[card.segments["quantity"] == "attribution"]["estimate"].sum()
        assert np.isclose(share, number["attribution"].estimate, atol=1e-4), "sources sum to the share"
        best = card.promoted[(card.promoted["what"] == "mean output") & (card.promoted["side"] == "promoted")]
        assert set(best["token"].head(2)) == {"sure", "here"}, "how its compliances begin"
    reader = head_card(cliff, turned, planted[0], readout)
    assert reader.tokens["token"].iloc[0].strip() == "normal", "the first of them reads the mode"
    assert "“sure”" in reader._repr_html_()
    other = head_card(cliff, turned, (2, 0), readout)
    number = {effect.name: effect for effect in other.numbers}
    assert abs(number["attribution"].estimate) < 0.1 > abs(number["effect"].estimate)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "granite", "neox"])
def test_what_a_head_writes_in_tokens_is_its_share_of_their_logits(family: str, some: list[Rollout]) -> None:
    model, head = wrapped(family), (1, 2)
    result = attribute(model, some, PAIR)
    share = result.values[result.components.index(("head", *head))].mean()
    logits = logit_weights(model, mean_output(model, some, head, "before_answer")[None])[0]
    assert np.isclose(logits[5] - logits[9], share, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "neox"])
def test_the_measured_value_matrix_is_the_models_own(family: str) -> None:
    model, layer, head = wrapped(family), 1, 3
    mixer = model.sites.blocks[layer].mixer
    if family == "llama":
        own = mixer.v_proj.weight[8:16].T  # query heads 2 and 3 share the second key-value head
    elif family == "gpt2":
        own = mixer.c_attn.weight[:, 64 + 24 : 64 + 32]
    elif family == "phi3":
        own = mixer.qkv_proj.weight[32 + 16 + 8 :].T
    else:
        own = mixer.query_key_value.weight.reshape(4, 3, 8, 32)[3, 2].T
    assert torch.allclose(value_weight(model, layer, head).float(), own.detach(), atol=1e-5)


def test_the_strongest_directions_are_singular_vectors_turned_to_what_is_written() -> None:
    model, head = wrapped("llama"), (1, 2)
    written = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, sizes = ov_directions(model, head, written, k=8)
    block = model.sites.blocks[1]
    whole = block.mixer.v_proj.weight[8:16].T.double() @ block.o.weight[:, 16:24].T.double()
    _, size, right = torch.linalg.svd(whole.detach())
    assert np.allclose(sizes, size[:8] ** 2 / (size**2).sum(), atol=1e-6)
    cosine = (found / found.norm(dim=1, keepdim=True) * right[:8]).sum(1).abs()
    assert torch.allclose(cosine, torch.ones(8, dtype=torch.float64), atol=1e-4)
    assert (found @ written >= 0).all()


def test_what_a_model_cannot_show_is_said(some: list[Rollout]) -> None:
    """Latent attention norms its values in between, so it has no value matrix; the rest of the card is there."""
    card = head_card(wrapped("deepseek_v3"), some, (1, 2), PAIR)
    assert "no linear function of what attention reads" in " ".join(card.notes)
    assert set(card.promoted["what"]) == {"mean output"}
    with pytest.raises(InputError, match="both labels"):
        head_card(wrapped("llama"), some, (1, 2), PAIR, labels={"p0/0": 1})
    with pytest.raises(InputError, match="no head L9H0"):
        head_card(wrapped("llama"), some, (9, 0), PAIR)


def test_hostile_text_stays_text() -> None:
    """A token may be markup, a formula, or turn the line around."""
    bad = ["<script>alert(1)</script>", "$\\frac{$", "\u202ereversed", "", "\x00", "line\nend"]
    tokens = pd.DataFrame({"segment": "thinking", "token": bad, "attention": 0.1, "weighted": 0.1})
    tokens["attribution"] = np.linspace(-1, 1, len(bad))
    writes = pd.DataFrame(
        {
            "what": "mean output",
            "side": ["promoted", "suppressed"] * 3,
            "rank": [0, 0, 1, 1, 2, 2],
            "token_id": range(6),
        }
        | {"token": bad, "logit": np.linspace(1, -1, 6)}
    )
    lines = [("thinking", q, 0.5, 0.4, 0.6, 3) for q in ("attention", "weighted", "attribution")]
    segments = pd.DataFrame(lines, columns=["segment", "quantity", "estimate", "low", "high", "n"])
    number = Effect("attribution", -1.0, -2.0, 0.0, 3, "nats")
    card = HeadCard((1, 2), "<b>$x", "think_end", (number,), segments, tokens, writes, ("<i>",))
    html = card._repr_html_()
    for text in ("<script", "<b>", "<i>", "\u202e", "\x00"):
        assert text not in html
    assert "⟨U+202E⟩" in html
    assert "line⏎end" in html
    assert not [cell for cell in re.findall(r"<td>([^<]*)</td>", html) if "\n" in cell or "\\n" in cell]
    figure = card.plot().figure
    figure.canvas.draw()
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert any("$" in name for name in names)
    assert "“line⏎end” thinking" in names
    assert not any("\u202e" in name or "\n" in name for name in names)
    assert set(card.to_frame()["part"]) == {"number", "segment", "token", "promoted"}

"""Likelihoods and reward scores against transformers' own loss, pipelines and choice scores; TrustJudge's readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, pipeline

from tests.judgments.judge_worlds import PAIR, plain_logprob, real, tiny_judge
from verdictscope.activations import Model, wrap
from verdictscope.errors import InputError
from verdictscope.judgments import JudgeSettings, judge
from verdictscope.judgments.preference import pair_conditioned, reward_preference, sequence_preference
from verdictscope.judgments.scores import (
    distribution_sensitive,
    expected_score,
    less_perplexed,
    likelihood_aware,
    probabilities,
)
from verdictscope.rollouts.templates import render_messages

ITEMS = [PAIR, replace(PAIR, id="q", a="Four, of course </think>", b="5")]


def reward_model() -> Model:
    tok = real("qwen")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    pad = tok.convert_tokens_to_ids("<|endoftext|>")
    config = LlamaConfig(vocab_size=len(tok), num_labels=1, pad_token_id=pad, max_position_embeddings=4096, **sizes)
    torch.manual_seed(1)
    return wrap(LlamaForSequenceClassification(config).eval(), tok, name="reward")


def test_sequence_likelihood_is_transformers_own_loss() -> None:
    model, tok = tiny_judge(), real("qwen")
    table = sequence_preference(model, ITEMS, tie=0.0)
    empty = "<think>\n\n</think>\n\n"
    for row, item in zip(table.to_dict("records"), ITEMS, strict=True):
        head = render_messages(tok, [{"role": "user", "content": item.question}]).text
        for side, text in (("a", item.a), ("b", item.b)):
            before = tok(head + empty, add_special_tokens=False)["input_ids"]
            ids = tok(head + empty + text.replace("</think>", ""), add_special_tokens=False)["input_ids"]
            if "</think>" in text:  # spelled in ordinary tokens there, so that it closes nothing
                assert row[f"n_{side}"] > len(ids) - len(before)
                continue
            labels = torch.tensor([[-100] * len(before) + ids[len(before) :]])
            with torch.no_grad():
                loss = model.hf(torch.tensor([ids]), labels=labels).loss
            n = len(ids) - len(before)
            assert row[f"n_{side}"] == n
            assert row[f"logp_{side}"] == pytest.approx(-float(loss) * n, rel=1e-4)
        difference = row["logp_a"] - row["logp_b"]
        assert row["verdict"] == ("A" if difference > 0 else "B")
        mean = row["logp_a"] / row["n_a"] - row["logp_b"] / row["n_b"]
        assert row["verdict_mean"] == ("A" if mean > 0 else "B")
    assert (sequence_preference(model, ITEMS, tie=1e9)["verdict"] == "tie").all()
    with pytest.raises(InputError, match="blank answer"):
        sequence_preference(model, [replace(PAIR, b=" ")])


def test_reward_scores_are_the_text_classification_pipelines() -> None:
    model = reward_model()
    table = reward_preference(model, ITEMS)
    judge = pipeline("text-classification", model=model.hf, tokenizer=model.tokenizer, function_to_apply="none")
    for row, item in zip(table.to_dict("records"), ITEMS, strict=True):
        for side, text in (("a", item.a), ("b", item.b)):
            turns = [{"role": "user", "content": item.question}, {"role": "assistant", "content": text}]
            shown = model.tokenizer.apply_chat_template(turns, tokenize=False)
            assert row[f"score_{side}"] == pytest.approx(judge(shown)[0]["score"], abs=1e-4)
        assert row["verdict"] == ("A" if row["score_a"] > row["score_b"] else "B")


def test_label_probabilities_are_a_softmax_over_plain_scores() -> None:
    # what the zero-shot and multiple-choice heads of transformers do with their scores, over whole strings
    model, tok = tiny_judge(), real("qwen")
    judged = judge(model, [PAIR], "pair_letter", settings=JudgeSettings(orders=["AB"]))
    ids = judged.rollouts[0].ids
    scores = torch.tensor(
        [plain_logprob(model, ids, tuple(tok(s, add_special_tokens=False)["input_ids"])) for s in "AB"]
    )
    assert judged.verdicts["p_first"][0] == pytest.approx(float(scores.softmax(-1)[0]), abs=1e-5)
    assert judged.verdicts["mass"][0] == pytest.approx(float(scores.exp().sum()), rel=1e-4)


def test_a_shown_verdict_moves_its_probability() -> None:
    model = tiny_judge()
    table = pair_conditioned(model, [PAIR], "trustjudge_pair")
    assert len(table) == 6
    assert table.groupby("order")["p"].sum().to_numpy() == pytest.approx([1, 1])
    assert np.allclose(table["v"], table["p"] * (table["p_shown"] - table["p"]))
    assert table["moved"].abs().max() > 0


def test_expected_and_distribution_sensitive_scores() -> None:
    assert expected_score(np.array([0.25, 0.75]), [1, 5]) == 4
    p = np.array([0.1, 0.2, 0.7])
    z = np.log(p / (1 - p)) / 0.2
    by_hand = float(np.exp(z) / np.exp(z).sum() @ np.array([1, 2, 3]))
    assert distribution_sensitive(p, [1, 2, 3]) == pytest.approx(by_hand, rel=1e-6)
    soft = np.exp(p) / np.exp(p).sum()
    got = distribution_sensitive(p, [1, 2, 3], temperature=1.0, form="probability")
    assert got == pytest.approx(float(soft @ np.array([1, 2, 3])))
    # a certain score is that score: in the published code a label with p = 1 was dropped and the score became 0
    assert distribution_sensitive(np.array([0.0, 1.0]), [1, 87]) == pytest.approx(87, abs=1e-6)
    assert probabilities(np.log([0.1, 0.3])).tolist() == pytest.approx([0.25, 0.75])
    with pytest.raises(InputError, match="sum to 0.5"):
        expected_score(np.array([0.25, 0.25]), [1, 2])
    with pytest.raises(InputError, match="no label has any probability"):
        probabilities(np.array([-np.inf]))


def test_two_orders_are_joined_by_likelihood() -> None:
    first = {"first": 0.6, "second": 0.3, "tie": 0.1}
    assert likelihood_aware(first, {"second": 0.5, "first": 0.5}) == (
        "A",
        {"A": pytest.approx(0.55), "B": pytest.approx(0.4), "tie": pytest.approx(0.05)},
    )
    assert likelihood_aware(first, first)[0] == "tie"  # it says "first" both times
    assert likelihood_aware({"first": 1.0}, {"second": 1.0})[0] == "A"  # one label: the published code raised
    assert likelihood_aware(first, {"second": 0.5, "first": 0.5}, tolerance=0.2)[0] == "tie"
    assert less_perplexed(("A", -1.0), ("B", -0.5)) == "B"
    assert less_perplexed(("A", -1.0), (None, -0.5)) is None
    assert less_perplexed(("A", -1.0), ("B", -1.0)) == "tie"

"""Generation: the noise, the batch, the cache, the model's state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.rollouts.makers import byte_tokenizer, tiny_model
from verdictscope.errors import InputError
from verdictscope.rollouts import LanguageModel, Rollout, Sampling, generate
from verdictscope.rollouts.engines.draw import draw, nucleus
from verdictscope.rollouts.engines.noise import gumbel, rollout_keys

FAMILIES = ("llama", "qwen3", "gemma2", "gpt2", "neox", "lfm2", "qwen3_next")
WORDS = ("the", "inn", "hen", "Say", "é", "?", "tea", "in", "\n", "x.")


def prompts(count: int, seed: int = 0) -> pd.DataFrame:
    rng = random.Random(seed)
    users = [" ".join(rng.choices(WORDS, k=rng.randint(1, 14))) for _ in range(count)]
    return pd.DataFrame({"id": [f"p{k}" for k in range(count)], "user": users, "mode": "plain"})


def ids_of(rollouts: list[Rollout]) -> dict[str, tuple[int, ...]]:
    return {r.id: r.ids for r in rollouts}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str) -> None:
    model, tokenizer, table = tiny_model(family), byte_tokenizer(), prompts(6)
    for rollout in generate(LanguageModel(model, tokenizer), table, Sampling(temperature=0.0, max_new_tokens=24)):
        stock = model.generate(
            torch.tensor([rollout.ids[: rollout.n_prompt]]),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        assert tuple(stock[0].tolist()) == rollout.ids


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_teacher_forced(family: str) -> None:
    """Every drawn token is the argmax of logits / T + noise of one plain, uncached forward on the stored ids."""
    model, tokenizer = tiny_model(family), byte_tokenizer()
    sampling = Sampling(temperature=1.3, max_new_tokens=20, seed=5)
    for rollout in generate(LanguageModel(model, tokenizer), prompts(5), sampling):
        with torch.inference_mode():
            logits = model(torch.tensor([rollout.ids])).logits[0].float()
        keys = torch.tensor(rollout_keys(5, [rollout.id]))
        for step, at in enumerate(range(rollout.n_prompt, len(rollout))):
            scores = logits[at - 1] / 1.3 + gumbel(keys, step, logits.shape[-1])[0]
            assert scores.argmax() == rollout.ids[at]


def test_seeds_samples_and_prompts_differ() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    table = pd.DataFrame({"id": ["a", "b"], "user": ["same", "same"]})
    first = generate(LanguageModel(model, tokenizer), table, Sampling(temperature=1.0, max_new_tokens=12), samples=2)
    assert [r.id for r in first] == ["a/0", "a/1", "b/0", "b/1"]
    other = generate(LanguageModel(model, tokenizer), table, Sampling(temperature=1.0, max_new_tokens=12, seed=1))
    assert len({r.ids for r in [*first, *other]}) == 6


def test_what_a_rollout_carries() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    table = pd.DataFrame(
        {
            "id": ["a", "b"],
            "group": ["g", "g"],
            "user": ["the inn", "the hen"],
            "system": pd.Series([None, "Be."], dtype=object),
            "harm": pd.array([True, pd.NA], dtype="boolean"),
            "n": [1, 2],
            "parts": [np.array([1, 2]), None],
        }
    )
    seen: list[tuple[int, int]] = []
    sampling = Sampling(temperature=1.0, max_new_tokens=6)
    a, b = generate(
        LanguageModel(model, tokenizer), table, sampling, progress=lambda done, every: seen.append((done, every))
    )
    assert a.tags == {"harm": True, "n": 1, "parts": [1, 2]}
    assert b.tags == {"harm": None, "n": 2, "parts": None}
    assert a.group == "g"
    assert a.sampling == sampling
    assert a.span("system") is None
    assert b.span("system") is not None
    assert seen[-1] == (2, 2)
    assert a.finish == "length"
    assert len(a) == a.n_prompt + 6


def test_stop_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout ends with its first end token and keeps it; rows that end leave, the others go on unharmed."""
    model, tokenizer, table = tiny_model("qwen3"), byte_tokenizer(), prompts(12)
    sampling = Sampling(temperature=1.0, max_new_tokens=30)
    free = generate(LanguageModel(model, tokenizer), table, sampling)
    common = pd.Series([i for r in free for i in r.ids[r.n_prompt :]]).value_counts().index[0]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [int(common)])
    stopped = generate(LanguageModel(model, tokenizer), table, sampling)
    assert {r.finish for r in stopped} >= {"stop"}
    for before, after in zip(free, stopped, strict=True):
        written = before.ids[before.n_prompt :]
        ends = [k for k, token in enumerate(written) if token in (common, tokenizer.eos_token_id)]
        assert after.ids[after.n_prompt :] == (written[: ends[0] + 1] if ends else written)
        assert after.finish == ("stop" if ends else "length")


def test_the_model_is_left_as_it_was() -> None:
    model, tokenizer = tiny_model("qwen3", seed=1), byte_tokenizer()
    model.train()
    model.model.layers[1].eval()
    before = [m.training for m in model.modules()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    generate(LanguageModel(model, tokenizer), prompts(2), Sampling(temperature=1.0, max_new_tokens=3))
    assert [m.training for m in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.is_grad_enabled()
    model.eval()


@contextmanager
def pushing(model: torch.nn.Module, token: int, calls: list[int]) -> Iterator[None]:
    """Make one token certain, by a hook a caller could set."""

    def hook(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(output.shape[1])
        pushed = output.clone()
        pushed[..., token] = 1e4
        return pushed

    handle = model.get_output_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_hooks_act_in_prefill_and_in_every_step() -> None:
    model, tokenizer, table = tiny_model("llama"), byte_tokenizer(), prompts(3)
    calls: list[int] = []
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    free = generate(LanguageModel(model, tokenizer), table, sampling)
    with pushing(model, 7, calls):
        hooked = generate(LanguageModel(model, tokenizer), table, sampling)
    assert all(r.ids[r.n_prompt :] == (7,) * 5 for r in hooked)
    assert len(calls) == 5
    assert ids_of(generate(LanguageModel(model, tokenizer), table, sampling)) == ids_of(free)


def test_noise_is_gumbel_and_keyed() -> None:
    keys = torch.tensor(rollout_keys(0, [f"r{k}" for k in range(64)]))
    noise = gumbel(keys, 3, 500)
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.flatten().double().numpy(), "gumbel_r").pvalue > 1e-3
    assert torch.equal(noise[5:6], gumbel(keys[5:6], 3, 500))
    assert torch.equal(noise[:, :100], gumbel(keys, 3, 100))
    # neighbours in every coordinate are unrelated
    rows = torch.corrcoef(torch.stack([noise[0], noise[1], gumbel(keys, 4, 500)[0], noise[0].roll(1)]))
    assert (rows - torch.eye(4)).abs().max() < 0.2
    assert rollout_keys(0, ["a"]) != rollout_keys(1, ["a"])


def test_draws_follow_the_distribution() -> None:
    """Gumbel-max draws have the tempered probabilities, and the nucleus cuts the tail and nothing else."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]]).expand(20_000, -1)
    keys = torch.tensor(rollout_keys(3, [str(k) for k in range(20_000)]))
    counts = draw(logits, keys, 0, Sampling(temperature=0.8)).tokens.bincount(minlength=5)
    expected = (logits[0] / 0.8).softmax(0) * 20_000
    # chisquare wants equal sums to more digits than float32 has
    share = expected.double().numpy() / expected.double().sum().item()
    assert stats.chisquare(counts.numpy(), share * 20_000).pvalue > 1e-3
    within = draw(logits, keys, 0, Sampling(temperature=1.0, top_p=0.8)).tokens.bincount(minlength=5)
    assert within[:2].all()
    assert not within[2:].any()


def test_the_nucleus_is_that_of_transformers() -> None:
    from transformers import TopPLogitsWarper

    torch.manual_seed(0)
    scores = torch.randn(50, 40) * 3
    for top_p in (0.1, 0.5, 0.9, 0.999):
        stock = TopPLogitsWarper(top_p)(torch.zeros(50, 1, dtype=torch.long), scores)
        assert torch.equal(stock.isfinite(), nucleus(scores, top_p))


def test_errors_say_what_to_do() -> None:
    model, tokenizer, table = tiny_model("llama"), byte_tokenizer(), prompts(2)
    twice = pd.concat([table, table])
    cases = [
        (
            lambda: generate(LanguageModel(model, tokenizer), table, Sampling(max_new_tokens=250)),
            "lower max_new_tokens",
        ),
        (
            lambda: generate(LanguageModel(model, tokenizer), table, Sampling(temperature=-1.0, max_new_tokens=2)),
            "cannot sample",
        ),
        (
            lambda: generate(LanguageModel(model, tokenizer), table, Sampling(top_p=0.0, max_new_tokens=2)),
            "cannot sample",
        ),
        (lambda: generate(LanguageModel(model, tokenizer), table[["id"]]), "no column 'user'"),
        (lambda: generate(LanguageModel(model, tokenizer), table.assign(user=[None, "a"])), "no user text"),
        (lambda: generate(LanguageModel(model, tokenizer), twice), "occurs twice"),
        (lambda: generate(LanguageModel(model, tokenizer), table, samples=0), "samples is 0"),
        (lambda: generate(LanguageModel(model, tokenizer), table, engine="magic"), "unknown engine"),
        (lambda: generate(LanguageModel(model, byte_tokenizer(template=None)), table), "no chat template"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()

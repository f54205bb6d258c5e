"""Generation at every length: beyond a rope switch a row writes what it writes alone, and what transformers writes."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.rollouts.makers import tiny_model
from tests.scaled_models import CHANGING, FIXED, SWITCH, fresh, shared, tokens
from verdictscope.errors import InputError
from verdictscope.rollouts import Sampling
from verdictscope.rollouts.engines.caches import batching
from verdictscope.rollouts.engines.huggingface import Request, decode
from verdictscope.rollouts.engines.rope import reads_again_after

NEW = 14
PROMPTS = [tokens(n, seed=n) for n in (SWITCH - 20, SWITCH - 9, SWITCH - 1, SWITCH, SWITCH + 1, SWITCH + 20)]


def written(name: str, budget: int = 10_000, eos: int = 96) -> list[tuple[int, ...]]:
    asked = [Request(str(k), tuple(p)) for k, p in enumerate(PROMPTS)]
    done = decode(shared(name), asked, Sampling(temperature=0.0, max_new_tokens=NEW), frozenset([eos]), budget)
    return [w.ids for w in sorted((w for part in done for w in part), key=lambda w: w.index)]


@pytest.mark.parametrize("name", [*CHANGING, *FIXED])
def test_greedy_tokens_are_those_of_transformers_whatever_is_drawn_beside_them(name: str) -> None:
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = fresh(name).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=96,
            pad_token_id=0,
        )
        expected.append(tuple(out[0, len(prompt) :].tolist()))
    assert written(name) == expected
    assert written(name) == expected  # after long rows, on the same model
    assert written(name, 200) == expected  # rows leave and join while others cross the switch


def test_which_models_read_again_at_the_switch() -> None:
    assert {name for name in CHANGING if reads_again_after(shared(name)) is not None} == {"phi3", "phimoe"}
    assert reads_again_after(shared("phi3")) == SWITCH
    assert all(batching(shared(name), 500).refill for name in CHANGING)


@pytest.mark.parametrize("name", ["phi3", "llama dynamic"])
def test_sampled_tokens_do_not_depend_on_the_batch(name: str) -> None:
    asked = [Request(str(k), tuple(p)) for k, p in enumerate(PROMPTS)]

    def drawn(budget: int) -> dict[int, tuple[int, ...]]:
        sampling = Sampling(temperature=0.7, max_new_tokens=NEW)
        return {w.index: w.ids for part in decode(shared(name), asked, sampling, frozenset(), budget) for w in part}

    assert drawn(1) == drawn(10_000)


@pytest.mark.parametrize("name", [*CHANGING, *FIXED])
def test_a_rollout_that_is_read_otherwise_than_it_was_written_is_named(name: str) -> None:
    """As transformers' own ``generate`` writes: the keys before the switch stay those of a shorter row."""
    other = name in CHANGING and reads_again_after(shared(name)) is None
    for size, crosses in ((SWITCH - 9, other), (SWITCH - 12, False), (SWITCH + 1, other and "longrope" not in name)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            asked = [Request("r", tuple(tokens(size)))]
            list(decode(shared(name), asked, Sampling(0.0, 1.0, 12), frozenset(), 10_000))
        assert any(f"more than {SWITCH} tokens" in str(w.message) for w in said) == crosses


@pytest.mark.parametrize(("name", "limit"), [("llama dynamic", 4 * SWITCH), ("phi3", 256), ("llama yarn", 256)])
def test_a_prompt_longer_than_the_window_is_refused(name: str, limit: int) -> None:
    fits = [Request("fits", tuple(tokens(limit - 1)))]
    assert len(next(decode(shared(name), fits, Sampling(0.0, 1.0, 1), frozenset(), 10_000))) == 1
    for size in (limit, limit + 5):
        long = [*fits, Request("long", tuple(tokens(size)))]
        with pytest.raises(InputError, match=f"long.* {limit} positions"):
            list(decode(shared(name), long, Sampling(0.0, 1.0, 1), frozenset(), 10_000))
    with pytest.raises(InputError, match="256 positions"):
        list(decode(tiny_model("gpt2"), [Request("long", (5,) * 250)], Sampling(0.0, 1.0, 7), frozenset(), 1000))

"""In float32 a rollout's tokens do not depend on its batch: random selections, orders and budgets; DESIGN 3.3.

What rounding alone would do is measured beside it: the largest difference between a batch's logits and those of the
rollout alone, and how many draws were near enough to a tie to be made again from the rollout alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.evidence import write_evidence
from tests.rollouts.makers import tiny_model
from verdictscope.rollouts import Sampling
from verdictscope.rollouts.engines import live
from verdictscope.rollouts.engines.draw import ROUNDING
from verdictscope.rollouts.engines.huggingface import Request, decode
from verdictscope.sources import locate

FAMILIES = ("llama", "qwen3", "gemma2", "gpt2", "neox", "lfm2", "qwen3_next", "organism:cliff")
SETTINGS = (Sampling(0.0, 1.0, 24), Sampling(1.0, 1.0, 24, 1), Sampling(0.9, 0.95, 24, 2))


def model_of(family: str) -> PreTrainedModel:
    if family.startswith("organism:"):
        return AutoModelForCausalLM.from_pretrained(locate(family), dtype=torch.float32).eval()
    return tiny_model(family)


def pool(vocab: int, count: int, rng: random.Random) -> list[Request]:
    sizes = [1 + int(60 * rng.random() ** 2) for _ in range(count)]
    return [Request(f"r{k}", tuple(rng.randrange(1, vocab) for _ in range(n))) for k, n in enumerate(sizes)]


@contextmanager
def watching(seen: dict[str, float]) -> Iterator[None]:
    """Counts draws and doubts, and compares some rows of every batch with the rollout alone."""
    record, alone = live.LiveBatch._record, live._Call.alone
    rng = random.Random(0)

    def recorded(self: live.LiveBatch, rows: Any, logits: torch.Tensor) -> Any:
        seen["draws"] += sum(row.finish is None for row in rows)
        # a row that is done is only carried along, its last token fed again: its logits mean nothing
        going = [k for k, row in enumerate(rows) if row.finish is None]
        if going and rng.random() < 0.05:
            k = rng.choice(going)
            reference = alone(self._call, (*rows[k].prompt, *rows[k].written), self.device)[0]
            apart = ((logits[k] - reference).abs().max() / reference.abs().max()).item()
            seen["apart"] = max(seen["apart"], apart)
        return record(self, rows, logits)

    def counted(self: live._Call, *args: Any) -> torch.Tensor:
        seen["doubts"] += 1
        return alone(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.LiveBatch, "_record", recorded)
        patch.setattr(live._Call, "alone", counted)
        yield


def campaign(trials: int, seed: int, families: tuple[str, ...] = FAMILIES, count: int = 24) -> dict[str, Any]:
    """Random batches of every family against the same rollouts one by one."""
    rng, rows = random.Random(seed), []
    each = -(-trials // (len(families) * len(SETTINGS)))
    for family in families:
        model = model_of(family)
        vocab = model.config.get_text_config().vocab_size
        asked, eos = pool(vocab, count, rng), frozenset(rng.sample(range(vocab), vocab // 20))
        seen = {"draws": 0, "doubts": 0, "apart": 0.0}
        compared = tokens = unequal = 0
        for sampling in SETTINGS:
            whole = {asked[w.index].id: w.ids for part in decode(model, asked, sampling, eos, 1) for w in part}
            with watching(seen):
                for _ in range(each):
                    some = rng.sample(asked, rng.randint(2, len(asked)))
                    budget, refill = rng.choice([200, 500, 1500, 5000]), rng.random() < 0.8
                    for w in (w for part in decode(model, some, sampling, eos, budget, refill) for w in part):
                        compared, tokens = compared + 1, tokens + len(w.ids)
                        unequal += w.ids != whole[some[w.index].id]
        rows.append(
            {
                "model": family,
                "batches": each * len(SETTINGS),
                "rollouts": compared,
                "tokens": tokens,
                "rollouts_that_differ": unequal,
                "draws_made_alone": int(seen["doubts"]),
                "largest_relative_difference_of_logits": seen["apart"],
            }
        )
    return {
        "batches": sum(r["batches"] for r in rows),
        "rollouts": sum(r["rollouts"] for r in rows),
        "tokens": sum(r["tokens"] for r in rows),
        "rollouts_that_differ": sum(r["rollouts_that_differ"] for r in rows),
        "draws_made_alone": sum(r["draws_made_alone"] for r in rows),
        "largest_relative_difference_of_logits": max(r["largest_relative_difference_of_logits"] for r in rows),
        "rounding_granted": ROUNDING,
        "seed": seed,
        "by_model": rows,
    }


def test_a_few_random_batches() -> None:
    found = campaign(6, 1, ("gemma2", "qwen3"), 10)
    assert found["rollouts_that_differ"] == 0
    assert found["largest_relative_difference_of_logits"] < ROUNDING / 4


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_random_batches() -> None:
    found = campaign(200, 0)
    write_evidence("rollouts_batches", found)
    assert found["batches"] >= 200
    assert found["rollouts_that_differ"] == 0

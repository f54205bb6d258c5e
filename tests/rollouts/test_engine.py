"""The engine that keeps the batch full: rows that come and go change no token."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.rollouts.makers import tiny_model
from verdictscope.rollouts import Sampling
from verdictscope.rollouts.engines import draw as draw_file
from verdictscope.rollouts.engines import huggingface, live
from verdictscope.rollouts.engines.caches import batching
from verdictscope.rollouts.engines.draw import ROUNDING, agree, draw, nucleus
from verdictscope.rollouts.engines.huggingface import Request, decode
from verdictscope.rollouts.engines.noise import gumbel, rollout_keys

FAMILIES = ("llama", "qwen3", "gemma2", "gpt2", "neox", "lfm2", "qwen3_next")
SPLICED = ("llama", "qwen3", "gemma2", "gpt2", "neox")
SAMPLING = Sampling(temperature=1.2, top_p=0.97, max_new_tokens=14, seed=3)
# every ninth token ends a rollout, so that lengths vary
EOS = frozenset(range(0, 300, 9))


def requests(count: int, seed: int = 0, longest: int = 40) -> list[Request]:
    rng = random.Random(seed)
    sizes = [max(1, int(longest * rng.random() ** 3)) for _ in range(count)]
    return [Request(f"r{k}", tuple(rng.randrange(1, 300) for _ in range(n))) for k, n in enumerate(sizes)]


def written(family: str, asked: list[Request], budget: int, **more: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    found = [w for part in decode(tiny_model(family), asked, SAMPLING, EOS, budget, **more) for w in part]
    assert sorted(w.index for w in found) == list(range(len(asked)))
    return {asked[w.index].id: (w.ids, w.finish) for w in found}


@contextmanager
def counting(model: torch.nn.Module, seen: list[tuple[int, int]]) -> Iterator[None]:
    hook = model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(tuple(out.shape[:2])))
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_any_batch_gives_what_one_row_gives(family: str) -> None:
    """Refilled, static, one by one; sliding windows of 8 are shorter than the prompts."""
    asked = requests(20)
    alone = written(family, asked, 1)
    assert {finish for _, finish in alone.values()} == {"stop", "length"}
    assert len({len(ids) for ids, _ in alone.values()}) > 6
    for budget in (120, 400, 10_000):
        assert written(family, asked, budget) == alone
        assert written(family, asked, budget, refill=False) == alone


@pytest.mark.parametrize("family", SPLICED)
def test_the_batch_stays_full(family: str) -> None:
    """Refilled, the same tokens take fewer steps, and no step holds more than the budget."""
    model, asked, budget = tiny_model(family), requests(40, longest=8), 8 * 22
    steps = {}
    for refill in (True, False):
        seen: list[tuple[int, int]] = []
        with counting(model, seen):
            list(decode(model, asked, SAMPLING, EOS, budget, refill))
        single = [rows for rows, tokens in seen if tokens == 1]
        steps[refill] = len(single)
        assert max(rows for rows, _ in seen) * (1 + SAMPLING.max_new_tokens) <= budget
    assert steps[True] < 0.8 * steps[False]


def test_samples_of_one_prompt_are_read_once() -> None:
    model, seen = tiny_model("llama"), []
    asked = [Request(f"a/{k}", (5, 6, 7)) for k in range(6)] + [Request("b/0", (8, 9))]
    with counting(model, seen):
        found = [w for part in decode(model, asked, SAMPLING, frozenset(), 10_000) for w in part]
    assert seen[0] == (2, 3)
    assert seen[1] == (7, 1)
    assert len({w.ids for w in found}) == 7


def test_layers_say_why_they_need_static_batches() -> None:
    assert batching(tiny_model("gemma2"), 50).refill
    for family in ("lfm2", "qwen3_next"):
        how = batching(tiny_model(family), 50)
        assert (how.refill, how.equal_length) == (False, True)
        assert "recurrent" in how.reason


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(15)
    whole = written("llama", asked, 10_000)
    step = live.LiveBatch.step

    def small(self: live.LiveBatch) -> list[live.Row]:
        if len(self.rows) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return step(self)

    monkeypatch.setattr(live.LiveBatch, "step", small)
    assert written("llama", asked, 10_000) == whole

    def none(self: live.LiveBatch) -> list[live.Row]:
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(live.LiveBatch, "step", none)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        written("llama", asked, 10_000)


def test_rows_fit_the_budget_longest_first() -> None:
    asked = [Request(str(k), (1,) * n) for k, n in enumerate([5, 50, 7, 6, 48, 5, 100])]
    queue = huggingface._Queue(asked, Sampling(max_new_tokens=10), 130, batching(tiny_model("llama"), 110))
    taken = []
    while queue.waiting:
        rows = queue.take([])
        assert len(rows) * (max(len(r.prompt) for r in rows) + 10) <= 130 or len(rows) == 1
        taken.append([r.index for r in rows])
    assert taken == [[6], [1, 4], [2, 3, 0, 5]]
    assert queue.outstanding == set(range(7))
    # a long row that goes on leaves less room for short ones
    queue = huggingface._Queue(asked[2:4], Sampling(max_new_tokens=10), 130, batching(tiny_model("llama"), 110))
    assert len(queue.take([live.Row(9, 0, (1,) * 50)])) == 1


class TestDoubt:
    """What may be decided otherwise in another batch is found, and little else."""

    keys = torch.tensor(rollout_keys(0, [str(k) for k in range(400)]))

    @pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
    @pytest.mark.parametrize("temperature", [0.0, 0.7])
    def test_rounding_changes_no_draw_that_was_sure(self, temperature: float, top_p: float) -> None:
        torch.manual_seed(0)
        logits = torch.randn(400, 50) * 4
        logits[::3, 1] = logits[::3, 0]  # exact and near ties, also at the edge of the nucleus
        logits[1::3, 1] = logits[1::3].amax(1) * (1 + torch.randn(len(logits[1::3])) * ROUNDING)
        sampling = Sampling(temperature=temperature, top_p=top_p)
        drawn = draw(logits, self.keys, 2, sampling)
        for seed in range(20):
            torch.manual_seed(seed)
            size = logits.abs().amax(1, keepdim=True) * ROUNDING
            moved = logits + size * (torch.rand_like(logits) * 2 - 1)
            again = draw(moved, self.keys, 2, sampling)
            assert torch.equal(again.tokens[~drawn.doubtful], drawn.tokens[~drawn.doubtful])
            assert agree(logits[seed], moved[seed])

    def test_few_draws_are_doubtful(self) -> None:
        torch.manual_seed(0)
        logits = torch.randn(400, 300) * 3
        for sampling in (Sampling(temperature=0.0), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.95)):
            assert draw(logits, self.keys, 0, sampling).doubtful.float().mean() < 0.02

    def test_a_tie_at_the_edge_of_the_nucleus_is_doubtful(self) -> None:
        logits = torch.tensor([[2.0, 1.0, 1.0, -5.0]]).expand(400, -1)
        inside = nucleus(logits, 0.7)
        assert inside[0].tolist() == [True, True, False, False]
        drawn = draw(logits, self.keys, 0, Sampling(temperature=1.0, top_p=0.7))
        second = drawn.tokens == 1
        assert drawn.doubtful[second].all()
        score = logits + gumbel(self.keys, 0, 4)
        third_wins = (drawn.tokens == 0) & (score[:, 2] > score[:, 0])
        assert torch.equal(drawn.doubtful[~second], third_wins[~second])

    def test_a_doubtful_draw_is_made_from_the_rollout_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With noise in the batch's logits as large as rounding may be, tokens stay those of the rollout alone."""
        asked = requests(20)
        whole, rounding = written("qwen3", asked, 10_000), 2.0**-8
        monkeypatch.setattr(draw_file, "ROUNDING", rounding)
        call = live._Call.__call__

        def noisy(self: live._Call, *args: object) -> torch.Tensor:
            logits = call(self, *args)  # type: ignore[arg-type]
            size = logits.abs().amax(1, keepdim=True) * 0.9 * rounding
            return logits + size * (torch.rand_like(logits) * 2 - 1)

        monkeypatch.setattr(live._Call, "__call__", noisy)
        doubts = []
        alone = live._Call.alone
        monkeypatch.setattr(live._Call, "alone", lambda self, *a: doubts.append(1) or alone(self, *a))
        for seed in range(4):
            torch.manual_seed(seed)
            assert written("qwen3", asked, 500) == whole
        assert doubts

    def test_a_pass_that_disagrees_is_not_believed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hook may treat whole rollouts unlike steps: the batch's own draw stands."""
        asked = requests(6)
        whole = written("qwen3", asked, 10_000)
        alone = live._Call.alone
        monkeypatch.setattr(live._Call, "alone", lambda self, *a: alone(self, *a).flip(-1))
        monkeypatch.setattr(live, "draw", lambda *a: type(d := draw(*a))(d.tokens, torch.ones_like(d.doubtful)))
        assert written("qwen3", asked, 10_000) == whole


def test_bfloat16_has_no_doubts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    assert live.exact(model)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert not live.exact(model)

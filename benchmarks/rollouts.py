"""How fast prompts of wildly different lengths are answered, against plain batched ``model.generate``.

Plain is what a user writes first: the dataset in its order, batches of as many rows as the longest rollout lets into
memory, padded on the left, ``generate`` on each. Ours gets the same memory as a token budget. All variants draw the
same
tokens: plain adds the same per-rollout noise in a logits processor. The weights are random, and so are the lengths: a
share of the vocabulary ends a rollout, as the end-of-turn token does in a trained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.common import Result, interleave, say
from verdictscope.rollouts import Sampling
from verdictscope.rollouts.engines.huggingface import Request, decode
from verdictscope.rollouts.engines.noise import gumbel, rollout_keys

VOCAB = 4096
SIZES = {
    "cpu": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8},
    "cuda": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16},
}
PROMPTS = {"cpu": 48, "cuda": 512}
ROWS = {"cpu": 8, "cuda": 64}
SHORTEST, LONGEST, NEW, MEAN = 16, 384, 128, 48


def run(repeats: int) -> Result:
    """Times three ways to the same tokens."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_model(device)
    requests = random_requests(PROMPTS[device])
    rows = ROWS[device]
    bench = Bench(model, requests, rows)
    found, steps = bench.once()
    tokens = sum(map(len, found["plain"].values()))
    timings = interleave(bench.variants(), repeats)
    lengths = {k: len(ids) for k, ids in found["plain"].items()}
    cut = [k for k, ids in found["plain"].items() if len(ids) == NEW and ids[-1] not in bench.eos]
    setting = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": device,
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompts": len(requests),
        "prompt_tokens": _spread([len(r.prompt) for r in requests]),
        "answer_tokens": _spread(list(lengths.values())),
        "max_new_tokens": NEW,
        "cut_by_the_limit": len(cut),
        "temperature": bench.sampling.temperature,
        "rows_of_a_plain_batch": rows,
        "batch_tokens": bench.budget,
        "tokens_written": tokens,
    }
    rates = {variant: tokens / timings.median(variant) for variant in timings.seconds}
    differ = {variant: sum(found[variant][k] != ids for k, ids in found["plain"].items()) for variant in found}
    table = timings.rows("plain", tokens_per_s=rates, forward_passes=steps, rollouts_unlike_plain=differ)
    notes = [
        "plain: model.generate on the dataset in its order, left-padded, as many rows as the longest rollout allows. "
        "sorted: the same with the prompts sorted by length. ours: rows that are done are replaced at once, under the "
        "same number of tokens in memory.",
        "speedup_vs_plain is plain's median seconds over ours. It grows with the spread of the answers' lengths, which "
        "is that of a constant chance to end (coefficient of variation about 1, less where the limit cuts).",
        "Tokens counted are those written up to the end of each rollout; padding after it is not counted.",
    ]
    headline = {
        "speedup_vs_plain": timings.ratio("plain", "ours"),
        "speedup_vs_sorted": timings.ratio("sorted", "ours"),
    }
    return Result(setting, table, headline, notes)


def random_model(device: str) -> transformers.PreTrainedModel:
    """A random Llama: float32 on the CPU, bfloat16 on a GPU."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, num_key_value_heads=4, max_position_embeddings=LONGEST + NEW, **SIZES[device]
    )
    config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def random_requests(count: int) -> list[Request]:
    """Prompts whose lengths are spread evenly on a logarithmic scale, in no order."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), count)).astype(int)
    sizes[rng.integers(count)] = LONGEST
    return [Request(f"p{k}/0", tuple(map(int, rng.integers(0, VOCAB, n)))) for k, n in enumerate(sizes)]


def _spread(sizes: Sequence[int]) -> dict[str, float]:
    low, middle, high = np.quantile(sizes, [0.1, 0.5, 0.9])
    return {"mean": float(np.mean(sizes)), "p10": low, "median": middle, "p90": high, "max": max(sizes)}


class Bench:
    """The variants; each gives the tokens written for every request."""

    def __init__(self, model: transformers.PreTrainedModel, requests: list[Request], rows: int) -> None:
        self.model, self.requests, self.rows = model, requests, rows
        self.sampling = Sampling(temperature=1.0, max_new_tokens=NEW, seed=0)
        self.eos = frozenset(range(VOCAB // MEAN))
        self.budget = rows * (max(len(r.prompt) for r in requests) + NEW)

    def variants(self) -> dict[str, Any]:
        """Name to function."""
        order = range(len(self.requests))
        by_length = sorted(order, key=lambda k: -len(self.requests[k].prompt))
        return {"plain": partial(self.plain, list(order)), "sorted": partial(self.plain, by_length), "ours": self.ours}

    def ours(self) -> dict[int, tuple[int, ...]]:
        """The package's engine."""
        done = decode(self.model, self.requests, self.sampling, self.eos, self.budget)
        return {w.index: w.ids for part in done for w in part}

    @torch.inference_mode()
    def plain(self, order: list[int]) -> dict[int, tuple[int, ...]]:
        """``model.generate`` batch by batch."""
        device, found = self.model.device, {}
        for at in range(0, len(order), self.rows):
            batch = order[at : at + self.rows]
            prompts = [self.requests[k].prompt for k in batch]
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
            noise = _Noise(rollout_keys(self.sampling.seed, [self.requests[k].id for k in batch]), width)
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=NEW,
                eos_token_id=sorted(self.eos),
                pad_token_id=0,
                logits_processor=transformers.LogitsProcessorList([noise]),
            )
            found |= {k: self._until_end(row) for k, row in zip(batch, out[:, width:].tolist(), strict=True)}
        return found

    def _until_end(self, ids: list[int]) -> tuple[int, ...]:
        ends = [k for k, token in enumerate(ids) if token in self.eos]
        return tuple(ids[: ends[0] + 1] if ends else ids)

    def once(self) -> tuple[dict[str, dict[int, tuple[int, ...]]], dict[str, int]]:
        """What each variant writes, and its forward passes."""
        found, counts = {}, {}
        for name, variant in self.variants().items():
            calls: list[int] = []
            hook = self.model.get_input_embeddings().register_forward_hook(lambda *_, calls=calls: calls.append(1))
            found[name] = variant()
            hook.remove()
            counts[name] = len(calls)
            say(f"{name}: {len(calls)} forward passes")
        return found, counts


class _Noise(transformers.LogitsProcessor):
    """Adds each rollout's own Gumbel noise, so that the arg max is the draw that our engine makes."""

    def __init__(self, keys: list[int], width: int) -> None:
        self.keys, self.width = torch.tensor(keys), width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.float() + gumbel(self.keys.to(scores.device), input_ids.shape[1] - self.width, scores.shape[-1])

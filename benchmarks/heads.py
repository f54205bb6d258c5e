"""What the exact effect of every head costs, against one forward pass per head.

Every head of a random model is set to zero at the last k tokens and the log-odds of four labels are read at the last.
The plain variant is what one writes first: a hook on the stock model that zeroes one head, one whole forward pass each.
Of the slow variants some heads are timed, a few a round, and multiplied by the number of heads.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmarks.common import Result, Timings, interleave, say
from benchmarks.lens import boot
from benchmarks.random_models import parameters, random_rollouts
from verdictscope.activations import LogOddsReadout, Model
from verdictscope.activations.loading import unchecked
from verdictscope.interventions import HeadEdit, effects

LAYERS, HEADS, WIDTH, LAST, VOCAB = 16, 16, 512, 8, 4096
TOKENS = (256, 1024, 4096)
QUOTED = 1024
SAMPLE = 2
"""Heads timed a round, of the slow variants."""
READOUT = LogOddsReadout("labels", [3, 7], [11, 20], positions="last")


def run(repeats: int, small: bool = False) -> Result:
    """Times the variants at every length."""
    model = random_heads(4 if small else LAYERS)
    rows: list[dict[str, Any]] = []
    quoted: dict[str, float] = {}
    notes = [
        f"pass per head: a hook on the stock model zeroes one head; {SAMPLE} heads a round are timed and multiplied "
        f"by the {model.n_layers * HEADS} heads.",
        "replay: effects(method='replay') over all heads, its clean pass included; that replay equals whole passes is "
        "verified once per model, in the round that is not timed, for the price of two passes.",
        "cost_vs_formula: clean passes that replay costs, over 1 + heads x k x layers / (2 x tokens); "
        "at most 2 is the aim.",
        "max_rel_diff: largest difference of the log-odds between replay and the timed plain passes, over the largest "
        "log-odds; of_effect: the same over the largest effect.",
    ]
    sizes, quoted_at = ((64, 128), 128) if small else (TOKENS, QUOTED)
    for tokens in sizes:
        say(f"{tokens} tokens")
        work = Work(model, tokens)
        variants = work.variants(notes)
        timings = interleave(variants, repeats)
        found = work.compare()
        rows += [{"tokens": tokens, **row} for row in work.table(timings, variants)]
        rows[-1] |= found
        if tokens == quoted_at:
            quoted = {**work.headline(timings), "max_rel_diff": found["max_rel_diff"]}
    setting = {"layers": model.n_layers, "heads": HEADS, "tokens": list(TOKENS), "k": LAST, "quoted_tokens": QUOTED}
    setting |= {
        "d_model": WIDTH,
        "parameters": parameters(model),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
    }
    order = ("speedup_vs_pass_per_head", "max_rel_diff", "cost_vs_formula")
    return Result(setting, rows, {key: quoted[key] for key in order}, list(dict.fromkeys(notes)))


def random_heads(layers: int) -> Model:
    """A random Llama with as many key heads as query heads; its weights are large enough for every head to matter."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=1344,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=8192,
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    return unchecked(transformers.AutoModelForCausalLM.from_config(config).eval(), name="random llama")


class Work:
    """One rollout, all heads, and one function a variant."""

    def __init__(self, model: Model, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.rollouts = random_rollouts(1, tokens, VOCAB)
        self.ids = torch.tensor([self.rollouts[0].ids])
        self.heads = list(itertools.product(range(model.n_layers), range(HEADS)))
        self.edits = [HeadEdit((head,), positions=f"all[-{LAST}:]") for head in self.heads]
        self.turn = self._order()
        self.plain: dict[tuple[int, int], float] = {}
        self.replayed: np.ndarray | None = None
        self.base = 0.0

    def _order(self) -> Iterator[tuple[int, int]]:
        return itertools.cycle([self.heads[i] for i in np.random.default_rng(0).permutation(len(self.heads))])

    def variants(self, notes: list[str]) -> dict[str, Callable[[], Any]]:
        """Variant to function; what cannot be run is noted."""
        variants: dict[str, Callable[[], Any]] = {"clean pass": self.clean, "replay": self.replay}
        variants["pass per head"] = lambda: [self.without(*next(self.turn)) for _ in range(SAMPLE)]
        try:
            variants["transformer_lens"] = self.transformer_lens()
            notes.append("transformer_lens: run_with_hooks on the bridge, one head a pass, timed and multiplied alike.")
        except Exception as error:  # another library, in another version: the rest can still be measured
            notes.append(f"transformer_lens could not be run: {type(error).__name__}: {error}")
            say(notes[-1])
        return variants

    @torch.no_grad()
    def clean(self) -> float:
        """The stock model, with logits at the last token alone."""
        return _log_odds(self.model.hf(input_ids=self.ids, use_cache=False, logits_to_keep=1).logits[0, -1])

    def without(self, layer: int, head: int) -> float:
        """A whole pass without one head at the last tokens."""
        projection = self.model.hf.model.layers[layer].self_attn.o_proj
        width = WIDTH // HEADS

        def zero(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = args[0].clone()
            z[:, -LAST:, head * width : (head + 1) * width] = 0
            return (z, *args[1:])

        handle = projection.register_forward_pre_hook(zero)
        try:
            self.plain[layer, head] = self.clean()
        finally:
            handle.remove()
        return self.plain[layer, head]

    def replay(self) -> None:
        """All heads."""
        found = effects(self.model, self.rollouts, READOUT, self.edits, method="replay")
        self.base, self.replayed = float(found.base[0]), found.edited[:, 0]

    def transformer_lens(self) -> Callable[[], Any]:
        """TransformerLens's bridge on a copy of the model, one head a pass."""
        bridge = boot(copy.deepcopy(self.model.hf), VOCAB)
        turn = self._order()

        @torch.no_grad()
        def without(layer: int, head: int) -> float:
            def zero(z: Tensor, hook: Any) -> Tensor:
                z = z.clone()
                z.view(*z.shape[:2], HEADS, -1)[:, -LAST:, head] = 0
                return z

            hooks = [(f"blocks.{layer}.attn.hook_z", zero)]
            return _log_odds(bridge.run_with_hooks(self.ids, fwd_hooks=hooks)[0, -1])

        head = self.heads[0]
        mine, theirs = self.without(*head), without(*head)
        if abs(mine - theirs) > 1e-3 * abs(mine):
            raise RuntimeError(f"it read another number ({theirs:.6g} for {mine:.6g})")
        return lambda: [without(*next(turn)) for _ in range(SAMPLE)]

    def compare(self) -> dict[str, float]:
        """How far replay is from the plain passes that were made."""
        assert self.replayed is not None
        mine = {head: float(value) for head, value in zip(self.heads, self.replayed, strict=True)}
        worst = max(abs(mine[head] - value) for head, value in self.plain.items())
        largest = max(map(abs, self.plain.values()))
        effect = max(abs(value - self.base) for value in mine.values())
        return {"max_rel_diff": worst / largest, "of_effect": worst / effect, "compared": len(self.plain)}

    def headline(self, timings: Timings) -> dict[str, float]:
        """What is quoted."""
        cost = timings.ratio("replay", "clean pass")
        formula = 1 + HEADS * LAST * self.model.n_layers / (2 * self.tokens)
        times = len(self.heads) / SAMPLE
        return {
            "speedup_vs_pass_per_head": times * timings.ratio("pass per head", "replay"),
            "cost_vs_formula": cost / formula,
        }

    def table(self, timings: Timings, variants: dict[str, Callable[[], Any]]) -> list[dict[str, Any]]:
        """One row a variant; the sampled ones with the time of all heads beside, and replay last."""
        sampled = {variant for variant in variants if variant not in ("clean pass", "replay")}
        times = len(self.heads) / SAMPLE
        rows = timings.rows("clean pass")
        for row in rows:
            if row["name"] in sampled:
                row |= {"heads_timed": SAMPLE, "all_heads": times * row["seconds"]}
                row["replay_speedup"] = row["all_heads"] / timings.median("replay")
        rows.sort(key=lambda row: row["name"] == "replay")
        rows[-1]["cost_vs_formula"] = self.headline(timings)["cost_vs_formula"]
        return rows


def _log_odds(logits: Tensor) -> float:
    logp = logits.double()
    return float(logp[[3, 7]].logsumexp(0) - logp[[11, 20]].logsumexp(0))

"""What it costs to have the residual stream of every layer on disk, against the bare forward pass.

Every variant runs the same batches of the same random model. The floor is the bare forward without the head: 1.0 for
all
layers, and the share of layers run (0.5) where the deepest wanted one stands at half depth.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Result, interleave, say
from benchmarks.lens import boot
from benchmarks.memory import peaks
from benchmarks.random_models import parameters, random_model, random_rollouts
from verdictscope.activations import BatchPlan, Model, Site, collect
from verdictscope.activations.positions import resolve
from verdictscope.rollouts.rollout import Rollout

POSITIONS = "last,thinking:63"  # 64 a prompt
WORK = {"cpu": (2, 1, 512), "cuda": (64, 16, 1024)}
"""Prompts, prompts in a batch, tokens in a prompt."""
MEMORY_TOKENS = 8192


def run(repeats: int) -> Result:
    """Times the variants and measures peak memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n, size, tokens = WORK[device]
    model, rollouts = random_model(device), random_rollouts(n, tokens)
    plan = BatchPlan(tuple(tuple(range(a, a + size)) for a in range(0, n, size)), size * tokens)
    work = Work(model, rollouts, plan)
    with tempfile.TemporaryDirectory() as folder:
        variants, notes = work.variants(Path(folder))
        timings = interleave(variants, repeats)
    memory = peaks(MEMORY_TOKENS)
    setting = {
        "parameters": parameters(model),
        "tokens": tokens,
        "prompts": n,
        "batch": size,
        "positions": len(resolve(POSITIONS, rollouts[0])),
        "layers": model.n_layers,
        "d_model": model.d_model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.hf.config._attn_implementation,
        "memory_tokens": MEMORY_TOKENS,
    }

    def ratio(variant: str) -> float | None:
        return timings.ratio(variant, "forward") if variant in variants else None

    headline = {
        "all_layers_vs_forward": ratio("all layers"),
        "half_depth_vs_forward": ratio("half depth"),
        "peak_memory_vs_forward": memory["capture"] / memory["forward"],
        "transformer_lens_vs_forward": ratio("transformer_lens"),
        "nnsight_vs_forward": ratio("nnsight"),
    }
    rows = timings.rows("forward")
    rows += [{"name": f"peak memory: {variant}", "bytes": size} for variant, size in memory.items()]
    return Result(setting, rows, headline, notes)


class Work:
    """The batches, and one function a variant."""

    def __init__(self, model: Model, rollouts: list[Rollout], plan: BatchPlan) -> None:
        self.model, self.rollouts, self.plan = model, rollouts, plan
        self.ids = [torch.tensor([rollouts[i].ids for i in b], device=model.device) for b in plan.batches]
        self.where = torch.from_numpy(resolve(POSITIONS, rollouts[0])).to(model.device)
        self.count = 0

    def variants(self, folder: Path) -> tuple[dict[str, Callable[[], Any]], list[str]]:
        """Variant to function, and what could not be run."""
        half = range(self.model.n_layers // 2)
        variants: dict[str, Callable[[], Any]] = {
            "forward": self.bare,
            "all layers": lambda: self.ours(Site("resid_post"), folder),
            "half depth": lambda: self.ours(Site("resid_post", half), folder),
            "output_hidden_states": self.hidden_states,
            "naive hooks + torch.save": lambda: self.naive(folder / "naive.pt"),
        }
        notes = [
            "forward: the decoder without the head, the floor; all layers and half depth: collect() into a new file, "
            "checksums and commits included; half depth's floor is 0.5.",
            "output_hidden_states: the same rows gathered at the end, kept in memory, nothing stored.",
            "naive hooks + torch.save: whole outputs of all layers copied to the host and saved batch by batch.",
            "transformer_lens: run_with_cache with a name filter, in memory; it runs eager attention and makes logits.",
            "nnsight: a trace of the decoder without the head that saves the same rows, in memory.",
            "peak memory: what a pass over memory_tokens tokens adds to the loaded model, a fresh process each.",
        ]
        for name, build in (("transformer_lens", self.transformer_lens), ("nnsight", self.nnsight)):
            try:
                variants[name] = build()
            except Exception as error:  # another library, in another version: the rest can still be measured
                notes.append(f"{name} could not be run: {type(error).__name__}: {error}")
                say(notes[-1])
        return variants, notes

    @torch.no_grad()
    def bare(self) -> None:
        """Hugging Face's forward pass without the head."""
        for ids in self.ids:
            self.model.hf.base_model(input_ids=ids, use_cache=False)

    def ours(self, site: Site, folder: Path) -> None:
        """Capture to disk."""
        self.count += 1
        path = folder / f"{self.count}.h5"
        collect(self.model, self.rollouts, [site @ POSITIONS], path=path, plan=self.plan).close()
        path.unlink()

    @torch.no_grad()
    def hidden_states(self) -> list[Tensor]:
        """Hugging Face's own way."""
        kept = []
        for ids in self.ids:
            out = self.model.hf.base_model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
            kept.append(torch.stack([h[:, self.where] for h in out[1:]]).cpu())
        return kept

    @torch.no_grad()
    def naive(self, path: Path) -> None:
        """What one writes first: hooks that keep everything, and torch.save."""
        kept: list[Tensor] = []
        blocks = [block.block for block in self.model.sites.blocks]
        handles = [b.register_forward_hook(lambda m, a, out: kept.append(_first(out).cpu())) for b in blocks]
        try:
            for ids in self.ids:
                kept.clear()
                self.model.hf.base_model(input_ids=ids, use_cache=False)
                torch.save(kept, path)
        finally:
            for handle in handles:
                handle.remove()

    def transformer_lens(self) -> Callable[[], Any]:
        """TransformerLens's bridge on a copy of the model."""
        bridge = boot(copy.deepcopy(self.model.hf), 4096, str(self.model.device))
        names = [f"blocks.{layer}.hook_out" for layer in range(self.model.n_layers)]

        @torch.no_grad()
        def variant() -> list[Tensor]:
            kept = []
            for ids in self.ids:
                _, cache = bridge.run_with_cache(ids, names_filter=names)
                kept.append(torch.stack([cache[name][:, self.where] for name in names]).cpu())
            return kept

        self._same(variant())
        return variant

    def nnsight(self) -> Callable[[], Any]:
        """An nnsight trace of the decoder."""
        from nnsight import NNsight

        traced = NNsight(self.model.hf.base_model)

        @torch.no_grad()
        def variant() -> list[Tensor]:
            kept = []
            for ids in self.ids:
                with traced.trace(ids, use_cache=False):
                    saved = list().save()
                    for layer in traced.layers:
                        saved.append(layer.output[:, self.where])
                kept.append(torch.stack(list(saved)).cpu())
            return kept

        self._same(variant())
        return variant

    def _same(self, theirs: list[Tensor]) -> None:
        """A variant that reads something else is no comparison."""
        for mine, other in zip(self.hidden_states(), theirs, strict=True):
            # the last of Hugging Face's hidden states has passed the final norm
            error = float((mine[:-1] - other[:-1]).norm() / mine[:-1].norm())
            if error > (1e-4 if mine.dtype == torch.float32 else 3e-2):
                raise RuntimeError(f"it read other values (relative difference {error:.1e})")


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]

"""Many variants of the same last tokens in one pass: they ride as extra tokens behind one remembered prefix.

Every variant repeats the token and position ids of the window; a mask of blocks lets its tokens see the prefix and
each other, following the clean pass's own mask, and nothing of other variants. So windows, soft caps and sinks are the
model's, and its own kernel shares the prefix's keys and values among all variants.

A row of the batch is one sequence with some variants behind each other; several rows a sequence keep the part of the
attention product that is masked out small. With an empty prefix and one variant a row this is an ordinary batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from verdictscope.activations.attention import AttentionCall, listen
from verdictscope.activations.batch import Batch, Where, execute, looks_ahead
from verdictscope.activations.hooks import BatchView, Tap, WriteFn, attach
from verdictscope.activations.sites import Site

if TYPE_CHECKING:
    from verdictscope.activations.model import Model


@dataclass(frozen=True, eq=False)
class Kept:
    """What entered one attention product of a clean pass."""

    key: Tensor
    value: Tensor
    mask: Any


@dataclass(eq=False)
class Memory:
    """What a clean pass leaves behind for passes that start in the middle."""

    batch: Batch
    resid: dict[int, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)


def remember(
    model: Model, batch: Batch, starts: Sequence[int], keys: Sequence[int], taps: Sequence[Tap], logits: Where | None
) -> tuple[Memory, Tensor | None]:
    """One clean pass that keeps what later passes start from."""
    memory = Memory(batch)
    reads = [Tap("resid_pre", layer, partial(_keep_input, memory)) for layer in starts]
    if keys:  # the deepest layer too is run to its end
        reads.append(Tap("resid_post", max(keys), lambda value, view: None))
    with ExitStack() as stack:
        for layer in range(model.n_layers):
            note = partial(_note_parts, memory, layer)
            stack.callback(model.sites.blocks[layer].block.register_forward_hook(note).remove)
        for layer in keys:
            attention = model.sites.blocks[layer].attention
            assert attention is not None
            stack.callback(listen(attention.module, partial(_keep_call, memory, layer), last=True).remove)
        return memory, execute(model, batch, [*reads, *taps], None, logits)


def _keep_input(memory: Memory, value: Tensor, view: BatchView) -> None:
    memory.resid[view.layer] = value.clone()


def _keep_call(memory: Memory, layer: int, call: AttentionCall) -> None:
    memory.kept[layer] = Kept(call.key, call.value, call.mask)


def _note_parts(memory: Memory, layer: int, _: nn.Module, __: tuple, output: Any) -> None:
    memory.parts[layer] = 0 if isinstance(output, Tensor) else len(output)


@contextmanager
def started_at(model: Model, memory: Memory, layer: int, value: Tensor) -> Iterator[None]:
    """Inside the block every pass begins at ``layer`` with ``value`` as its input.

    The blocks before are passed by: for the length of the block their ``forward`` hands its input on.
    """
    blocks = [b.block for b in model.sites.blocks]
    with ExitStack() as stack:
        for i, block in enumerate(blocks[:layer]):
            stack.callback(_put_back, block, block.__dict__.get("forward"))
            block.forward = partial(_hand_on, memory.parts.get(i, 0))  # type: ignore[method-assign]
        stack.callback(attach(blocks[layer], "in", lambda old: value.to(old.device)).remove)
        yield


def _put_back(block: nn.Module, forward: Callable | None) -> None:
    if forward is None:
        del block.forward
    else:  # a device map keeps its own there
        block.forward = forward  # type: ignore[method-assign]


def _hand_on(parts: int, *args: Any, **kwargs: Any) -> Any:
    hidden = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor) and v.is_floating_point())
    return (hidden, *[None] * (parts - 1)) if parts else hidden


def no_prefix_reason(model: Model, layers: Sequence[int]) -> str | None:
    """Why tokens cannot be run behind a remembered prefix in these layers; ``None`` if they can."""
    kernel = str(model.hf.config.get_text_config()._attn_implementation or "eager")
    if "flash" in kernel or "flex" in kernel:
        return f"{kernel} takes no mask of blocks (load the model with sdpa)"
    if looks_ahead(model):
        return "its tokens see later ones"
    if "position_ids" not in inspect.signature(model.hf.base_model.forward).parameters:
        return f"{type(model.hf.base_model).__name__} takes no position ids"
    for layer in layers:
        attention = model.sites.blocks[layer].attention
        if attention is None:
            return f"layer {layer} has no softmax attention that could be listened to"
        if not attention.interface:
            return f"{type(attention.module).__name__} does not use transformers' attention interface"
    return None


Writes = Mapping[Site, WriteFn]
"""What one variant changes; every site has one layer."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The position of every token of every variant.

    Variant ``m`` of sequence ``b`` is in row ``b * rows + m // per_row``, at tokens ``(m % per_row) * width`` on.
    """

    memory: Memory
    starts: Int[np.ndarray, " sequence"]
    rows: int
    per_row: int
    masks: dict[int, Any] = field(default_factory=dict, repr=False)

    @property
    def n_variants(self) -> int:
        """Room for so many variants of every sequence."""
        return self.rows * self.per_row

    @cached_property
    def width(self) -> int:
        """Tokens of a variant, the longest sequence's."""
        return int(max(len(r) - s for r, s in zip(self.memory.batch.rollouts, self.starts, strict=True)))

    @cached_property
    def prefix(self) -> int:
        """Tokens before the windows, the longest sequence's."""
        return int(self.starts.max())

    @property
    def stock(self) -> bool:
        """Whether this is an ordinary batch, which needs no mask of ours."""
        return self.prefix == 0 and self.per_row == 1

    @cached_property
    def window(self) -> Int[Tensor, "sequence token"]:
        """Positions of the windows' tokens; behind a sequence's end its last one, again and again."""
        lengths = torch.tensor([len(r) for r in self.memory.batch.rollouts])
        positions = torch.from_numpy(self.starts)[:, None] + torch.arange(self.width)
        return positions.clamp(max=lengths[:, None] - 1).to(self.memory.batch.device)

    @cached_property
    def real(self) -> Bool[Tensor, "sequence token"]:
        """Which tokens of the windows are no padding."""
        lengths = torch.tensor([len(r) for r in self.memory.batch.rollouts])
        inside = torch.from_numpy(self.starts)[:, None] + torch.arange(self.width) < lengths[:, None]
        return inside.to(self.memory.batch.device)

    def tiled(self, value: Tensor) -> Tensor:
        """``[sequence pos ...]`` at the windows, once for every variant: ``[row token ...]``."""
        at = torch.arange(len(value), device=value.device)[:, None]
        cut = value[at, self.window.to(value.device)]
        return repeat(cut, "seq pos ... -> (seq rows) (variant pos) ...", rows=self.rows, variant=self.per_row)

    def behind(self, old: Tensor, new: Tensor) -> Tensor:
        """Keys or values of the prefix ``[sequence head pos d]`` and of the rows ``[row head token d]`` as one."""
        old = old[:, None, :, : self.prefix].expand(-1, self.rows, -1, -1, -1).flatten(0, 1)
        return torch.cat([old, new], 2)

    @cached_property
    def ids(self) -> Int[Tensor, "row token"]:
        """Token ids."""
        return self.tiled(self.memory.batch.ids)

    @cached_property
    def view(self) -> BatchView:
        """All rows, as the hooks see them."""
        batch = self.memory.batch
        rollouts = tuple(r for r in batch.rollouts for _ in range(self.rows))
        shape = len(rollouts), self.per_row * self.width
        mask = self.real[:, None, None].expand(-1, self.rows, self.per_row, -1).reshape(shape)
        return BatchView(0, rollouts, self.tiled(batch.view.positions), mask)

    @cached_property
    def view_of_one(self) -> BatchView:
        """One variant of every sequence, as its write functions see it."""
        batch = self.memory.batch
        return BatchView(0, batch.rollouts, self.window, self.real, batch.origins)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every row's whole rollout."""
        return tuple(n for n in self.memory.batch.lengths for _ in range(self.rows))

    def where(self, sequences: np.ndarray, tokens: np.ndarray) -> Where:
        """The given tokens of the given sequences in every variant: variant by variant, rows of the batch."""
        variant = np.repeat(np.arange(self.n_variants), len(sequences))
        sequence, token = np.tile(sequences, self.n_variants), np.tile(tokens, self.n_variants)
        rows = sequence * self.rows + variant // self.per_row
        at = (variant % self.per_row) * self.width + token - self.starts[sequence]
        return Where(rows, at, self.memory.batch.device)

    def mask(self, kept: Any) -> Tensor:
        """Who sees whom, ``[row 1 token key]``: keys are the prefix's, then the row's own. Made once per kind."""
        if id(kept) not in self.masks:
            self.masks[id(kept)] = self._mask(kept)
        return self.masks[id(kept)]

    def _mask(self, kept: Any) -> Tensor:
        n, window, device = len(self.starts), self.window, self.memory.batch.device
        starts = torch.from_numpy(self.starts).to(device)
        before = (torch.arange(self.prefix, device=device) < starts[:, None])[:, None, None]
        order = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
        if kept is None:
            past, own = before.expand(n, 1, self.width, self.prefix), order.expand(n, 1, self.width, self.width)
        else:
            rows = kept.expand(n, *kept.shape[1:])[torch.arange(n, device=device)[:, None], :, window].transpose(1, 2)
            keys = window[:, None, None].expand(n, rows.shape[1], self.width, self.width)
            own = rows.gather(-1, keys)
            itself = torch.eye(self.width, dtype=torch.bool, device=device)  # padding too must see something
            own = _barred(own, order & self.real[:, None, None] | itself)
            past = _barred(rows[..., : self.prefix], before)
        heads, others = past.shape[1], torch.eye(self.per_row, dtype=torch.bool, device=device)
        shape = n, heads, self.per_row, self.width, self.per_row, self.width
        blocks = _barred(own[:, :, None, :, None].expand(shape), others[:, None, :, None])
        tokens = self.per_row * self.width
        past = past[:, :, None].expand(-1, -1, self.per_row, -1, -1).reshape(n, heads, tokens, self.prefix)
        mask = torch.cat([past, blocks.reshape(n, heads, tokens, tokens)], -1)
        return mask if n == 1 else mask.repeat_interleave(self.rows, 0)


def _barred(mask: Tensor, seen: Bool[Tensor, ...]) -> Tensor:
    """The mask, closed where ``seen`` is false; true means open, as does zero in an additive mask."""
    if mask.dtype == torch.bool:
        return mask & seen
    return mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


@dataclass(frozen=True, eq=False)
class Each:
    """A write function over all variants that gives each of them to its own."""

    layout: Layout
    fns: Mapping[int, WriteFn]

    def __call__(self, value: Tensor, view: BatchView) -> Tensor:
        """The value with every variant's part rewritten."""
        layout = self.layout
        n, shape = len(layout.starts), value.shape[2:]
        parts = list(value.reshape(n, layout.n_variants, layout.width, *shape).unbind(1))
        one = layout.view_of_one
        one = replace(one, positions=one.positions.to(value.device), mask=one.mask.to(value.device), layer=view.layer)
        for variant, fn in self.fns.items():
            parts[variant] = fn(parts[variant], one)
        return torch.stack(parts, 1).reshape(value.shape)


def run_variants(
    model: Model, layout: Layout, layer: int, variants: Sequence[Writes], taps: Sequence[Tap], logits: Where | None
) -> Tensor | None:
    """One pass over all variants, from ``layer`` to the deepest tap, or to the logits."""
    by_site: dict[Site, dict[int, WriteFn]] = {}
    for number, writes in enumerate(variants):
        for site, fn in writes.items():
            for at in site.at(model.n_layers):
                by_site.setdefault(Site(site.name, at), {})[number] = fn
    each = {site: Each(layout, fns) for site, fns in by_site.items()}
    memory = layout.memory
    top = model.n_layers if logits is not None else max(tap.layer for tap in taps) + 1
    with started_at(model, memory, layer, layout.tiled(memory.resid[layer])), ExitStack() as stack:
        for at in range(layer, top) if not layout.stock else ():  # their attention products see the prefix too
            attention = model.sites.blocks[at].attention
            assert attention is not None
            stack.callback(listen(attention.module, partial(_with_prefix, layout, at), last=True).remove)
        return execute(model, layout, taps, each, logits)


def _with_prefix(layout: Layout, layer: int, call: AttentionCall) -> AttentionCall:
    kept = layout.memory.kept[layer]
    mask = layout.mask(kept.mask).to(call.query.device)
    key, value = (layout.behind(old, new) for old, new in ((kept.key, call.key), (kept.value, call.value)))
    return replace(call, key=key, value=value, mask=mask)

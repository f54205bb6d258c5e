"""Starts a forward pass in the middle: the blocks before a layer are passed by, and the layer is given its input.

Everything else is the stock model's own doing: embeddings, position embeddings, masks, the order of blocks and what
they are called with. So nothing here knows a model family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from verdictscope.activations.attention import AttentionCall, listen
from verdictscope.activations.batch import Batch, Where, execute, looks_ahead
from verdictscope.activations.hooks import BatchView, Tap, attach

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
        reads.append(Tap("resid_post", max(keys), _keep_nothing))
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


def _keep_nothing(value: Tensor, view: BatchView) -> None:
    pass


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

"""Position embeddings that depend on a row's length: every row of a call gets those that it has alone.

Beyond a length LongRoPE and dynamic NTK take other frequencies. ``transformers`` chooses them once a call, by the
longest row of the batch, and keeps what it chose for the calls after it: a row would depend on its mates and on what
was read before. Inside :func:`as_alone` they are computed again for every length in the batch, each as after loading,
and the modules are left as they were found. Models whose frequencies are fixed (linear, YaRN, Llama 3) are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import modules_of
from verdictscope.rope_types import depends_on_length, rope_types

_KEPT = ("max_seq_len_cached", "attention_scaling")
"""How the names end of what a module keeps from call to call, beside its buffers."""


def changing(model: nn.Module) -> list[nn.Module]:
    """The modules whose position embeddings depend on how long a row is."""
    return [
        module for module in modules_of(model) if any(depends_on_length(kind) for kind in rope_types(module).values())
    ]


def switch_lengths(model: nn.Module) -> list[int]:
    """The lengths in tokens up to which the model's position embeddings are those of a short row, ascending."""
    return sorted({length for module in changing(model) for length, _ in _switches(module)})


def _switches(module: nn.Module) -> list[tuple[int, bool]]:
    """Per kind of layer: where it switches, and whether every length beyond has embeddings of its own."""
    config, found = cast(Any, module).config, []
    for layer_type, kind in rope_types(module).items():
        if not depends_on_length(kind):
            continue
        settings = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
        own = settings.get("original_max_position_embeddings") if kind == "longrope" else None
        found.append((int(own or cast(Any, module).original_max_seq_len), "dynamic" in kind))
    return found


@contextmanager
def as_alone(model: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Inside the block every row of a call has the position embeddings of its own length."""
    with ExitStack() as stack:
        for module in changing(model):
            stack.callback(_restore, module, _state(module))
            stack.callback(module.register_forward_hook(partial(_again, lengths), with_kwargs=True).remove)
        yield


@contextmanager
def as_loaded(model: nn.Module) -> Iterator[None]:
    """Inside the block the model's own calls begin with the frequencies of a short row, whatever was read before."""
    with ExitStack() as stack:
        for module in changing(model):
            stack.callback(_restore, module, _state(module))
            _forget(module)
        yield


def _state(module: nn.Module) -> tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]:
    plain = {k: v for k, v in vars(module).items() if k.endswith(_KEPT)}
    return plain, {k: (v, v.clone()) for k, v in module._buffers.items() if v is not None}


def _restore(module: nn.Module, state: tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]) -> None:
    plain, buffers = state
    for name in [k for k in vars(module) if k.endswith(_KEPT) and k not in plain]:
        delattr(module, name)
    module.__dict__.update(plain)
    for name, (buffer, value) in buffers.items():
        module._buffers[name] = buffer
        if not torch.equal(buffer, value):
            buffer.copy_(value)


def _forget(module: Any) -> None:
    """The frequencies of a short row, as after loading."""
    for name in [k for k in module._buffers if k.endswith("original_inv_freq")]:
        prefix = name.removesuffix("original_inv_freq")
        module._buffers[prefix + "inv_freq"] = module._buffers[name].clone()
        if hasattr(module, f"{prefix}max_seq_len_cached"):
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
    module.max_seq_len_cached = module.original_max_seq_len


def _again(lengths: Sequence[int], module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """What the module gives for every row alone."""
    named = dict(zip(("x", "position_ids", "layer_type"), args, strict=False)) | kwargs
    positions = cast(Tensor, named["position_ids"])
    if positions.shape[-2] == 1 and len(lengths) > 1:
        positions = positions.expand(*positions.shape[:-2], len(lengths), positions.shape[-1])
    if positions.shape[-2] != len(lengths):
        raise InputError(
            f"{type(module).__name__} was called for {positions.shape[-2]} rows of {len(lengths)}: its position "
            "embeddings depend on a row's length, and these rows are not known; read one rollout at a time"
        )
    parts: list[tuple[Tensor, Any]] = []
    for length, rows in _groups(module, lengths).items():
        at = torch.tensor(rows, device=positions.device)
        # the module goes by the largest position it is shown: that is the row's last one, whatever the padding
        own = positions.index_select(-2, at).clamp(max=length - 1)
        last = own.new_full((*own.shape[:-1], 1), length - 1)
        _forget(module)
        made = cast(Any, module).forward(**{**named, "position_ids": torch.cat([own, last], -1)})
        parts.append((at, made))
    if isinstance(output, Tensor):
        return _joined(parts, len(lengths))
    return type(output)(_joined([(at, made[k]) for at, made in parts], len(lengths)) for k in range(len(output)))


def _groups(module: nn.Module, lengths: Sequence[int]) -> dict[int, list[int]]:
    """Rows whose embeddings are the same, by a length that has them."""
    switches = _switches(module)
    found: dict[tuple, list[int]] = {}
    for row, length in enumerate(lengths):
        # on this side of every switch, or beyond those that know only two sides, one length is like another
        regime = tuple(length if each and length > at else length > at for at, each in switches)
        found.setdefault(regime, []).append(row)
    return {max(lengths[row] for row in rows): rows for rows in found.values()}


def _joined(parts: Sequence[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    """``[... row pos d]`` of all rows, the position that was added left out."""
    like = parts[0][1]
    out = like.new_empty((*like.shape[:-3], rows, like.shape[-2] - 1, like.shape[-1]))
    for at, made in parts:
        out.index_copy_(-3, at.to(out.device), made[..., :-1, :])
    return out


def written_otherwise(model: PreTrainedModel, prompt: int, tokens: int) -> int | None:
    """The switch beyond which a rollout was written from keys with other position embeddings than it is read with."""
    again = reads_again_after(model)
    fed = tokens - 1  # nothing is drawn from the last one
    for at, each in {switch for module in changing(model) for switch in _switches(module)}:
        if at != again and fed > at and fed > prompt and (each or prompt <= at):
            return at
    return None


class _Held(DynamicCache):
    """A cache that says how many tokens it holds, and holds none."""

    def __init__(self, config: Any, tokens: int) -> None:
        super().__init__(config=config)
        self._tokens = tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens it says to hold."""
        return self._tokens


def reads_again_after(model: PreTrainedModel) -> int | None:
    """The length beyond which the model's own ``generate`` drops its cache and reads the whole row again (Phi-3).

    The other models with such position embeddings go on from keys that were made with those of a shorter row.
    """
    for length in switch_lengths(model):
        ids = torch.zeros(1, length + 1, dtype=torch.long, device=model.device)
        made = cast(Any, model).prepare_inputs_for_generation(
            ids,
            past_key_values=_Held(model.config, length),
            attention_mask=torch.ones_like(ids),
            use_cache=True,
            next_sequence_length=1,
        )
        if made.get("past_key_values") is None:
            return length
    return None

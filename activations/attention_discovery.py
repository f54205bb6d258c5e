"""Where attention and experts can be listened to: found by listening, once, when a model loads.

No family is named. A module that looks its attention function up in transformers' interface says so in its code; any
other is listened to through PyTorch's own calls. Routers are the modules whose outputs transformers itself records as
router logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from verdictscope.activations.attention import AttentionCall, Before, listen, uses_interface
from verdictscope.activations.attention_torch import Ear
from verdictscope.activations.hooks import attach
from verdictscope.activations.sitemap import Attention, Form, Modules, Router


@dataclass(frozen=True, eq=False)
class Heard:
    """One attention product of a layer: who made it, and what entered."""

    module: nn.Module
    interface: bool
    call: AttentionCall

    def attention(self) -> Attention:
        """Heads counted as they are: keys that are equal in a group of heads are one head, repeated."""
        key, value = self.call.key, self.call.value
        sizes = range(key.shape[1], 1, -1)
        shared = next((s for s in sizes if _repeats(key, s) and _repeats(value, s)), 1)
        return Attention(self.module, self.interface, self.call.query.shape[1], key.shape[1] // shared, shared)

    def forms(self, attention: Attention) -> dict[str, Form]:
        """Shapes and dtypes of the sites inside the product."""
        query, key, value = self.call.query, self.call.key, self.call.value
        heads, kv_heads = attention.n_heads, attention.n_kv_heads
        return {
            "q": Form((heads, query.shape[-1]), query.dtype),
            "k": Form((kv_heads, key.shape[-1]), key.dtype),
            "v": Form((kv_heads, value.shape[-1]), value.dtype),
            "pattern": Form((heads, -1), query.dtype),
        }


def _repeats(x: Tensor, times: int) -> bool:
    if x.shape[1] % times or (times == x.shape[1] and times > 1 and not x.any()):
        return False
    return bool(torch.equal(x, x[:, ::times].repeat_interleave(times, dim=1)))


@contextmanager
def attention_heard(modules: Modules) -> Iterator[dict[int, list[Heard]]]:
    """Every attention product made inside the blocks during the ``with`` block, by layer."""
    heard: dict[int, list[Heard]] = {layer: [] for layer in range(len(modules.blocks))}
    ear = Ear()
    with ExitStack() as stack:
        for layer, roles in enumerate(modules.blocks):
            able = [m for m in roles["block"].modules() if uses_interface(m)]
            for module in able:
                stack.callback(listen(module, before=_keeper(heard[layer], module, True)).remove)
            if not able:
                module = roles.get("attn", roles["block"])
                stack.callback(ear.listen(module, partial(_note, heard[layer], module)).remove)
        stack.enter_context(ear)
        yield heard


def _keeper(into: list[Heard], module: nn.Module, interface: bool) -> Before:
    def keep(call: AttentionCall) -> None:
        into.append(Heard(module, interface, call))

    return keep


def _note(into: list[Heard], module: nn.Module, call: AttentionCall, _: Tensor) -> None:
    into.append(Heard(module, False, call))


def find_routers(hf: PreTrainedModel, modules: Modules) -> dict[int, Router]:
    """The gate of every layer that has experts."""
    recorders = _recorders(hf)
    sizes = _expert_counts(hf)
    found = {}
    for layer, roles in enumerate(modules.blocks):
        inside = [m for m in roles["block"].modules() if m is not roles.get("attn")]
        named = [Router(m, index) for m in inside for kind, index in recorders if isinstance(m, kind)]
        if not named:  # not recorded by transformers: a linear map to as many numbers as there are experts
            gates = [m for name, m in roles["block"].named_modules() if _is_gate(name, m, sizes)]
            named = [Router(m) for m in gates]
        if named:
            found[layer] = named[0]
    return found


def _recorders(hf: PreTrainedModel) -> list[tuple[type[nn.Module], int]]:
    """(class, index of the output) that transformers records as router logits."""
    found: list[tuple[type[nn.Module], int]] = []
    for module in hf.modules():
        declared = getattr(module, "_can_record_outputs", None) or {}
        entries = declared.get("router_logits", []) if isinstance(declared, dict) else []
        for entry in entries if isinstance(entries, list | tuple) else [entries]:
            kind, index = getattr(entry, "target_class", entry), getattr(entry, "index", 0)
            if isinstance(kind, type) and "Attention" not in kind.__name__:
                found.append((kind, index))
    return found


def _expert_counts(hf: PreTrainedModel) -> set[int]:
    config = hf.config.get_text_config().to_dict()
    return {v for k, v in config.items() if "expert" in k and isinstance(v, int) and v > 1}


def _is_gate(name: str, module: nn.Module, sizes: set[int]) -> bool:
    weight = getattr(module, "weight", None)
    last = name.rpartition(".")[2]
    named = "router" in name or last in ("gate", "wg")
    return named and isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[0] in sizes


@contextmanager
def routers_heard(routers: dict[int, Router]) -> Iterator[dict[int, Form]]:
    """Shape and dtype of every router's output during the ``with`` block; routers that do not run are left out."""
    forms: dict[int, Form] = {}

    def keep(layer: int, value: Tensor) -> None:
        forms[layer] = Form((value.shape[-1],), value.dtype)

    with ExitStack() as stack:
        for layer, router in routers.items():
            stack.callback(attach(router.module, "out", partial(keep, layer), router.index).remove)
        yield forms


def sole(heard: Sequence[Heard]) -> Heard | None:
    """A layer's attention product, if it makes exactly one."""
    return heard[0] if len(heard) == 1 else None

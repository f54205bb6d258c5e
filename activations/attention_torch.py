"""Listens to attention that does not use transformers' interface (Bloom, MPT, Falcon, GPT-J, GPT-Neo, CodeGen, XGLM).

Such modules call PyTorch directly: ``scaled_dot_product_attention``, or a product of queries and keys, a softmax, and a
product with the values. A ``TorchFunctionMode`` sees these calls while one of the modules runs. Values are read, not
written: when the first product is seen it is not known yet that a softmax will follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from verdictscope.activations.attention import AttentionCall, Handle

After = Callable[[AttentionCall, Tensor], None]
PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm"}


class ProductRecorder(TorchFunctionMode):
    """Hears the attention products of some modules; to be entered around the forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[nn.Module, list[After]] = {}
        self._inside: list[tuple[nn.Module, int]] = []
        self._scores: tuple[Tensor, Tensor] | None = None
        self._weights: Tensor | None = None

    def listen(self, module: nn.Module, after: After) -> Handle:
        """Calls ``after`` with what entered the module's attention product and with its output."""
        self._listeners.setdefault(module, []).append(after)
        enter = module.register_forward_pre_hook(self._enter, with_kwargs=True)
        leave = module.register_forward_hook(self._leave, always_call=True)

        def remove() -> None:
            enter.remove()
            leave.remove()
            self._listeners[module].remove(after)

        return Handle(remove)

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        self._inside.append((module, len(next(tensors))))
        self._scores = self._weights = None

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._inside or not isinstance(out, Tensor):
            return out
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            self._emit(_fused(*args, **kwargs), out)
        elif name == "softmax":
            self._weights = out if self._scores is not None else None
        elif name in PRODUCTS:
            self._product(name, args, kwargs, out)
        return out

    def _product(self, name: str, args: tuple, kwargs: dict, out: Tensor) -> None:
        if name == "baddbmm":
            a, b = (kwargs.get(k, args[i] if len(args) > i else None) for i, k in ((1, "batch1"), (2, "batch2")))
        else:
            a, b = (*args, *kwargs.values())[:2]
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or min(a.ndim, b.ndim) < 3:
            return
        if self._weights is None or a.shape[-2:] != self._weights.shape[-2:]:
            self._scores = (a, b.transpose(-1, -2))
            return
        assert self._scores is not None
        (query, key), weights = self._scores, self._weights
        self._scores = self._weights = None
        batch = self._inside[-1][1]
        query, key, value, weights, out = (x.reshape(batch, -1, *x.shape[-2:]) for x in (query, key, b, weights, out))

        def rows(row: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
            return weights[row][:, tokens], out[row][:, tokens].transpose(0, 1)

        self._emit(AttentionCall(query, key, value, rows), out)

    def _emit(self, call: AttentionCall, out: Tensor) -> None:
        """Hands over a call with one key and value per group of query heads that share them."""
        for after in list(self._listeners.get(self._inside[-1][0], ())):
            after(call, out.transpose(1, 2))


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    n_queries, n_keys = query.shape[2], key.shape[2]

    def rows(row: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        group = query.shape[1] // key.shape[1]
        k, v = (x[row].repeat_interleave(group, 0) for x in (key, value))
        scores = query[row][:, tokens] @ k.transpose(-1, -2) * factor
        if is_causal:
            later = torch.arange(n_keys, device=tokens.device) > tokens[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        if attn_mask is not None:
            full = attn_mask.expand(query.shape[0], query.shape[1], n_queries, n_keys)[row][:, tokens]
            scores = scores.masked_fill(~full, -torch.inf) if full.dtype == torch.bool else scores + full
        weights = scores.float().softmax(-1).to(query.dtype)
        return weights, (weights @ v).transpose(0, 1)

    return AttentionCall(query, key, value, rows)

"""Listens to the attention product itself: the queries, keys and values that enter it, and chosen rows of its weights.

Every attention module of transformers hands ``query, key, value`` (after norms and rotary embedding, before keys and
values are repeated for the query heads) to a function looked up by name in its ``AttentionInterface``. For the length
of a ``with`` block a module's ``config`` is wrapped so that the name it looks up is ours; our function calls the one
the model would have called. The mask is made by the model as always, other models are untouched, and a flash kernel
stays a flash kernel. Modules that do not use the interface are in ``attention_torch.py``.

The weights are recomputed for the wanted query rows only, by the model family's own eager function, so that soft caps,
sinks, windows and scales are whatever the family says: no table of tokens by tokens is made.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from verdictscope.errors import InputError

AT_ONCE = 2**26
"""Most attention weights that are computed at once."""

RowsFn = Callable[[int, Int[Tensor, " row"]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What enters one attention product.

    Attributes:
        query: ``[batch head pos d]``.
        key: ``[batch kv_head key d]``; with a cache it holds earlier tokens too.
        value: ``[batch kv_head key d_v]``.
        rows: batch row and token indices to the family's own weights ``[head row key]`` and the product's output
            ``[row head d_v]`` there.
        mask: in the form the kernel takes it; ``None`` where the kernel needs none. Only what a module that
            :func:`uses_interface` hands over is known.
    """

    query: Float[Tensor, "batch head pos d"]
    key: Float[Tensor, "batch kv_head key d"]
    value: Float[Tensor, "batch kv_head key d_v"]
    rows: RowsFn = field(repr=False)
    mask: Any = field(default=None, repr=False)

    def site(self, name: str, *, cached: bool = False) -> Tensor | Pattern:
        """The value of site ``q``, ``k``, ``v`` (``[batch pos head d]``) or ``pattern``; of cached keys only this
        call's, or all of them."""
        if name == "pattern":
            return Pattern(self)
        if name == "q":
            return self.query.transpose(1, 2)
        kept = self.key if name == "k" else self.value
        return (kept if cached else kept[:, :, -self.query.shape[2] :]).transpose(1, 2)

    def with_site(self, name: str, new: Tensor) -> AttentionCall:
        """The call with another value of ``q``, ``k`` or ``v``, of these with what is cached."""
        if name == "q":
            return replace(self, query=new.transpose(1, 2))
        if self.key.shape[2] != new.shape[1]:
            raise InputError(f"site {name} of a cached step is written with all its keys, cached ones included")
        new = new.transpose(1, 2)
        return replace(self, key=new) if name == "k" else replace(self, value=new)


class Pattern:
    """Attention weights of one layer, computed only for the requested rows.

    ``pattern[rows, tokens]`` gives ``[row head key]``; keys after a row's own token, in its padding or outside its
    window are zero. A sink (gpt-oss) takes its share, so that rows may sum to less than one.
    """

    def __init__(self, call: AttentionCall) -> None:
        self._call = call
        batch, heads, queries, _ = call.query.shape
        self.shape = torch.Size((batch, queries, heads, call.key.shape[2]))
        self.device = call.query.device
        self.dtype = call.query.dtype

    def __getitem__(self, index: tuple[Int[Tensor, " row"], Int[Tensor, " row"]]) -> Float[Tensor, "row head key"]:
        rows, tokens = (i.to(self.device) for i in index)
        out = torch.empty(len(rows), self.shape[2], self.shape[3], dtype=self.dtype, device=self.device)
        step = max(1, AT_ONCE // (self.shape[2] * self.shape[3]))
        for row in rows.unique().tolist():
            for part in (rows == row).nonzero()[:, 0].split(step):
                out[part] = self._call.rows(row, tokens[part])[0].transpose(0, 1).to(out.dtype)
        return out


Before = Callable[[AttentionCall], AttentionCall | None]
After = Callable[[AttentionCall, Tensor], None]


class Handle:
    """Takes a listener off again; like PyTorch's ``RemovableHandle``."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove: Callable[[], None] | None = remove

    def remove(self) -> None:
        """Take it off; a second call does nothing."""
        if self._remove is not None:
            self._remove()
            self._remove = None


def uses_interface(module: nn.Module) -> bool:
    """Whether a module's ``forward`` looks its attention function up by name."""
    names = _globals(module)
    config = getattr(module, "config", None)
    return "ALL_ATTENTION_FUNCTIONS" in names and "eager_attention_forward" in names and config is not None


def listen(
    module: nn.Module, before: Before | None = None, after: After | None = None, *, last: bool = False
) -> Handle:
    """Calls ``before`` with what enters the module's attention product and ``after`` with that and its output.

    What ``before`` returns, if anything, replaces the call. Several listeners on a module act in the order
    in which they were put on.
    """
    shim = module.config if isinstance(module.config, _Shim) else _Shim(module)
    key = next(_serial)
    (shim.final if last else shim.listeners)[key] = (before, after)
    return Handle(lambda: shim.drop(key))


_serial = itertools.count()


class _Shim:
    """Stands for an attention module's config while it is listened to: all is the config's, but which function runs."""

    def __init__(self, module: nn.Module) -> None:
        config: Any = module.config
        self.config = config
        self.module = module
        self.interface: MutableMapping[str, Any] = _globals(module)["ALL_ATTENTION_FUNCTIONS"]
        self.eager: Callable = _globals(module)["eager_attention_forward"]
        self.stock: str | None = config._attn_implementation
        # The stock name stays inside: some modules look for "flash" in it.
        self._attn_implementation = f"{self.stock or 'eager'} (observed {next(_serial)})"
        self.listeners: dict[int, tuple[Before | None, After | None]] = {}
        self.final: dict[int, tuple[Before | None, After | None]] = {}
        self.interface[self._attn_implementation] = self.run
        module.config = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["config"], name)

    def drop(self, key: int) -> None:
        del (self.listeners if key in self.listeners else self.final)[key]
        if not self.listeners and not self.final:
            self.module.config = self.config
            del self.interface[self._attn_implementation]

    def run(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        stock = self.interface.get_interface(self.stock, self.eager)  # type: ignore[attr-defined]

        def rows(now: AttentionCall, row: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
            given = kwargs.get("is_causal")
            masks = _Masks(
                now.mask,
                "flash" in (self.stock or ""),
                bool(getattr(module, "is_causal", True) if given is None else given),
                kwargs,
            )
            return self._rows(module, now, masks, args, kwargs, row, tokens)

        call = _Bound(query, key, value, rows, attention_mask).call
        listeners = [*self.listeners.values(), *self.final.values()]
        for before, _ in listeners:
            new = before(call) if before is not None else None
            if new is not None:
                call = _Bound(new.query, new.key, new.value, rows, new.mask).call
        out = stock(module, call.query, call.key, call.value, call.mask, *args, **kwargs)
        for _, after in listeners:
            if after is not None:
                after(call, out[0])
        return out

    def _rows(
        self,
        module: nn.Module,
        call: AttentionCall,
        masks: _Masks,
        args: tuple,
        kwargs: dict[str, Any],
        row: int,
        tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        query, n_keys = call.query[row : row + 1, :, tokens], call.key.shape[2]
        mask = masks.rows(row, tokens, call.query.shape[2], n_keys, query.dtype)
        sliced = {k: _slice(v, row, tokens, call.query.shape) for k, v in kwargs.items()}
        sliced["dropout"] = 0.0
        with torch.no_grad():
            key, value = call.key[row : row + 1], call.value[row : row + 1]
            out, weights = self.eager(module, query, key, value, mask, *args, **sliced)[:2]
        if weights is None or weights.shape[-1] < n_keys:
            raise InputError(f"{type(module).__name__} does not return attention weights: no site pattern")
        return weights[0, :, :, :n_keys], out[0]


class _Bound:
    """A call whose ``rows`` know the call itself."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Callable[..., tuple[Tensor, Tensor]], mask: Any
    ) -> None:
        self.call = AttentionCall(query, key, value, lambda row, tokens: rows(self.call, row, tokens), mask)


@dataclass(frozen=True, eq=False)
class _Masks:
    """The mask of a call in whatever form its kernel takes it, as additive rows."""

    mask: Any
    flash: bool
    causal: bool
    kwargs: dict[str, Any]

    def rows(self, row: int, tokens: Tensor, n_queries: int, n_keys: int, dtype: torch.dtype) -> Tensor:
        """``[1 1 row key]`` (or one a head), zero where a key is seen."""
        mask = self.mask
        if mask is not None and not isinstance(mask, Tensor):
            kind = type(mask).__name__
            raise InputError(
                f"attention weights cannot be recomputed under a {kind}; load the model with sdpa or eager"
            )
        if mask is not None and mask.ndim == 4:
            rows = mask[row if len(mask) > 1 else 0][None, :, tokens.to(mask.device), :n_keys]
            return rows if rows.dtype != torch.bool else _additive(rows, dtype)
        keys = torch.arange(n_keys, device=tokens.device)
        at = tokens + (n_keys - n_queries if self.flash or n_queries == 1 else 0)
        seen = torch.ones(len(tokens), n_keys, dtype=torch.bool, device=tokens.device)
        if self.causal:
            seen &= keys <= at[:, None]
        window = self.kwargs.get("sliding_window")
        if self.flash and window is not None:
            seen &= keys > at[:, None] - window
        if mask is not None:
            seen &= mask[row, -n_keys:].bool().to(seen.device)
        return _additive(seen[None, None], dtype)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def _slice(value: Any, row: int, tokens: Tensor, shape: torch.Size) -> Any:
    """Of an argument with one row per query (a position bias), the wanted rows."""
    if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[-2] != shape[2]:
        return value
    mine = value[row : row + 1] if value.shape[0] == shape[0] else value
    return mine.index_select(-2, tokens.to(value.device))


def _globals(module: nn.Module) -> dict[str, Any]:
    return getattr(inspect.unwrap(type(module).forward), "__globals__", {})

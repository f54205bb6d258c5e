"""Reading and writing hidden states with plain PyTorch hooks.

Hooks never change a tensor in place, are removed whatever happens inside the ``with`` block, and count: a
site that did not fire as often as the model ran is an error, not an empty result.

A value that is written is seen by everything after it, reads of the same site included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from verdictscope.activations.attention import AttentionCall, Handle, listen
from verdictscope.activations.attention_torch import ProductRecorder
from verdictscope.activations.sitemap import HookPoint
from verdictscope.activations.sites import FLOW, Site
from verdictscope.activations.views import BatchView, mask_of_call, view_of_call
from verdictscope.errors import InputError
from verdictscope.in_force import acting
from verdictscope.rollouts.engines.state import awaiting, uncompiled

if TYPE_CHECKING:
    from verdictscope.activations.model import Model


WriteFn = Callable[[Tensor, BatchView], Tensor]
ReadFn = Callable[[Any, BatchView], None]
"""Takes a tensor, or the lazy ``Pattern`` of ``attention.py``."""


@dataclass(frozen=True)
class Tap:
    """One read: a site at one layer, and what to do with its value."""

    name: str
    layer: int
    fn: ReadFn


class Stop(Exception):
    """Ends a forward pass whose wanted values have all been read."""


def attach(
    module: nn.Module, side: Literal["in", "out"], fn: Callable[[Tensor], Tensor | None], index: int = 0
) -> RemovableHandle:
    """Calls ``fn`` with a module's first input or an output tensor; what it returns, if anything, takes its place."""
    if side == "in":
        return module.register_forward_pre_hook(partial(_before, fn), with_kwargs=True)
    return module.register_forward_hook(partial(_after, fn, index))


# Partials of plain functions and not closures, here and below: the type checks of the tests compile a function again
# whenever it is defined, and hooks are made by the thousand.
def _before(fn: Callable[[Tensor], Tensor | None], _: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
    if args:
        new = fn(args[0])
        return None if new is None else ((new, *args[1:]), kwargs)
    name = next((k for k, v in kwargs.items() if isinstance(v, Tensor) and v.is_floating_point()), None)
    if name is None:
        raise InputError("a module that is read was called without a tensor of states: name another with overrides")
    new = fn(kwargs[name])
    return None if new is None else (args, kwargs | {name: new})


def _after(fn: Callable[[Tensor], Tensor | None], index: int, _: nn.Module, __: tuple, output: Any) -> Any:
    new = fn(output if isinstance(output, Tensor) else output[index])
    if new is None:
        return None
    return new if isinstance(output, Tensor) else (*output[:index], new, *output[index + 1 :])


def _inside_attention(
    fn: Callable[[Any], Tensor | None], name: str, shared: int, writes: bool, call: AttentionCall, *_: Tensor
) -> Any:
    # Written are cached keys and values too: the cache keeps them as they were before the write.
    value = call.site(name, cached=writes)
    if shared > 1 and name in ("k", "v"):
        assert isinstance(value, Tensor)
        value = value[:, :, ::shared]
    new = fn(value)
    if new is None:
        return None
    return call.with_site(name, new if shared == 1 or name == "q" else new.repeat_interleave(shared, dim=2))


_running: ContextVar[_Session | None] = ContextVar("_running", default=None)
"""The session of the pass that is being made on known rollouts: blocks around it learn from it what the batch is."""


class _Session:
    """The hooks of one ``with`` block: what the current batch is, and how often each hook fired."""

    def __init__(self, model: Model, base: BatchView | None, stop_early: bool) -> None:
        self.model, self.base, self.stop_early = model, base, stop_early
        self.known = base is not None and base.rollouts is not None
        self.kept: Tensor | None = None
        self.may_stop = False
        self.handles: list[RemovableHandle | Handle] = []
        self.recorder: ProductRecorder | None = None
        self.fired: dict[str, int] = {}
        self.runs: dict[str, int] = {}
        self.passes = 0
        self.waiting: set[str] = set()
        self.pre: dict[int, Tensor] = {}

    def view(self, layer: int, device: torch.device) -> BatchView:
        base = self.base
        if base is None:
            raise InputError(
                f"a layer of {self.model.name} runs and its decoder's hook did not fire, so the tokens are not known: "
                "run the whole model, and call its modules, not their forward"
            )
        if base.positions.device != device:
            base = replace(base, positions=base.positions.to(device), mask=base.mask.to(device))
        return BatchView(layer, base.rollouts, base.positions, base.mask, base.origins, base.chosen, base.step)

    def begin(self, _: nn.Module, args: tuple, kwargs: dict) -> None:
        """Runs before the decoder does: notes which tokens this call holds."""
        self.passes += 1
        if self.known:
            return
        running = _running.get()
        if running is not None and running.model.sites.parent is self.model.sites.parent:
            self.base, self.may_stop = running.base, self.may_stop or running.stop_early
            return
        self.base = view_of_call(args, kwargs)
        self.kept = mask_of_call(kwargs)

    def add(self, key: str, place: HookPoint, fn: Callable[[Tensor, BatchView], Any], layer: int, writes: bool) -> None:
        if key in self.fired:
            key = f"{key} #{len(self.fired)}"
        self.fired[key] = 0
        self.waiting.add(key)
        fire = partial(self._fire, key, place, fn, layer, writes)
        self.handles.append(self._attach(place, fire, writes))

    def _attach(self, place: HookPoint, fire: Callable[[Any], Tensor | None], writes: bool) -> RemovableHandle | Handle:
        if place.attention is None:
            return attach(place.module, place.side, fire, place.index)
        inside = partial(_inside_attention, fire, place.site, place.attention.shared, writes)
        if place.attention.interface:
            return listen(place.module, before=inside)
        self.recorder = self.recorder or ProductRecorder()
        return self.recorder.listen(place.module, inside)

    def _fire(
        self, key: str, place: HookPoint, fn: Callable[[Any, BatchView], Any], layer: int, writes: bool, raw: Any
    ) -> Tensor | None:
        self.runs[key] = self.runs.get(key, 0) + 1
        if self.runs[key] % place.calls:
            return None  # a module that runs several times a pass: the last one counts
        self.fired[key] += 1
        view = self.view(layer, raw.device)
        if place.attention is not None and raw.shape[1] != view.mask.shape[1]:
            view = view.over_cache(raw.shape[1], self.kept)
        new = fn(to_site(raw, place, view.mask.shape), view)
        self.waiting.discard(key)
        if self.stop_early and not self.waiting:
            raise Stop
        return from_site(new, place, raw) if writes and new is not None else None

    def keep_pre(self, layer: int, value: Tensor, _: BatchView) -> None:
        """Remembers a block's input until its ``resid_mid`` is written."""
        self.pre[layer] = value

    def write_middle(self, fn: WriteFn, key: str, layer: int, branch: Tensor, view: BatchView) -> Tensor | None:
        """The attention branch with which ``resid_mid`` becomes what ``fn`` returns."""
        middle = self.pre.pop(layer) + branch
        new = _write(fn, key, middle, view)
        return None if new is None else branch + (new - middle)

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Takes every hook off at the end of the block, also after an error."""
        try:
            yield
        finally:
            for handle in self.handles:
                handle.remove()
            self.pre.clear()

    def check(self, exact: bool) -> None:
        for key, count in self.fired.items():
            if self.may_stop and count <= self.passes:
                continue  # a pass inside the block ended at the deepest requested site
            if count != self.passes or (exact and count != 1) or count == 0:
                raise InputError(
                    f"site {key} fired {count} times in {self.passes} forward passes; the site map does not fit "
                    "this model, name the modules with overrides"
                )


def to_site(raw: Any, place: HookPoint, shape: Sequence[int]) -> Any:
    """A module's tensor as the site's value, ``[batch pos d_model]`` or ``[batch pos head d_head]``.

    A value from inside the attention product already has that form (``pattern`` is lazy, see ``attention.py``).
    """
    if place.attention is not None:
        return raw
    # Some families flatten batch and position.
    value = raw if raw.ndim == 3 else raw.reshape(*shape, raw.shape[-1])
    if place.heads is not None:
        value = rearrange(value, "batch pos (head d_head) -> batch pos head d_head", head=place.heads)
    return value if place.gain == 1.0 else value * place.gain


def from_site(value: Tensor, place: HookPoint, raw: Tensor) -> Tensor:
    """The inverse of ``to_site``."""
    if place.attention is not None:
        return value.to(raw.dtype)
    value = value if place.gain == 1.0 else value / place.gain
    value = value.reshape(raw.shape)
    return value if value.dtype == raw.dtype else value.to(raw.dtype)


def _version(value: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors do not count, so that nothing is known then."""
    return 0 if value.is_inference() else value._version


def _write(fn: WriteFn, key: str, value: Tensor, view: BatchView) -> Tensor | None:
    """Runs a write function and checks its contract; ``None`` if it changed nothing."""
    version = _version(value)
    new = fn(value, view)
    if _version(value) != version:
        raise InputError(f"the write at {key} changed its input in place; return a new tensor instead")
    if not isinstance(new, Tensor) or new.shape != value.shape:
        got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise InputError(f"the write at {key} returned {got}; it must return a tensor of shape {tuple(value.shape)}")
    return None if new is value else new


@contextmanager
def hooked(
    model: Model,
    reads: Sequence[Tap] = (),
    writes: Mapping[Site, WriteFn] | None = None,
    *,
    view: BatchView | None = None,
    stop_early: bool = False,
    about: Any = None,
) -> Iterator[None]:
    """Hooks for one ``with`` block."""
    model.unchanged()
    session = _Session(model, view, stop_early)
    pairs = [(site, layer, fn) for site, fn in (writes or {}).items() for layer in site.at(model.n_layers)]
    pairs.sort(key=lambda w: (w[1], FLOW.get(w[0].name, len(FLOW))))
    written = tuple(f"{site.name}[{layer}]" for site, layer, _ in pairs)
    known = nullcontext() if view is not None else awaiting(model.hf, written)
    with uncompiled(), known as block, session.removed():
        session.handles.append(model.sites.parent.register_forward_pre_hook(session.begin, with_kwargs=True))
        for site, layer, fn in pairs:
            key = f"{site.name}[{layer}] (write)"
            place = model.sites.writable_hook_point(site.name, layer)
            if site.name != "resid_mid":
                session.add(key, place, partial(_write, fn, key), layer, True)
                continue
            # The input of the pre-MLP norm is only a copy of the residual stream: the attention branch is changed.
            pre, attn = model.sites.hook_point("resid_pre", layer), model.sites.hook_point("attn_out", layer)
            session.add(f"resid_pre[{layer}] (for {key})", pre, partial(session.keep_pre, layer), layer, False)
            session.add(key, attn, partial(session.write_middle, fn, key, layer), layer, True)
        for tap in reads:  # after the writes: a read sees what was written
            place = model.sites.hook_point(tap.name, tap.layer)
            session.add(f"{tap.name}[{tap.layer}]", place, tap.fn, tap.layer, False)
        token = _running.set(session) if session.known else None
        try:
            with (
                session.recorder or nullcontext(),
                acting(model.sites.parent, about or writes) if writes else nullcontext(),
            ):
                yield
        except Stop:
            session.check(exact=True)
            raise
        finally:
            if token is not None:
                _running.reset(token)
        if session.passes or block is None:
            session.check(exact=block is None)
        elif block.ran or not block.excused:
            what = f"the edits of {', '.join(block.edits[:4])} did nothing" if block.edits else "nothing was read"
            how = "ran past its hooks" if block.ran else "made no forward pass"
            raise InputError(
                f"{what}: inside the block {model.name} {how}; run the model that was wrapped (model.hf), in this "
                "process: a copy, an exported model or a server does not carry the hooks"
            )


@contextmanager
def writing(model: Model, write: Mapping[Site, WriteFn], about: Any = None) -> Iterator[None]:
    """Applies writes to every forward pass inside the ``with`` block, for example to ``generate``.

    Args:
        model: the model.
        write: site to ``fn(value, view) -> new value``; ``view.rollouts`` is ``None``.
        about: the edits that the writes come from; results kept meanwhile are kept under their name.

    Raises:
        InputError: a site does not exist or is only read, a write breaks its contract, a hook did not fire, or the
            model did not run.

    Example:
        >>> import torch
        >>> from verdictscope.activations import Site, load_model, writing
        >>> model = load_model("organism:cliff", device="cpu")
        >>> ids = torch.tensor([model.tokenizer("the mode is normal.")["input_ids"]])
        >>> with torch.no_grad(), writing(model, {Site("z", 3): lambda value, view: value * 0}):
        ...     changed = model.hf(ids).logits
        >>> bool((changed != model.hf(ids).logits).any())
        True
    """
    with hooked(model, writes=write, about=about):
        yield


@contextmanager
def reading(model: Model, read: Mapping[Site, ReadFn]) -> Iterator[None]:
    """Hands the values of sites to functions during every forward pass inside the ``with`` block.

    Args:
        model: the model.
        read: site to ``fn(value, view)``; the value must not be changed.

    Raises:
        InputError: a site does not exist, a hook did not fire, or the model did not run.

    Example:
        >>> import torch
        >>> from verdictscope.activations import Site, load_model, reading
        >>> model = load_model("organism:cliff", device="cpu")
        >>> ids = torch.tensor([model.tokenizer("the mode is normal.")["input_ids"]])
        >>> with reading(model, {Site("resid_post", (0, 5)): lambda value, view: print(view.layer, value.shape[-1])}):
        ...     out = model.hf(ids)
        0 128
        5 128
    """
    taps = [Tap(site.name, layer, fn) for site, fn in read.items() for layer in site.at(model.n_layers)]
    with hooked(model, taps):
        yield

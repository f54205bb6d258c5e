"""The state in which every pass runs the model, whatever its owner made of it, and what is left of that afterwards.

A training loop leaves dropout on, an autocast block rounds, a compiled module walks past its hooks, and the hook of
another program rewrites what is read. So the places that call a model do it inside :func:`evaluating`; those that read
its inside also refuse what they cannot undo (:func:`watching`, :func:`on_device`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from verdictscope.errors import InputError
from verdictscope.hook_owners import packages_of

LIBRARIES = frozenset(
    {"accelerate", "beartype", "bitsandbytes", "jaxtyping", "kernels", "nnsight", "peft", "torch", "transformer_lens"}
    | {"transformers", "verdictscope"}
)
"""Hooks of these packages are part of how a model runs, or looked at by other checks."""
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
_OUTPUTS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
"""What a config may make a model return, as it is unless its owner sets it."""


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module of the tree once, what ``torch.compile`` put around one left out.

    A tenth of the time of ``model.modules()``: this is done for every pass.
    """
    found = [inside(model)]
    seen = set(map(id, found))
    for module in found:  # and what is added on the way
        for child in module._modules.values():
            if child is None:
                continue
            child = child._modules.get("_orig_mod") or child
            if id(child) not in seen:
                seen.add(id(child))
                found.append(child)
    return found


def inside(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was called on; any other as it is."""
    inner = module._modules.get("_orig_mod")
    return module if inner is None else inner


@contextmanager
def evaluating(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Inside the block the model computes what it computes in evaluation; afterwards it is as its owner left it."""
    modules = modules_of(model)
    training = [m for m in modules if m.training]
    for block in _awaiting.get():
        block.ran |= block.model is model
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(uncompiled())
        if torch.is_inference_mode_enabled():  # some checks take gradients, and what is read may be used for more
            stack.enter_context(torch.inference_mode(False))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_plain_outputs(modules))
        try:
            for module in training:
                module.__dict__["training"] = False
            yield modules
        finally:
            for module in training:
                module.__dict__["training"] = True


@contextmanager
def _plain_outputs(modules: list[nn.Module]) -> Iterator[None]:
    """Inside the block the configs ask for the outputs of a new model; afterwards for what their owner asked for."""
    configs = {id(c): c for m in modules if (c := m.__dict__.get("config")) is not None}.values()
    changed = [
        (config, name, getattr(config, name), plain)
        for config in configs
        for name, plain in _OUTPUTS.items()
        if getattr(config, name, plain) is not plain
    ]
    try:
        for config, name, _, plain in changed:
            setattr(config, name, plain)
        yield
    finally:
        for config, name, own, _ in changed:
            setattr(config, name, own)


def uncompiled() -> Any:
    """Inside the block compiled code runs as it was written, and nothing is compiled.

    A compiled call neither runs hooks that were set after it was compiled nor forgets those that were there.
    """
    return torch.compiler.set_stance("force_eager")


@dataclass(eq=False)
class Awaiting:
    """A block of hooks that waits for passes of a model."""

    model: nn.Module
    edits: tuple[str, ...]
    ran: bool = False
    excused: bool = False


_awaiting: ContextVar[tuple[Awaiting, ...]] = ContextVar("_awaiting", default=())


@contextmanager
def awaiting(model: nn.Module, edits: tuple[str, ...]) -> Iterator[Awaiting]:
    """Makes a block of hooks known, so that it learns what ran inside it."""
    block = Awaiting(model, edits)
    token = _awaiting.set((*_awaiting.get(), block))
    try:
        yield block
    finally:
        _awaiting.reset(token)


def kept_again() -> None:
    """To be called by what gives back kept results: blocks of hooks around it need not have seen a pass."""
    for block in _awaiting.get():
        block.excused = True


@dataclass(frozen=True, eq=False)
class Hook:
    """A forward hook that somebody put on a module."""

    place: str
    side: Literal["in", "out"]
    call: Callable[..., Any]
    registry: MutableMapping[int, Callable[..., Any]]
    key: int

    @property
    def foreign(self) -> bool:
        """Whether its code is neither ours nor of a library that runs the model."""
        call = self.call
        while isinstance(call, partial):
            call = call.func
        return not packages_of(call) <= LIBRARIES

    def __str__(self) -> str:
        call = self.call.func if isinstance(self.call, partial) else self.call
        name = getattr(call, "__qualname__", type(call).__qualname__).rpartition("<locals>.")[2]
        return f"{name} on {self.place or 'the model itself'}"


def foreign_hooks(model: nn.Module, modules: list[nn.Module] | None = None) -> list[Hook]:
    """Forward hooks and pre-hooks that neither we nor a library that runs the model put there."""
    every = modules_of(model) if modules is None else modules
    hooked = [m for m in every if m._forward_hooks or m._forward_pre_hooks]
    found: list[Hook] = []
    for module in hooked:
        found += _hooks(partial(_path, model, module), module._forward_pre_hooks, "in")
        found += _hooks(partial(_path, model, module), module._forward_hooks, "out")
    found += _hooks(lambda: "every module", torch_module._global_forward_pre_hooks, "in")
    found += _hooks(lambda: "every module", torch_module._global_forward_hooks, "out")
    return found


def _hooks(place: Callable[[], str], registry: Any, side: Literal["in", "out"]) -> list[Hook]:
    every = [Hook("", side, call, registry, key) for key, call in registry.items()]
    return [Hook(place(), side, h.call, registry, h.key) for h in every if h.foreign]


def _path(model: nn.Module, module: nn.Module) -> str:
    return next((path for path, m in model.named_modules() if m is module), "a module")


@contextmanager
def watching(model: nn.Module, modules: list[nn.Module] | None = None) -> Iterator[None]:
    """Inside the block hooks of others may look on; one that changes a value is an error.

    They are made for calls of their owner: on a batch with padding, from the middle of the model, or with the head run
    on a few rows only, they would act elsewhere than they should.
    """
    hooks = foreign_hooks(model, modules)
    try:
        for hook in hooks:
            hook.registry[hook.key] = partial(_watched, hook)
        yield
    finally:
        for hook in hooks:
            if hook.key in hook.registry:  # it may have taken itself off
                hook.registry[hook.key] = hook.call


def _watched(hook: Hook, *given: Any) -> Any:
    shown = list(_tensors(given[1:]))
    marks = [value.clone() if value.is_inference() else value._version for value in shown]
    result = hook.call(*given)
    kept = all(
        torch.equal(value, mark) if isinstance(mark, Tensor) else value._version == mark
        for value, mark in zip(shown, marks, strict=True)
    )
    # before a module: its arguments, or these and the keyword arguments; after it: its output
    was = given[-1] if hook.side == "out" else given[1:] if len(given) > 2 else given[1]
    if not kept or (result is not None and not _same(result, was)):
        raise InputError(
            f"the hook {hook} is not of this package and changes what the model computes: take it off, or write it as "
            "an edit"
        )
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _same(result: Any, was: Any) -> bool:
    a, b = list(_tensors(result)), list(_tensors(was))
    return len(a) == len(b) and all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def on_device(model: nn.Module) -> None:
    """Raises ``InputError`` if weights are not in memory: on the meta device, or offloaded by accelerate."""
    # every module's own first: names take a hundred times as long to make
    if not any(p is not None and p.is_meta for m in modules_of(model) for p in m._parameters.values()):
        return
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError(
                f"the weight {name} is not in memory (on the meta device: offloaded by accelerate, or never loaded): "
                "load the model without offloading, onto devices that hold it"
            )


def bare(model: Any) -> Any:
    """The Hugging Face model inside what ``torch.compile`` or peft put around it; anything else as it is."""
    if not isinstance(model, nn.Module):
        return model
    model = inside(model)
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel | peft.PeftMixedModel):
        return model
    prompts = [name for name, config in model.peft_config.items() if config.is_prompt_learning]
    if prompts:
        kind = model.peft_config[prompts[0]].peft_type
        raise InputError(f"the adapter {prompts[0]!r} ({kind}) changes the model's input, not the model: not read here")
    return inside(model.base_model.model)


def adapters(model: nn.Module, modules: list[nn.Module] | None = None) -> dict[str, bool]:
    """Names of the adapters that act, and whether each is merged into the weights."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: dict[str, bool] = {}
    for module in modules_of(model) if modules is None else modules:
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):  # the second trains whole modules, a head say
            merged = getattr(module, "merged_adapters", [])
            for name in {*merged, *([] if module.disable_adapters else module.active_adapters)}:
                found[name] = found.get(name, True) and name in merged
    return found


def compiled_parts(model: nn.Module) -> list[str]:
    """Paths of the modules that ``torch.compile`` was called on: the module, its ``forward``, or that of its class."""
    found = []
    for path, module in model.named_modules():
        forward = getattr(module, "forward", None)
        wrapped = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if wrapped or hasattr(forward, "_torchdynamo_orig_callable"):
            found.append(path or type(module).__name__)
    return found

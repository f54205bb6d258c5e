"""Models held by other libraries: TransformerLens bridges, nnsight models and PEFT models.

Nothing is computed through the other library. The Hugging Face model inside is taken out, both are run on the same
tokens, and it is refused if they differ by more than rounding (folded or centred weights, permanent hooks, an edited
envoy). From there on the states are read by the same code.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.activations.capture import probe_ids
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import bare, evaluating, on_device

ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""Largest relative difference of logits that another attention kernel may make."""


class Backend(ABC):
    """A model held by another library."""

    library: str

    def __init__(self, held: Any) -> None:
        self.held = held

    @staticmethod
    @abstractmethod
    def holds(held: Any) -> bool:
        """Whether this backend is for that object; imports nothing."""

    @abstractmethod
    def hf(self) -> PreTrainedModel:
        """The Hugging Face model with the user's weights, shared and not copied."""

    @abstractmethod
    def logits(self, ids: Tensor) -> Tensor:
        """The other library's own logits, ``[1 pos vocab]``."""

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer it holds."""
        found = getattr(self.held, "tokenizer", None)
        return found if isinstance(found, PreTrainedTokenizerBase) else None

    def unwrap(self) -> PreTrainedModel:
        """The Hugging Face model, checked to be the same function as the library's."""
        hf = self.hf()
        ids = probe_ids(hf)
        held = evaluating(self.held) if isinstance(self.held, nn.Module) else nullcontext()
        with evaluating(hf), held, torch.no_grad():
            mine = hf(input_ids=ids, use_cache=False).logits.double()
            theirs = self.logits(ids).detach().double().to(mine.device)
        error = float((mine - theirs).norm() / mine.norm())
        if not error <= ROUNDING.get(hf.dtype, 1e-4):
            raise InputError(
                f"the {self.library} model computes something else than the Hugging Face model inside it (logits "
                f"differ by {error:.1g}): remove its permanent hooks, edits and weight processing, or pass the "
                "Hugging Face model"
            )
        return hf


class TransformerLensBackend(Backend):
    """A ``TransformerBridge``, which replaces the Hugging Face modules by its own and keeps them inside.

    The model handed out is a second tree of module shells with the originals put back; parameters are
    shared, the bridge is unchanged, and attention runs on the model's own kernel again.
    """

    library = "TransformerLens"

    @staticmethod
    def holds(held: Any) -> bool:
        """See :class:`Backend`."""
        return any(c.__module__.startswith("transformer_lens.") and "Bridge" in c.__name__ for c in type(held).__mro__)

    def hf(self) -> PreTrainedModel:
        """See :class:`Backend`."""
        original = getattr(self.held, "original_model", None)
        if not isinstance(original, PreTrainedModel):
            raise InputError("the TransformerLens bridge holds no Hugging Face model on this machine")
        stripped = _strip(original, {})
        assert isinstance(stripped, PreTrainedModel)
        stripped.config = copy.deepcopy(original.config)
        for module in stripped.modules():  # the bridge's own modules keep its settings
            if module.__dict__.get("config") is original.config:
                module.__dict__["config"] = stripped.config
        needs_eager = any(getattr(m, "attn_logit_softcapping", None) for m in stripped.modules())  # SDPA has no cap
        if stripped._supports_sdpa and not needs_eager:
            stripped.set_attn_implementation("sdpa")
        return stripped

    def logits(self, ids: Tensor) -> Tensor:
        """See :class:`Backend`."""
        return self.held(ids, prepend_bos=False)


class NNsightBackend(Backend):
    """An nnsight ``TransformersModel`` (or an older ``LanguageModel``): the module it traces is the model itself."""

    library = "nnsight"

    @staticmethod
    def holds(held: Any) -> bool:
        """See :class:`Backend`."""
        return any(c.__module__.startswith("nnsight.") for c in type(held).__mro__)

    def hf(self) -> PreTrainedModel:
        """See :class:`Backend`."""
        module = getattr(self.held, "_module", None)
        if isinstance(module, nn.Module) and any(p.is_meta for p in module.parameters()):
            raise InputError("the weights of this nnsight model are not on this machine: load it with dispatch=True")
        if not isinstance(module, PreTrainedModel):
            raise InputError(f"the nnsight model wraps a {type(module).__name__}, which is no Hugging Face model")
        return module

    def logits(self, ids: Tensor) -> Tensor:
        """See :class:`Backend`."""
        with import_nnsight() as nnsight:
            save = nnsight.save
            with self.held.trace(ids, use_cache=False):
                logits = save(self.held.output.logits)
        return logits


class PeftBackend(Backend):
    """A ``PeftModel``: the model it was made from, with the adapters inside it."""

    library = "peft"

    @staticmethod
    def holds(held: Any) -> bool:
        """See :class:`Backend`."""
        return type(held).__module__.startswith("peft.") and hasattr(held, "peft_config")

    def hf(self) -> PreTrainedModel:
        """See :class:`Backend`."""
        on_device(self.held)
        found = bare(self.held)
        if not isinstance(found, PreTrainedModel):
            raise InputError(f"the peft model wraps a {type(found).__name__}, which is no Hugging Face model")
        return found

    def logits(self, ids: Tensor) -> Tensor:
        """See :class:`Backend`."""
        return self.held(input_ids=ids, use_cache=False).logits


def backend_of(held: Any) -> Backend | None:
    """The backend for a model of another library; ``None`` for anything else. Imports nothing."""
    kinds: tuple[type[Backend], ...] = (TransformerLensBackend, NNsightBackend, PeftBackend)
    return next((kind(held) for kind in kinds if kind.holds(held)), None)


def _strip(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """A shell of the module with every bridge component replaced by what it wraps; parameters are shared."""
    if id(module) in done:
        return done[id(module)]
    if type(module).__module__.startswith("transformer_lens."):
        original = module._modules.get("_original_component")
        if original is None:
            raise InputError(f"TransformerLens's {type(module).__name__} does not keep the module it replaced")
        done[id(module)] = _strip(original, done)
        return done[id(module)]
    shell = copy.copy(module)
    done[id(module)] = shell
    shell.__dict__ = dict(module.__dict__)
    for name in (n for n in module.__dict__ if n.startswith(("_forward", "_backward")) and "hooks" in n):
        shell.__dict__[name] = type(module.__dict__[name])()  # the bridge's hooks stay the bridge's
    children = {name: None if child is None else _strip(child, done) for name, child in module._modules.items()}
    shell.__dict__["_modules"] = children
    shell.__dict__["_parameters"] = dict(module._parameters)
    shell.__dict__["_buffers"] = dict(module._buffers)
    return shell


@contextlib.contextmanager
def import_nnsight() -> Iterator[ModuleType]:
    """``nnsight`` for the ``with`` block, without the changes it makes when imported.

    It mounts ``.save`` on every object and replaces ``torch.Tensor.backward``; where the user imported it, both stay.
    """
    imported_before, backward = "nnsight" in sys.modules, torch.Tensor.backward
    import nnsight

    if not imported_before and hasattr(object, "save"):
        from nnsight._c import py_mount

        py_mount.unmount("save")
    try:
        yield nnsight
    finally:
        if not imported_before:
            torch.Tensor.backward = backward  # type: ignore[method-assign]

"""One adapter a library, about ten methods each: how to get at the Hugging Face model inside.

Nothing is computed through the other library. A TransformerLens bridge holds the Hugging Face modules inside its own,
and an nnsight model holds the Hugging Face model itself; ``wrap`` takes that out, runs both on the same tokens and
refuses if they differ by more than rounding (folded or centred weights, permanent hooks, an edited envoy). From there
on the rows are made by the same code, so that an algorithm exists once.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from contextlib import nullcontext
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
    """A model held by another library.

    Args:
        held: the user's object.
    """

    library: str

    def __init__(self, held: Any) -> None:
        self.held = held

    @staticmethod
    @abstractmethod
    def holds(held: Any) -> bool:
        """Whether this adapter is for that object; imports nothing."""

    @abstractmethod
    def hf(self) -> PreTrainedModel:
        """The Hugging Face model with the user's weights, shared and not copied.

        Raises:
            InputError: there is none on this machine.
        """

    @abstractmethod
    def logits(self, ids: Tensor) -> Tensor:
        """The other library's own logits, ``[1 pos vocab]``."""

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer it holds."""
        found = getattr(self.held, "tokenizer", None)
        return found if isinstance(found, PreTrainedTokenizerBase) else None

    def name(self) -> str | None:
        """What the model was loaded from."""
        return getattr(self.hf().config, "name_or_path", None) or None

    def remote(self) -> bool:
        """Whether the weights are elsewhere."""
        return False

    def unwrap(self) -> PreTrainedModel:
        """The Hugging Face model, checked to be the same function.

        Raises:
            InputError: it is not here, or it computes something else than the library does.
        """
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
                f"differ by {error:.1g}): take off its permanent hooks, edits and weight processing, or pass the "
                "Hugging Face model"
            )
        return hf


class TransformerLensBackend(Backend):
    """A ``TransformerBridge``.

    It puts its own modules in the places of the Hugging Face ones and keeps these inside. The model handed out is a
    second tree of module shells with the originals back in their places; parameters are shared, the bridge is left as
    it is, and attention runs on the model's own kernel again.
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
        _share_config(original.config, stripped.config, stripped)
        if stripped._supports_sdpa and not _needs_eager(stripped):
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

    def remote(self) -> bool:
        """See :class:`Backend`."""
        module = getattr(self.held, "_module", None)
        return isinstance(module, nn.Module) and any(p.is_meta for p in module.parameters())

    def hf(self) -> PreTrainedModel:
        """See :class:`Backend`."""
        if self.remote():
            raise InputError(
                "the weights of this nnsight model are not on this machine; load it with dispatch=True, or read it "
                "on NDIF with verdictscope.activations.backends.nnsight.remote_request"
            )
        module = getattr(self.held, "_module", None)
        if not isinstance(module, PreTrainedModel):
            raise InputError(f"the nnsight model wraps a {type(module).__name__}, which is no Hugging Face model")
        return module

    def logits(self, ids: Tensor) -> Tensor:
        """See :class:`Backend`."""
        from verdictscope.activations.backends.nnsight import trace_logits

        return trace_logits(self.held, ids)


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
    """The adapter for a model of another library; ``None`` for anything else. Imports nothing."""
    for kind in (TransformerLensBackend, NNsightBackend, PeftBackend):
        if kind.holds(held):
            return kind(held)
    return None


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


def _share_config(old: Any, new: Any, root: nn.Module) -> None:
    """Modules that held the old config hold the new one, so that the bridge's own model keeps its settings."""
    for module in root.modules():
        if module.__dict__.get("config") is old:
            module.__dict__["config"] = new


def _needs_eager(hf: PreTrainedModel) -> bool:
    """Whether attention here has what SDPA lacks (a soft cap)."""
    return any(getattr(m, "attn_logit_softcapping", None) for m in hf.modules())

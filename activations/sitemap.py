"""Where each site lives in a model.

The names come from TransformerLens's architecture adapters, read without building a bridge, so there is no
table of families here; a user can name a path instead. Which of the named modules carries a branch into the
residual stream, and with what gain, is measured (``measure.py``) and then checked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from verdictscope.activations.sites import WRITABLE
from verdictscope.errors import InputError, reason

GLOBAL_ROLES = ("blocks", "ln_final", "unembed")
BLOCK_ROLES = ("ln1", "ln1_post", "ln2", "ln2_post", "attn", "o", "mlp", "mlp_in", "mlp_out")
Overrides = Mapping[str, str | None]
_USUAL = {
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn": "self_attn",
    "o": "self_attn.o_proj",
    "mlp": "mlp",
    "mlp_in": "mlp.up_proj",
    "mlp_out": "mlp.down_proj",
}


@dataclass(frozen=True)
class Modules:
    """Modules by role, before anything is measured.

    Attributes:
        parent: the module that owns the list of blocks; every forward pass goes through it.
        blocks: one mapping a layer, role to module; always with ``block``.
        ln_final: the final norm, ``None`` when the model has none.
        unembed: the head that makes logits, ``None`` when the model has none.
        given: roles the user named.
    """

    parent: nn.Module
    blocks: tuple[dict[str, nn.Module], ...]
    ln_final: nn.Module | None
    unembed: nn.Module | None
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Branch:
    """What adds to the residual stream: a module's output times a gain."""

    module: nn.Module
    gain: float = 1.0


@dataclass(frozen=True)
class Attention:
    """Where a layer's softmax attention is listened to.

    Attributes:
        module: the module that makes the attention product.
        interface: whether it does so through transformers' attention interface; else its values are only read.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        shared: how many of the keys that enter the product are one head, repeated.
    """

    module: nn.Module
    interface: bool
    n_heads: int
    n_kv_heads: int
    shared: int = 1


@dataclass(frozen=True)
class Router:
    """The gate of a mixture of experts: a module and which of its outputs has one number per expert."""

    module: nn.Module
    index: int = 0


@dataclass(frozen=True)
class Form:
    """Shape (of one token) and dtype of a site's value."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Block:
    """One layer, measured.

    Attributes:
        block: the layer's module.
        attn: the token-mixing branch; ``None`` where there is none, or where no one module's output is what it adds.
        mlp: the other branch, likewise.
        mid: the module whose input is ``resid_mid``; ``None`` in a parallel block or one of a single branch.
        mixer: the attention module itself, whose output the output projection makes; ``None`` if it is not named.
        o: the attention output projection, ``None`` where the layer has no softmax attention.
        n_heads: query heads.
        d_head: width of one head at the input of ``o``; ``d_model / n_heads`` only by accident.
        attention: where queries, keys and values are listened to, ``None`` without softmax attention.
        router: the gate of a mixture of experts, ``None`` in a dense layer.
        forms: shape and dtype by site, as measured.
        missing: why the layer lacks sites of the residual stream's making (``attn_out``, ``mlp_out``, ``resid_mid``).
        whole: whether the branches there are add up to what the residual stream gains.
    """

    block: nn.Module
    attn: Branch | None
    mlp: Branch | None
    mid: nn.Module | None
    mixer: nn.Module | None
    o: nn.Module | None
    n_heads: int
    d_head: int
    attention: Attention | None = None
    router: Router | None = None
    forms: Mapping[str, Form] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True)
class HookPoint:
    """Where a hook goes: a module's input or output, times ``gain``, cut into ``heads`` if there are any.

    Of an output with several parts ``index`` is the one meant. With ``attention`` the place is not a module's input
    or output but the ``site`` named, inside the attention product. Of a module that runs ``calls`` times a pass the
    last time is meant.
    """

    module: nn.Module
    side: Literal["in", "out"]
    gain: float = 1.0
    heads: int | None = None
    index: int = 0
    attention: Attention | None = None
    site: str = ""
    calls: int = 1


@dataclass(frozen=True)
class SiteMap:
    """Site names to modules; ``final_calls`` says how often the final norm runs in a pass."""

    parent: nn.Module
    blocks: tuple[Block, ...]
    ln_final: nn.Module | None
    unembed: nn.Module | None = field(default=None)
    final_calls: int = 1

    def __len__(self) -> int:
        return len(self.blocks)

    def hook_point(self, name: str, layer: int) -> HookPoint:
        """Where the site is hooked."""
        block = self.blocks[layer]
        if name == "resid_pre":
            return HookPoint(block.block, "in")
        if name == "resid_post":
            return HookPoint(block.block, "out")
        if name in block.missing:
            raise InputError(f"layer {layer} has no site {name}: {block.missing[name]}; use resid_pre or resid_post")
        if name == "resid_mid":
            if block.mid is None:
                raise InputError(
                    f"layer {layer} is a parallel block: attention and MLP read the same input, so there is no "
                    "resid_mid; use resid_pre or resid_post"
                )
            return HookPoint(block.mid, "in")
        if name in ("attn_out", "mlp_out"):
            branch = block.attn if name == "attn_out" else block.mlp
            assert branch is not None
            return HookPoint(branch.module, "out", branch.gain)
        if name == "z":
            if block.o is None:
                raise InputError(no_heads(block, layer) + "; choose other layers for site z")
            return HookPoint(block.o, "in", heads=block.n_heads)
        if name == "final_norm":
            # A model without a final norm hands the last block's output to the head as it is.
            if self.ln_final is None:
                return HookPoint(self.blocks[-1].block, "out")
            return HookPoint(self.ln_final, "out", calls=self.final_calls)
        if name == "router":
            if block.router is None:
                raise InputError(f"layer {layer} has no mixture of experts, so no router; choose other layers")
            return HookPoint(block.router.module, "out", index=block.router.index)
        if block.attention is None:
            raise InputError(
                f"layer {layer} has no softmax attention that could be listened to, so no site {name}; "
                "choose other layers"
            )
        return HookPoint(block.attention.module, "in", attention=block.attention, site=name)

    def has(self, name: str, layer: int) -> bool:
        """Whether the layer has the site."""
        try:
            self.hook_point(name, layer)
        except InputError:
            return False
        return True

    def writable_hook_point(self, name: str, layer: int) -> HookPoint:
        """Where the site is written."""
        place = self.hook_point(name, layer)
        if name not in WRITABLE:
            raise InputError(f"site {name} is only read; write one of {', '.join(WRITABLE)}")
        if place.attention is not None and not place.attention.interface:
            raise InputError(
                f"layer {layer}: {type(place.module).__name__} does not use transformers' attention interface, so "
                f"site {name} is only read; write z instead"
            )
        return place

    def shape(self, name: str, layer: int) -> tuple[int, ...]:
        """Shape of the site's value at one token; ``(head, -1)`` for ``pattern``, whose keys are the batch's."""
        return self._form(name, layer).shape

    def dtype(self, name: str, layer: int) -> torch.dtype:
        """Dtype of the site's value."""
        return self._form(name, layer).dtype

    def _form(self, name: str, layer: int) -> Form:
        self.hook_point(name, layer)
        return self.blocks[layer].forms[name]


def no_heads(block: Block, layer: int) -> str:
    """Why a layer without a known output projection has no heads."""
    if block.attention is None:
        return f"layer {layer} has no softmax attention, so no heads"
    return f"layer {layer}: the attention output projection is not known, name it with overrides={{'o': PATH}}"


def adapter_paths(hf: PreTrainedModel) -> dict[str, str | None]:
    """Module paths by role, from TransformerLens's adapter for this architecture; block roles are relative to
    a block.
    """
    level = hf_logging.get_verbosity()
    try:
        from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    finally:  # TransformerLens sets the transformers logger to ERROR when imported
        hf_logging.set_verbosity(level)
    known = type(hf).__name__
    if known.endswith("ForSequenceClassification"):  # the adapters know the language model it was made from
        known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf.config.model_type, known)
    try:
        config = build_bridge_config_from_hf(copy.deepcopy(hf.config), known, "model", hf.dtype)
        mapping: Mapping[str, Any] = (
            ArchitectureAdapterFactory.select_architecture_adapter(config).component_mapping or {}
        )
    except Exception as error:  # adapters fail in as many ways as there are families
        if (usual := _usual_paths(hf)) is not None:
            return usual
        raise InputError(
            f"TransformerLens has no adapter for {type(hf).__name__} ({reason(error)}); "
            f"name the modules with overrides: {', '.join(GLOBAL_ROLES)} from the model's root, "
            f"{', '.join(BLOCK_ROLES)} from a block"
        ) from error
    if "blocks" not in mapping:
        raise InputError(f"TransformerLens's adapter of {type(hf).__name__} names no list of blocks; use overrides")
    paths: dict[str, str | None] = {"blocks": mapping["blocks"].name}
    paths |= {role: mapping[role].name for role in ("ln_final", "unembed") if role in mapping}
    if type(hf).__name__.endswith("ForSequenceClassification"):
        paths["unembed"] = None  # its head scores a sequence and makes no logits of tokens
    parts: Mapping[str, Any] = mapping["blocks"].submodules or {}
    for role in ("ln1", "ln1_post", "ln2", "ln2_post", "attn", "mlp"):
        if role in parts and parts[role].name:
            paths[role] = parts[role].name
    for role, owner, end in (("o", "attn", "o"), ("mlp_in", "mlp", "in"), ("mlp_out", "mlp", "out")):
        inner = (parts[owner].submodules or {}) if owner in parts else {}
        if end in inner and inner[end].name:
            paths[role] = _join(parts[owner].name, str(inner[end].name))
    # A hybrid model's other mixers (linear attention, state space) are siblings of attn in its blocks.
    paths["mixers"] = ",".join(p.name for r, p in parts.items() if p.name and r.endswith(("attn", "mixer", "ssm")))
    return paths


def _usual_paths(hf: PreTrainedModel) -> dict[str, str | None] | None:
    """Paths of the layout that most decoders share, if this model has it; what is found is measured and checked."""
    decoder = hf.get_decoder()
    root = next((path for path, module in hf.named_modules() if module is decoder), None)
    layers = getattr(decoder, "layers", None)
    if root is None or not isinstance(layers, nn.ModuleList) or not all(_find(m, _USUAL["o"]) for m in layers):
        return None
    paths: dict[str, str | None] = {"blocks": _join(root, "layers"), "ln_final": _join(root, "norm"), "mixers": ""}
    head = hf.get_output_embeddings()
    paths["unembed"] = next((path for path, module in hf.named_modules() if module is head), None)
    return paths | {role: path for role, path in _USUAL.items() if _find(layers[0], path) is not None}


def _join(parent: str | None, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def find_modules(hf: PreTrainedModel, overrides: Overrides | None = None) -> Modules:
    """The modules of a model by role."""
    overrides = dict(overrides or {})
    unknown = [role for role in overrides if role not in (*GLOBAL_ROLES, *BLOCK_ROLES)]
    if unknown:
        raise InputError(f"override {unknown[0]!r} is no role; roles are {', '.join((*GLOBAL_ROLES, *BLOCK_ROLES))}")
    complete = {"blocks", "ln_final", "unembed", "attn", "o", "mlp"} <= overrides.keys()
    paths = ({"mixers": ""} if complete else adapter_paths(hf)) | overrides
    path = paths["blocks"] or "blocks"
    blocks = _get(hf, path, "blocks")
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        raise InputError(f"{path!r} is not a list of blocks; name it with overrides={{'blocks': PATH}}")
    return Modules(
        parent=hf.get_submodule(path.rpartition(".")[0]),
        blocks=tuple(_block_modules(block, paths, overrides) for block in blocks),
        ln_final=_get(hf, paths.get("ln_final"), "ln_final"),
        unembed=_get(hf, paths.get("unembed"), "unembed"),
        given=frozenset(overrides),
    )


def _block_modules(block: nn.Module, paths: Mapping[str, str | None], overrides: Overrides) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {"block": block}
    for role in BLOCK_ROLES:
        path = paths.get(role)
        module = _find(block, path) if path else None
        if module is not None:
            found[role] = module
        elif path and role in overrides:
            children = ", ".join(name for name, _ in block.named_children())
            raise InputError(f"overrides: a block has no module {path!r} for {role}; it has {children}")
    if "attn" not in found:
        mixers = [_find(block, path) for path in (paths.get("mixers") or "").split(",") if path]
        mixer = next((m for m in mixers if m is not None), None)
        if mixer is not None:
            found["attn"] = mixer
    return found


def _find(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _get(root: nn.Module, path: str | None, role: str) -> nn.Module | None:
    if path is None:
        return None
    module = _find(root, path)
    if module is None:
        with suppress(AttributeError):  # not even a name: the error below reports it
            if attrgetter(path)(root) is None:  # there in name only, such as the final norm of a post-norm OPT
                return None
        raise InputError(f"the model has no module {path!r} for {role}; name it with overrides={{{role!r}: PATH}}")
    return module

"""Models loaded or taken from memory, with their sites found and checked."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.activations.backends import backend_of
from verdictscope.activations.checkpoint import read_checkpoint
from verdictscope.activations.identities import check, finite_weights, raise_first
from verdictscope.activations.infer_sites import measure, sees_later
from verdictscope.activations.model import Model
from verdictscope.activations.sitemap import Overrides, find_modules
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import evaluating, inside, modules_of, on_device, watching
from verdictscope.sources import locate
from verdictscope.weights_digest import structure_digest


def load_model(
    name: str | Path | Any,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overrides: Overrides | None = None,
) -> Model:
    """Loads a causal language model (or a reward model) and its tokenizer, finds the sites and checks them.

    Args:
        name: a bundled model (``organism:NAME``), a checkpoint folder or a hub name; of an adapter the base model is
            loaded and the adapter merged into it.
        dtype: ``"auto"`` (as stored; float32 on a CPU that is slow in the stored type, with a warning),
            or a torch dtype or its name.
        device: where to run; CUDA if there is any, else the CPU.
        revision: hub branch, tag or commit.
        trust_remote_code: run Python code that comes with the checkpoint.
        overrides: module paths where the adapter's are wrong or missing, see ``sitemap.find_modules``.

    Raises:
        InputError: the model is not there or cannot be loaded, or a site check fails.

    Example:
        >>> from verdictscope.activations import load_model
        >>> load_model("organism:cliff", device="cpu")
        Model('organism:cliff': Qwen3ForCausalLM, 6 layers, 8 heads, d_model 128, float32 on cpu)
    """
    if not isinstance(name, str | Path):
        raise InputError(f"load_model takes a name or a folder, not a {type(name).__name__}; use wrap")
    hf, tokenizer = read_checkpoint(
        locate(str(name)), dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code
    )
    return wrap(
        hf,
        tokenizer,
        name=str(name),
        revision=getattr(hf.config, "_commit_hash", None) or revision,
        overrides=overrides,
    )


_ready: weakref.WeakKeyDictionary[Any, tuple[str, Model]] = weakref.WeakKeyDictionary()


def as_model(held: Any) -> Model:
    """A ``Model`` as it is; a Hugging Face, TransformerLens or nnsight model wrapped, once for as long as its modules
    and the shapes of its weights stay what they are (an adapter put on is another build).
    """
    if isinstance(held, Model):
        return held
    build = structure_digest(held) if isinstance(held, nn.Module) else ""
    known, ready = _ready.get(held, (None, None))
    if ready is None or known != build or modules_of(ready.hf) != ready.modules:  # an adapter added, a layer replaced
        ready = wrap(held)
        _ready[held] = build, ready
    return ready


def wrap(
    hf: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    overrides: Overrides | None = None,
) -> Model:
    """Finds and checks the sites of a model that is already in memory, and leaves it as it is.

    Train mode, autocast and ``torch.compile`` (of the model, its ``forward`` or its layers) do not affect what is read:
    every pass is made in evaluation mode, in the dtype of the weights and uncompiled, and edits act in any call of the
    model inside their block. Adapters that are not merged are part of the model.

    Args:
        hf: a Hugging Face decoder, also compiled, or a ``PeftModel``, TransformerLens ``TransformerBridge`` or nnsight
            ``TransformersModel`` that holds one (see ``backends.py``).
        tokenizer: its tokenizer.
        name: what to call it in files; by default what it was loaded from.
        revision: hub commit.
        overrides: module paths, see ``sitemap.find_modules``.

    Raises:
        InputError: a site check fails; the message names the site, the layer and the relative size of the
            error.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from verdictscope.activations import wrap
        >>> sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
        >>> wrap(LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)), name="tiny")
        Model('tiny': LlamaForCausalLM, 3 layers, 4 heads, d_model 32, float32 on cpu)
    """
    hf = inside(hf) if isinstance(hf, nn.Module) else hf
    backend = backend_of(hf)
    if backend is not None:
        hf, tokenizer = backend.unwrap(), tokenizer or backend.tokenizer()
    if not isinstance(hf, PreTrainedModel):
        raise InputError(
            f"a {type(hf).__name__} is no model: pass a Hugging Face, TransformerLens or nnsight model (what a "
            "DataParallel holds is its .module)"
        )
    model = unchecked(hf, tokenizer, name=name, revision=revision, overrides=overrides)
    checks = (*model.checks, *check(model))
    raise_first(checks)
    object.__setattr__(model, "checks", checks)
    return model


def unchecked(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    overrides: Overrides | None = None,
) -> Model:
    """Like ``wrap`` without the checks, for tools that report on them."""
    on_device(hf)
    finite = finite_weights(hf)
    raise_first([finite])
    config = hf.config.get_text_config()
    with evaluating(hf) as modules, watching(hf, modules):
        if getattr(config, "is_decoder", None) is False and sees_later(hf):
            raise InputError(
                f"{type(hf).__name__} is an encoder here: a token sees later ones; load it with is_decoder=True"
            )
        stated = getattr(config, "num_attention_heads", None)
        sites = measure(hf, find_modules(hf, overrides), int(stated) if isinstance(stated, int) else 1)
    heads = next((block for block in sites.blocks if block.o is not None), None)
    n_heads = heads.n_heads if heads else 0
    recorded = next((block.attention for block in sites.blocks if block.attention is not None), None)
    kv_heads = recorded.n_kv_heads if recorded else int(getattr(config, "num_key_value_heads", None) or n_heads)
    return Model(
        hf=hf,
        optional_tokenizer=tokenizer,
        name=name or hf.config.name_or_path or type(hf).__name__,
        revision=revision,
        sites=sites,
        n_heads=n_heads,
        n_kv_heads=kv_heads,
        d_head=heads.d_head if heads else 0,
        d_model=sites.shape("resid_pre", 0)[0],
        checks=(finite,),
        modules=modules,
    )

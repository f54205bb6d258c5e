"""A Hugging Face decoder with its site map, checked when it loads."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.activations.identities import Check, check, embedding_weight, noise_floor, raise_first
from verdictscope.activations.measure import measure
from verdictscope.activations.sitemap import Overrides, SiteMap, find_modules
from verdictscope.errors import InputError

# What transformers raises for a folder that is no checkpoint, a config that contradicts itself or the weights
# (RuntimeError), and weights that are damaged.
_UNLOADABLE = (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


@dataclass(frozen=True, eq=False)
class Model:
    """A model whose sites are known and were checked.

    Attributes:
        hf: the Hugging Face model, in eval mode, running its own attention kernels.
        tokenizer: its tokenizer, if there is one.
        name: what it was loaded from.
        revision: the hub commit, if known.
        sites: site names to modules.
        checks: the load-time identities with their measured errors.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        d_head: width of one head at the input of the output projection of the first layer that has one.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None
    sites: SiteMap
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    checks: tuple[Check, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.sites)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return self.hf.dtype

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return embedding_weight(self.hf).device

    @cached_property
    def noise_floor(self) -> float:
        """Largest relative difference that padding and batch-mates make (measured on first use).

        Of residual-stream values and logits, in the norm over the hidden axis, on this device and in this
        dtype.
        """
        return noise_floor(self)

    @cached_property
    def fingerprint(self) -> str:
        """Eight hex digits over the weights (up to about a million evenly spaced values of each tensor)."""
        crc = 0
        for name, value in sorted(self.hf.state_dict().items()):
            sample = value.detach().flatten()[:: max(1, value.numel() // 1_000_003)].contiguous().cpu()
            crc = zlib.crc32(sample.view(torch.uint8).numpy().tobytes(), zlib.crc32(name.encode(), crc))
        return f"{crc:08x}"

    def __repr__(self) -> str:
        kind = f"{type(self.hf).__name__}, {self.n_layers} layers, {self.n_heads} heads, d_model {self.d_model}"
        return f"Model({self.name!r}: {kind}, {str(self.dtype).removeprefix('torch.')} on {self.device})"


def load(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overrides: Overrides | None = None,
) -> Model:
    """Loads a causal language model and its tokenizer, finds the sites and checks them.

    Args:
        name_or_path: a local checkpoint folder or a hub name.
        dtype: ``"auto"`` (as stored), or a torch dtype or its name.
        device: where to run; CUDA if there is any, else the CPU.
        revision: hub branch, tag or commit.
        trust_remote_code: run Python code that comes with the checkpoint.
        overrides: module paths where the adapter's are wrong or missing, see ``sitemap.find_modules``.

    Raises:
        InputError: the model is not there or cannot be loaded, or a site check fails.
    """
    name = str(name_or_path)
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise InputError(f"dtype {dtype!r} is no torch dtype; use auto, float32, bfloat16 or float16")
    device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        hf, found = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True, **common)
        hf.to(device)  # type: ignore[arg-type]
    except _UNLOADABLE as error:
        if "mismatched_sizes" in str(error):
            raise InputError(f"cannot load model {name!r}: its config and its weights disagree on sizes") from error
        looks_local = Path(name).exists() or name.startswith((".", "/", "~"))
        what = "folder" if looks_local else "folder or hub model"
        raise InputError(f"cannot load model {name!r}: {_first_line(error)}; give a checkpoint {what}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random numbers in their place
        raise InputError(f"the checkpoint of {name!r} lacks {len(missing)} weights, first {missing[0]}: fetch it again")
    try:
        tokenizer: PreTrainedTokenizerBase | None = AutoTokenizer.from_pretrained(name, **common)
        if tokenizer is not None and len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
            tokenizer = None  # without tokenizer files transformers makes up an empty one
    except (OSError, ValueError, ImportError, KeyError):
        tokenizer = None  # ids are enough for everything in this room
    return wrap(
        hf,
        tokenizer,
        name=name,
        revision=getattr(hf.config, "_commit_hash", None) or revision,
        overrides=overrides,
    )


def wrap(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    overrides: Overrides | None = None,
) -> Model:
    """Finds and checks the sites of a model that is already in memory. Puts it into eval mode.

    Args:
        hf: a Hugging Face decoder.
        tokenizer: its tokenizer.
        name: what to call it in files; by default what it was loaded from.
        revision: hub commit.
        overrides: module paths, see ``sitemap.find_modules``.

    Raises:
        InputError: a site check fails; the message names the site, the layer and the relative size of the
            error.
    """
    model = unchecked(hf, tokenizer, name=name, revision=revision, overrides=overrides)
    checks = check(model)
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
    hf.eval()
    config = hf.config.get_text_config()
    n_heads = int(config.num_attention_heads)
    sites = measure(hf, find_modules(hf, overrides), n_heads)
    heads = next((block for block in sites.blocks if block.o is not None), None)
    return Model(
        hf=hf,
        tokenizer=tokenizer,
        name=name or hf.config.name_or_path or type(hf).__name__,
        revision=revision,
        sites=sites,
        n_heads=n_heads,
        n_kv_heads=int(getattr(config, "num_key_value_heads", None) or n_heads),
        d_head=heads.d_head if heads else 0,
        d_model=int(config.hidden_size),
    )


def _usable(device: str | torch.device) -> torch.device:
    """A device that tensors can be put on."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {_first_line(error)}; try cpu or cuda") from error
    return found


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    # "Validation error for field X:" says what only on its next line
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")[:200]

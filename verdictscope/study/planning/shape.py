"""What a model costs, read from its config: parameters, bytes a token, operations a token. No weight is loaded."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verdictscope.errors import InputError, reason
from verdictscope.sources import locate

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, as far as memory, disk and time hang on them.

    Attributes:
        name: what it was asked for as.
        architecture: class of the model.
        dtype: floating type it will run in.
        parameters: all of them, tied ones once.
        multiplied: parameters of the blocks that a token is multiplied with; of experts only those it is sent to.
        head: parameters of the matrix from the last layer to the vocabulary.
        n_layers, n_heads, n_kv_heads, d_head, d_model, vocab: as in the config.
        d_ff: width between the matrices of an MLP; of experts, of all that a token is sent to.
        positions: longest context, ``None`` where the config states none.
        checkpoint: bytes of the weight files, ``None`` where there are none to look at.
        weights: bytes of the weights in memory.
    """

    name: str
    architecture: str
    dtype: str
    parameters: int
    multiplied: int
    head: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    vocab: int
    d_ff: int
    positions: int | None
    checkpoint: int | None
    weights: int

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return BYTES[self.dtype]

    @property
    def kv_per_token(self) -> int:
        """Bytes of keys and values a token leaves in the cache: 2 x layers x key-value heads x head width."""
        return 2 * self.n_layers * self.n_kv_heads * self.d_head * self.itemsize

    @property
    def resid_per_row(self) -> int:
        """Bytes of one stored row of ``resid_post`` at all layers."""
        return self.n_layers * self.d_model * self.itemsize

    @property
    def z_per_row(self) -> int:
        """Bytes of one stored row of ``z`` at all layers."""
        return self.n_layers * self.n_heads * self.d_head * self.itemsize

    @property
    def live_per_token(self) -> int:
        """Bytes a token needs at the widest place of a block, without gradients (an estimate).

        The residual stream, its normed copy, and either gate, up and their product or queries, keys, values and
        their mix.
        """
        attention = (2 * self.n_heads + 2 * self.n_kv_heads) * self.d_head
        return (2 * self.d_model + max(3 * self.d_ff, attention)) * self.itemsize

    def flops(self, rows: int, width: int, logits: int = 0, context: int | None = None) -> int:
        """Floating-point operations of one call: 2 a parameter and token, 4 a pair of tokens and head dimension.

        Args:
            rows: rollouts in the batch.
            width: tokens of each, padding included.
            logits: rows whose logits are made.
            context: tokens each of them looks at; ``width`` (no causal half is left out) by default.
        """
        tokens = rows * width
        seen = width if context is None else context
        products = 4 * self.n_layers * self.n_heads * self.d_head * seen
        return tokens * (2 * self.multiplied + products) + 2 * self.head * logits


def read_shape(
    model: str,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "cuda",
) -> Shape:
    """Sizes of a model from its ``config.json`` and, where its files are here, the headers of its weights.

    Raises:
        InputError: there is no config to read, or no language model can be built from it.
    """
    name = locate(model)
    config = read_config(name, revision, trust_remote_code)
    skeleton = on_meta(config, name, trust_remote_code)
    text = config.get_text_config(decoder=True)
    head = skeleton.get_output_embeddings()
    own = head.weight.numel() if head is not None else 0
    multiplied, d_ff = _block_sizes(skeleton, text)
    heads = int(getattr(text, "num_attention_heads", 0) or 0)
    d_model = int(getattr(text, "hidden_size", 0) or skeleton.get_input_embeddings().weight.shape[1])
    parameters = sum(p.numel() for p in skeleton.parameters())
    told = _dtype(dtype, config, device)
    held = _checkpoint(Path(name))
    packed = getattr(config, "quantization_config", None) is not None and held is not None
    return Shape(
        name=model,
        architecture=type(skeleton).__name__,
        dtype=told,
        parameters=parameters,
        multiplied=multiplied,
        head=own,
        n_layers=int(text.num_hidden_layers),
        n_heads=heads,
        n_kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        d_head=int(getattr(text, "head_dim", None) or d_model // max(heads, 1)),
        d_model=d_model,
        vocab=skeleton.get_input_embeddings().weight.shape[0],
        d_ff=d_ff,
        positions=getattr(text, "max_position_embeddings", None),
        checkpoint=held,
        weights=held if packed and held else parameters * BYTES[told],
    )


def read_config(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """A config from a folder, the hub's cache or the hub.

    Raises:
        InputError: none of them has it.
    """
    from transformers import AutoConfig

    from verdictscope.activations.checkpoint import no_such_folder

    if (absent := no_such_folder(name)) is not None:
        raise InputError(absent)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if Path(name).exists() or name.startswith((".", "/", "~")):
            raise InputError(
                f"no model can be planned from {name!r}: {reason(error)}; it needs a config.json"
            ) from error
    try:
        return AutoConfig.from_pretrained(name, **options)
    except Exception as error:  # the hub's client fails in as many ways as networks do
        raise InputError(
            f"the config of {name!r} is neither in the hub's cache nor to be had from the hub: "
            "give a folder that holds its config.json, --set model=DIR"
        ) from error


def on_meta(config: PretrainedConfig, name: str, trust_remote_code: bool = False) -> Any:
    """The model's modules with shapes and no numbers.

    Raises:
        InputError: the config describes no language model that is known.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise InputError(f"no language model can be built from the config of {name!r}: {reason(error)}") from error


def stored_parameters(folder: Path) -> int | None:
    """Numbers that a folder's safetensors files hold, by their headers; ``None`` where there are none."""
    headers = [_header(file) for file in sorted(folder.glob("*.safetensors"))]
    shapes = [about["shape"] for header in headers for key, about in header.items() if key != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes) if headers else None


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            return json.loads(opened.read(min(size, 1 << 28)))
    except (OSError, ValueError, struct.error) as error:
        raise InputError(f"{file} is no safetensors file ({reason(error)}): fetch it again") from error


def _checkpoint(folder: Path) -> int | None:
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return sum(file.stat().st_size for file in files) or None


def _dtype(asked: str, config: PretrainedConfig, device: str) -> str:
    import torch

    from verdictscope.activations.precision import dtype_here

    stored = getattr(config, "dtype", None) or torch.float32
    loaded = dtype_here(asked, stored, torch.device(device))
    told = str(stored if loaded == "auto" else loaded).removeprefix("torch.")
    return told if told in BYTES else "float32"


def _block_sizes(skeleton: Any, text: Any) -> tuple[int, int]:
    """Parameters of the blocks' matrices that a token meets, and the widest MLP."""
    experts = int(getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None) or 0)
    chosen = int(getattr(text, "num_experts_per_tok", None) or 0)
    share = chosen / experts if experts and chosen else 1.0
    outside = {
        id(m.weight) for m in (skeleton.get_input_embeddings(), skeleton.get_output_embeddings()) if m is not None
    }
    total, sent = 0, 0
    for name, parameter in skeleton.named_parameters():
        if parameter.ndim < 2 or id(parameter) in outside:
            continue
        if ".experts." in name:
            sent += parameter.numel()
        else:
            total += parameter.numel()
    narrow = int(getattr(text, "moe_intermediate_size", 0) or 0) * chosen if experts else 0
    wide = int(getattr(text, "intermediate_size", 0) or 4 * int(getattr(text, "hidden_size", 0) or 0))
    return total + round(sent * share), narrow or wide

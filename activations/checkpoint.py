"""A Hugging Face checkpoint in memory: a causal language model or a reward model, and its tokenizer."""

from __future__ import annotations

import json
import timeit
import warnings
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from verdictscope.errors import InputError, reason
from verdictscope.rollouts.engines.state import bare

SLOW = 4.0
"""So many times the time of float32 is slow: a CPU with bfloat16 units needs less than once the time."""

HALVES = (torch.bfloat16, torch.float16)

# What transformers raises for a folder that is no checkpoint, a config that contradicts itself or the weights
# (RuntimeError), and weights that are damaged.
_UNLOADABLE = (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


def read_checkpoint(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Loads the model and its tokenizer (``None`` if it has none); arguments as for :func:`~...model.load_model`.

    Of an adapter (a folder with ``adapter_config.json``) the base model it names is loaded and the adapter merged into
    its weights.
    """
    name = str(name_or_path)
    if (absent := no_such_folder(name)) is not None:
        raise InputError(absent)
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise InputError(f"dtype {dtype!r} is no torch dtype; use auto, float32, bfloat16 or float16")
    # A device that tensors can be put on
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        usable = torch.device(device)
        torch.zeros(1, device=usable).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {_first_line(error)}; try cpu or cuda") from error
    device = usable
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if (adapter := adapter_config(name, revision)) is not None:
        return _with_adapter(name, adapter, dtype, device, common)
    try:
        config = AutoConfig.from_pretrained(name, **common)
        packed = getattr(config, "quantization_config", None) is not None  # for the type that it is loaded in
        dtype = dtype if packed else dtype_here(dtype, getattr(config, "dtype", None), device)
        # The config of a reward model names a classification head; everything else is a language model
        named = getattr(config, "architectures", None) or []
        classifies = any(n.endswith("ForSequenceClassification") for n in named)
        kind: Any = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
        hf, found = kind.from_pretrained(name, dtype=dtype, output_loading_info=True, **common)
        if dtype == "auto" and not packed and (late := dtype_here(dtype, hf.dtype, device)) != dtype:
            hf.to(late)  # the config named no type: the weights' own 16 bits are exact in float32
        hf.to(device)  # type: ignore[arg-type]
    except _UNLOADABLE as error:
        if "mismatched_sizes" in str(error):
            raise InputError(f"cannot load model {name!r}: its config and its weights disagree on sizes") from error
        looks_local = Path(name).exists() or name.startswith((".", "/", "~"))
        what = "folder" if looks_local else "folder or hub model"
        raise InputError(f"cannot load model {name!r}: {_first_line(error)}; give a checkpoint {what}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random numbers instead
        raise InputError(f"the checkpoint of {name!r} lacks {len(missing)} weights, first {missing[0]}: fetch it again")
    return hf, _tokenizer(name, common)


def _tokenizer(name: str, common: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **common)
    except (OSError, ValueError, ImportError, KeyError):
        return None  # ids are enough for everything in this room
    # without tokenizer files transformers makes up an empty one
    return None if len(found.get_vocab()) <= len(found.all_special_tokens) else found


def adapter_config(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """The ``adapter_config.json`` of a folder or hub name; ``None`` where it holds no adapter."""
    try:
        file = find_adapter_config_file(name, revision=revision)
        return None if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, HFValidationError):
        return None  # it does not exist, which is reported when it is loaded
    except ValueError as error:
        raise InputError(f"{name!r}: adapter_config.json is no JSON: {_first_line(error)}; fetch it again") from error


def _with_adapter(
    name: str, config: dict[str, Any], dtype: str | torch.dtype, device: torch.device, common: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The base model of an adapter, with the adapter merged into its weights."""
    base, task = config.get("base_model_name_or_path"), config.get("task_type")
    if find_spec("peft") is None:
        raise InputError(f"{name!r} is an adapter, which needs peft to load: pip install 'verdictscope[repair]'")
    if not base or task not in (None, "CAUSAL_LM"):
        what = f"for the task {task}" if base else "that names no base model"
        raise InputError(
            f"{name!r} is an adapter {what}: put it on its model with peft, call merge_and_unload, and load what "
            "save_pretrained wrote"
        )
    from peft import PeftModel

    try:
        hf, tokenizer = read_checkpoint(
            base,
            dtype=dtype,
            device=device,
            revision=config.get("revision"),
            trust_remote_code=common["trust_remote_code"],
        )
    except InputError as error:
        raise InputError(f"{name!r} is an adapter of {base!r}: {error}") from error
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            held = PeftModel.from_pretrained(hf, name, revision=common["revision"])
        if lacking := [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]:
            raise InputError(f"the adapter {name!r} lacks weights: {lacking[0][:200]}; fetch it again")
        bare(held)  # refuses what changes the input
        hf = held.merge_and_unload()
    except InputError:
        raise
    except (*_UNLOADABLE, TypeError, AttributeError) as error:
        raise InputError(f"cannot put the adapter {name!r} on {base!r}: {_first_line(error)}") from error
    return hf, _tokenizer(name, common) or tokenizer


def no_such_folder(name: str) -> str | None:
    """What is wrong with a name that can only be a folder's (a hub name has one slash at most) and is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return f"cannot load model {name!r}: it is a file; give the checkpoint folder"
    if path.exists() or not (name.startswith((".", "/", "~")) or name.count("/") > 1):
        return None
    return f"cannot load model {name!r}: no such folder; give a checkpoint folder or a hub name"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines or isinstance(error, KeyError):
        return reason(error)
    # "Validation error for field X:" names the problem on the next line
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")[:200]


@cache
def slowdown(dtype: torch.dtype) -> float:
    """Time of a matrix product on this CPU over that in float32: the best of a few small ones, a few milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is measured is the arithmetic, not how busy the other cores are
    try:
        best = {}
        for kind in (torch.float32, dtype):
            rows, weight = torch.ones(32, 256, dtype=kind), torch.ones(256, 256, dtype=kind)
            torch.mm(rows, weight)
            best[kind] = min(timeit.repeat(partial(torch.mm, rows, weight), number=1, repeat=5))
    finally:
        torch.set_num_threads(threads)
    return best[dtype] / best[torch.float32]


def dtype_here(asked: str | torch.dtype, stored: torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """The floating type to load in; a type that is slow here gives a warning."""
    wanted = stored if asked == "auto" else getattr(torch, asked) if isinstance(asked, str) else asked
    if device.type != "cpu" or wanted not in HALVES or (ratio := slowdown(wanted)) < SLOW:
        return asked
    name = str(wanted).removeprefix("torch.")
    measured = f"{name} products take {ratio:.0f} times as long as float32 on this CPU (measured)"
    if asked == "auto":
        warnings.warn(f"{measured}: dtype 'auto' loads the model in float32", stacklevel=4)
        return torch.float32
    warnings.warn(f"{measured}: ask for float32, or for dtype 'auto'", stacklevel=4)
    return asked

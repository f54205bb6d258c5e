"""One digest for everything inside a model that fixes its outputs: every weight, every setting, as they are now.

It is computed again whenever it is asked for. PyTorch counts in-place changes (``Tensor._version``), but not those made
through ``p.data``, a NumPy view or another process, so nothing short of reading the weights notices all of them. That
costs what one token costs the memory: a forward pass reads every weight once per batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from verdictscope.errors import InputError
from verdictscope.rope_types import depends_on_length, rope_types

BYTES, WORDS = "xxh3", "sum64"
"""How the contents of a tensor become a number: XXH3-128 over its bytes on a CPU; elsewhere, so that no weight is
copied to the host, a sum of its 64-bit words modulo 2**64, each mixed and multiplied by a random odd number."""

_ROW, _BLOCK = 1 << 15, 1 << 22
_PASSING = frozenset({"training", "gradient_checkpointing", "name_or_path", "layers_are_rescaled"})
_ADAPTERS = frozenset({"_active_adapter", "_disable_adapters"})
_KNOWN = frozenset({"transformers", "transformers_modules", "torch", "peft", "accelerate", "kernels"})
_UNSAID = frozenset({"_name_or_path", "name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"})


def weights_digest(model: nn.Module, like: str | None = None) -> str:
    """The digest of a model: parameters, buffers and adapters bit for bit, their names, shapes and types, the kinds and
    plain settings of all modules (rotary embeddings, scales, active adapters), and the configuration.

    Left out is what changes by itself (training mode, frequencies that a rope scaling computes from the input's length)
    and what the model was loaded from.
    """
    named = list(_tensors(model))
    anywhere = {t.device.type for _, t in named}
    kind = like.partition(":")[0] if like and like.partition(":")[0] in (BYTES, WORDS) else None
    kind = kind or (BYTES if anywhere <= {"cpu"} else WORDS)
    unique = list({id(t): t for _, t in named}.values())
    if kind == BYTES:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            each = list(pool.map(bytes_digest, unique))
    else:
        each = _words(unique)
    sums = dict(zip(map(id, unique), each, strict=True))
    lines = [(name, str(t.dtype), tuple(t.shape), sums[id(t)]) for name, t in named]
    whole = xxhash.xxh3_128(repr(lines).encode())
    whole.update(json.dumps([_modules(model), settings(model)], sort_keys=True, default=str).encode())
    return f"{kind}:{whole.hexdigest()}"


def settings(model: nn.Module) -> dict[str, Any]:
    """The configuration without what it was loaded from."""
    config = getattr(model, "config", None)
    return {} if config is None else _said(config.to_dict())


def _said(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _said(v) for k, v in data.items() if k not in _UNSAID}
    return [_said(v) for v in data] if isinstance(data, list | tuple) else data


def structure_digest(model: nn.Module) -> str:
    """Names, kinds and plain settings of all modules, and shapes and types of their tensors, without the contents.

    Cheap; it shows whether a model still has the structure that was measured.
    """
    shapes = [(name, str(t.dtype), tuple(t.shape)) for name, t in model.named_parameters(remove_duplicate=False)]
    return xxhash.xxh3_128_hexdigest(repr((shapes, _modules(model))).encode())


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by name; offloaded weights from where they are stored."""
    for path, module in model.named_modules(remove_duplicate=False):
        passing = _own_frequencies(module)
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None or name in passing:
                continue
            full = _plain_name(f"{path}.{name}" if path else name)
            yield from _parts(full, _present(module, name, value, full))
        if type(module).__module__.partition(".")[0] not in _KNOWN:  # a module of the user's may hold plain tensors
            own = [(n, v) for n, v in vars(module).items() if isinstance(v, Tensor)]
            yield from ((_plain_name(f"{path}.{n} (attribute)"), v.detach()) for n, v in own)


def _plain_name(path: str) -> str:
    return ".".join(part for part in path.split(".") if part != "_orig_mod")  # a compiled module holds the same weights


def _own_frequencies(module: nn.Module) -> frozenset[str]:
    """Buffers of a rotary embedding that its forward pass sets by the length of the input."""
    if not any(map(depends_on_length, rope_types(module).values())):
        return frozenset()
    return frozenset(n for n in module._buffers if n.endswith("inv_freq") and not n.endswith("original_inv_freq"))


def _present(module: nn.Module, name: str, value: Tensor, full: str) -> Tensor:
    if not value.is_meta:
        return value.detach()
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        offloaded = getattr(one, "weights_map", None)
        if offloaded is not None and not isinstance(found := offloaded[name], type(None)):
            return torch.as_tensor(found).detach()
    raise InputError(f"weight {full} is on the meta device and kept results cannot be checked: load the model whole")


def _parts(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or the tensors that a quantised one is made of."""
    if hasattr(value, "__tensor_flatten__"):
        inner, about = value.__tensor_flatten__()
        yield f"{name} {about}", torch.empty(0)
        for part in inner:
            yield from _parts(f"{name}.{part}", getattr(value, part).detach())
    elif value.layout != torch.strided:
        raise InputError(f"weight {name} is stored as {value.layout}, which has no digest: use dense weights")
    else:
        yield name, value


def bytes_digest(value: Tensor) -> str:
    """XXH3-128 over a tensor's bytes, in the order of its indices."""
    if not value.numel():
        return ""
    raw: Any = value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(raw)


def _words(tensors: Sequence[Tensor]) -> list[str]:
    """One number a tensor, all of a device fetched at once."""
    sums = [_word_sum(t) for t in tensors]
    found: dict[int, int] = {}
    for device in {s.device for s in sums}:
        at = [k for k, s in enumerate(sums) if s.device == device]
        found |= dict(zip(at, torch.stack([sums[k] for k in at]).tolist(), strict=True))
    return [f"{found[k] % (1 << 64):016x}" for k in range(len(sums))]


def _word_sum(value: Tensor) -> Tensor:
    flat = value.contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    head = flat[:whole]
    if head.data_ptr() % 8 or head.storage_offset() % 8:
        head = head.clone()
    rest = torch.zeros(8, dtype=torch.uint8, device=flat.device)
    rest[: flat.numel() - whole] = flat[whole:]
    return _combined(head.view(torch.int64)) * 31 + _combined(rest.view(torch.int64))


def _combined(words: Tensor) -> Tensor:
    """Two levels: words to rows, rows to one number, each level with factors of its own."""
    rows = []
    for block in words.split(_BLOCK):
        full = block.numel() // _ROW * _ROW
        rows += [_row_sums(block[:full].view(-1, _ROW), 0), _row_sums(block[full:][None], 0)]
    sums = torch.cat(rows) if rows else words.new_zeros(1)
    while sums.numel() > 1:
        level = [_row_sums(part[None], 1) for part in sums.split(_ROW)]
        sums = torch.cat(level)
    return sums[0]


def _row_sums(words: Tensor, level: int) -> Tensor:
    # A change in the highest bit alone would vanish under an even number of odd factors: fold it down first.
    mixed = words >> 29
    mixed ^= words
    mixed *= _factors(words.device, level)[: words.shape[1]]
    return mixed.sum(1)


@cache
def _factors(device: torch.device, level: int) -> Tensor:
    generator = torch.Generator().manual_seed(20_240 + level)
    return (torch.randint(-(1 << 62), 1 << 62, (_ROW,), generator=generator) * 2 + 1).to(device)


def _modules(model: nn.Module) -> list[Any]:
    """The kind of every module, and its settings that are plain values."""
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        if not kind.startswith("torch._dynamo."):
            found.append([_plain_name(path), kind, _settings(module)])
    return found


def _settings(module: nn.Module) -> dict[str, Any]:
    if _own_frequencies(module):
        return {}  # lengths seen so far
    held = vars(module).items()
    kept = {k: v for k, v in held if k not in _PASSING and (k[0] != "_" or k in _ADAPTERS) and _is_plain(v)}
    return {k: v for k, v in kept.items() if v is not None}  # room for a state, empty so far


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values())) and all(isinstance(k, str | int) for k in value)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)

"""What acts on a model in addition to its weights: edits of this package, which describe themselves, and foreign hooks,
which do not. A result that is kept in a file must name the first, and cannot be kept under the second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import unwrap
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.nn.modules import module as globally

from verdictscope.errors import InputError
from verdictscope.hook_owners import packages_of
from verdictscope.weights_digest import bytes_digest

_HARMLESS = frozenset({"verdictscope", "transformers", "accelerate", "torch", "peft", "kernels"})
"""Packages whose hooks change nothing that the weights, the settings and our own record do not contain."""

_acting: list[tuple[nn.Module, Any]] = []
_lock = threading.Lock()


class Undescribed(Exception):
    """Something cannot be distinguished from others of its kind; the text names it."""


@contextmanager
def acting(module: nn.Module, what: Any) -> Iterator[None]:
    """Note that edits act on a module and what is inside it, for as long as the ``with`` block runs."""
    entry = (module, what)
    with _lock:
        _acting.append(entry)
    try:
        yield
    finally:
        with _lock:
            at = next(k for k in range(len(_acting) - 1, -1, -1) if _acting[k] is entry)
            del _acting[at]


def edits_in_force(model: nn.Module) -> list[dict[str, str]]:
    """The edits that act on a model now, outermost first: their descriptions, and digests of all they consist of."""
    inside = set(model.modules())
    found = []
    for module, what in list(_acting):
        if module in inside:
            try:
                whole = xxhash.xxh3_128_hexdigest(identity(what).encode())
            except Undescribed as error:
                raise InputError(
                    f"an edit in force cannot be described ({error}), so no result under it can be kept: "
                    "use an edit of verdictscope.interventions or a dataclass with describe(), or leave the path out"
                ) from None
            edits = what if isinstance(what, tuple | list) else [what]
            found.append(
                {
                    "edit": "; ".join(e.describe() if hasattr(e, "describe") else _sites(e) for e in edits),
                    "digest": whole,
                }
            )
    return found


def acted_on(model: nn.Module) -> bool:
    """Whether edits of this package act on a model now."""
    inside = set(model.modules())
    return any(module in inside for module, _ in list(_acting))


def check_hooks(model: nn.Module) -> None:
    """Refuse hooks that cannot be described where a result is to be kept."""
    for path, module in model.named_modules():
        if not packages_of(type(module).forward) <= {
            type(module).__module__.partition(".")[0]
        }:  # inherited, or put there
            _allow(type(module).forward, f"the forward of class {type(module).__qualname__}")
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            for fn in module.__dict__.get(kind, {}).values():
                _allow(fn, f"a hook on module {path or 'model'}")
        hook = module.__dict__.get("_hf_hook")
        for one in () if hook is None else (hook, *getattr(hook, "hooks", ())):
            _allow(type(one).post_forward, f"a {type(one).__qualname__} on module {path or 'model'}")
            _allow(type(one).pre_forward, f"a {type(one).__qualname__} on module {path or 'model'}")
        if "forward" in module.__dict__:
            _allow(module.__dict__["forward"], f"a changed forward of module {path or 'model'}")
    for fn in [*globally._global_forward_pre_hooks.values(), *globally._global_forward_hooks.values()]:
        _allow(fn, "a hook on all modules")


def _allow(fn: Any, where: str) -> None:
    # What a partial calls; where :func:`verdictscope.activations.hooks.attach` put a function on, that function
    while isinstance(fn, partial):
        attached = "verdictscope" in packages_of(fn.func) and fn.func.__name__ in ("_before", "_after")
        fn = fn.args[0] if attached else fn.func
    if not packages_of(fn) <= _HARMLESS:
        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        raise InputError(
            f"{where} ({name}) changes what the model computes in a way that cannot be described, so its results "
            "cannot be kept: remove it, use an edit of verdictscope.interventions, or leave the path out"
        )


def identity(what: Any) -> str:
    """All that a value consists of, in one line: equal lines, equal values.

    Numbers and texts as they are, arrays by a digest, dataclasses by their fields; functions only of this package.
    """
    if isinstance(what, np.ndarray | Tensor):
        array = what.detach().cpu().contiguous() if isinstance(what, Tensor) else torch.from_numpy(np.array(what))
        return f"array({array.dtype}, {tuple(array.shape)}, {bytes_digest(array)})"
    if is_dataclass(what) and not isinstance(what, type):
        return f"{_named(type(what))}({_items((f.name, getattr(what, f.name)) for f in fields(what) if f.init)})"
    if isinstance(what, Mapping):
        return f"{{{_items(what.items())}}}"
    if isinstance(what, set | frozenset):
        return f"{{{', '.join(sorted(map(identity, what)))}}}"
    if isinstance(what, Sequence) and not isinstance(what, str | bytes):
        return f"[{', '.join(map(identity, what))}]"
    if isinstance(what, partial):
        return f"partial({identity(what.func)}, {identity(what.args)}, {identity(what.keywords)})"
    if what is None or isinstance(what, bool | int | float | complex | str | bytes | np.generic | torch.dtype):
        return f"{type(what).__name__}:{what!r}"
    if isinstance(what, torch.device):
        return str(what)
    if callable(what) and packages_of(what) == {"verdictscope"} and not getattr(unwrap(what), "__closure__", None):
        if not hasattr(what, "__self__"):
            return _named(what)
        return f"{_named(what.__func__)} of {identity(what.__self__)}"
    raise Undescribed(f"{_named(what if hasattr(what, '__qualname__') else type(what))}")


def _items(pairs: Any) -> str:
    return ", ".join(f"{identity(key)}: {identity(value)}" for key, value in pairs)


def _named(what: Any) -> str:
    return f"{what.__module__}.{what.__qualname__}"


def _sites(write: Any) -> str:
    return f"writes at {', '.join(map(str, write))}" if isinstance(write, Mapping) else str(type(write).__name__)

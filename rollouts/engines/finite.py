"""Numbers that are none: looked for where a pass gives its results, and only then asked where they come from.

A training that diverged leaves NaN in the weights, and float16 overflows above 65,504. Scores of such a model read like
any others in a table of means.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verdictscope.errors import InputError


def strange_weight(model: nn.Module) -> str | None:
    """The first tensor that holds NaN or infinite numbers, ``None`` where every weight is a number.

    A sum that is finite has no other summands; only where it is not is a tensor looked at number by number. Packed
    weights are left out, buffers may be infinite (masks) but not NaN.
    """
    parameters = [(name, p.detach(), False) for name, p in model.named_parameters()]
    buffers = [(name, b, True) for name, b in model.named_buffers()]
    with torch.no_grad():
        for name, x, mask in parameters + buffers:
            if _plain(x) and not all_finite(x) and (not mask or x.isnan().any()):
                return name
    return None


def _plain(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.is_floating_point() and x.element_size() >= 2 and not x.is_meta


def all_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor an infinite number among the values, on any device."""
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return bool(values.sum(dtype=wide).isfinite()) or bool(values.isfinite().all())


def overflow_of(dtype: torch.dtype) -> str:
    """What to do where every weight is a number and what the model computes is not."""
    if dtype == torch.float16:
        return "every weight is a number, so the states overflowed in float16: load the model in float32 or bfloat16"
    return (
        f"every weight is a number, so the states overflowed in {str(dtype).removeprefix('torch.')} or an edit or hook "
        "wrote it: check what is written, or load the model in a wider dtype"
    )


def not_finite(model: nn.Module, what: str) -> InputError:
    """The error for results that are no numbers, with its cause: the weights are looked at now."""
    name = strange_weight(model)
    if name is not None:
        return InputError(
            f"{what} hold NaN or infinite numbers because the weight {name} does (a training that diverged?): load the "
            "checkpoint again"
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return InputError(f"{what} hold NaN or infinite numbers; {overflow_of(dtype)}")

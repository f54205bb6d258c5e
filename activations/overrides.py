"""Are the modules that a user named what their roles say?

What the residual stream gains decides about most roles (``identities.py``). The ones here carry nothing that an
identity would miss, or sit where a wrong module still has numbers of the right shape in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from verdictscope.activations.capture import captured, compare, probe_ids
from verdictscope.activations.sitemap import Modules
from verdictscope.errors import InputError

Values = Mapping[tuple[str, str], Tensor]


def check_block_roles(given: frozenset[str], values: Values, layer: int, dtype: torch.dtype) -> None:
    """Holds the norms and MLP projections that a user named to what they must read or write."""

    def differs(role: str, side: str, other: Tensor | None) -> bool:
        mine = values.get((role, side))
        if role not in given or mine is None or other is None:
            return False
        return not compare("", "", None, [mine], other, dtype).ok

    pre = values["block", "in"]
    if "ln2" in given and values["ln2", "in"].shape != pre.shape:
        raise _wrong("ln2", layer, "it does not read the residual stream")
    if differs("ln1", "in", pre):
        raise _wrong("ln1", layer, "it does not read the block's input")
    fed = values.get(("mlp", "in"), values.get(("ln2", "out"), values.get(("ln1", "out"))))
    if differs("mlp_in", "in", fed):
        raise _wrong("mlp_in", layer, "it does not read the MLP's input")
    if differs("mlp_out", "out", values.get(("mlp", "out"))):
        raise _wrong("mlp_out", layer, "it does not make the MLP's output")
    if "ln1_post" not in given and differs("attn", "out", values.get(("ln1_post", "in"))):
        raise _wrong("attn", layer, "the norm after the attention reads something else")
    if "ln2_post" not in given and differs("mlp", "out", values.get(("ln2_post", "in"))):
        raise _wrong("mlp", layer, "the norm after the MLP reads something else")


def check_global_roles(hf: PreTrainedModel, modules: Modules) -> None:
    """Holds the final norm and the head that a user named to what they must read and write."""
    roles = {"ln_final": modules.ln_final, "unembed": modules.unembed}
    wanted = {role: module for role, module in roles.items() if role in modules.given and module is not None}
    if not wanted:
        return
    last = modules.blocks[-1]["block"]
    places = {(role, side): (module, side) for role, module in wanted.items() for side in ("in", "out")}
    with captured(places | {("last", "out"): (last, "out")}) as values, torch.no_grad():  # type: ignore[arg-type]
        out = hf(input_ids=probe_ids(hf), use_cache=False)
    stream = values["last", "out"]
    for role in wanted:
        if (role, "out") not in values:
            raise InputError(f"the module given for {role} does not run in a forward pass")
    if "ln_final" in wanted and not _same(values["ln_final", "in"], stream):
        raise InputError("the module given for ln_final is not there: it does not read the last block's output")
    if "ln_final" in wanted and values["ln_final", "out"].shape != stream.shape:
        raise InputError("the module given for ln_final is not a norm: its output is not as wide as its input")
    logits = getattr(out, "logits", None)
    if "unembed" in wanted and (logits is None or values["unembed", "out"].shape[-1] != logits.shape[-1]):
        raise InputError("the module given for unembed is not the head: it does not make as many numbers as logits")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _wrong(role: str, layer: int, why: str) -> InputError:
    return InputError(f"layer {layer}: the module given for {role} is not there: {why}; name another with overrides")

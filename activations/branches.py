"""Which of a block's modules carry its branches into the residual stream, and with what gain.

Decided by what was measured in one short random pass, never by family: a block may be sequential, parallel, or have one
branch only. Where no module's output times one number is what the stream gains, the layer goes without ``attn_out`` or
``mlp_out`` and gives the reason; its residual sites stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from verdictscope.activations.capture import RELATIVE, captured, compare, probe_ids
from verdictscope.activations.sitemap import Modules
from verdictscope.errors import InputError

Values = Mapping[tuple[str, str], Tensor]
Carrier = tuple[str, float]
"""The role of the module that carries a branch, and the gain."""

UNKNOWN = {
    "attn_out": "no named module's output is what attention (or another mixer) adds to the residual stream",
    "mlp_out": "no named module's output is what the MLP adds to the residual stream",
    "resid_mid": "no named module reads the residual stream between its branches",
}
CARRIERS = frozenset({"ln1_post", "attn", "o", "ln2_post", "mlp", "mlp_out", "ln2"})
SINGLE = "the layer has one branch only"


@dataclass(frozen=True)
class Found:
    """How a block adds to the residual stream."""

    attn: Carrier | None = None
    mlp: Carrier | None = None
    mid: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    single: Carrier | None = None
    whole: bool = True


def decompose(values: Values, roles: Sequence[str], given: frozenset[str], dtype: torch.dtype) -> Found:
    """Finds the branches of one block."""
    pre, post = values["block", "in"], values["block", "out"]
    attns = _outermost(("ln1_post", "attn", "o"), ("ln2", "ln1"), roles, given)
    mlps = _outermost(("ln2_post", "mlp", "mlp_out"), (), roles, given)
    mids = [r for r in ("ln2", "mlp", "mlp_in") if r in roles and values[r, "in"].shape == pre.shape]
    mids = ["ln2"] if "ln2" in given else mids
    partial: Found | None = None
    for mid in mids:
        middle = values[mid, "in"]
        attn = fit(values, attns, middle - pre, middle, dtype)
        mlp = fit(values, mlps, post - middle, post, dtype)
        if attn and mlp:
            return Found(attn, mlp, mid)
        moved = not torch.equal(middle, pre)
        if partial is None and (attn or (mlp and moved)):
            gone = {"attn_out": UNKNOWN["attn_out"]} if not attn else {"mlp_out": UNKNOWN["mlp_out"]}
            partial = Found(attn, mlp, mid, gone, whole=False)
    # A parallel block, in which the MLP is fed by a norm of the block's own input: the sum of branches does not decide
    # this, it is the same in a sequential block.
    fed = values.get(("mlp", "in"), values.get(("mlp_in", "in")))
    norms = [r for r in ("ln2", "ln1") if (r, "in") in values and torch.equal(values[r, "in"], values["block", "in"])]
    parallel = fed is not None and any(torch.equal(values[r, "out"], fed) for r in norms)
    if parallel and (both := _fit_two(values, attns, mlps, post - pre, post, dtype)):
        return Found(*both)
    single = fit(values, [*attns, *mlps], post - pre, post, dtype)
    if given & CARRIERS and not (single and not (attns and mlps)):
        # What the user named, although it does not sum to the block's output; the identities report the error
        attn, mlp = ((names[0], 1.0) if names else None for names in (attns, mlps))
        found = {"attn_out": attn, "mlp_out": mlp}
        missing = {site: UNKNOWN[site] for site, carrier in found.items() if carrier is None}
        return Found(attn, mlp, mids[0] if mids and attn and mlp else None, missing)
    if partial is not None:
        return partial
    return Found(single=single) if single else Found(missing=UNKNOWN, whole=False)


def _outermost(order: Sequence[str], others: Sequence[str], roles: Sequence[str], given: frozenset[str]) -> list[str]:
    """Roles that may carry a branch, the outermost first; only the first if the user named one.

    ``others`` come last: norms that a family puts behind its branch under the name of one before.
    """
    found = [role for role in order if role in roles]
    if given & set(order):
        return found[:1]
    return found + [role for role in others if role in roles and not given]


def fit(values: Values, among: Sequence[str], gained: Tensor, total: Tensor, dtype: torch.dtype) -> Carrier | None:
    """The first role whose output, times one number, is what was gained, and that number by least squares."""
    for role in among:
        out = values[role, "out"]
        if out.shape != gained.shape or bool(out.any()) != bool(gained.any()):
            continue  # a stream that gains nothing from a nonzero branch is not its sum: a parallel block
        if not out.any():
            return role, 1.0
        gain = float((out * gained).sum() / out.pow(2).sum())
        if compare("", "", None, [total - gained, gain * out], total, dtype).ok:
            return role, gain
    return None


def _fit_two(
    values: Values, attns: Sequence[str], mlps: Sequence[str], gained: Tensor, total: Tensor, dtype: torch.dtype
) -> tuple[Carrier, Carrier] | None:
    """The same for a parallel block: two branches, two numbers."""
    for a in attns:
        for m in mlps:
            if values[a, "out"].shape != gained.shape or values[m, "out"].shape != gained.shape:
                continue
            columns = torch.stack([values[a, "out"].flatten(), values[m, "out"].flatten()], dim=1)
            gains = torch.linalg.lstsq(columns, gained.flatten()[:, None]).solution[:, 0].tolist()
            gains = [g if column.any() else 1.0 for g, column in zip(gains, columns.T, strict=True)]
            parts = [total - gained, gains[0] * values[a, "out"], gains[1] * values[m, "out"]]
            if compare("", "", None, parts, total, dtype).ok:
                return (a, gains[0]), (m, gains[1])
    return None


def snap(gain: float, numbers: Sequence[float], dtype: torch.dtype) -> float:
    """The measured gain, or the number in the model's config it is not distinguishable from.

    A gain measured in bf16 carries that type's rounding (a few 1e-4); the config's number does not.
    """
    nearest = min(numbers, key=lambda x: abs(x - gain))
    return nearest if abs(nearest - gain) <= 0.1 * RELATIVE.get(dtype, 1e-5) * abs(gain) else gain


def check_block_roles(given: frozenset[str], values: Values, layer: int, dtype: torch.dtype) -> None:
    """Refuses norms and MLP projections that the user named if they do not read or write what their role requires.

    What the residual stream gains decides about the other roles. These carry nothing that an identity would miss, or
    lie where a wrong module still has numbers of the right shape in it.
    """
    pre, get = values["block", "in"], values.get
    wrong = [("ln2", "it does not read the residual stream")] if "ln2" in given else []
    wrong = wrong if wrong and values["ln2", "in"].shape != pre.shape else []
    mlp_input = get(("mlp", "in"), get(("ln2", "out"), get(("ln1", "out"))))
    attn_post = None if "ln1_post" in given else get(("ln1_post", "in"))
    mlp_post = None if "ln2_post" in given else get(("ln2_post", "in"))
    for role, side, expected, why in (
        ("ln1", "in", pre, "it does not read the block's input"),
        ("mlp_in", "in", mlp_input, "it does not read the MLP's input"),
        ("mlp_out", "out", get(("mlp", "out")), "it does not make the MLP's output"),
        ("attn", "out", attn_post, "the norm after the attention reads something else"),
        ("mlp", "out", mlp_post, "the norm after the MLP reads something else"),
    ):
        mine = get((role, side))
        if role in given and mine is not None and expected is not None:
            wrong += [] if compare("", "", None, [mine], expected, dtype).ok else [(role, why)]
    for role, why in wrong:
        raise InputError(f"layer {layer}: the module given for {role} is wrong: {why}; name another with overrides")


def check_global_roles(hf: PreTrainedModel, modules: Modules) -> None:
    """Refuses a final norm or head that the user named if it does not read or write what its role requires."""
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
    if "ln_final" in wanted and not torch.equal(values["ln_final", "in"], stream):
        raise InputError("the module given for ln_final is wrong: it does not read the last block's output")
    if "ln_final" in wanted and values["ln_final", "out"].shape != stream.shape:
        raise InputError("the module given for ln_final is not a norm: its output is not as wide as its input")
    logits = getattr(out, "logits", None)
    if "unembed" in wanted and (logits is None or values["unembed", "out"].shape[-1] != logits.shape[-1]):
        raise InputError("the module given for unembed is not the head: it does not make as many numbers as logits")

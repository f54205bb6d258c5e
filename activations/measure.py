"""Which of a block's modules carries a branch into the residual stream, and with what gain.

Measured in one short random pass, never listed by family: Granite multiplies its branches by 0.22, Gemma 2 norms them,
Bloom's attention module returns the sum already, OPT has no MLP module, GPT-NeoX feeds both branches the same input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from verdictscope.activations.given import check_block_roles, check_global_roles
from verdictscope.activations.identities import RELATIVE, Hookable, captured, compare, probe_ids
from verdictscope.activations.listening import attention_heard, find_routers, routers_heard, sole
from verdictscope.activations.sitemap import Block, Branch, Form, Modules, SiteMap
from verdictscope.activations.sites import VECTORS
from verdictscope.errors import InputError


def measure(hf: PreTrainedModel, modules: Modules, n_heads: int) -> SiteMap:
    """Finds which named module carries each branch, with which gain, and whether blocks are parallel.

    Branch by branch the outermost named module (post-norm, then attention or MLP, then its output projection)
    is taken whose output, times one number, is what the residual stream gains. Where none is, the first is
    kept and ``check`` reports it.

    Args:
        hf: the model.
        modules: its modules by role.
        n_heads: query heads.

    Raises:
        InputError: a module that is needed is missing, or the output projection's input does not divide into
            heads.
    """
    wanted: dict[tuple, Hookable] = {}
    for layer, roles in enumerate(modules.blocks):
        if "attn" not in roles and "o" not in roles:
            raise InputError(f"layer {layer}: no attention (or other mixer) found; name it with overrides")
        for role, module in roles.items():
            wanted[layer, role, "in"], wanted[layer, role, "out"] = (module, "in"), (module, "out")
    check_global_roles(hf, modules)
    routers = find_routers(hf, modules)
    with (
        captured(wanted) as values,
        attention_heard(modules) as heard,
        routers_heard(routers) as gates,
        torch.no_grad(),
    ):
        (hf.base_model or hf)(input_ids=probe_ids(hf), use_cache=False)
    numbers = _config_numbers(hf)
    blocks = []
    for layer, roles in enumerate(modules.blocks):
        here = {(role, side): v for (at, role, side), v in values.items() if at == layer}
        idle = [role for role in roles if (role, "out") not in here]
        if modules.given & set(idle):
            raise InputError(f"layer {layer}: the module given for {idle[0]} does not run in a forward pass")
        roles = {role: module for role, module in roles.items() if role not in idle}
        product = sole(heard[layer])
        attention = product.attention() if product else None
        heads = attention.n_heads if attention else n_heads
        check_block_roles(modules.given, here, layer, hf.dtype)
        block = _measure_block(roles, here, modules.given, heads, hf.dtype, numbers, layer)
        forms = _forms(block, values.dtypes[layer, "block", "out"], here["block", "out"].shape[-1])
        if product and attention:
            forms |= product.forms(attention)
        if layer in gates:
            forms["router"] = gates[layer]
        router = routers[layer] if layer in gates else None
        blocks.append(replace(block, attention=attention, router=router, forms=forms))
    return SiteMap(modules.parent, tuple(blocks), modules.ln_final, modules.unembed)


def _forms(block: Block, dtype: torch.dtype, d_model: int) -> dict[str, Form]:
    return {name: Form((d_model,), dtype) for name in VECTORS} | {"z": Form((block.n_heads, block.d_head), dtype)}


def _measure_block(
    roles: dict[str, nn.Module],
    values: dict[tuple[str, str], Tensor],
    given: frozenset[str],
    n_heads: int,
    dtype: torch.dtype,
    numbers: Sequence[float],
    layer: int,
) -> Block:
    attns = _outermost(("ln1_post", "attn", "o"), roles, given)
    mlps = _outermost(("ln2_post", "mlp", "mlp_out"), roles, given)
    if not mlps:
        raise InputError(f"layer {layer}: no MLP module found; name it with overrides")
    pre, post = values["block", "in"], values["block", "out"]
    mid = next((r for r in ("ln2", "mlp") if r in roles and values[r, "in"].shape == pre.shape), None)
    attn, mlp = (attns[0], 1.0), (mlps[0], 1.0)
    middle = values[mid, "in"] if mid else pre
    if mid and (fitted := _fit([values[r, "out"] for r in attns], middle - pre, middle, dtype)):
        attn = (attns[fitted[0]], fitted[1])
        fitted = _fit([values[r, "out"] for r in mlps], post - middle, post, dtype)
        mlp = (mlps[fitted[0]], fitted[1]) if fitted else mlp
    elif _mlp_reads_block_input(values) and (both := _fit_two(values, attns, mlps, post - pre, post, dtype)):
        attn, mlp, mid = *both, None
    o = roles.get("o")
    width = values["o", "in"].shape[-1] if o is not None else 0
    if width % n_heads:
        raise InputError(f"layer {layer}: {width} inputs of the output projection are not {n_heads} heads")
    return Block(
        block=roles["block"],
        attn=Branch(roles[attn[0]], _snap(attn[1], numbers, dtype)),
        mlp=Branch(roles[mlp[0]], _snap(mlp[1], numbers, dtype)),
        mid=roles[mid] if mid else None,
        mixer=roles["attn"] if "attn" in roles else roles["o"],
        o=o,
        n_heads=n_heads,
        d_head=width // n_heads,
    )


def _mlp_reads_block_input(values: dict[tuple[str, str], Tensor]) -> bool:
    """Whether the MLP is fed by a norm of the block's own input: a parallel block.

    The sum of branches alone cannot tell: it is the same in a sequential block.
    """
    fed = values.get(("mlp", "in"), values.get(("mlp_in", "in")))
    norms = [r for r in ("ln2", "ln1") if (r, "in") in values and torch.equal(values[r, "in"], values["block", "in"])]
    return fed is not None and any(torch.equal(values[r, "out"], fed) for r in norms)


def _outermost(order: Sequence[str], roles: dict[str, nn.Module], given: frozenset[str]) -> list[str]:
    """Roles that may carry a branch, the outermost first; only the first if the user had a say in it."""
    found = [role for role in order if role in roles]
    return found[:1] if given & set(order) else found


def _fit(outputs: Sequence[Tensor], gained: Tensor, total: Tensor, dtype: torch.dtype) -> tuple[int, float] | None:
    """The first output that, times one number, is what was gained, and that number by least squares."""
    for i, out in enumerate(outputs):
        if out.shape != gained.shape or bool(out.any()) != bool(gained.any()):
            continue  # what gains nothing from a branch that says something is not its sum: a parallel block
        if not out.any():
            return i, 1.0
        gain = float((out * gained).sum() / out.pow(2).sum())
        if compare("", "", None, [total - gained, gain * out], total, dtype).ok:
            return i, gain
    return None


def _fit_two(
    values: dict[tuple[str, str], Tensor],
    attns: Sequence[str],
    mlps: Sequence[str],
    gained: Tensor,
    total: Tensor,
    dtype: torch.dtype,
) -> tuple[tuple[str, float], tuple[str, float]] | None:
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


def _config_numbers(hf: PreTrainedModel) -> list[float]:
    config = hf.config.get_text_config().to_dict().values()
    return [1.0, *(float(v) for v in config if isinstance(v, float) and v)]


def _snap(gain: float, numbers: Sequence[float], dtype: torch.dtype) -> float:
    """The measured gain, or the number in the model's config it cannot be told from.

    A gain measured in bf16 carries that type's rounding (a few 1e-4); the config's number does not.
    """
    nearest = min(numbers, key=lambda x: abs(x - gain))
    return nearest if abs(nearest - gain) <= 0.1 * RELATIVE.get(dtype, 1e-5) * abs(gain) else gain

"""The site map, measured in one short random pass and never listed by family.

Granite multiplies its branches by 0.22, Gemma 2 norms them, Bloom's attention module returns the sum already, OPT has
no MLP module, GPT-NeoX feeds both branches the same input, a Mamba block has one branch only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from verdictscope.activations.attention_discovery import attention_heard, find_routers, routers_heard, sole
from verdictscope.activations.branches import SINGLE, Found, decompose, snap
from verdictscope.activations.capture import N_TOKENS, Hookable, captured, probe_ids
from verdictscope.activations.hooks import attach
from verdictscope.activations.overrides import check_block_roles, check_global_roles
from verdictscope.activations.sitemap import Block, Branch, Form, Modules, SiteMap
from verdictscope.activations.sites import VECTORS
from verdictscope.errors import InputError


def measure(hf: PreTrainedModel, modules: Modules, n_heads: int) -> SiteMap:
    """Finds which named module carries each branch, with which gain, and whether blocks are parallel.

    Branch by branch the outermost named module (post-norm, then attention or MLP, then its output projection)
    is taken whose output, times one number, is what the residual stream gains. Where none is, the layer goes without
    the site; a module that the user named is kept, and ``check`` reports it.
    """
    wanted: dict[tuple, Hookable] = {}
    for layer, roles in enumerate(modules.blocks):
        for role, module in roles.items():
            wanted[layer, role, "in"], wanted[layer, role, "out"] = (module, "in"), (module, "out")
    check_global_roles(hf, modules)
    routers = find_routers(hf, modules)
    final_runs: list[int] = []
    with (
        captured(wanted) as values,
        _counted(modules.ln_final, final_runs),
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
        if here["block", "in"].shape[0] != N_TOKENS or here["block", "out"].shape[0] != N_TOKENS:
            raise InputError(f"layer {layer} does not hand on one residual stream of one vector a token; not read here")
        product = sole(heard[layer])
        attention = product.attention() if product else None
        heads = attention.n_heads if attention else n_heads
        check_block_roles(modules.given, here, layer, hf.dtype)
        block = _measure_block(hf, roles, here, modules.given, heads, numbers, layer)
        forms = _forms(block, values.dtypes[layer, "block", "out"], here["block", "out"].shape[-1])
        if product and attention:
            forms |= product.forms(attention)
        if layer in gates:
            forms["router"] = gates[layer]
        router = routers[layer] if layer in gates else None
        blocks.append(replace(block, attention=attention, router=router, forms=forms))
    # A norm that does not run in the decoder belongs to the head's own transform (BERT).
    ln_final = modules.ln_final if final_runs or "ln_final" in modules.given else None
    return SiteMap(modules.parent, tuple(blocks), ln_final, modules.unembed, max(1, len(final_runs)))


@contextmanager
def _counted(module: nn.Module | None, runs: list[int]) -> Iterator[None]:
    """Notes every run of a module inside the ``with`` block."""
    handle = None if module is None else attach(module, "out", lambda _: runs.append(1))
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _forms(block: Block, dtype: torch.dtype, d_model: int) -> dict[str, Form]:
    return {name: Form((d_model,), dtype) for name in VECTORS} | {"z": Form((block.n_heads, block.d_head), dtype)}


def _measure_block(
    hf: PreTrainedModel,
    roles: dict[str, nn.Module],
    values: dict[tuple[str, str], Tensor],
    given: frozenset[str],
    n_heads: int,
    numbers: Sequence[float],
    layer: int,
) -> Block:
    found = decompose(values, list(roles), given, hf.dtype)
    if found.single is not None:
        found = _name_single(hf, roles, found)
    o = roles.get("o")
    width = values["o", "in"].shape[-1] if o is not None else 0
    if width % n_heads:
        raise InputError(f"layer {layer}: {width} inputs of the output projection are not {n_heads} heads")

    def branch(carrier: tuple[str, float] | None) -> Branch | None:
        return None if carrier is None else Branch(roles[carrier[0]], snap(carrier[1], numbers, hf.dtype))

    return Block(
        block=roles["block"],
        attn=branch(found.attn),
        mlp=branch(found.mlp),
        mid=roles[found.mid] if found.mid else None,
        mixer=roles.get("attn", roles.get("o")),
        o=o,
        n_heads=n_heads,
        d_head=width // n_heads,
        missing=found.missing,
        whole=found.whole,
    )


def _name_single(hf: PreTrainedModel, roles: dict[str, nn.Module], found: Found) -> Found:
    """Says which branch a block of one branch has: what moves numbers between tokens stands for attention."""
    assert found.single is not None
    mixing = mixes_tokens(hf, roles[found.single[0]])
    absent = ("resid_mid", "mlp_out" if mixing else "attn_out")
    why = dict.fromkeys(absent, SINGLE)
    return Found(*((found.single, None) if mixing else (None, found.single)), missing=why)


class _Enough(Exception):
    """Ends a pass when what was wanted has run."""


def mixes_tokens(hf: PreTrainedModel, module: nn.Module) -> bool:
    """Whether a module's output at one token depends on other tokens (attention, a state space), by its gradient."""
    entered: list[Tensor] = []
    left: list[Tensor] = []

    def enter(x: Tensor) -> Tensor:
        entered.append(x.detach().requires_grad_())
        return entered[-1]

    def leave(x: Tensor) -> None:
        left.append(x)
        raise _Enough

    handles = [attach(module, "in", enter), attach(module, "out", leave)]
    try:
        with torch.enable_grad(), suppress(_Enough):
            (hf.base_model or hf)(input_ids=probe_ids(hf), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    (grad,) = torch.autograd.grad(left[0].flatten(0, -2)[-1].sum(), entered)
    return bool(grad.flatten(0, -2)[:-1].any())


def sees_later(hf: PreTrainedModel) -> bool:
    """Whether another last token changes the states of the tokens before it: an encoder."""
    ids = probe_ids(hf)
    other = ids.clone()
    other[0, -1] = 1 if int(ids[0, -1]) == 0 else 0
    with torch.no_grad():
        a, b = ((hf.base_model or hf)(input_ids=x, use_cache=False)[0][0, :-1].double() for x in (ids, other))
    return bool((a - b).norm() > max(1e-4, 4 * torch.finfo(hf.dtype).eps) * a.norm())


def _config_numbers(hf: PreTrainedModel) -> list[float]:
    config = hf.config.get_text_config().to_dict().values()
    return [1.0, *(float(v) for v in config if isinstance(v, float) and v)]

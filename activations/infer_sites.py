"""The site map, measured in one short random pass and never listed by family.

Granite multiplies its branches by 0.22, Gemma 2 norms them, Bloom's attention module returns the sum already, OPT has
no MLP module, GPT-NeoX feeds both branches the same input, a Mamba block has one branch only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from verdictscope.activations.attention import AttentionCall, listen, uses_interface
from verdictscope.activations.attention_torch import ProductRecorder
from verdictscope.activations.branches import SINGLE, Found, check_block_roles, check_global_roles, decompose, snap
from verdictscope.activations.capture import N_TOKENS, Hookable, captured, probe_ids
from verdictscope.activations.hooks import attach
from verdictscope.activations.sitemap import Attention, Block, Branch, Form, Modules, Router, SiteMap
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
        ExitStack() as stack,
        attention_recorded(modules) as recorded,
        routers_recorded(routers) as gates,
        torch.no_grad(),
    ):
        if modules.ln_final is not None:
            stack.callback(attach(modules.ln_final, "out", lambda _: final_runs.append(1)).remove)
        (hf.base_model or hf)(input_ids=probe_ids(hf), use_cache=False)
    numbers = [1.0, *(float(v) for v in hf.config.get_text_config().to_dict().values() if isinstance(v, float) and v)]
    blocks = []
    for layer, roles in enumerate(modules.blocks):
        here = {(role, side): v for (at, role, side), v in values.items() if at == layer}
        idle = [role for role in roles if (role, "out") not in here]
        if modules.given & set(idle):
            raise InputError(f"layer {layer}: the module given for {idle[0]} does not run in a forward pass")
        roles = {role: module for role, module in roles.items() if role not in idle}
        if here["block", "in"].shape[0] != N_TOKENS or here["block", "out"].shape[0] != N_TOKENS:
            raise InputError(f"layer {layer} does not hand on one residual stream of one vector a token; not read here")
        product = recorded[layer][0] if len(recorded[layer]) == 1 else None
        attention = product.attention() if product else None
        heads = attention.n_heads if attention else n_heads
        check_block_roles(modules.given, here, layer, hf.dtype)
        block = _measure_block(hf, roles, here, modules.given, heads, numbers, layer)
        dtype, width = values.dtypes[layer, "block", "out"], here["block", "out"].shape[-1]
        forms = {name: Form((width,), dtype) for name in VECTORS} | {"z": Form((block.n_heads, block.d_head), dtype)}
        if product and attention:
            forms |= product.forms(attention)
        if layer in gates:
            forms["router"] = gates[layer]
        router = routers[layer] if layer in gates else None
        blocks.append(replace(block, attention=attention, router=router, forms=forms))
    # A norm that does not run in the decoder belongs to the head's own transform (BERT).
    ln_final = modules.ln_final if final_runs or "ln_final" in modules.given else None
    return SiteMap(modules.parent, tuple(blocks), ln_final, modules.unembed, max(1, len(final_runs)))


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
        # Which branch a block of one branch has: a module that mixes tokens counts as attention
        mixing = mixes_tokens(hf, roles[found.single[0]])
        absent = ("resid_mid", "mlp_out" if mixing else "attn_out")
        why = dict.fromkeys(absent, SINGLE)
        found = Found(attn=found.single, missing=why) if mixing else Found(mlp=found.single, missing=why)
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


@dataclass(frozen=True, eq=False)
class AttentionProduct:
    """One attention product of a layer: who made it, and what entered."""

    module: nn.Module
    interface: bool
    call: AttentionCall

    def attention(self) -> Attention:
        """Heads counted as they are: keys that are equal in a group of heads are one head, repeated."""
        key, value = self.call.key, self.call.value
        sizes = range(key.shape[1], 1, -1)
        shared = next((s for s in sizes if _repeats(key, s) and _repeats(value, s)), 1)
        return Attention(self.module, self.interface, self.call.query.shape[1], key.shape[1] // shared, shared)

    def forms(self, attention: Attention) -> dict[str, Form]:
        """Shapes and dtypes of the sites inside the product."""
        query, key, value = self.call.query, self.call.key, self.call.value
        heads, kv_heads = attention.n_heads, attention.n_kv_heads
        return {
            "q": Form((heads, query.shape[-1]), query.dtype),
            "k": Form((kv_heads, key.shape[-1]), key.dtype),
            "v": Form((kv_heads, value.shape[-1]), value.dtype),
            "pattern": Form((heads, -1), query.dtype),
        }


def _repeats(x: Tensor, times: int) -> bool:
    if x.shape[1] % times or (times == x.shape[1] and times > 1 and not x.any()):
        return False
    return bool(torch.equal(x, x[:, ::times].repeat_interleave(times, dim=1)))


@contextmanager
def attention_recorded(modules: Modules) -> Iterator[dict[int, list[AttentionProduct]]]:
    """Every attention product made inside the blocks during the ``with`` block, by layer."""
    recorded: dict[int, list[AttentionProduct]] = {layer: [] for layer in range(len(modules.blocks))}
    recorder = ProductRecorder()
    with ExitStack() as stack:
        for layer, roles in enumerate(modules.blocks):
            able = [m for m in roles["block"].modules() if uses_interface(m)]
            for module in able:
                stack.callback(listen(module, before=partial(_note, recorded[layer], module, True)).remove)
            if not able:
                module = roles.get("attn", roles["block"])
                stack.callback(recorder.listen(module, partial(_note, recorded[layer], module, False)).remove)
        stack.enter_context(recorder)
        yield recorded


def _note(into: list[AttentionProduct], module: nn.Module, interface: bool, call: AttentionCall, *_: Tensor) -> None:
    into.append(AttentionProduct(module, interface, call))


def find_routers(hf: PreTrainedModel, modules: Modules) -> dict[int, Router]:
    """The gate of every layer that has experts."""
    # (class, index of the output) that transformers records as router logits
    recorders: list[tuple[type[nn.Module], int]] = []
    for module in hf.modules():
        declared = getattr(module, "_can_record_outputs", None) or {}
        entries = declared.get("router_logits", []) if isinstance(declared, dict) else []
        for entry in entries if isinstance(entries, list | tuple) else [entries]:
            kind, index = getattr(entry, "target_class", entry), getattr(entry, "index", 0)
            if isinstance(kind, type) and "Attention" not in kind.__name__:
                recorders.append((kind, index))
    config = hf.config.get_text_config().to_dict()
    sizes = {v for k, v in config.items() if "expert" in k and isinstance(v, int) and v > 1}
    found = {}
    for layer, roles in enumerate(modules.blocks):
        inside = [m for m in roles["block"].modules() if m is not roles.get("attn")]
        named = [Router(m, index) for m in inside for kind, index in recorders if isinstance(m, kind)]
        if not named:  # not recorded by transformers: a linear map to as many numbers as there are experts
            gates = [m for name, m in roles["block"].named_modules() if _is_gate(name, m, sizes)]
            named = [Router(m) for m in gates]
        if named:
            found[layer] = named[0]
    return found


def _is_gate(name: str, module: nn.Module, sizes: set[int]) -> bool:
    weight = getattr(module, "weight", None)
    last = name.rpartition(".")[2]
    named = "router" in name or last in ("gate", "wg")
    return named and isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[0] in sizes


@contextmanager
def routers_recorded(routers: dict[int, Router]) -> Iterator[dict[int, Form]]:
    """Shape and dtype of every router's output during the ``with`` block; routers that do not run are left out."""
    forms: dict[int, Form] = {}

    def keep(layer: int, value: Tensor) -> None:
        forms[layer] = Form((value.shape[-1],), value.dtype)

    with ExitStack() as stack:
        for layer, router in routers.items():
            stack.callback(attach(router.module, "out", partial(keep, layer), router.index).remove)
        yield forms

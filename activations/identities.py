"""Is the site map right? Measured and checked on a short random pass whenever a model is loaded.

A wrong place fails silently: a head sliced after the output projection still has numbers in it. So the map
must reproduce what the model computes (DESIGN 3.4), to within rounding:

    resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post
    (parallel blocks: resid_pre + attn_out + mlp_out = resid_post)
    resid_post[l] = resid_pre[l + 1] = hidden_states[l + 1],  final_norm = hidden_states[-1]
    sum over heads of W_O z + bias = output of the output projection = output of the attention module
    head applied to gathered rows = the stock logits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import InputError
from .batch import gathered_logits
from .hooks import attach
from .sitemap import Block, Branch, Modules, SiteMap
from .weights import head_output_bias, head_output_weight

if TYPE_CHECKING:
    from .model import Model

N_TOKENS = 16
RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest error of an identity relative to the branch it explains, before the rounding of the stream."""


@dataclass(frozen=True, slots=True)
class Check:
    """One identity at one layer.

    Attributes:
        name: which identity.
        site: the site it vouches for.
        layer: the layer, ``None`` for the model as a whole.
        relative: the largest error over tokens, relative to the size of what the site adds or is.
        allowed: the same for the error that rounding explains.
        ok: whether the error is within it at every token.
    """

    name: str
    site: str
    layer: int | None
    relative: float
    allowed: float
    ok: bool


def probe_ids(hf: PreTrainedModel, n: int = N_TOKENS, seed: int = 0) -> Int[Tensor, "1 pos"]:
    """Random token ids, the same on every machine."""
    vocab = hf.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab, (1, n), generator=generator)
    return ids.to(hf.get_input_embeddings().weight.device)


@contextmanager
def captured(wanted: dict[tuple, tuple[nn.Module, str]]) -> Iterator[dict[tuple, Tensor]]:
    """Values of module inputs and outputs during one pass, as float64 ``[pos d]`` on the CPU."""
    values: dict[tuple, Tensor] = {}

    def keep(key: tuple) -> object:
        def fn(value: Tensor) -> None:
            values[key] = value.detach().reshape(-1, value.shape[-1]).double().cpu()

        return fn

    with ExitStack() as stack:
        for key, (module, side) in wanted.items():
            stack.callback(attach(module, side, keep(key)).remove)
        yield values


def _rms(x: Tensor) -> Float[Tensor, " pos"]:
    return x.pow(2).mean(-1).sqrt()


def compare(
    name: str, site: str, layer: int | None, parts: Sequence[Tensor], total: Tensor, dtype: torch.dtype
) -> Check:
    """Does ``parts[0] + the rest = total``, token by token, up to rounding in ``dtype``?

    The error is set against what the rest adds, not against the residual stream, in which a small branch
    would drown.
    """
    if any(part.shape != total.shape for part in parts):
        return Check(name, site, layer, float("inf"), 0.0, False)
    error = _rms(sum(parts) - total)
    size = _rms(total - parts[0]) if len(parts) > 1 else _rms(total)
    stream = _rms(total) + _rms(parts[0])
    budget = RELATIVE.get(dtype, 1e-5) * size + 4 * torch.finfo(dtype).eps * stream
    floor = size.clamp(min=torch.finfo(torch.float32).tiny)
    ok = bool((error <= budget).all()) and bool(torch.isfinite(error).all())
    return Check(name, site, layer, float((error / floor).max()), float((budget / floor).max()), ok)


def raise_first(checks: Sequence[Check]) -> None:
    """Raises ``InputError`` for the first failed check."""
    for c in checks:
        if not c.ok:
            where = "" if c.layer is None else f" of layer {c.layer}"
            raise InputError(
                f"site {c.site}{where} is not where the map says: {c.name} is off by {c.relative:.2g} "
                f"(relative; rounding explains {c.allowed:.1g}); name the right modules with overrides"
            )


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
    wanted: dict[tuple, tuple[nn.Module, str]] = {}
    for layer, roles in enumerate(modules.blocks):
        if "attn" not in roles and "o" not in roles:
            raise InputError(f"layer {layer}: no attention (or other mixer) found; name it with overrides")
        for role, module in roles.items():
            wanted[layer, role, "in"], wanted[layer, role, "out"] = (module, "in"), (module, "out")
    with captured(wanted) as values, torch.no_grad():
        (hf.base_model or hf)(input_ids=probe_ids(hf), use_cache=False)
    numbers = _config_numbers(hf)
    blocks = []
    for layer, roles in enumerate(modules.blocks):
        here = {(role, side): v for (at, role, side), v in values.items() if at == layer}
        blocks.append(_measure_block(roles, here, modules.given, n_heads, hf.dtype, numbers, layer))
    return SiteMap(modules.parent, tuple(blocks), modules.ln_final, modules.unembed)


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
        mixer=roles.get("attn", roles.get("o")),
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
            parts = [total - gained, gains[0] * values[a, "out"], gains[1] * values[m, "out"]]
            if compare("", "", None, parts, total, dtype).ok:
                return (a, gains[0]), (m, gains[1])
    return None


def _config_numbers(hf: PreTrainedModel) -> list[float]:
    config = hf.config.get_text_config().to_dict().values()
    return [1.0, *(float(v) for v in config if isinstance(v, float) and v)]


def _snap(gain: float, numbers: Sequence[float], dtype: torch.dtype) -> float:
    """The measured gain, or the number in the model's config it cannot be told from.

    A gain measured in bf16 carries that type's rounding; the config's number does not.
    """
    nearest = min(numbers, key=lambda x: abs(x - gain))
    return nearest if abs(nearest - gain) <= 2 * RELATIVE.get(dtype, 1e-5) * abs(gain) else gain


def check(model: Model) -> tuple[Check, ...]:
    """Every load-time identity of a model, layer by layer, with its measured error.

    A failed one does not raise; see ``raise_first``.
    """
    sites, hf, dtype = model.sites, model.hf, model.dtype
    wanted: dict[tuple, tuple[nn.Module, str]] = {}
    for layer, block in enumerate(sites.blocks):
        names = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
        names += ["resid_mid"] if block.mid is not None else []
        wanted |= {(name, layer): _target(sites, name, layer) for name in names}
        if block.o is not None:
            wanted["z", layer], wanted["o", layer] = (block.o, "in"), (block.o, "out")
            wanted["mixer", layer] = (block.mixer, "out")
    wanted["final_norm", None] = _target(sites, "final_norm", len(sites) - 1)
    ids = probe_ids(hf)
    with captured(wanted) as values, torch.no_grad():
        out = hf(input_ids=ids, use_cache=False, output_hidden_states=True)
    missing = [key for key in wanted if key not in values]
    if missing:
        return tuple(Check("the module ran", name, layer, 1.0, 0.0, False) for name, layer in missing)
    hidden = [h.detach().reshape(-1, h.shape[-1]).double().cpu() for h in out.hidden_states]
    found = [c for layer in range(len(sites)) for c in _layer_checks(model, layer, values, hidden, dtype)]
    last = [values["final_norm", None]]
    found.append(compare("final_norm = hidden_states[-1]", "final_norm", None, last, hidden[-1], dtype))
    if sites.unembed is not None and getattr(out, "logits", None) is not None:
        found.append(_logit_check(model, ids, out.logits, dtype))
    return tuple(found)


def _target(sites: SiteMap, name: str, layer: int) -> tuple[nn.Module, str]:
    place = sites.place(name, layer)
    return place.module, place.side


def _layer_checks(
    model: Model, layer: int, values: dict[tuple, Tensor], hidden: Sequence[Tensor], dtype: torch.dtype
) -> Iterator[Check]:
    block = model.sites.blocks[layer]
    pre, post = values["resid_pre", layer], values["resid_post", layer]
    attn, mlp = values["attn_out", layer] * block.attn.gain, values["mlp_out", layer] * block.mlp.gain
    yield compare("resid_pre = hidden_states", "resid_pre", layer, [pre], hidden[layer], dtype)
    if layer + 1 < len(model.sites):
        yield compare("resid_post = hidden_states", "resid_post", layer, [post], hidden[layer + 1], dtype)
        next_pre = values["resid_pre", layer + 1]
        yield compare("resid_post = next resid_pre", "resid_post", layer, [post], next_pre, dtype)
    if block.mid is None:
        name = "resid_pre + attn_out + mlp_out = resid_post"
        yield compare(name, "attn_out", layer, [pre, attn, mlp], post, dtype)
    else:
        mid = values["resid_mid", layer]
        yield compare("resid_pre + attn_out = resid_mid", "attn_out", layer, [pre, attn], mid, dtype)
        yield compare("resid_mid + mlp_out = resid_post", "mlp_out", layer, [mid, mlp], post, dtype)
    if block.o is not None:
        yield _head_check(model, layer, values)
        if block.attn.module is not block.o:
            o_out, mixed = values["o", layer], values["mixer", layer]
            yield compare("output projection = attention output", "z", layer, [o_out], mixed, dtype)


def _head_check(model: Model, layer: int, values: dict[tuple, Tensor]) -> Check:
    name, z = "sum over heads of W_O z + bias", values["z", layer]
    try:
        weight = head_output_weight(model, layer).double().cpu()
        bias = head_output_bias(model, layer).double().cpu()
    except InputError:  # packed (quantised) weights: hooks work, weight-based results do not
        return Check(f"{name} (not on packed weights)", "z", layer, 0.0, 0.0, True)
    z = z.reshape(z.shape[0], *weight.shape[:2])
    total = torch.einsum("phd,hdm->pm", z, weight) + bias
    return compare(f"{name} = output projection", "z", layer, [total], values["o", layer], model.dtype)


def _logit_check(model: Model, ids: Tensor, logits: Tensor, dtype: torch.dtype) -> Check:
    where = torch.arange(0, ids.shape[1], 3, device=ids.device)
    with torch.no_grad(), gathered_logits(model, torch.zeros_like(where), where):
        found = model.hf(input_ids=ids, use_cache=False).logits[0]
    found, wanted = found.double().cpu(), logits[0, where.to(logits.device)].double().cpu()
    return compare("gathered logits = stock logits", "logits", None, [found], wanted, dtype)


def noise_floor(model: Model) -> float:
    """Largest relative change of hidden states and logits when a sequence is padded and given a mate."""
    from ..rollouts.rollout import Rollout, Span
    from .forward import forward
    from .sites import Site

    ids = probe_ids(model.hf, 48, seed=1)[0].tolist()
    alone = Rollout("alone", "0", tuple(ids[:19]), (Span("user", 0, 19),), 19)
    mate = Rollout("mate", "0", tuple(ids), (Span("user", 0, 48),), 48)
    reads = [Site("resid_post") @ "all", Site("final_norm") @ "all"]
    logits = "all" if model.sites.unembed is not None else None
    a = forward(model, [alone], reads, logits_at=logits)
    b = forward(model, [alone, mate], reads, logits_at=logits)
    pairs = [(a.values[r], b.values[r][:, :19]) for r in reads]
    if a.logits is not None and b.logits is not None:
        pairs.append((a.logits[None], b.logits[None, :19]))
    worst = torch.finfo(model.dtype).eps
    for x, y in pairs:
        x, y = x.double(), y.double()
        worst = max(worst, float(((x - y).norm(dim=-1) / x.norm(dim=-1)).max()))
    return worst

"""Every kind of edit is what a hand-written hook on the stock model does, in every family of the doctor's matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from tests.activations.tiny_models import CONFIGS, MORE, PARALLEL, VOCAB, rollout, wrapped
from verdictscope.activations import Model, Site, forward
from verdictscope.interventions import (
    DirectionEdit,
    Edit,
    HeadEdit,
    KVEdit,
    SublayerEdit,
    edited,
    gather_means,
    gather_rows,
)
from verdictscope.rollouts import Rollout

FAMILIES = [*CONFIGS, *MORE]
LAYER = 1
"""Of three; the only one with softmax attention in Qwen3-Next."""
PATHS = {  # by hand: output projection, attention branch, MLP branch (what is added to the stream), in a block
    "gpt2": ("transformer.h", "attn.c_proj", "attn", "mlp"),
    "neox": ("gpt_neox.layers", "attention.dense", "attention", "mlp"),
    "neox_sequential": ("gpt_neox.layers", "attention.dense", "attention", "mlp"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "self_attn", "fc2"),
    "bloom": ("transformer.h", "self_attention.dense", None, None),
    "falcon": ("transformer.h", "self_attention.dense", "self_attention", "mlp"),
    "gemma2": ("model.layers", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("model.layers", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("model.layers", "self_attn.o_proj", "post_self_attn_layernorm", "post_mlp_layernorm"),
    "olmo2": ("model.layers", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"),
}
USUAL = ("model.layers", "self_attn.o_proj", "self_attn", "mlp")
IDS = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(4))


def module(model: Model, family: str, role: int, layer: int = LAYER) -> nn.Module | None:
    blocks, *paths = PATHS.get(family, USUAL)
    return None if paths[role] is None else model.hf.get_submodule(f"{blocks}.{layer}.{paths[role]}")


@contextmanager
def by_hand(where: nn.Module, side: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def before(_: nn.Module, args: tuple) -> tuple:
        return (change(args[0]), *args[1:])

    def after(_: nn.Module, __: tuple, out: object) -> object:
        return change(out) if isinstance(out, Tensor) else (change(out[0]), *out[1:])

    handle = where.register_forward_pre_hook(before) if side == "in" else where.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def logits(model: Model, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model.hf(input_ids=ids, use_cache=False).logits


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5 * float(b.abs().max()), rtol=1e-5)


def agree(model: Model, edit: Edit, where: nn.Module, side: str, change: Callable[[Tensor], Tensor]) -> None:
    plain = logits(model)
    with edited(model, edit):
        mine = logits(model)
    with by_hand(where, side, change):
        assert same(mine, logits(model))
    assert not torch.allclose(mine, plain, atol=1e-3 * float(plain.abs().max()))


@pytest.fixture(scope="module")
def texts() -> list[Rollout]:
    return [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 19, 16))]


@pytest.fixture(scope="module")
def others() -> list[Rollout]:
    return [rollout(f"c{i}/0", n, seed=20 + i) for i, n in enumerate((14, 22, 13))]


@pytest.mark.parametrize("family", FAMILIES)
def test_zeroed_and_scaled_heads(family: str) -> None:
    model = wrapped(family)
    o, width = module(model, family, 0), 6 if family == "deepseek_v3" else model.d_head
    for op, factor in (("zero", 0.0), ("scale", -1.5)):

        def change(z: Tensor, factor: float = factor) -> Tensor:
            z = z.clone()
            z[..., width : 2 * width] *= factor
            z[..., 3 * width : 4 * width] *= factor
            return z

        agree(model, HeadEdit(((LAYER, 1), (LAYER, 3)), op=op, value=factor), o, "in", change)


@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_and_the_stream(family: str) -> None:
    model = wrapped(family)
    for site, role in (("attn_out", 1), ("mlp_out", 2)):
        branch = module(model, family, role)
        if branch is not None:
            agree(model, SublayerEdit(site, (LAYER,)), branch, "out", lambda x: x * 0)
            agree(model, SublayerEdit(site, (LAYER,), "scale", 2.5), branch, "out", lambda x: x * 2.5)
    block = model.sites.blocks[LAYER].block
    agree(model, SublayerEdit("resid_post", (LAYER,), "scale", 0.0), block, "out", lambda x: x * 0)
    u = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    unit = u / u.norm()
    project = DirectionEdit("resid_post", (LAYER,), u.tolist())
    agree(model, project, block, "out", lambda x: x - (x @ unit)[..., None] * unit)
    add = DirectionEdit("resid_post", (LAYER,), u.tolist(), op="add")
    agree(model, add, block, "out", lambda x: x + u)
    clamp = DirectionEdit("resid_post", (LAYER,), u.tolist(), op="clamp", low=2.0)
    agree(model, clamp, block, "out", lambda x: x + ((x @ unit).clamp(min=2.0) - x @ unit)[..., None] * unit)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "granite", "mistral", "qwen3_moe"])
def test_key_value_groups(family: str) -> None:
    """Zero behind the projection is zero behind the norm and the rotary embedding that follow it."""
    model = wrapped(family)
    attention = model.hf.get_submodule(f"model.layers.{LAYER}.self_attn")
    for site in ("k", "v"):
        projection = attention.get_submodule(f"{site}_proj")
        width = projection.weight.shape[0] // 2

        def change(x: Tensor, width: int = width) -> Tensor:
            return torch.cat([x[..., :width], 0 * x[..., width:]], -1)

        agree(model, KVEdit(((LAYER, 1),), site), projection, "out", change)


def test_queries() -> None:
    model = wrapped("llama")
    projection = model.hf.get_submodule(f"model.layers.{LAYER}.self_attn.q_proj")
    edit = HeadEdit(((LAYER, 0),), site="q")
    agree(model, edit, projection, "out", lambda x: torch.cat([0 * x[..., :8], x[..., 8:]], -1))


@pytest.mark.parametrize("family", FAMILIES)
def test_means_over_a_reference_set(family: str, texts: list[Rollout], others: list[Rollout]) -> None:
    model = wrapped(family)
    o = module(model, family, 0)
    seen = [z[0] for other in others for z in seen_at(model, o, "in", other)]
    labels = [label for other in others for label in other.labels()]
    z = torch.cat(seen).reshape(len(labels), 4, -1)
    means = gather_means(model, others, Site("z", LAYER), by="segment")
    edit = HeadEdit(((LAYER, 2),), "mean", reference=means)
    read = Site("resid_post", 2) @ "all"
    with edited(model, edit):
        mine = forward(model, texts, [read]).values[read][0]

    def change(given: Tensor) -> Tensor:
        new = given.clone().reshape(1, len(text), 4, -1)
        for pos, label in enumerate(text.labels()):
            chosen = [i for i, other in enumerate(labels) if other == label]
            new[0, pos, 2] = z[chosen, 2].mean(0)
        return new.reshape(given.shape)

    at = 0
    for text in texts:
        with by_hand(o, "in", change):
            (told,) = seen_at(model, model.sites.blocks[2].block, "out", text)
        assert same(mine[at : at + len(text)], told[0])
        at += len(text)


@pytest.mark.parametrize("site", ["z", "resid_post"])
@pytest.mark.parametrize("family", FAMILIES)
def test_patches_from_a_counterfactual(family: str, site: str, texts: list[Rollout], others: list[Rollout]) -> None:
    """The closing tokens of one rollout, aligned from their end, at heads and in the stream."""
    model = wrapped(family)
    last = model.sites.blocks[2].block
    where, side = (module(model, family, 0), "in") if site == "z" else (model.sites.blocks[LAYER].block, "out")
    rows = gather_rows(model, texts, others, Site(site, LAYER), positions="think_end", by="end")
    heads = HeadEdit(((LAYER, 0),), "patch", reference=rows) if site == "z" else None
    edit = heads or SublayerEdit(site, (LAYER,), "patch", reference=rows)
    read = Site("resid_post", 2) @ "all"
    with edited(model, edit):
        mine = forward(model, texts, [read]).values[read][0].split([len(text) for text in texts])
    for text, other, got in zip(texts, others, mine, strict=True):
        (source,) = seen_at(model, where, side, other)
        cut, theirs = text.span("answer").start, other.span("answer").start

        def change(x: Tensor, cut: int = cut, theirs: int = theirs, source: Tensor = source) -> Tensor:
            x = x.clone()
            width = x.shape[-1] // (4 if site == "z" else 1)
            for back in (1, 2):
                x[0, cut - back, :width] = source[0, theirs - back, :width]
            return x

        with by_hand(where, side, change):
            (told,) = seen_at(model, last, "out", text)
        assert same(got, told[0])


def seen_at(model: Model, where: nn.Module, side: str, text: Rollout) -> list[Tensor]:
    seen: list[Tensor] = []
    with by_hand(where, side, lambda x: seen.append(x) or x):
        logits(model, torch.tensor([text.ids]))
    return seen


def some_edits(model: Model, texts: list[Rollout]) -> list[Edit]:
    """One of every kind that acts on every token."""
    u = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)).tolist()
    z, out = (gather_means(model, texts, Site(site, LAYER)) for site in ("z", "attn_out"))
    edits: list[Edit] = [
        HeadEdit(((LAYER, 0), (2, 3))),
        HeadEdit(((LAYER, 0),), "scale", 2.0),
        HeadEdit(((LAYER, 1),), "mean", reference=z),
        HeadEdit(((LAYER, 1),), "scale", -1.0, site="q"),
        SublayerEdit("mlp_out", (0, LAYER)),
        SublayerEdit("attn_out", (LAYER,), "mean", reference=out),
        DirectionEdit("resid_pre", (LAYER,), u),
        DirectionEdit("resid_post", (0,), u, op="add"),
        KVEdit(((LAYER, 0),), "v"),
        KVEdit(((LAYER, 1),), "k", "scale", 3.0),
    ]
    return edits


CAUSAL = ["llama", "qwen3", "gemma2", "gpt2", "neox", "opt", "phi3", "qwen3_moe", "gpt_oss", "deepseek_v3"]


@pytest.mark.parametrize("family", CAUSAL)
def test_causal_mask_batch_mates_and_cached_decoding(family: str, texts: list[Rollout]) -> None:
    model = wrapped(family)
    other = IDS.clone()
    other[:, -1] = (other[:, -1] + 1) % VOCAB
    for edit in some_edits(model, texts):
        with edited(model, edit), torch.no_grad():
            full, alone, changed = logits(model), logits(model, IDS[:1]), logits(model, other)
            cache = model.hf(input_ids=IDS[:, :5], use_cache=True).past_key_values
            steps = [
                model.hf(input_ids=IDS[:, [at]], past_key_values=cache, use_cache=True).logits for at in range(5, 9)
            ]
        assert same(full[:1], alone), f"{edit.describe()}: a batch mate changes it"
        assert same(full[:, :-1], changed[:, :-1]), f"{edit.describe()}: a token changes what is before it"
        assert same(torch.cat(steps, 1), full[:, 5:]), f"{edit.describe()}: cached decoding is no prefill"


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "qwen3_moe", "deepseek_v3"])
def test_generation_is_step_by_step_prefill(family: str, texts: list[Rollout]) -> None:
    """Left-padded, batched, cached: the tokens that full passes over one row at a time would choose."""
    model = wrapped(family)
    prompts = [IDS[0].tolist(), IDS[1, :4].tolist()]
    ids = torch.tensor([prompts[0], [0] * 5 + prompts[1]])
    mask = (torch.arange(9) >= torch.tensor([[0], [5]])).long()
    for edit in some_edits(model, texts):
        with edited(model, edit), torch.no_grad():
            out = model.hf.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
            )
            for row, prompt in enumerate(prompts):
                for at in range(4):
                    scores = logits(model, torch.tensor([prompt + out[row, 9 : 9 + at].tolist()]))[0, -1]
                    scores[2] = -torch.inf if model.hf.generation_config.eos_token_id == 2 else scores[2]
                    chosen = scores[out[row, 9 + at]]
                    assert chosen >= scores.max() - 1e-4 * scores[scores.isfinite()].abs().max(), edit.describe()


@pytest.mark.parametrize("family", CAUSAL)
def test_positions_limit_every_kind(family: str, texts: list[Rollout], others: list[Rollout]) -> None:
    """At one token: nothing before it changes, nor anything in the rollout that is not edited."""
    model = wrapped(family)
    where = {texts[0].id: [8]}
    u = torch.ones(model.d_model).tolist()
    z = gather_rows(model, texts, others, Site("z", LAYER))
    means = gather_means(model, others, Site("mlp_out", LAYER), by=("thinking", "all"))
    edits: list[Edit] = [
        HeadEdit(((LAYER, 0),), positions=where),
        HeadEdit(((LAYER, 2),), "resample", positions=where, reference=z),
        SublayerEdit("mlp_out", (LAYER,), "mean", positions=where, reference=means),
        DirectionEdit("attn_out", (LAYER,), u, op="add", positions=where),
        KVEdit(((LAYER, 0),), "v", "scale", 5.0, positions=where),
    ]
    if family not in PARALLEL:
        edits.append(DirectionEdit("resid_mid", (LAYER,), u, op="add", positions=where))
    read = Site("resid_post", 2) @ "all"
    plain = forward(model, texts, [read])
    rows = plain.rows[read]
    after = torch.tensor(((rows["rollout"] == texts[0].id) & (rows["pos"] >= 8)).tolist())
    for edit in edits:
        with edited(model, edit):
            change = (forward(model, texts, [read]).values[read] - plain.values[read])[0].abs().amax(-1)
        assert change[~after].max() <= 1e-5 * plain.values[read].abs().max(), edit.describe()
        assert change[after].max() > 1e-3, edit.describe()

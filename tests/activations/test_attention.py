"""What is heard inside the attention product is what the model computes with, in every family and with every mask."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import CONFIGS, MORE, VOCAB, hf_model, rollout, wrapped
from transformers import AutoModelForCausalLM, PreTrainedModel

from verdictscope.activations import Model, Site, forward, reading, writing
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

FAMILIES = [*CONFIGS, *MORE]


@pytest.fixture(scope="module")
def pair() -> list[Rollout]:
    return [rollout("a/0", 21, seed=1), rollout("b/0", 13, seed=2)]


def _eager(family: str) -> PreTrainedModel:
    stock = hf_model(family)
    eager = AutoModelForCausalLM.from_config(copy.deepcopy(stock.config), attn_implementation="eager").eval()
    eager.load_state_dict(stock.state_dict())
    return eager


def _layers(model: Model) -> tuple[int, ...]:
    return tuple(i for i, block in enumerate(model.sites.blocks) if block.attention is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_pattern_equals_the_eager_attention_weights(family, pair):
    model = wrapped(family)
    eager = _eager(family)
    layers = _layers(model)
    read = Site("pattern", layers) @ "all"
    mine = forward(model, pair, [read]).values[read]
    at = 0
    for r in pair:
        with torch.no_grad():
            told = eager(input_ids=torch.tensor([r.ids]), output_attentions=True, use_cache=False).attentions
        told = [a for a in told if a is not None]
        told = told if len(told) == len(layers) else [told[layer] for layer in layers]
        for i, theirs in enumerate(told):
            rows = mine[i, at : at + len(r)]
            assert not rows[..., len(r) :].any()  # padding gets nothing
            assert torch.allclose(rows[..., : len(r)].transpose(0, 1), theirs[0].to(rows), atol=2e-6)
        at += len(r)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_weighted_by_the_pattern_make_the_head_outputs(family, pair):
    model = wrapped(family)
    layers = _layers(model)
    reads = {name: Site(name, layers) @ "all" for name in ("q", "k", "v", "z", "pattern")}
    values = {name: forward(model, pair[:1], [read]).values[read] for name, read in reads.items()}
    for i, layer in enumerate(layers):
        for name, value in values.items():
            if name != "pattern":
                assert value[i].shape[1:] == model.sites.shape(name, layer)
                assert value.dtype == model.sites.dtype(name, layer)
        group = values["q"].shape[2] // values["v"].shape[2]
        v = values["v"][i].repeat_interleave(group, dim=1)
        z = torch.einsum("qhk,khd->qhd", values["pattern"][i], v)
        if family == "qwen3_next":  # its heads are gated after the product
            z = z * (values["z"][i] / z).where(z.abs() > 1e-4, torch.ones(()))
        assert torch.allclose(z, values["z"][i], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "neox", "phi3", "falcon", "bloom"])
def test_pattern_is_the_softmax_of_q_and_k(family, pair):
    model, r = wrapped(family), pair[0]
    q, k, pattern = (
        forward(model, [r], [read]).values[read] for read in (Site(s) @ "all" for s in ("q", "k", "pattern"))
    )
    scores = (
        torch.einsum("lqhd,lkhd->lhqk", q, k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)) * q.shape[-1] ** -0.5
    )
    if family == "bloom":  # ALiBi: slope times key position, one slope a head
        slopes = torch.tensor([2.0 ** (-8 * (i + 1) / 4) for i in range(4)])
        scores = scores + slopes[:, None, None] * torch.arange(len(r))
    later = torch.ones(len(r), len(r), dtype=torch.bool).triu(1)
    assert torch.allclose(scores.masked_fill(later, -torch.inf).softmax(-1), pattern.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "mistral_windowed", "gpt_oss"])
def test_windows_and_sinks_are_in_the_pattern(family, pair):
    model = wrapped(family)
    read = Site("pattern") @ "last"
    last = forward(model, pair[:1], [read]).values[read][:, 0]
    seen = [(layer > 0).any(0).sum().item() for layer in last]
    if family == "gpt_oss":
        assert (last.sum(-1) < 0.999).all()
        assert 8 in seen
    else:
        assert torch.allclose(last.sum(-1), torch.ones(()))
        assert 8 in seen
    assert set(seen) <= {8, len(pair[0])}


def test_only_the_wanted_rows_are_computed(pair, qwen3):
    every, few = Site("pattern") @ "all", Site("pattern") @ {"a/0": [3, 20], "b/0": [7]}
    whole, part = forward(qwen3, pair, [every]).values[every], forward(qwen3, pair, [few]).values[few]
    assert torch.allclose(part, whole[:, [3, 20, 21 + 7]], atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "deepseek_v3", "gpt_oss", "phi3"])
def test_writes_are_what_attention_computes_with(family, pair):
    model = wrapped(family)
    layer, z = model.n_layers - 1, Site("z", model.n_layers - 1) @ "all"
    none = forward(model, pair, [z], {Site("v", layer): lambda value, view: torch.zeros_like(value)})
    assert not none.values[z].any()
    # Only the first key is told apart from zero: attention then differs by it alone.
    pattern = Site("pattern", layer) @ "all"
    flat = forward(model, pair[:1], [pattern], {Site("q", layer): lambda value, view: torch.zeros_like(value)})
    rows = flat.values[pattern][0]
    assert torch.allclose(rows[4, :, :5], rows[4, :, :1].expand(-1, 5))
    k = Site("k", layer) @ "all"
    seen = forward(model, pair, [k], {Site("k", layer): lambda value, view: value * 2}).values[k]
    assert torch.equal(seen, 2 * forward(model, pair, [k]).values[k])


def test_an_outer_write_is_seen_by_an_inner_read(pair, qwen3):
    v = Site("v", 1) @ "all"
    plain = forward(qwen3, pair, [v]).values[v]
    with writing(qwen3, {Site("v", 1): lambda value, view: value + 1}):
        assert torch.equal(forward(qwen3, pair, [v]).values[v], plain + 1)


def _traces(model: Model) -> tuple:
    import transformers.modeling_utils as modeling

    attention = model.sites.blocks[0].attention.module
    hooks = [m for m in model.hf.modules() if m._forward_hooks or m._forward_pre_hooks]
    return sorted(modeling.ALL_ATTENTION_FUNCTIONS.valid_keys()), getattr(attention, "config", None), hooks


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "falcon"])
def test_listening_leaves_nothing_behind(family, pair):
    model = wrapped(family)
    before = _traces(model)
    ids = torch.tensor([pair[0].ids])
    with torch.no_grad():
        stock = model.hf(input_ids=ids).logits
        with reading(model, {Site(s): lambda value, view: None for s in ("q", "k", "v", "pattern")}):
            heard = model.hf(input_ids=ids).logits
    assert torch.equal(stock, heard)

    def fail(value, view):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), reading(model, {Site("v", 1): fail}):
        model.hf(input_ids=ids)
    after = _traces(model)
    assert after[0] == before[0]
    assert after[1] is before[1]
    assert after[2] == before[2]  # transformers itself leaves hooks that record hidden states


def test_cached_decoding_is_heard_step_by_step(qwen3, pair):
    ids, got = torch.tensor([pair[0].ids]), []
    rows = torch.zeros(1, dtype=torch.long)
    with (
        reading(qwen3, {Site("pattern", 2): lambda p, view: got.append(p[rows, rows + p.shape[1] - 1])}),
        torch.no_grad(),
    ):
        cache = qwen3.hf(input_ids=ids[:, :-1], use_cache=True).past_key_values
        qwen3.hf(input_ids=ids[:, -1:], past_key_values=cache)
    read = Site("pattern", 2) @ "last"
    assert torch.allclose(got[1], forward(qwen3, pair[:1], [read]).values[read][0], atol=1e-6)


@pytest.mark.parametrize("site", ["k", "v"])
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "deepseek_v3"])
def test_a_write_to_keys_or_values_reaches_what_is_cached(family, site, pair):
    """The cache keeps keys and values as they were before the write; every later step writes them anew."""
    model, ids = wrapped(family), torch.tensor([pair[0].ids])
    write = {Site(site, 2): lambda value, view: torch.where(view.select("all")[..., None, None], value * 2, value)}
    with torch.no_grad(), writing(model, write):
        full = model.hf(input_ids=ids, use_cache=False).logits[:, -1]
        cache = model.hf(input_ids=ids[:, :-2], use_cache=True).past_key_values
        for at in (-2, -1):
            step = model.hf(input_ids=ids[:, [at]], past_key_values=cache).logits[:, -1]
    assert torch.allclose(step, full, atol=1e-5 * float(full.abs().max()))


def test_what_cannot_be_done_says_so(pair):
    with pytest.raises(InputError, match="no softmax attention"):
        forward(wrapped("qwen3_next"), pair, [Site("q", 0) @ "last"])
    with pytest.raises(InputError, match="only read"):
        forward(wrapped("falcon"), pair, [], {Site("v", 0): lambda value, view: value})
    for name in ("pattern", "router"):
        with pytest.raises(InputError, match="only read"):
            forward(wrapped("qwen3_moe"), pair, [], {Site(name, 1): lambda value, view: value})
    with pytest.raises(InputError, match="no mixture of experts"):
        forward(wrapped("llama"), pair, [Site("router") @ "last"])


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3", "mixtral", "qwen3_next"])
def test_router_is_what_transformers_records(family, pair):
    model = wrapped(family)
    layers = tuple(i for i, block in enumerate(model.sites.blocks) if block.router is not None)
    assert layers == ((1, 2) if family == "deepseek_v3" else (0, 1, 2))
    read = Site("router", layers) @ "all"
    mine = forward(model, pair[:1], [read]).values[read]
    assert mine.shape[-1:] == model.sites.shape("router", layers[0])
    ids = torch.tensor([pair[0].ids])
    with torch.no_grad():
        told = model.hf.base_model(input_ids=ids, use_cache=False, output_router_logits=True).router_logits
    told = told[-len(layers) :]
    for i, theirs in enumerate(told):
        assert torch.allclose(mine[i], theirs.reshape(mine[i].shape), atol=1e-5)


def test_long_prompts_make_no_table_of_tokens_by_tokens(qwen3):
    n = 200
    ids = torch.randint(3, VOCAB, (n,), generator=torch.Generator().manual_seed(0)).tolist()
    r = rollout("long/0", n)
    read = Site("pattern", 1) @ "last"
    sizes = []

    def note(pattern, view):
        sizes.append(pattern[torch.zeros(1, dtype=torch.long), torch.tensor([n - 1])].numel())

    with reading(qwen3, {Site("pattern", 1): note}), torch.no_grad():
        qwen3.hf(input_ids=torch.tensor([ids]))
    assert sizes == [4 * n]
    assert forward(qwen3, [r], [read]).values[read].shape == (1, 1, 4, n)

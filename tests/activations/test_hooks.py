"""What hooks must not do, and what writes must do."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tiny_models import PARALLEL, wrapped
from transformers import GenerationConfig

from verdictscope.activations import Model, Site, forward, reading, wrap, writing
from verdictscope.activations.positions import resolve
from verdictscope.activations.weights import head_output_weight
from verdictscope.errors import InputError

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "final_norm")


def sites_of(family: str) -> list[Site]:
    return [Site(name) for name in SITES if not (name == "resid_mid" and family in PARALLEL)]


def n_hooks(model: Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 97, (2, 19), generator=torch.Generator().manual_seed(5))


def logits(model: Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_idle_hooks_leave_the_logits_bit_identical(family, ids):
    for dtype in (torch.float32, torch.bfloat16):
        model = wrapped(family, dtype)
        stock = logits(model, ids)
        seen: list[torch.Size] = []

        def note(value, view, seen=seen):
            seen.append(value.shape)

        with reading(model, dict.fromkeys(sites_of(family), note)):
            assert torch.equal(logits(model, ids), stock)
        assert len(seen) == (len(sites_of(family)) - 1) * model.n_layers + 1
        with writing(model, {site: lambda v, view: v for site in sites_of(family)}):
            assert torch.equal(logits(model, ids), stock)
        assert torch.equal(logits(model, ids), stock)


def test_hooks_are_gone_after_an_exception(family, ids, rollouts):
    model = wrapped(family)
    stock, before = logits(model, ids), n_hooks(model)

    def fail(value, view):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"), writing(model, {Site("resid_post", 1): fail}):
        logits(model, ids)
    with pytest.raises(RuntimeError, match="mine"):
        forward(model, rollouts, [Site("z") @ "all"], {Site("mlp_out", 0): fail})
    with pytest.raises(InputError), writing(model, {Site("resid_post"): lambda v, w: v, Site("z", 9): lambda v, w: v}):
        pass
    forward(model, rollouts, [Site("resid_post", 0) @ "all"])  # stops early
    assert n_hooks(model) == before
    assert torch.equal(logits(model, ids), stock)


def test_a_site_that_does_not_fire_is_an_error(qwen3, ids):
    blocks = list(qwen3.sites.blocks)
    blocks[1] = dataclasses.replace(blocks[1], o=torch.nn.Linear(48, 32))
    broken = dataclasses.replace(qwen3, sites=dataclasses.replace(qwen3.sites, blocks=tuple(blocks)))
    with pytest.raises(InputError, match=r"z\[1\] fired 0 times"), reading(broken, {Site("z"): lambda v, w: None}):
        logits(broken, ids)


def test_a_site_that_fires_twice_is_an_error(qwen3, rollouts):
    """A block used for two layers would give one value for both."""
    hf = copy.deepcopy(qwen3.hf)
    hf.model.layers[2] = hf.model.layers[1]
    with pytest.raises(InputError):
        forward(wrap(hf), rollouts, [Site("resid_post") @ "all"])


def test_contract_of_a_write(qwen3, ids):
    def in_place(value, view):
        value[..., 0] = 0
        return value

    for fn, message in ((in_place, "in place"), (lambda v, w: None, "NoneType"), (lambda v, w: v[:, :1], "shape")):
        for site in (Site("z", 1), Site("resid_mid", 1)):
            with pytest.raises(InputError, match=message), writing(qwen3, {site: fn}):
                logits(qwen3, ids)


def test_zeroing_a_head_is_zeroing_its_columns(family, ids):
    model = wrapped(family)
    layer, head = 1, 2
    cut = wrap(copy.deepcopy(model.hf))
    with torch.no_grad():
        head_output_weight(cut, layer)[head].zero_()  # a view on the copy's own weight
    keep = torch.ones(model.n_heads)
    keep[head] = 0

    def zero(z, view):
        return z * keep[:, None]

    stock = logits(model, ids)
    with writing(model, {Site("z", layer): zero}):
        edited = logits(model, ids)
    wanted = logits(cut, ids)
    assert (edited - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (edited - stock).abs().max() > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("name", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_writes_do_what_they_say(family, name, rollouts):
    """Adding a vector at a site is read back there, and in the residual stream from there on."""
    if name == "resid_mid" and family in PARALLEL:
        pytest.skip("no resid_mid")
    model, layer = wrapped(family), 1
    shift = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    stream = "resid_post" if family in PARALLEL or name in ("mlp_out", "resid_post") else "resid_mid"
    here, there = Site(name, layer) @ "all", Site(name if name == "resid_pre" else stream, layer) @ "all"
    before, after = Site("resid_post", 1) @ "all", Site("resid_pre", 2) @ "all"
    reads = list(dict.fromkeys([here, there, before, after]))
    a = forward(model, rollouts, reads)
    b = forward(model, rollouts, reads, {Site(name, layer): lambda v, w: v + shift})
    for read in (here, there):
        assert (b.values[read] - a.values[read] - shift).abs().max() < 1e-4
    assert torch.equal(b.values[before], b.values[after])
    assert not torch.equal(b.values[after], a.values[after])


def test_writes_apply_where_they_are_selected(qwen3, rollouts):
    read = Site("resid_post", 2) @ "all"
    base = forward(qwen3, rollouts, [read])
    for positions in ("think_end", "all", "last,thinking:2", {rollouts[1].id: [4]}):

        def write(value, view, positions=positions):
            return torch.where(view.select(positions)[..., None], value + 1, value)

        edited = forward(qwen3, rollouts, [read], {Site("resid_post", 2): write})
        changed = (edited.values[read] != base.values[read]).any(-1)[0]
        rows = edited.rows[read]
        wanted = [p in resolve(positions, r) for r in rollouts for p in range(len(r))]
        assert rows["rollout"].tolist() == [r.id for r in rollouts for _ in r.ids]
        assert changed.tolist() == wanted


def test_generate_sees_the_same_writes(family):
    """A cached, left-padded generation with a write gives the tokens of a full recomputation with it."""
    model = wrapped(family)
    prompts = [[5, 9, 11, 40, 8], [7, 3, 60]]
    shift = 2 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    views = []

    def write(value, view):
        views.append((view.positions.clone(), view.mask.clone(), view.rollouts))
        assert view.mask.shape == value.shape[:2] == view.positions.shape
        return value + shift * view.select("all")[..., None]

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    with writing(model, {Site("resid_post", 0): write}):
        out = model.hf.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert [v[0].shape[1] for v in views] == [5, 1, 1, 1, 1, 1]
    assert views[0][0][1].tolist()[-3:] == [0, 1, 2]  # positions count from the prompt's first token, not the padding
    assert views[0][1][1].tolist() == [False, False, True, True, True]
    assert [v[0][1, 0].item() for v in views[1:]] == [3, 4, 5, 6, 7]
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        for _ in range(6):
            with writing(model, {Site("resid_post", 0): write}):
                tokens.append(int(logits(model, torch.tensor([tokens]))[0, -1].argmax()))
        assert tokens[len(prompt) :] == out[row, width:].tolist()


def test_segments_are_unknown_while_generating(qwen3, ids):
    with (
        pytest.raises(InputError, match="generates"),
        writing(qwen3, {Site("z"): lambda v, w: v * w.select("last").sum()}),
    ):
        logits(qwen3, ids)


def test_no_tensor_of_the_model_is_mutated(family, rollouts):
    model = wrapped(family)
    before = model.fingerprint
    forward(model, rollouts, [Site("resid_post") @ "all"], {Site("z"): lambda v, w: v * 0})
    assert model.fingerprint == before

"""Edits act where they say, on every architecture, in prefill and in cached decoding, and then are gone."""

from __future__ import annotations

import copy

import pytest
import torch

from verdictscope.activations import BatchView, Model, Site, forward, wrap
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, edited
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.rollouts import Rollout

IDS = torch.arange(14).reshape(2, 7) * 3 % 61


def logits(model: Model, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model.hf(input_ids=ids, use_cache=False).logits


def count_hooks(model: Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())


def output_columns(model: Model, layer: int, head: int) -> tuple[torch.nn.Module, slice]:
    o = model.sites.blocks[layer].o
    return o, slice(head * model.d_head, (head + 1) * model.d_head)


def without_head(model: Model, layer: int, head: int) -> Model:
    """A copy whose output projection ignores one head: the reference, made on weights and without a hook."""
    other = wrap(copy.deepcopy(model.hf), name="copy")
    o, columns = output_columns(other, layer, head)
    with torch.no_grad():
        if type(o).__name__ == "Conv1D":
            o.weight[columns] = 0
        else:
            o.weight[:, columns] = 0
    return other


def test_zeroing_equals_zero_output_columns(model: Model) -> None:
    plain = logits(model)
    for layer, head in ((0, 1), (2, 3)):
        with edited(model, HeadEdit(((layer, head),))):
            under_edit = logits(model)
        expected = logits(without_head(model, layer, head))
        assert torch.allclose(under_edit, expected, atol=2e-5 * float(expected.abs().max()))
        assert not torch.allclose(under_edit, plain, atol=1e-3 * float(plain.abs().max()))


def test_the_output_block_is_not_a_head(qwen3: Model) -> None:
    """Slicing the projection's output, as published code did, is another function."""
    o = qwen3.sites.blocks[1].o
    width = qwen3.d_model // qwen3.n_heads

    def slice_output(_: torch.nn.Module, __: tuple, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[..., width : 2 * width] = 0
        return out

    handle = o.register_forward_hook(slice_output)
    try:
        wrong = logits(qwen3)
    finally:
        handle.remove()
    with edited(qwen3, HeadEdit(((1, 1),))):
        right = logits(qwen3)
    assert not torch.allclose(wrong, right, atol=1e-3)


def test_scaling_by_one_changes_nothing_and_by_zero_is_zeroing(model: Model) -> None:
    heads = ((1, 0), (1, 2))
    with edited(model, HeadEdit(heads, op="scale", value=1.0)):
        assert torch.equal(logits(model), logits_plain := logits(model))
    assert torch.equal(logits_plain, logits(model))
    with edited(model, HeadEdit(heads, op="scale", value=0.0)):
        scaled = logits(model)
    with edited(model, HeadEdit(heads)):
        assert torch.equal(scaled, logits(model))


def test_an_edit_is_not_renormalised(model: Model) -> None:
    """Zeroing a head leaves every other head's z untouched: nothing is rescaled to make up for it."""
    before = torch.randn(2, 7, model.n_heads, 5, generator=torch.Generator().manual_seed(0))
    view = BatchView(1, None, torch.arange(7).expand(2, 7), torch.ones(2, 7, dtype=torch.bool))
    after = HeadEdit(((1, 2),)).write(model)[Site("z", 1)](before, view)
    assert (after[:, :, 2] == 0).all()
    others = [h for h in range(model.n_heads) if h != 2]
    assert torch.equal(after[:, :, others], before[:, :, others])


def test_a_batch_mate_changes_nothing(model: Model) -> None:
    """Earlier code rescaled over the whole tensor, batch and padding included (3.8e-3 on a tiny Llama)."""
    edit = HeadEdit(((1, 1), (2, 0)))
    with edited(model, edit):
        together, alone = logits(model), logits(model, IDS[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5 * float(alone.abs().max()))


def test_cached_decoding_equals_prefill(model: Model) -> None:
    edit = HeadEdit(((0, 1), (2, 2)))
    with torch.inference_mode(), edited(model, edit):
        full = model.hf(input_ids=IDS, use_cache=False).logits[:, -1]
        first = model.hf(input_ids=IDS[:, :-1], use_cache=True)
        last = model.hf(input_ids=IDS[:, -1:], past_key_values=first.past_key_values, use_cache=True).logits[:, -1]
    assert torch.allclose(full, last, atol=2e-5 * float(full.abs().max()))


def test_an_edited_model_stays_causal(model: Model) -> None:
    """Earlier code lost the causal mask under SDPA: editing the last token moved the logits before it."""
    other = IDS.clone()
    other[:, -1] = (other[:, -1] + 1) % 61
    with edited(model, HeadEdit(((1, 1),))):
        a, b = logits(model), logits(model, other)
    assert torch.allclose(a[:, :-1], b[:, :-1], atol=1e-5 * float(a.abs().max()))
    assert not torch.allclose(a[:, -1], b[:, -1], atol=1e-3)


def test_positions_limit_an_edit(qwen3: Model, rollouts: list[Rollout]) -> None:
    read = Site("resid_post", 2) @ "all"
    write = compile_edits(qwen3, [HeadEdit(((2, 1),), positions="think_end")])
    plain, edited = (forward(qwen3, rollouts, read=[read], write=w) for w in ({}, write))
    changed = (plain.values[read][0] - edited.values[read][0]).abs().amax(-1) > 1e-4
    here = (plain.rows[read]["segment"] == "think_end").to_numpy()
    assert (changed.numpy() == here).all()


def test_edits_of_one_layer_compose(qwen3: Model) -> None:
    both = HeadEdit(((1, 0), (1, 3)))
    with edited(qwen3, [HeadEdit((1, 0)), HeadEdit((1, 3))]):
        apart = logits(qwen3)
    with edited(qwen3, both):
        assert torch.equal(apart, logits(qwen3))


def test_hooks_are_gone_after_an_exception_and_weights_untouched(model: Model) -> None:
    before, weights = logits(model), {k: v.clone() for k, v in model.hf.state_dict().items()}
    hooks = count_hooks(model)  # transformers keeps some of its own
    with pytest.raises(RuntimeError, match="stop"), edited(model, HeadEdit(((0, 0),))):
        raise RuntimeError("stop")
    assert torch.equal(before, logits(model))
    assert all(torch.equal(v, weights[k]) for k, v in model.hf.state_dict().items())
    assert count_hooks(model) == hooks


@pytest.mark.parametrize("head", [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_a_head_the_model_lacks_is_an_error(qwen3: Model, head: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="layers 0-2 and query heads 0-3"), edited(qwen3, HeadEdit((head,))):
        pass


def test_malformed_edits_are_errors() -> None:
    with pytest.raises(InputError, match="at least one"):
        HeadEdit(())
    with pytest.raises(InputError, match="twice"):
        HeadEdit(((0, 1), (0, 1)))
    with pytest.raises(InputError, match="unknown operation"):
        HeadEdit(((0, 1),), op="halve")


def test_segments_are_unknown_while_generating(qwen3: Model) -> None:
    with pytest.raises(InputError, match="use 'all'"), edited(qwen3, HeadEdit(((0, 0),), positions="thinking")):
        logits(qwen3)


def test_an_edit_says_what_it_does() -> None:
    assert HeadEdit(((4, 6), (5, 2))).describe() == "z of L4H6 L5H2 zero-ablated at all positions"
    assert "scaled by 0.5 at think_end" in HeadEdit(((0, 1),), op="scale", value=0.5, positions="think_end").describe()


def test_heads_are_named_in_several_ways() -> None:
    assert HeadEdit((5, 6)) == HeadEdit("L5H6") == HeadEdit([(5, 6)]) == HeadEdit(["L5H6"])
    assert HeadEdit(["L5H6", (3, 1)]).heads == ((5, 6), (3, 1))
    for wrong in ("5.6", "L5", 5, (5,), (5, 6, 7), [5.5, 6], {"layer": 5}, [["L5H6"]]):
        with pytest.raises(InputError, match="names no head"):
            HeadEdit(wrong)

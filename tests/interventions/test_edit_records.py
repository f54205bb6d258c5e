"""Edits are data: written down and read back they are the same edit; what makes no sense is one line."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.activations.tiny_models import rollout, wrapped
from verdictscope.activations import BatchView, Model, Site, forward
from verdictscope.errors import InputError
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
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.interventions.edits.references import align, matched
from verdictscope.interventions.edits.stored import edit_from_dict, edit_to_dict
from verdictscope.interventions.edits.sublayers import patch_grid
from verdictscope.rollouts import Rollout, Span

READ = Site("resid_post") @ "all"


@pytest.fixture(scope="module")
def model() -> Model:
    return wrapped("qwen3")


@pytest.fixture(scope="module")
def texts() -> list[Rollout]:
    return [rollout(f"p{i}/0", n, seed=i, harm=bool(i % 2)) for i, n in enumerate((14, 19, 16, 25))]


def every_kind(model: Model, texts: list[Rollout]) -> list[Edit]:
    u = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(1)).tolist()
    z = gather_means(model, texts, Site("z", (0, 2)), by="segment")
    rows = gather_rows(model, texts, texts[::-1], Site("resid_post", 1), positions="thinking", by="spread")
    keys = gather_rows(model, texts, texts[::-1], Site("k", 1), positions="user")
    return [
        HeadEdit(((1, 0), (2, 3)), positions={"p0/0": [3, -1]}),
        HeadEdit(((1, 0),), "scale", 0.1 + 0.2),
        HeadEdit(((2, 1), (0, 0)), "mean", reference=z, positions="thinking,think_end[-1]"),
        HeadEdit(((1, 1),), "scale", -1.0, site="q"),
        KVEdit(((1, 0),), "k", "resample", reference=keys),
        SublayerEdit("mlp_out", (0, 1), positions="user"),
        SublayerEdit("resid_post", (1,), "patch", reference=rows),
        DirectionEdit("resid_pre", (1, 2), u, name="refusal"),
        DirectionEdit("attn_out", (1,), u[0], op="add", value=2.0),
        DirectionEdit("resid_post", (0,), u[1], op="clamp", low=-0.25),
    ]


def test_written_down_and_read_back(model: Model, texts: list[Rollout]) -> None:
    for edit in every_kind(model, texts):
        text = json.dumps(edit_to_dict(edit), allow_nan=False)
        assert "null" not in text, "TOML has none"
        again = edit_from_dict(json.loads(text))
        assert again == edit
        assert hash(again) == hash(edit)
        assert again.describe() == edit.describe()
        a, b = (forward(model, texts, [READ], compile_edits(model, [e])).values[READ] for e in (edit, again))
        assert torch.equal(a, b)


def test_every_kind_of_edit_says_what_it_changes(model: Model, texts: list[Rollout]) -> None:
    said = [edit.describe() for edit in every_kind(model, texts)]
    assert said[0] == "z of L1H0 L2H3 zero-ablated at 2 given positions of 1 rollouts"
    assert said[2].startswith("z of L2H1 L0H0 set to the mean over 4 reference rollouts by system, user, template, ")
    assert "(reference " in said[2]
    assert said[2].endswith("at thinking,think_end[-1] positions")
    assert said[4].startswith("k of key-value groups L1G0 resampled from 4 other rollouts at ")
    assert said[5] == "mlp_out of layers 0 1 zero-ablated at user positions"
    assert "aligned by spread" in said[6]
    assert said[7].startswith("resid_pre of layers 1 2: refusal (")
    assert "projected out, the span of 2" in said[7]
    assert "added, 2 long" in said[8]
    assert "held between -0.25 and inf" in said[9]


def test_a_changed_reference_is_noticed(model: Model, texts: list[Rollout]) -> None:
    edit = every_kind(model, texts)[2]
    data = edit_to_dict(edit)
    data["reference"]["classes"] = ["thinking", *data["reference"]["classes"][1:]]
    with pytest.raises(InputError, match="was changed after it was written"):
        edit_from_dict(data)
    data = edit_to_dict(edit)
    data["reference"]["values"][0]["base64"] = "AAAA"
    with pytest.raises(InputError, match="damaged"):
        edit_from_dict(data)
    other = gather_means(model, texts[:2], Site("z", (0, 2)), by="segment")
    assert other.digest != edit.reference.digest  # type: ignore[attr-defined]


def test_zeroing_wipes_out_what_is_no_number() -> None:
    z = torch.randn(2, 3, 4, 5)
    z[:, 1, 2] = torch.inf
    z[0, 2, 2] = torch.nan
    view = BatchView(1, None, torch.arange(3).expand(2, 3), torch.ones(2, 3, dtype=torch.bool))
    before = z.clone()
    model = wrapped("llama")
    for edit in (HeadEdit(((1, 2),)), HeadEdit(((1, 2),), "scale", 0.0)):
        after = edit.write(model)[Site("z", 1)](z, view)
        assert (after[:, :, 2] == 0).all()
        assert torch.equal(after[:, :, [0, 1, 3]], z[:, :, [0, 1, 3]])
        assert torch.equal(z.nan_to_num(), before.nan_to_num()), "the caller's tensor is not touched"
    after = HeadEdit(((1, 0),), "scale", 2.0).write(model)[Site("z", 1)](z, view)
    assert torch.equal(after[:, :, 2].isfinite(), z[:, :, 2].isfinite()), "nor is another head's infinity changed"


def test_patching_everything_gives_the_other_run(model: Model, texts: list[Rollout]) -> None:
    """The stream patched at every token of a layer makes the rest of the pass the counterfactual's own."""
    swapped = [Rollout(t.id, t.group, tuple(reversed(t.ids)), t.spans, t.n_prompt, tags=t.tags) for t in texts]
    rows = gather_rows(model, texts, swapped, Site("resid_post", (0, 1)))
    with edited(model, SublayerEdit("resid_post", (1,), "patch", reference=rows)):
        mine = forward(model, texts, [READ]).values[READ]
    other = forward(model, swapped, [READ]).values[READ]
    assert torch.allclose(mine[1:], other[1:], atol=1e-5 * float(other.abs().max()))
    grid = patch_grid(rows, (0, 1), ("user", "think_end[0]", "last"))
    assert [(e.layers, e.positions) for e in grid[2:4]] == [((0,), "last"), ((1,), "user")]


def test_blocks_around_forward_know_the_segments(model: Model, texts: list[Rollout]) -> None:
    """Also where the inner pass ends before the edited layer."""
    edit = HeadEdit(((2, 1),), positions="think_end")
    inside = forward(model, texts, [READ], compile_edits(model, [edit])).values[READ]
    with edited(model, edit):
        assert torch.equal(forward(model, texts, [READ]).values[READ], inside)
        early = Site("resid_post", 0) @ "last"
        forward(model, texts, [early])


def test_means_need_no_segments_while_generating(model: Model, texts: list[Rollout]) -> None:
    ids = torch.tensor([texts[0].ids])
    whole = HeadEdit(((1, 1),), "mean", reference=gather_means(model, texts, Site("z", 1)))
    with edited(model, whole), torch.no_grad():
        model.hf.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    parts = HeadEdit(((1, 1),), "mean", reference=gather_means(model, texts, Site("z", 1), by="segment"))
    with pytest.raises(InputError, match="use 'all'"), edited(model, parts), torch.no_grad():
        model.hf.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)


def test_tokens_are_aligned_by_rule() -> None:
    def made(name: str, sizes: dict[str, int]) -> Rollout:
        spans, at = [], 0
        for segment, n in sizes.items():
            spans.append(Span(segment, at, at + n))
            at += n
        return Rollout(name, name, tuple(range(at)), tuple(spans), 2)

    a = made("a", {"user": 2, "thinking": 5, "think_end": 2})
    b = made("b", {"user": 4, "thinking": 3, "think_end": 2})
    tokens = torch.arange(9).numpy()
    assert [*zip(*(x.tolist() for x in align(a, b, tokens, "same")), strict=True)] == [(t, t) for t in range(9)]
    assert align(a, b, tokens, "start")[1].tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert align(a, b, tokens, "start")[0].tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert align(a, b, tokens, "end")[1].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert align(a, b, tokens, "end")[0].tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert align(a, b, tokens, "spread")[1].tolist() == [0, 3, 4, 4, 5, 6, 6, 7, 8]
    with pytest.raises(InputError, match="unknown alignment"):
        align(a, b, tokens, "best")


def test_matched_rollouts_are_alike_and_of_another_group(texts: list[Rollout]) -> None:
    drawn = matched(texts, texts, on=("harm",), seed=3)
    assert all(d.group != t.group and d.tags == t.tags for d, t in zip(drawn, texts, strict=True))
    assert drawn == matched(texts, texts, on=("harm",), seed=3)
    with pytest.raises(InputError, match="no rollout of another group matches"):
        matched(texts[:1], texts[:1], on=("harm",))
    with pytest.raises(InputError, match="no tag 'mode'"):
        matched(texts, texts, on=("mode",))


WRONG = [
    (lambda: HeadEdit(((0, 0),), site="v"), "use KVEdit"),
    (lambda: HeadEdit(((0, 0),), site="mlp_out"), "use SublayerEdit"),
    (lambda: HeadEdit(((0, 0),), "mean"), "needs reference=gather_means"),
    (lambda: HeadEdit(((0, 0),), "zero", 0.5), "use op='scale'"),
    (lambda: HeadEdit(((0, 0),), "scale", math.nan), "finite factor"),
    (lambda: HeadEdit(((0, 0),), positions="thinkin"), "not understood"),
    (lambda: KVEdit(()), "at least one"),
    (lambda: KVEdit(((0, 0),), "z"), "use HeadEdit"),
    (lambda: SublayerEdit("z", (0,)), "whole layers"),
    (lambda: SublayerEdit("mlp_out", ()), "at least one"),
    (lambda: SublayerEdit("mlp_out", (1, 1)), "twice"),
    (lambda: DirectionEdit("resid_post", (0,), [0.0, 0.0]), "not zero"),
    (lambda: DirectionEdit("resid_post", (0,), [1.0], op="turn"), "project, add or clamp"),
    (lambda: DirectionEdit("resid_post", (0,), [1.0], op="clamp"), "clamp needs"),
    (lambda: DirectionEdit("resid_post", (0,), [1.0], value=1.0), "op='add' alone"),
    (lambda: DirectionEdit("resid_post", (0,), [[1.0]], op="add"), "several of them to project only"),
    (lambda: edit_from_dict({"kind": "spell"}), "known are heads, kv"),
    (lambda: edit_from_dict({"kind": "heads", "head": [[0, 1]]}), "has no 'head'"),
    (lambda: edit_from_dict({"kind": "heads"}), "heads"),
]


@pytest.mark.parametrize(("make", "says"), WRONG)
def test_what_makes_no_sense_is_one_line(make, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


LACKING = [
    ("qwen3", HeadEdit(((3, 0),)), "layers 0-2 and query heads 0-3"),
    ("qwen3", HeadEdit(((0, 4),)), "layers 0-2 and query heads 0-3"),
    ("qwen3", KVEdit(((1, 3),)), "query head 3 reads group 1"),
    ("qwen3", KVEdit(((1, 9),)), "groups 0-1, each read by 2 query heads"),
    ("qwen3", KVEdit(((5, 0),)), "layers 0-2"),
    ("qwen3", SublayerEdit("mlp_out", (3,)), "layers 0-2"),
    ("qwen3", SublayerEdit("final_norm", (0,)), "the last layer, 2"),
    ("qwen3", DirectionEdit("resid_post", (0,), [1.0, 0.0]), "d_model 32"),
    ("neox", SublayerEdit("resid_mid", (1,)), "parallel block"),
    ("falcon", KVEdit(((1, 0),)), "only read"),
    ("qwen3_next", HeadEdit(((0, 0),)), "no softmax attention"),
    ("qwen3_next", KVEdit(((0, 0),)), "no softmax attention"),
]


@pytest.mark.parametrize(("family", "edit", "says"), LACKING)
def test_what_a_model_lacks_is_one_line_and_leaves_no_hook(family: str, edit: Edit, says: str) -> None:
    model = wrapped(family)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    with pytest.raises(InputError, match=says) as caught, edited(model, edit):
        pass
    assert "\n" not in str(caught.value)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    assert all(torch.equal(value, weights[name]) for name, value in model.hf.state_dict().items())


def test_every_kind_leaves_no_hook_and_no_changed_weight(model: Model, texts: list[Rollout]) -> None:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    configs = [getattr(m, "config", None) for m in model.hf.modules()]
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    with edited(model, every_kind(model, texts)):
        forward(model, texts, [READ])
    with pytest.raises(RuntimeError, match="stop"), edited(model, every_kind(model, texts)):
        raise RuntimeError("stop")
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    assert all(a is getattr(m, "config", None) for a, m in zip(configs, model.hf.modules(), strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in model.hf.state_dict().items())


def test_references_that_are_empty_or_do_not_fit(model: Model, texts: list[Rollout]) -> None:
    z = Site("z", 1)
    with pytest.raises(InputError, match="reference set is empty"):
        gather_means(model, [], z)
    with pytest.raises(InputError, match="reference set is empty"):
        matched(texts, [])
    with pytest.raises(InputError, match="'verdict' exist in none of the 4 reference rollouts"):
        gather_means(model, texts, z, by=("all", "verdict"))
    with pytest.raises(InputError, match="at least one class"):
        gather_means(model, texts, z, by=())
    with pytest.raises(InputError, match="give each target one source"):
        gather_rows(model, texts, texts[:1], z)
    with pytest.raises(InputError, match="no token of rollout p0/0"):
        gather_rows(model, texts, texts, z, positions="verdict")
    rows = gather_rows(model, texts[:2], texts[2:], z, positions="thinking", by="start")
    with (
        pytest.raises(InputError, match=r"holds z\[1\] and no z\[2\]"),
        edited(model, HeadEdit(((2, 0),), "patch", reference=rows)),
    ):
        pass
    edit = HeadEdit(((1, 0),), "patch", reference=rows)
    with pytest.raises(InputError, match=r"rollout p[23]/0 has no counterpart"), edited(model, edit):
        forward(model, texts, [READ])
    with pytest.raises(InputError, match="not generate|use 'all'"), edited(model, edit), torch.no_grad():
        model.hf(input_ids=torch.tensor([texts[0].ids]))
    other = wrapped("deepseek_v3")
    with pytest.raises(InputError, match="gather it with this model"), edited(other, edit):
        forward(other, texts[:2], [READ])

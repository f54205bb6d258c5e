"""Replay gives what whole passes under hooks give, on every architecture, or says why it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from verdictscope.activations import BatchPlan, LinearReadout, LogOddsReadout, Model, Site, variants
from verdictscope.activations.variants import Layout
from verdictscope.errors import InputError
from verdictscope.interventions import (
    DirectionEdit,
    Edit,
    Effects,
    HeadEdit,
    KVEdit,
    SublayerEdit,
    effects,
    gather_means,
    gather_rows,
)
from verdictscope.interventions.replay import running
from verdictscope.interventions.replay.chunks import chunks, rows_for
from verdictscope.interventions.replay.running import Computed
from verdictscope.rollouts import Rollout

sys.path.append(str(Path(__file__).parents[1] / "activations"))
from tiny_models import CONFIGS, MORE, rollout, wrapped

ROLLOUTS = [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((40, 33, 47))]
LATE = "think_end,thinking[-3:]"
ONE_TOKEN = LogOddsReadout("one", [3, 7], [11, 20])
LABELS = LogOddsReadout("labels", [[3, 5], [7]], [[11, 4, 9], [3, 6]])
ELSEWHERE = {
    "bloom": "takes no position ids",
    "falcon": "attention interface",
    "qwen3_next": "layer 2 has no softmax attention",
}
"""Families that are restarted over all positions, and why."""


def heads(model: Model, positions: str) -> list[HeadEdit]:
    layers = [la for la in range(model.n_layers) if model.sites.blocks[la].o is not None]
    return [HeadEdit(((la, h),), positions=positions) for la in layers for h in range(model.n_heads)]


def apart(a: Effects, b: Effects) -> float:
    """The largest difference of two computations, over the largest number."""
    return float(max(np.abs(a.base - b.base).max(), np.abs(a.edited - b.edited).max()) / np.abs(b.edited).max())


@pytest.mark.parametrize("family", sorted(CONFIGS | MORE))
def test_every_architecture_replays_or_says_why_not(family: str) -> None:
    model = wrapped(family)
    edits = heads(model, LATE)
    replayed = effects(model, ROLLOUTS, ONE_TOKEN, edits)
    passes = effects(model, ROLLOUTS, ONE_TOKEN, edits, method="passes")
    assert apart(replayed, passes) < 5e-6
    assert np.abs(passes.change).max() > 1e-3 * np.abs(passes.base).max()
    assert replayed.computed.method == ("restart" if family in ELSEWHERE else "replay")
    assert ELSEWHERE.get(family, "") in str(replayed.computed)
    assert passes.computed.method == "passes"


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral_windowed", "gpt_oss"])
@pytest.mark.parametrize("positions", [LATE, "all"])
def test_labels_of_several_tokens_and_rows_of_any_layer(family: str, positions: str) -> None:
    model = wrapped(family)
    edits = heads(model, positions)
    weight = np.random.default_rng(0).normal(size=model.d_model)
    readouts = [
        LABELS,
        LinearReadout("mid", "resid_post", 1, weight, positions="think_end"),
        LinearReadout("lens", "resid_pre", 2, weight, 0.3, final_norm=True, positions="before_answer"),
        LinearReadout("last", "final_norm", None, weight, positions="before_answer"),
    ]
    for readout in readouts:
        replayed = effects(model, ROLLOUTS, readout, edits)
        passes = effects(model, ROLLOUTS, readout, edits, method="passes")
        assert apart(replayed, passes) < 1e-5, readout.name
        assert replayed.computed.method == ("replay" if positions == LATE else "restart")


def other_edits(model: Model) -> list[Edit | list[Edit]]:
    """One of every kind, at the last tokens, alone and together; layers out of order."""
    direction = np.random.default_rng(1).normal(size=model.d_model)
    return [
        SublayerEdit("mlp_out", (1,), positions=LATE),
        SublayerEdit("attn_out", (0, 2), "scale", 0.5, positions="before_answer"),
        SublayerEdit("resid_mid", (2,), "scale", 2.0, positions=LATE),
        SublayerEdit("resid_post", (0,), "zero", positions="think_end[0]"),
        SublayerEdit("final_norm", (model.n_layers - 1,), "scale", 0.3, positions="before_answer"),
        KVEdit(((1, 0),), "k", positions=LATE),
        KVEdit(((0, 1),), "v", positions=LATE),
        HeadEdit(((2, 1), (0, 3)), "scale", 3.0, positions=LATE, site="q"),
        DirectionEdit("resid_post", (1,), direction, positions=LATE),
        [HeadEdit(((2, 0),), positions="think_end"), SublayerEdit("mlp_out", (0,), positions="thinking[-2:]")],
        HeadEdit(((1, 1),), positions="user[0]"),  # another window
        HeadEdit(((1, 1),), positions={"p0/0": (36,), "p2/0": (-5,)}),  # nowhere in one rollout
        [],
    ]


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
@pytest.mark.parametrize("readout", [ONE_TOKEN, LABELS], ids=lambda r: r.name)
def test_edits_of_every_kind_and_several_windows(family: str, readout: LogOddsReadout) -> None:
    model = wrapped(family)
    edits = other_edits(model)
    replayed = effects(model, ROLLOUTS, readout, edits)
    passes = effects(model, ROLLOUTS, readout, edits, method="passes")
    assert apart(replayed, passes) < 5e-6
    assert np.allclose(replayed.edited[-1], replayed.base, rtol=1e-6), "nothing edited"
    assert replayed.computed.method == "replay"


def test_references_are_found_in_windows() -> None:
    model = wrapped("llama")
    others = [rollout(f"q{i}/0", n, seed=9 + i) for i, n in enumerate((40, 33, 47))]
    rows = gather_rows(model, ROLLOUTS, others, Site("z"), positions=LATE, by="end")
    means = gather_means(model, others, Site("z"), by="segment")
    edits = [
        HeadEdit(((layer, 1),), op, positions=LATE, reference=reference)
        for layer in range(3)
        for op, reference in (("patch", rows), ("mean", means))
    ]
    replayed = effects(model, ROLLOUTS, LABELS, edits, method="replay")
    assert apart(replayed, effects(model, ROLLOUTS, LABELS, edits, method="passes")) < 5e-6


def test_edits_behind_the_readout_cost_nothing_and_change_nothing() -> None:
    model = wrapped("llama")
    weight = np.random.default_rng(0).normal(size=model.d_model)
    readout = LinearReadout("probe", "resid_post", 0, weight, positions="before_answer")
    done: list[tuple[int, int]] = []
    edits = [HeadEdit(((2, 0),), positions=LATE), HeadEdit(((0, 0),), positions="answer")]
    result = effects(model, ROLLOUTS, readout, edits, progress=lambda *at: done.append(at))
    assert (result.change[0] == 0).all()
    assert np.abs(result.change[1]).max() < 1e-6
    assert done[-1] == (2, 2)


def test_what_is_held_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens a pass: rollouts and variants are taken in pieces, and the numbers stay."""
    model = wrapped("llama")
    whole = effects(model, ROLLOUTS, ONE_TOKEN, heads(model, LATE))
    seen: list[int] = []
    run = Layout.tiled

    def tiled(layout: Layout, value: torch.Tensor) -> torch.Tensor:
        found = run(layout, value)
        seen.append(found.shape[0] * found.shape[1])
        return found

    monkeypatch.setattr(Layout, "tiled", tiled)
    plan = BatchPlan.make([len(r) for r in ROLLOUTS], 50)
    pieces = effects(model, ROLLOUTS, ONE_TOKEN, heads(model, LATE), plan=plan)
    assert max(seen) <= 50
    assert apart(pieces, whole) < 5e-6


def test_running_out_of_memory_halves_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped("llama")
    whole = effects(model, ROLLOUTS, ONE_TOKEN, heads(model, LATE))
    batched, budgets = running.Batched, []

    def tight(job: running.Job, rollouts: list[Rollout]) -> running.Batched:
        budgets.append(job.budget)
        if len(rollouts) > 1:
            raise torch.OutOfMemoryError("no room")
        return batched(job, rollouts)

    monkeypatch.setattr(running, "Batched", tight)
    assert apart(effects(model, ROLLOUTS, ONE_TOKEN, heads(model, LATE)), whole) < 5e-6
    assert budgets[0] > budgets[-1]


def test_a_replay_that_differs_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that lets variants see each other, or a block that is not passed by, is noticed before any number."""
    model, edits = wrapped("qwen2"), heads(wrapped("qwen2"), LATE)
    passes = effects(model, ROLLOUTS, ONE_TOKEN, edits, method="passes")
    running._verified.pop(model.hf, None)
    monkeypatch.setattr(variants, "_barred", lambda mask, seen: mask)
    fallen = effects(model, ROLLOUTS, ONE_TOKEN, edits)
    assert fallen.computed.method == "passes"
    assert "differs from a whole pass by" in fallen.computed.why
    assert np.array_equal(fallen.edited, passes.edited)
    with pytest.raises(InputError, match="cannot be replayed.*use method='passes'"):
        effects(model, ROLLOUTS, ONE_TOKEN, edits, method="replay")
    running._verified.pop(model.hf, None)


def test_a_model_that_cannot_be_started_in_the_middle_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped("phi3")
    running._verified.pop(model.hf, None)
    block = model.sites.blocks[0].block
    monkeypatch.setattr(variants, "_hand_on", lambda *args, **kwargs: None)
    fallen = effects(model, ROLLOUTS, ONE_TOKEN, heads(model, "all"))
    assert fallen.computed.method == "passes"
    assert "could not be started" in fallen.computed.why
    assert "forward" not in block.__dict__
    with torch.no_grad():
        model.hf(torch.tensor([[3, 4, 5]]))
    running._verified.pop(model.hf, None)


def test_nothing_is_left_on_the_model() -> None:
    model = wrapped("qwen3")
    ids = torch.tensor([ROLLOUTS[0].ids])
    before, weights = model.hf(ids).logits, {k: v.clone() for k, v in model.hf.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    effects(model, ROLLOUTS, LABELS, other_edits(model))
    assert torch.equal(before, model.hf(ids).logits)
    assert all(torch.equal(v, weights[k]) for k, v in model.hf.state_dict().items())
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    assert all("forward" not in b.block.__dict__ for b in model.sites.blocks)


def test_wrong_requests_are_one_line() -> None:
    model = wrapped("llama")
    with pytest.raises(InputError, match="unknown method"):
        effects(model, ROLLOUTS, ONE_TOKEN, [], method="fast")
    with pytest.raises(InputError, match="layers 0-2 and query heads 0-3"):
        effects(model, ROLLOUTS, ONE_TOKEN, [HeadEdit(((0, 4),))])
    with pytest.raises(InputError, match="no position in rollout p0/0"):
        effects(model, ROLLOUTS, LogOddsReadout("x", [3], [4], "verdict"), [])
    assert effects(model, ROLLOUTS, ONE_TOKEN, []).edited.shape == (0, 3)


def test_passes_are_shared_where_that_is_cheaper() -> None:
    assert [c.layer for c in chunks([0, 1, 2, 3], 3, 8, 100)] == [0], "few tokens: one pass for all layers"
    many = [layer for layer in range(4) for _ in range(16)]
    assert [c.layer for c in chunks(many, 3, 100, 64)] == [0, 1, 2, 3], "many: each layer's own"
    found = chunks(many[::-1], 3, 100, 5)
    assert max(len(c.members) for c in found) == 5
    assert sorted(i for c in found for i in c.members) == list(range(64))
    assert all(many[::-1][i] >= c.layer for c in found for i in c.members)
    assert rows_for(16, 8, 1016) == (1, 16)
    assert rows_for(3, 100, 0) == (3, 1), "without a prefix: an ordinary batch"


def test_how_it_was_computed_is_said() -> None:
    text = str(Computed("restart", "BloomModel takes no position ids", 1e-7))
    assert text == (
        "restarted at the edited layer, over all positions (verified against a whole pass: 1.0e-07), because "
        "BloomModel takes no position ids"
    )

"""The invariants of DESIGN 3, items 2 to 5, on values and on scores."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from tiny_models import PARALLEL, rollout, wrapped

from verdictscope.activations import (
    BatchPlan,
    LinearReadout,
    LogOddsReadout,
    Model,
    Site,
    forward,
    logit_difference,
    writing,
)
from verdictscope.activations.forward import passes
from verdictscope.activations.positions import resolve
from verdictscope.activations.weights import apply_final_norm
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

READS = [Site("resid_pre") @ "all", Site("resid_post") @ "all", Site("z") @ "all", Site("final_norm") @ "all"]
ODDS = LogOddsReadout("odds", [(5,), (7, 8)], [(9, 10, 11), (7, 9)], positions="before_answer,thinking:2")


def close(a: torch.Tensor, b: torch.Tensor, model: Model, factor: float = 4.0) -> bool:
    """Within the noise floor, in the norm over the last axes of a row."""
    a, b = a.double().flatten(2), b.double().flatten(2)
    return bool(((a - b).norm(dim=-1) <= factor * model.noise_floor * b.norm(dim=-1)).all())


def stock(model: Model, r: Rollout) -> object:
    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([r.ids]), output_hidden_states=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_the_stock_hidden_states(family, rollouts, dtype):
    model = wrapped(family, dtype)
    out = forward(model, rollouts, READS)
    for r in rollouts:
        hidden = torch.stack(stock(model, r).hidden_states)[:, 0]
        mine = {read.site.name: out.values[read][:, np.array(out.rows[read]["rollout"] == r.id)] for read in READS}
        assert close(mine["resid_pre"], hidden[:-1], model)
        assert close(mine["resid_post"][:-1], hidden[1:-1], model)
        assert close(mine["final_norm"], hidden[-1:], model)
        assert mine["z"].shape == (model.n_layers, len(r), model.n_heads, model.d_head)
        assert mine["z"].dtype == dtype


def test_alone_the_values_are_bit_identical(model, rollouts):
    for r in rollouts[:2]:
        out = forward(model, [r], READS)
        hidden = torch.stack(stock(model, r).hidden_states)[:, 0]
        assert torch.equal(out.values[READS[0]], hidden[:-1])
        assert torch.equal(out.values[READS[3]][0], hidden[-1])


def test_z_is_the_input_of_the_output_projection(model, rollouts):
    read = Site("z") @ "all"
    r = rollouts[1]
    out = forward(model, [r], [read])
    for layer, block in enumerate(model.sites.blocks):
        seen = {}
        handle = block.o.register_forward_pre_hook(lambda m, args, seen=seen: seen.update(x=args[0]))
        stock(model, r)
        handle.remove()
        assert torch.equal(out.values[read][layer].flatten(1), seen["x"][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_mates_and_padding_change_nothing(family, rollouts, dtype):
    model = wrapped(family, dtype)
    together = forward(model, rollouts, READS, score=[ODDS], plan=BatchPlan((tuple(range(5)),), 999))
    alone = forward(model, rollouts, READS, score=[ODDS], plan=BatchPlan(tuple((i,) for i in range(5)), 999))
    for read in READS:
        assert together.rows[read].equals(alone.rows[read])
        assert close(together.values[read], alone.values[read], model)
    assert together.scores.drop(columns="score").equals(alone.scores.drop(columns="score"))
    gap = (together.scores["score"] - alone.scores["score"]).abs().max()
    assert gap <= 100 * model.noise_floor  # a log-odds of logits of size about ten, over several tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_left_padding_and_cached_decoding_agree_with_right_padded_prefill(family, rollouts, dtype):
    model = wrapped(family, dtype)
    read = Site("resid_post") @ "all"
    r, width = rollouts[0], 30
    mine = forward(model, [r, rollouts[3]], [read]).values[read][:, : len(r)]

    left = torch.tensor([[0] * (width - len(r)) + list(r.ids)])
    mask = (torch.arange(width) >= width - len(r)).long()[None]
    with torch.no_grad():
        hidden = model.hf(
            input_ids=left,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            output_hidden_states=True,
        ).hidden_states
    assert close(torch.stack(hidden[1:-1])[:, 0, width - len(r) :], mine[:-1], model)

    cache, steps = None, []
    for token in r.ids:
        with torch.no_grad():
            out = model.hf(
                input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True, output_hidden_states=True
            )
        cache = out.past_key_values
        steps.append(torch.stack(out.hidden_states[1:-1])[:, 0, 0])
    assert close(torch.stack(steps, dim=1), mine[:-1], model)


def test_editing_a_token_changes_nothing_before_it(model, rollouts):
    read, r = Site("resid_post") @ "all", rollouts[3]
    odds = LogOddsReadout("odds", [(5,), (7, 8)], [(9, 10)], positions="all")
    at = 17
    other = dataclasses.replace(r, ids=(*r.ids[:at], (r.ids[at] + 1) % 97, *r.ids[at + 1 :]))
    a, b = (forward(model, [x], [read], score=[odds]) for x in (r, other))
    assert torch.equal(a.values[read][:, :at], b.values[read][:, :at])
    assert not torch.equal(a.values[read][:, at:], b.values[read][:, at:])
    before = a.scores["pos"] < at
    assert (a.scores["score"] - b.scores["score"])[before].abs().max() <= 100 * model.noise_floor
    assert (a.scores["score"] - b.scores["score"])[~before].abs().min() > 100 * model.noise_floor


def test_identities_hold_on_rollouts(model, family, rollouts):
    names = ["resid_pre", "attn_out", "mlp_out", "resid_post"] + ([] if family in PARALLEL else ["resid_mid"])
    reads = {name: Site(name) @ "all" for name in names}
    v = {name: x for name, read in reads.items() for x in [forward(model, rollouts, list(reads.values())).values[read]]}
    if family not in PARALLEL:
        assert torch.allclose(v["resid_pre"] + v["attn_out"], v["resid_mid"], rtol=1e-5, atol=1e-5)
        assert torch.allclose(v["resid_mid"] + v["mlp_out"], v["resid_post"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(v["resid_pre"] + v["attn_out"] + v["mlp_out"], v["resid_post"], rtol=1e-5, atol=1e-5)
    assert torch.equal(v["resid_post"][:-1], v["resid_pre"][1:])


def test_stopping_early_changes_nothing(model, rollouts):
    calls = []
    handle = model.sites.blocks[2].block.register_forward_pre_hook(lambda m, a: calls.append(1))
    try:
        shallow = [Site("resid_post", 0) @ "all", Site("z", 1) @ "last"]
        stopped = forward(model, rollouts, shallow)
        assert not calls
        full = forward(model, rollouts, [*shallow, Site("final_norm") @ "last"], logits_at="last")
        assert calls
    finally:
        handle.remove()
    for read in shallow:
        assert torch.equal(stopped.values[read], full.values[read])


def test_no_head_is_called_without_logits(model, rollouts):
    calls = []
    handle = model.sites.unembed.register_forward_hook(lambda m, a, out: calls.append(out.shape))
    try:
        forward(model, rollouts, [Site("final_norm") @ "all"])
        assert not calls
        forward(model, rollouts, logits_at="last")
        assert sum(s[:-1].numel() for s in calls) == len(rollouts)  # only the wanted rows
    finally:
        handle.remove()


def test_logits_are_the_stock_logits(model, rollouts):
    out = forward(model, rollouts, logits_at="thinking:3,last")
    for (name, pos), row in zip(out.logit_rows[["rollout", "pos"]].itertuples(index=False), out.logits, strict=True):
        r = next(r for r in rollouts if r.id == name)
        wanted = stock(model, r).logits[0, pos]
        assert (row - wanted).norm() <= 8 * model.noise_floor * wanted.norm()


def test_log_odds_equal_log_softmax_by_hand(model, rollouts):
    out = forward(model, rollouts, score=[ODDS]).scores
    assert len(out) == sum(len(resolve(ODDS.positions, r)) for r in rollouts)
    assert out["layer"].isna().all()
    for line in out.itertuples():
        r = next(r for r in rollouts if r.id == line.rollout)
        assert (r.ids[line.pos], r.labels()[line.pos]) == (line.token_id, line.segment)

        def logp(string, ids=r.ids[: line.pos + 1]):
            total = 0.0
            for k, token in enumerate(string):
                with torch.no_grad():
                    logits = model.hf(input_ids=torch.tensor([[*ids, *string[:k]]])).logits[0, -1]
                total += float(logits.double().log_softmax(-1)[token])
            return total

        wanted = np.logaddexp.reduce([logp(s) for s in ODDS.positive]) - np.logaddexp.reduce(
            [logp(s) for s in ODDS.negative]
        )
        assert line.score == pytest.approx(wanted, abs=2e-4)


def test_linear_readouts_equal_products_of_read_values(model, rollouts):
    rng = np.random.default_rng(0)
    readouts = [
        LinearReadout("a", "resid_post", 1, rng.normal(size=32), 0.5),
        LinearReadout("b", "resid_post", 1, rng.normal(size=32), -1.0),
        LinearReadout("c", "resid_post", -1, rng.normal(size=32), 0.1, final_norm=True, positions="thinking:4"),
        LinearReadout("d", "z", 0, rng.normal(size=(model.n_heads, model.d_head)), positions="last"),
        LinearReadout("e", "final_norm", None, rng.normal(size=32), positions="last"),
    ]
    scores = forward(model, rollouts, score=readouts).scores
    for r in readouts:
        read = Site(r.site, r.layer) @ r.positions
        values = forward(model, rollouts, [read]).values[read][0]
        if r.final_norm:
            values = apply_final_norm(model, values)
        wanted = values.flatten(1).double().numpy() @ r.weight.reshape(-1) + r.bias
        mine = scores[scores["readout"] == r.name]
        assert np.allclose(mine["score"], wanted, rtol=1e-4, atol=1e-4)
        assert set(mine["layer"]) == {Site(r.site, r.layer).at(model.n_layers)[0]}
    assert scores["readout"].drop_duplicates().tolist() == list("abcde")
    assert scores[scores["readout"] == "a"]["rollout"].drop_duplicates().tolist() == [r.id for r in rollouts]


def test_one_name_at_several_layers_is_told_apart_by_the_layer(model, rollouts):
    rng = np.random.default_rng(1)
    layers = [2, 0, -2]
    ladder = [LinearReadout("probe", "resid_post", layer, rng.normal(size=32)) for layer in layers]
    together = forward(model, rollouts, score=[*ladder, ODDS]).scores
    for readout, layer in zip(ladder, (2, 0, 1), strict=True):
        alone = forward(model, rollouts, score=[readout]).scores
        mine = together[(together["readout"] == "probe") & (together["layer"] == layer)]
        assert mine.drop(columns="score").reset_index(drop=True).equals(alone.drop(columns="score"))
        assert np.allclose(mine["score"], alone["score"], rtol=1e-5, atol=1e-5)
    first = together[together["rollout"] == rollouts[0].id]
    assert first["layer"].drop_duplicates().fillna(-1).tolist() == [2, 0, 1, -1]  # in the order they were given
    with pytest.raises(InputError, match="same name"):  # layer -1 is layer 2
        forward(model, rollouts, score=[ladder[0], LinearReadout("probe", "resid_post", -1, np.ones(32))])


def test_logit_difference_is_the_difference_of_logits(model, family, rollouts):
    readout = logit_difference(model, LogOddsReadout("d", [5], [9], positions="last"))
    scores = forward(model, rollouts, score=[readout], logits_at="last")
    wanted = scores.logits[:, 5] - scores.logits[:, 9]
    if family == "gemma2":  # undo the soft cap: the linear form is before it
        cap = model.hf.config.final_logit_softcapping
        wanted = cap * (torch.atanh(scores.logits[:, 5] / cap) - torch.atanh(scores.logits[:, 9] / cap))
    assert np.allclose(scores.scores["score"], wanted, rtol=2e-3 if family == "gemma2" else 1e-4, atol=1e-4)


def test_an_edit_reaches_multi_token_labels(qwen3, rollouts):
    """The label's own tokens are edited under ``all`` and not under ``before_answer``."""
    shift = torch.randn(32, generator=torch.Generator().manual_seed(1))
    odds = LogOddsReadout("odds", [(7, 8)], [(9, 10)])
    r = rollouts[1]
    at = int(resolve("before_answer", r)[0])
    for positions, upto in (("all", 99), ("before_answer", at), ("last", -1), ("thinking[-1]", -2)):

        def write(value, view, positions=positions):
            return value + shift * view.select(positions)[..., None]

        score = forward(qwen3, [r], score=[odds], write={Site("resid_post", 0): write}).scores["score"].item()

        def edited(ids, positions=positions, upto=upto):
            where = torch.zeros(len(ids), dtype=torch.bool)
            if positions == "all":
                where[:] = True
            elif positions == "before_answer":
                where[upto] = True
            elif positions == "thinking[-1]":
                where[r.span("thinking").stop - 1] = True  # "last" lies after the prefix: nothing is edited
            with torch.no_grad(), writing(qwen3, {Site("resid_post", 0): lambda v, w: v + shift * where[:, None]}):
                return qwen3.hf(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)

        def logp(a, b):
            ids = [*r.ids[: at + 1], a]
            out = edited(ids)
            return float(out[-2, a] + out[-1, b])

        assert score == pytest.approx(logp(7, 8) - logp(9, 10), abs=2e-4)


def test_rows_come_in_the_rollouts_order_whatever_the_plan(qwen3, rollouts):
    read = Site("resid_post", 1) @ "thinking:2,last"
    plans = [None, BatchPlan(((3, 1), (0, 2, 4)), 99)]
    outs = [forward(qwen3, rollouts, [read], plan=plan) for plan in plans]
    assert outs[0].rows[read].equals(outs[1].rows[read])
    assert outs[0].rows[read]["rollout"].drop_duplicates().tolist() == [r.id for r in rollouts]
    frame = outs[0].rows[read]
    by_id = {r.id: r for r in rollouts}
    assert all(by_id[x.rollout].ids[x.pos] == x.token_id for x in frame.itertuples())
    assert close(outs[0].values[read], outs[1].values[read], qwen3)
    assert outs[1].plan == plans[1]


def test_the_same_plan_gives_the_same_bytes(qwen3, rollouts):
    a, b = (forward(qwen3, rollouts, READS, score=[ODDS]) for _ in range(2))
    assert all(torch.equal(a.values[r], b.values[r]) for r in READS)
    assert a.scores.equals(b.scores)


def test_out_of_memory_splits_the_batch_and_goes_on(qwen3, rollouts, monkeypatch):
    room = sys.modules["verdictscope.activations.forward"]
    stock_run, sizes = room.launch, []

    def run(job, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock_run(job, batch)

    plan = BatchPlan(((3, 1, 2, 0, 4),), 999)
    wanted = forward(qwen3, rollouts, READS, plan=plan)
    monkeypatch.setattr(room, "launch", run)
    out = forward(qwen3, rollouts, READS, plan=plan)
    assert out.plan.batches == ((3, 1), (2,), (0, 4))
    assert sizes == [5, 3, 2, 1, 2]
    assert all(close(out.values[r], wanted.values[r], qwen3) for r in READS)


def test_passes_yield_whole_batches_and_can_start_late(qwen3, rollouts):
    read = Site("resid_post", 1) @ "last"
    plan = BatchPlan(((3, 1), (0, 2), (4,)), 99)
    got = list(passes(qwen3, rollouts, [read], plan=plan))
    assert [p.batch for p in got] == list(plan.batches)
    assert [p.rows[read]["rollout"].tolist() for p in got][1] == [rollouts[0].id, rollouts[2].id]
    assert [p.batch for p in passes(qwen3, rollouts, [read], plan=plan, skip=2)] == [(4,)]


def test_missing_segments_give_no_rows(qwen3):
    cut = [rollout("a", 14), dataclasses.replace(rollout("b", 9, answer=0), finish="length")]
    out = forward(
        qwen3, cut, [Site("resid_post") @ "answer", Site("z") @ "verdict"], score=[LogOddsReadout("o", [(5, 6)], [7])]
    )
    assert [len(f) for f in out.rows.values()] == [3, 0]
    assert out.values[Site("z") @ "verdict"].shape == (3, 0, 4, 12)
    assert out.scores["rollout"].tolist() == ["a"]


def test_wrong_input_is_one_line(qwen3, rollouts):
    r = rollouts[0]
    calls = [
        lambda: forward(qwen3, []),
        lambda: forward(qwen3, [r, r]),
        lambda: forward(qwen3, [dataclasses.replace(r, ids=(97, *r.ids[1:]))]),
        lambda: forward(qwen3, rollouts, [Site("router") @ "all"]),
        lambda: forward(qwen3, rollouts, [Site("z", 3) @ "all"]),
        lambda: forward(qwen3, rollouts, READS, plan=BatchPlan(((0,),), 9)),
        lambda: forward(qwen3, rollouts, score=[LinearReadout("a", "z", 0, np.ones(32))]),
        lambda: forward(qwen3, rollouts, score=[LogOddsReadout("a", [500], [1])]),
        lambda: forward(qwen3, rollouts, score=[ODDS, ODDS]),
        lambda: forward(qwen3, rollouts, [READS[0], READS[0]]),
    ]
    for call in calls:
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)

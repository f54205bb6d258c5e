"""The parts of a readout sum to it, in every family; each part is what a finite difference says it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "activations"))
from tiny_models import CONFIGS, MORE, rollout, wrapped

from verdictscope.activations import (
    BatchPlan,
    LinearReadout,
    LogOddsReadout,
    Model,
    Readout,
    Site,
    forward,
    logit_difference,
)
from verdictscope.errors import InputError
from verdictscope.interventions import attribute
from verdictscope.rollouts import Rollout
from verdictscope.stats import mean_effect

FAMILIES = [*CONFIGS, *MORE]
BAR = 1e-4
"""Largest residual the package promises, as a share of the readout itself."""
PAIR = LogOddsReadout("log_odds", positive=(5,), negative=(9,))
SEVERAL = LogOddsReadout("several", positive=(5, 7, 8), negative=(9, 11))
HERE = "before_answer,thinking:3"


@pytest.fixture(scope="module")
def some() -> list[Rollout]:
    return [rollout(f"p{i // 2}/{i % 2}", n, seed=i) for i, n in enumerate((14, 23, 17, 30, 12))]


def probe(model: Model, site: str, layer: int | None, final_norm: bool = False) -> LinearReadout:
    width = int(np.prod(model.sites.shape(site, model.n_layers - 1 if layer is None else layer)))
    weight = np.random.default_rng(7).normal(size=width)
    return LinearReadout(site, site, layer, weight, bias=0.7, final_norm=final_norm)


def readouts(model: Model) -> list[Readout]:
    found: list[Readout] = [PAIR, SEVERAL, probe(model, "final_norm", None)]
    found += [probe(model, "resid_post", layer, normed) for layer in (0, 1, 2) for normed in (False, True)]
    found += [probe(model, site, 1) for site in ("resid_pre", "attn_out", "mlp_out")]
    found += [probe(model, "resid_mid", 1)] if model.sites.blocks[1].mid is not None else []
    found += [probe(model, "z", 1)] if model.sites.blocks[1].o is not None else []
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_sum_to_the_readout(family: str, some: list[Rollout]) -> None:
    model = wrapped(family)
    for readout in readouts(model):
        result = attribute(model, some, readout, positions=HERE)
        assert np.abs(result.residual).max() <= BAR * np.abs(result.logit).max(), readout
        assert result.relative_residual < 1e-5, readout


@pytest.mark.parametrize("family", ["gemma2", "granite", "gpt2", "qwen3_moe"])
def test_in_bfloat16_the_residual_is_rounding(family: str, some: list[Rollout]) -> None:
    result = attribute(wrapped(family, torch.bfloat16), some, PAIR)
    assert 1e-6 < result.relative_residual < result.tolerance


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "neox", "deepseek_v3", "qwen3_next", "opt"])
def test_a_part_is_what_taking_it_away_changes(family: str, some: list[Rollout]) -> None:
    """Zero one part of the stream with the norm's scale frozen: the readout falls by the part's share.

    The stream is rebuilt from the model's own values, not from the attribution's arithmetic.
    """
    model, layer = wrapped(family), 1
    readout = probe(model, "resid_post", layer, final_norm=True)
    result = attribute(model, some, readout)
    share = dict(zip(result.components, result.values, strict=True))
    stream, cuts = Site("resid_post", layer) @ "before_answer", {}
    cuts["mlp", layer, -1] = Site("mlp_out", layer)
    cuts["head", layer, 2] = Site("z", layer)
    plain = forward(model, some, [stream]).values[stream][0].double()
    norm = model.sites.ln_final
    weight = torch.tensor(np.asarray(readout.weight))
    for part, site in cuts.items():

        def zero(value: torch.Tensor, _: object, part: tuple = part) -> torch.Tensor:
            out = value.clone()
            out[..., part[2], :] = 0
            return out if part[0] == "head" else torch.zeros_like(value)

        if part[0] == "head" and model.sites.blocks[layer].mid is not None:
            # The MLP of the same layer reads the head; its answer is no direct effect, so it is held.
            held = Site("mlp_out", layer)
            keep = forward(model, some, [held @ "all"]).values[held @ "all"][0]
            writes = {site: zero, held: _holding(keep, some)}
        else:
            writes = {site: zero}
        cut = forward(model, some, [stream], write=writes).values[stream][0].double()
        gone = plain - cut
        if norm is not None and type(norm).__name__.endswith("LayerNorm") and "RMS" not in type(norm).__name__:
            gone = gone - gone.mean(-1, keepdim=True)
            spread = plain.var(-1, unbiased=False, keepdim=True)
        else:
            spread = plain.pow(2).mean(-1, keepdim=True)
        eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
        gain = norm.weight.detach().double() + (family == "qwen3_next")
        expected = (gone / (spread + eps).sqrt() * gain) @ weight
        assert np.allclose(share[part], expected, atol=2e-5 * float(expected.abs().max())), (family, part)


def _holding(kept: torch.Tensor, rollouts: list[Rollout]) -> object:
    starts = np.cumsum([0, *map(len, rollouts)])
    place = {r.id: kept[a:b] for r, a, b in zip(rollouts, starts, starts[1:], strict=False)}

    def hold(value: torch.Tensor, view: object) -> torch.Tensor:
        out = value.clone()
        for row, r in enumerate(view.rollouts):  # type: ignore[attr-defined]
            out[row, : len(r)] = place[r.id]
        return out

    return hold


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_shares_are_the_gradient_of_the_readout_along_each_head(family: str, some: list[Rollout]) -> None:
    """Through a post-norm too: with both divisors held, the readout's slope in a head's size is the head's share."""
    model, last = wrapped(family), 2
    result = attribute(model, some, PAIR)
    share = np.stack([s for p, s in zip(result.components, result.values, strict=True) if p[:2] == ("head", last)])
    post, final = model.sites.blocks[last].attn.module, model.sites.ln_final
    shares_of_slope = []
    for head in range(model.n_heads):
        sides = []
        for size in (1.01, 0.99):

            def scale(z: torch.Tensor, _: object, head: int = head, size: float = size) -> torch.Tensor:
                out = z.clone()
                out[:, :, head] = out[:, :, head] * size
                return out

            sides.append(_frozen_logits(model, some, {Site("z", last): scale}, post, final))
        shares_of_slope.append((sides[0] - sides[1]) / 0.02)
    assert np.allclose(share, shares_of_slope, atol=2e-3 * np.abs(share).max())


def _frozen_logits(
    model: Model, rollouts: list[Rollout], write: dict, post: torch.nn.Module, final: torch.nn.Module
) -> np.ndarray:
    """The pair's logit difference before any cap, with the last layer's MLP and both norms' divisors held."""
    last = model.n_layers - 1
    reads = {n: Site(n, last) @ "all" for n in ("resid_pre", "mlp_out")} | {"o": Site("z", last) @ "all"}
    values = forward(model, rollouts, [*reads.values()]).values
    clean = {name: values[read][0].double() for name, read in reads.items()}
    moved = forward(model, rollouts, [reads["o"]], write=write).values[reads["o"]][0].double()
    block = model.sites.blocks[last]
    with torch.no_grad():
        outs = [block.o.double()(z.flatten(1)) for z in (clean["o"], moved)]
        block.o.float()
        if post is not block.mixer and post is not block.o:
            inv = torch.rsqrt(outs[0].pow(2).mean(-1, keepdim=True) + post.eps) * (1 + post.weight.double())
            outs = [out * inv for out in outs]
        streams = [clean["resid_pre"] + out + clean["mlp_out"] for out in outs]
        if hasattr(final, "bias"):
            streams = [s - s.mean(-1, keepdim=True) for s in streams]
        eps = getattr(final, "eps", getattr(final, "variance_epsilon", None))
        gain = final.weight.double() + ("Gemma" in type(final).__name__)
        normed = streams[1] * torch.rsqrt(streams[0].pow(2).mean(-1, keepdim=True) + eps) * gain
        weight = model.sites.unembed.weight.double()
        values = normed @ (weight[5] - weight[9])
    starts = np.cumsum([0, *map(len, rollouts[:-1])])
    return np.array([float(values[a + r.span("answer").start - 1]) for r, a in zip(rollouts, starts, strict=True)])


def test_positions_are_parts_of_the_stream(some: list[Rollout]) -> None:
    """GPT-2's position table and Granite's embedding multiplier, against the weights themselves."""
    gpt2 = wrapped("gpt2")
    readout = probe(gpt2, "resid_pre", 0)
    result = attribute(gpt2, some, readout)
    share = dict(zip(result.components, result.values, strict=True))
    weight, at = torch.tensor(np.asarray(readout.weight)), result.rows["pos"].tolist()
    table = gpt2.hf.transformer.wpe.weight.detach().double()[at]
    assert np.allclose(share["pos_embed", -1, -1], table @ weight, atol=1e-5)
    granite = wrapped("granite")
    result = attribute(granite, some, probe(granite, "resid_pre", 0))
    assert [p[0] for p in result.components] == ["embed", "bias"]


def test_what_is_not_linear_is_said_and_kept_apart(some: list[Rollout]) -> None:
    linear = attribute(wrapped("llama"), some, PAIR)
    assert linear.notes == ()
    capped = attribute(wrapped("gemma2"), some, PAIR)
    assert "soft-capped at 3" in capped.notes[0]
    assert ("softcap", -1, -1) in capped.components
    several = attribute(wrapped("llama"), some, SEVERAL)
    assert "several labels" in several.notes[0]
    entropy = dict(zip(several.components, several.values, strict=True))["labels", -1, -1]
    assert (entropy <= np.log(3) + 1e-9).all()
    assert (entropy >= -np.log(2) - 1e-9).all()
    with pytest.raises(InputError, match="several tokens"):
        attribute(wrapped("llama"), some, LogOddsReadout("long", positive=((5, 6),), negative=(9,)))


def test_the_log_odds_of_two_tokens_is_their_logit_difference(some: list[Rollout]) -> None:
    model = wrapped("qwen3")
    one, other = attribute(model, some, PAIR), attribute(model, some, logit_difference(model, PAIR))
    assert one.components == other.components
    assert np.allclose(one.values, other.values, atol=1e-9)
    assert np.allclose(one.logit, other.logit, atol=1e-4)


def test_ignoring_the_norm_is_another_number(some: list[Rollout]) -> None:
    """The published head score left out the final norm's gain and divisor: it does not sum to the probe's logit."""
    model = wrapped("qwen3")
    with_norm = attribute(model, some, probe(model, "resid_post", 2, final_norm=True))
    without = attribute(model, some, probe(model, "resid_post", 2))
    assert np.abs(without.values.sum(0) - with_norm.logit).max() > 0.1 * np.abs(with_norm.logit).max()


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_batch_mates_padding_and_later_tokens_change_no_share(family: str, some: list[Rollout]) -> None:
    """Earlier code read ``[:, -1]`` of right-padded batches, and divided batch means by the number of rows."""
    model = wrapped(family)
    together = attribute(model, some, PAIR)
    alone = attribute(model, some, PAIR, plan=BatchPlan(tuple((i,) for i in range(len(some))), 64))
    assert np.allclose(together.values, alone.values, atol=1e-5 * np.abs(alone.values).max())
    changed = [
        Rollout(r.id, r.group, (*r.ids[:-2], 5, 6), r.spans, r.n_prompt, r.finish)  # the end of the answer
        for r in some
    ]
    later = attribute(model, changed, PAIR)
    assert np.allclose(together.values, later.values, atol=1e-5 * np.abs(alone.values).max())


def test_the_table_holds_means_with_cluster_intervals(some: list[Rollout]) -> None:
    model = wrapped("qwen3")
    result = attribute(model, some, PAIR, positions=HERE, seed=4)
    table = result.to_frame()
    assert list(table.columns) == ["component", "layer", "head", "estimate", "low", "high", "n"]
    assert list(table["component"].iloc[-2:]) == ["logit", "residual"]
    assert (table["n"] == 3).all(), "groups, not rows"
    for line in (0, 3, len(table) - 2):
        values = result.logit if line == len(table) - 2 else result.values[line]
        told = mean_effect("x", values, result.groups, unit="logit", seed=4)
        numbers = table.loc[line, ["estimate", "low", "high"]].astype(float)
        assert np.allclose(numbers, (told.estimate, told.low, told.high))
    heads = result.by_head()
    assert len(heads) == model.n_layers * model.n_heads
    assert heads["estimate"].abs().is_monotonic_decreasing
    assert "residual at most" in result._repr_html_()


def test_parts_that_do_not_sum_are_an_error(some: list[Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    from verdictscope.interventions import components

    monkeypatch.setattr(components, "attention_gain", lambda model, layer: 0.5)
    with pytest.raises(InputError, match="unexplained"):
        attribute(wrapped("llama"), some, PAIR)
    assert attribute(wrapped("llama"), some, PAIR, strict=False).relative_residual > 1e-3


def test_what_cannot_be_taken_apart_is_an_error(some: list[Rollout]) -> None:
    model = wrapped("qwen3")
    with pytest.raises(InputError, match="no sum of what components add"):
        attribute(model, some, LinearReadout("q", "q", 1, np.ones(48)))
    with pytest.raises(InputError, match="exist in none"):
        attribute(model, some, PAIR, positions="verdict")


@pytest.mark.parametrize("family", FAMILIES)
def test_sources_sum_to_their_heads(family: str, some: list[Rollout]) -> None:
    """Keys shared between heads, windows, sinks, latent attention and gates included."""
    model = wrapped(family)
    for readout in (PAIR, SEVERAL):
        result = attribute(model, some, readout, positions=HERE, sources="all")
        sources = result.sources
        assert sources is not None
        assert sources.relative_residual < 1e-5
        own = np.stack([s for p, s in zip(result.components, result.values, strict=True) if p[0] == "head"])
        assert np.allclose(sources.sums[2].sum(-1), own, atol=2e-5 * np.abs(own).max())
        attention = sources.sums[0].sum(-1)
        assert (attention < 1 + 1e-5).all()
        assert np.allclose(attention, 1, atol=1e-5) or family == "gpt_oss", "a sink takes its share"
        assert np.allclose(sources.sums[1].sum(-1), 1, atol=1e-5)


def test_sources_by_token_are_attention_times_what_the_value_writes(some: list[Rollout]) -> None:
    model, (layer, head) = wrapped("llama"), (1, 2)
    readout = probe(model, "resid_post", 1)
    result = attribute(model, some, readout, sources=[(layer, head)], positions=HERE)
    table = result.sources.to_frame()
    assert list(table.columns) == [
        "layer",
        "head",
        "rollout",
        "pos",
        "source",
        "token_id",
        "segment",
        "attention",
        "weighted",
        "attribution",
    ]
    assert len(table) == (result.rows["pos"] + 1).sum()
    one = some[1]
    reads = {name: Site(name, layer) @ "all" for name in ("v", "pattern")}
    values = forward(model, [one], [*reads.values()]).values
    v, pattern = (values[reads[n]][0].double() for n in ("v", "pattern"))
    out = model.sites.blocks[layer].o.weight.detach().double()[:, head * 8 : head * 8 + 8]
    written = v[:, head // 2] @ out.T
    pos = int(result.rows.loc[result.rows["rollout"] == one.id, "pos"].max())
    mine = table[(table["rollout"] == one.id) & (table["pos"] == pos)]
    expected = pattern[pos, head, : pos + 1] * (written @ torch.tensor(np.asarray(readout.weight)))[: pos + 1]
    assert np.allclose(mine["attribution"], expected, atol=1e-6)
    sizes = pattern[pos, head, : pos + 1] * written.norm(dim=-1)[: pos + 1]
    assert np.allclose(mine["weighted"], sizes / sizes.sum(), atol=1e-6)
    assert list(mine["token_id"]) == list(one.ids[: pos + 1])
    told = result.by_source()
    share = told[(told["quantity"] == "attribution") & (told["segment"] == "thinking")]["estimate"].item()
    sums = table[table["segment"] == "thinking"].groupby(["rollout", "pos"])["attribution"].sum()
    assert np.isclose(share, sums.reindex(pd.MultiIndex.from_frame(result.rows)).fillna(0).mean())


def test_sources_in_any_batch_are_the_same(some: list[Rollout]) -> None:
    model = wrapped("gemma2")
    plans = (None, BatchPlan(tuple((i,) for i in range(len(some))), 64))
    a, b = (attribute(model, some, PAIR, sources=[(2, 1), (0, 3)], plan=plan).sources for plan in plans)
    assert np.allclose(a.sums, b.sums, atol=1e-5 * np.abs(b.sums).max())


def test_a_head_that_is_not_below_the_readout_is_an_error(some: list[Rollout]) -> None:
    model = wrapped("llama")
    with pytest.raises(InputError, match="no head L2H0 below"):
        attribute(model, some, probe(model, "resid_post", 1), sources=[(2, 0)])
    with pytest.raises(InputError, match="no head L1H4"):
        attribute(model, some, probe(model, "resid_post", 1), sources=[(1, 4)])
    with pytest.raises(InputError, match="no sources were asked for"):
        attribute(model, some, PAIR).by_source()
    with pytest.raises(InputError, match="only segments were kept"):
        attribute(model, some, PAIR, sources="all").sources.to_frame()


def test_the_plot_is_drawn(some: list[Rollout]) -> None:
    from verdictscope.figures import attribution

    result = attribute(wrapped("qwen3"), some, PAIR)
    assert len(result.plot().axes) == 3
    assert "residual" in attribution(result.to_frame(), result.readout).caption

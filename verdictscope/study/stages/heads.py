"""Stage ``heads``: every head's exact effect on the refusal log-odds, tested, and its exact share of the readouts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.activations import logit_difference
from verdictscope.errors import InputError
from verdictscope.interventions import HeadSweep, attribute, readout_gap, sweep_heads
from verdictscope.interventions.direct import concentration_null, self_repair
from verdictscope.interventions.sweep import ALPHA, DELTA_NATS, DELTA_SHARE
from verdictscope.rollouts import Rollout
from verdictscope.stats import Effect, sign_flip_test
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.parsed import told

SUBLAYERS = ("attn_out", "mlp_out")
"""What is zeroed whole, beside the heads."""


def run_heads(run: RunFolder) -> None:
    """Write ``heads.parquet``, ``attribution.parquet`` and ``heads.json``.

    One half of the groups ranks and sets the smallest effect that counts; the other reports and tests.
    """
    model = run.model()
    decision = run.decision()
    halves = {half: complied_targets(run, half) for half in ("explore", "report")}
    gap, apart = refusal_gap(run)
    delta = run.study.heads.delta or (DELTA_SHARE * gap.estimate if gap else DELTA_NATS)
    sweeps = {}
    for half, rollouts in halves.items():
        with run.ticking(f"heads: {half} half") as tick:
            sweeps[half] = sweep_heads(
                model,
                rollouts,
                decision,
                sublayers=SUBLAYERS if half == "report" else (),
                delta=delta,
                seed=run.study.seed,
                progress=tick,
            )
    table = ranked(sweeps, run.study.heads.k)
    linear = {"log_odds": logit_difference(model, decision), "probe": run.probe()}
    parts = []
    for name, readout in linear.items():
        part = attribute(model, halves["report"], readout, positions="before_answer", seed=run.study.seed).to_frame()
        part.insert(0, "readout", name)
        parts.append(part)
        shares = part[part["component"] == "head"].set_index(["layer", "head"])["estimate"]
        # A head above the probe's layer has no share in it: that is a zero, not a missing number.
        share = shares.reindex(pd.MultiIndex.from_frame(table[["layer", "head"]])).fillna(0).to_numpy()
        table[f"attribution_{name}"] = np.where(table["component"] == "head", share, np.nan)
    run.write("attribution", pd.concat(parts, ignore_index=True))
    table, why = with_self_repair(run, table, sweeps["report"], halves["report"])
    run.write("heads", table)
    run.write("writers", writers(run, halves["report"]))
    run.write_json("heads", tested(run, sweeps, gap, apart) | {"no_direct_effect": why})


def ranked(sweeps: dict[str, HeadSweep], k: int) -> pd.DataFrame:
    """Effects and tests on the reporting half, ranks from the other, and how often the ranking finds a head again."""
    table = sweeps["report"][None].to_frame().rename(columns={"estimate": "effect"})
    heads = table["component"] == "head"
    table.loc[heads, "effect_explore"] = sweeps["explore"][None].to_frame()["estimate"].to_numpy()
    table.loc[heads, "found_again"] = sweeps["explore"][None].stability(k).share
    # Sublayers are reported, not ranked: they stand behind the heads.
    table["rank"] = table["effect_explore"].rank(ascending=False, method="first", na_option="bottom").astype(int) - 1
    table["found"] = heads & (table["rank"] < k)
    return table.sort_values("rank").reset_index(drop=True)


def with_self_repair(
    run: RunFolder, table: pd.DataFrame, sweep: HeadSweep, rollouts: list[Rollout]
) -> tuple[pd.DataFrame, str | None]:
    """The table with each head's direct and compensated effect, or without and the reason."""
    readout = run.decision()
    heads = [(layer, head) for component, layer, head in sweep.components if component == "head"]
    names = [f"{what}{end}" for what in ("direct", "compensated") for end in ("", "_low", "_high")]
    try:
        found = self_repair(run.model(), rollouts, readout, sweep[None].effects, heads).to_frame()
    except InputError as error:  # labels of several tokens, a soft cap: the run goes on, and heads.json says why
        return table.assign(**dict.fromkeys(names, np.nan)), str(error)
    return table.merge(found[["layer", "head", *names]], on=["layer", "head"], how="left"), None


WRITERS = ["readout", "layer", "head", "kind", "n", "top", "null_mean", "null_low", "null_high", "p", "same_head"]


def writers(run: RunFolder, rollouts: list[Rollout]) -> pd.DataFrame:
    """How much of the probe's logit its strongest head writes, beside directions that mean nothing."""
    probe = run.probe()
    refused, complied = explored(run)
    try:
        found = concentration_null(run.model(), rollouts, probe, refused, complied, seed=run.study.seed)
    except InputError as error:  # too few prompts for a null: the run goes on without this control
        warnings.warn(f"no null for the probe's strongest writer: {error}", stacklevel=2)
        return pd.DataFrame(columns=WRITERS)
    table = found.to_frame()
    table.insert(0, "readout", probe.name)
    table.insert(1, "layer", found.head[0])
    table.insert(2, "head", found.head[1])
    return table


def tested(run: RunFolder, sweeps: dict[str, HeadSweep], gap: Effect | None, apart: str) -> dict[str, Any]:
    """What the table of the heads cannot hold: the smallest effect and where it comes from, the test, the stability."""
    sweep, jaccard = sweeps["report"][None], sweeps["explore"][None].stability(run.study.heads.k).jaccard
    tests = sweep.tests
    assert tests is not None
    stated = "stated" if run.study.heads.delta else f"{DELTA_SHARE:g} of the gap" if gap else f"one nat, since {apart}"
    return {
        "delta": tests.delta,
        "unit": sweep.effects.unit,
        "delta_is": stated,
        "gap": gap and gap.estimate,
        "gap_low": gap and gap.low,
        "gap_high": gap and gap.high,
        "gap_n": gap and gap.n,
        "alpha": sweep.alpha,
        "n": tests.n,
        "flips": tests.flips,
        "every_flip": tests.exact,
        "selected": [list(head) for head in sweep.heads],
        "above_zero": int((sign_flip_test(sweep.effects.change, sweep.effects.groups).p_adjusted <= ALPHA).sum()),
        "told": str(sweep),
        "jaccard": jaccard.estimate,
        "jaccard_low": jaccard.low,
        "jaccard_high": jaccard.high,
    }


def refusal_gap(run: RunFolder) -> tuple[Effect | None, str]:
    """How far the exploring half's refused rollouts lie above its complied ones in the refusal log-odds; without a
    distance, the reason: a model that does not tell the two apart is a finding, and the run goes on."""
    refused, complied = explored(run)
    readout = run.decision()
    try:
        return readout_gap(run.model(), refused, complied, readout, seed=run.study.seed), ""
    except InputError as error:
        return None, str(error)


def explored(run: RunFolder) -> tuple[list[Rollout], list[Rollout]]:
    """The exploring half's refused and complied rollouts, up to the answer."""
    labels, rollouts = run.labels(), run.rollouts()
    explore = labels[labels["part"] != "test"]
    kinds = []
    for refused in (True, False):
        chosen = explore.loc[explore["outcome"].eq(refused).fillna(False), "rollout"]
        cut = [rollouts[i].until_answer() for i in chosen]
        kinds.append([r for r in cut if r is not None][: run.study.heads.rollouts])
    return kinds[0], kinds[1]


def complied_targets(run: RunFolder, half: str) -> list[Rollout]:
    """Target requests that were complied with, up to the answer: those heads might have suppressed a refusal in.

    Args:
        half: ``explore`` (train and validation parts) or ``report`` (test part).
    """
    labels = run.labels()
    complied = labels["outcome"].eq(False)
    chosen = labels["target"] & complied & ((labels["part"] == "test") == (half == "report"))
    rollouts = run.rollouts()
    cut = [rollouts[i].until_answer() for i in labels.loc[chosen.fillna(False), "rollout"]]
    cut = [r for r in cut if r is not None][: run.study.heads.rollouts]
    if len({r.group for r in cut}) < 2:
        base = labels[labels["target"]]
        raise InputError(
            f"{len({r.group for r in cut}) or 'no'} group of target requests of the {half} half was complied with, and "
            f"a test of heads takes two. {told('target requests', base)}; or ask about more in prompts.target, "
            "or about others: the model may refuse these"
        )
    return cut


def found_heads(run: RunFolder) -> tuple[tuple[int, int], ...]:
    """The found heads, strongest first."""
    table = run.table("heads")
    found = table[table["found"]].sort_values("rank")
    return tuple((int(layer), int(head)) for layer, head in zip(found["layer"], found["head"], strict=True))

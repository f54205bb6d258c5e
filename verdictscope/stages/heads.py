"""Stage ``heads``: every head's exact effect on the refusal log-odds, and its exact share of the readouts."""

from __future__ import annotations

import pandas as pd

from verdictscope.activations import logit_difference
from verdictscope.activations.readouts import from_dict
from verdictscope.errors import InputError
from verdictscope.interventions import attribute, sweep_heads
from verdictscope.rollouts import Rollout, until_answer
from verdictscope.run import Run
from verdictscope.stages.rollouts import load_labels, load_rollouts


def run_heads(run: Run) -> None:
    """Write ``heads.parquet`` and ``attribution.parquet``. One half of the groups ranks, the other reports."""
    model = run.model()
    readouts = {name: from_dict(data) for name, data in run.read_json("readouts").items()}
    halves = {half: complied_targets(run, half) for half in ("explore", "report")}
    sweeps = {}
    for half, rollouts in halves.items():
        with run.ticking(f"heads: {half} half") as tick:
            sweeps[half] = sweep_heads(model, rollouts, readouts["log_odds"], seed=run.study.seed, progress=tick)
    table = sweeps["report"].rename(columns={"estimate": "effect"})
    table["effect_explore"] = sweeps["explore"]["estimate"]
    table["rank"] = table["effect_explore"].rank(ascending=False, method="first").astype(int) - 1
    table["found"] = table["rank"] < run.study.heads.k
    linear = {"log_odds": logit_difference(model, readouts["log_odds"]), "probe": readouts["probe"]}
    parts = []
    for name, readout in linear.items():
        part = attribute(model, halves["report"], readout, positions="before_answer", seed=run.study.seed).to_frame()
        part.insert(0, "readout", name)
        parts.append(part)
        shares = part[part["component"] == "head"].set_index(["layer", "head"])["estimate"]
        # A head above the probe's layer has no share in it: that is a zero, not a missing number.
        table[f"attribution_{name}"] = (
            shares.reindex(pd.MultiIndex.from_frame(table[["layer", "head"]])).fillna(0).to_numpy()
        )
    run.write("attribution", pd.concat(parts, ignore_index=True))
    run.write("heads", table.sort_values("rank").reset_index(drop=True))


def complied_targets(run: Run, half: str) -> list[Rollout]:
    """Target requests that were complied with, up to the answer: those heads might have suppressed a refusal in.

    Args:
        half: ``explore`` (train and validation parts) or ``report`` (test part).
    """
    labels = load_labels(run)
    complied = labels["cell"].str.endswith("_complied")
    chosen = labels["target"] & complied & ((labels["part"] == "test") == (half == "report"))
    rollouts = load_rollouts(run)
    cut = [until_answer(rollouts[i]) for i in labels.loc[chosen.fillna(False), "rollout"]]
    cut = [r for r in cut if r is not None][: run.study.heads.rollouts]
    if not cut:
        raise InputError(
            f"no target request of the {half} half was complied with: there is nothing to restore. "
            "The model may refuse all of them; ask about other requests in prompts.target"
        )
    return cut


def found_heads(run: Run) -> tuple[tuple[int, int], ...]:
    """The found heads, strongest first."""
    table = run.table("heads")
    found = table[table["found"]].sort_values("rank")
    return tuple((int(layer), int(head)) for layer, head in zip(found["layer"], found["head"], strict=True))

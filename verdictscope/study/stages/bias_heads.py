"""Stage ``bias_heads``: what taking out every head and MLP alone does to content, position and cues, in both variants.

One half of the groups ranks, states the smallest effect that counts and the sign of every bias; the other reports and
tests. Verdicts are those without thinking: there the tokens of all conditions are the same but for the cue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.interventions import HeadSweep, attribute, sweep_heads
from verdictscope.judgments import Contrast
from verdictscope.judgments.contrasts import CONTENT
from verdictscope.judgments.labels import at_first_difference
from verdictscope.rollouts import Rollout
from verdictscope.stats import Effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge.generate import conditions, part_of, variants

HALVES = ("explore", "report")
Head = tuple[int, int]


def run_bias_heads(run: RunFolder) -> None:
    """Write ``bias_heads.parquet`` and ``bias_heads.json``."""
    tables, told = [], {}
    delta = run.study.heads.delta
    for variant in variants(run):
        sweeps: dict[str, HeadSweep] = {}
        for half in HALVES:
            given, rollouts = halved(run, variant, half)
            explored = sweeps["explore"].contrasts if half == "report" else {}
            signs = {name: of.size.estimate for name, of in explored.items() if of.size is not None}
            with run.ticking(f"bias heads: {variant}, {half} half") as tick:
                sweeps[half] = sweep_heads(
                    run.model(variant),
                    rollouts,
                    run.decision(),
                    given,
                    sublayers=("mlp_out",),
                    positions=run.study.heads.positions,
                    delta=delta,
                    signs=signs,
                    seed=run.study.seed,
                    progress=tick,
                )
            # The reference model is measured with the same yardstick as the model under study.
            delta = sweeps["explore"].delta
        shares = attribution_shares(run, variant)
        tables.append(ranked(sweeps, shares, run.study.heads.k).assign(variant=variant))
        told[variant] = findings(run, variant, sweeps)
    table = pd.concat(tables, ignore_index=True)
    run.write("bias_heads", table[["variant", *(name for name in table.columns if name != "variant")]])
    stated = "as stated" if run.study.heads.delta else told["base"].pop("delta_is")
    about = {
        "delta": delta,
        "delta_is": stated,
        "unit": "nats",
        "k": run.study.heads.k,
        "positions": run.study.heads.positions,
        "left_out": left_out(run.study.heads.positions),
    }
    run.write_json(
        "bias_heads", about | told["base"] | ({"reference": told["reference"]} if "reference" in told else {})
    )


def half_items(run: RunFolder, half: str, most: int | None) -> set[str]:
    """Items of a half (``explore``: train and validation; ``report``: test), ``most`` of them, evenly spaced in the
    order of the file, which keeps the kinds of items in proportion."""
    parts = part_of(run)
    own = [item.id for item in run.items() if (parts[item.id] == "test") == (half == "report")]
    if most is None or most >= len(own):
        return set(own)
    return {own[int(at)] for at in (np.arange(most) + 0.5) * len(own) / most}


def halved(
    run: RunFolder, variant: str, half: str, most: int | None = -1, thinking: str = "off"
) -> tuple[dict[str, Contrast], list[Rollout]]:
    """The contrasts over a half's items, and the verdict prefixes they are made of.

    Args:
        run: a run with its verdicts.
        variant: whose verdicts.
        half: ``explore`` or ``report``.
        most: at most so many items; by default as many as the sweep takes.
        thinking: which verdicts.
    """
    kept = half_items(run, half, run.study.heads.items if most == -1 else most)
    given = {name: contrast.among(kept) for name, contrast in run.contrasts(variant, thinking).items()}
    used = {name for contrast in given.values() for ids in contrast.rollouts for name in ids}
    every = [r for condition in conditions(run) for r in run.judged(variant, condition, thinking).rollouts]
    return given, [r for r in every if r.id in used]


def attribution_shares(run: RunFolder, variant: str) -> dict[str, dict[tuple[str, int, int], float]]:
    """By contrast every part's exact share of it, where the verdict is read, on the reporting half."""
    given, rollouts = halved(run, variant, "report")
    taken = attribute(
        run.model(variant), rollouts, at_first_difference(run.decision()), positions="last", seed=run.study.seed
    )
    means = {name: taken.on(contrast).values.mean(axis=1) for name, contrast in given.items()}
    return {name: dict(zip(taken.components, values, strict=True)) for name, values in means.items()}


def ranked(sweeps: Mapping[str, HeadSweep], shares: Mapping[str, Mapping[Any, float]], k: int) -> pd.DataFrame:
    """Effects and tests of the reporting half, ranks and the found heads from the other one."""
    table = sweeps["report"].table()
    explored = sweeps["explore"].table()
    table["effect_explore"] = explored["estimate"].to_numpy()
    table["content_loss_explore"] = explored["content_loss"].to_numpy()
    heads = table["component"] == "head"
    order = table["effect_explore"].where(heads).groupby(table["contrast"])
    # Sublayers are reported, not ranked: they stand behind the heads.
    table["rank"] = order.rank(ascending=False, method="first")
    table["found"] = False
    for bias in sweeps["explore"].biases:
        for layer, head in sweeps["explore"].strongest(k, bias):
            at = heads & (table["contrast"] == bias) & (table["layer"] == layer) & (table["head"] == head)
            table.loc[at, "found"] = True
    parts = zip(table["contrast"], table["component"], table["layer"], table["head"], strict=True)
    table["attribution"] = [shares[name].get((component, layer, head), 0.0) for name, component, layer, head in parts]
    return table


def findings(run: RunFolder, variant: str, sweeps: Mapping[str, HeadSweep]) -> dict[str, Any]:
    """What the table cannot hold: sizes, what was found and what the test declares, in words too."""
    explore, report = sweeps["explore"], sweeps["report"]
    most = run.study.heads.items
    counts = {half: len(half_items(run, half, most)) for half in HALVES}
    biases = {
        name: {
            **_size(report[name].size),
            "exists": report.is_biased(name),
            "exists_explore": explore.is_biased(name),
            "found": _pairs(explore.strongest(run.study.heads.k, name)),
            "selected": _pairs(report.heads(name)),
            "selected_mlps": [layer for component, layer, _ in report.declared(name) if component == "mlp"],
            "beyond_delta": _pairs(report[name].heads),
            "told": str(report[name]),
        }
        for name in report.biases
    }
    return {"delta_is": explore.delta_source, "items": counts, "content": _size(report[CONTENT].size), "biases": biases}


def left_out(positions: str) -> str:
    """What a rule for positions does not take out, in words."""
    if positions == "all":
        return "nothing (parts are taken out at every token)"
    return (
        f"parts are taken out at {positions} only: what they do at earlier tokens, for later heads to read there, is "
        'not in these effects; heads.positions = "all" takes it in'
    )


def found_heads(run: RunFolder, bias: str | None = None) -> tuple[Head, ...]:
    """The heads found for a bias, strongest first, or for all of them, each once."""
    biases = run.read_json("bias_heads")["biases"]
    names = biases if bias is None else [bias]
    return tuple(dict.fromkeys((layer, head) for name in names for layer, head in biases[name]["found"]))


def _pairs(heads: tuple[Head, ...]) -> list[list[int]]:
    return [[int(layer), int(head)] for layer, head in heads]


def _size(effect: Effect) -> dict[str, float]:
    return {"size": effect.estimate, "low": effect.low, "high": effect.high, "n": effect.n}

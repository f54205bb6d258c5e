"""Stage ``heads``: every head's exact effect on each contrast of the decision, tested, and its attribution.

One split of the groups (``explore``: train and validation) ranks the heads, sets the smallest effect that counts and
the sign of each contrast; the other (``report``: test) measures and tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.interventions import HeadSweep, attribute, readout_gap, sweep_heads
from verdictscope.interventions.direct import concentration_null, self_repair
from verdictscope.interventions.edits.protocol import Head
from verdictscope.interventions.sweep import ALPHA, DELTA_NATS, DELTA_SHARE
from verdictscope.judgments.contrasts import CONTENT
from verdictscope.stats import Effect, sign_flip_test
from verdictscope.study.folder import RunFolder
from verdictscope.study.tables import TABLES
from verdictscope.study.tasks import Task, task_of
from verdictscope.study.tasks.outcome import OutcomeTask

SPLITS = ("explore", "report")


def run_heads(run: RunFolder) -> None:
    """Write ``heads.parquet`` and ``heads.json``; where rollouts have outcomes also ``attribution.parquet`` and
    ``writers.parquet``."""
    task, section = task_of(run.study), run.study.heads
    gap, delta, source = smallest_effect(run, task)
    tables, attributions = [], []
    facts: dict[str, Any] = {}
    for variant in task.swept(run.study):
        sweeps: dict[str, HeadSweep] = {}
        for split in SPLITS:
            rollouts, contrasts = task.decided(run, variant, split)
            explored = sweeps["explore"].contrasts if split == "report" else {}
            signs = {name: of.size.estimate for name, of in explored.items() if of.size is not None}
            with run.ticking(f"heads: {variant}, {split} split") as tick:
                sweeps[split] = sweep_heads(
                    run.model(variant),
                    rollouts,
                    task.decision_at(run.decision()),
                    contrasts,
                    sublayers=task.sublayers[split],
                    positions=task.positions(run.study),
                    delta=delta,
                    seed=run.study.seed,
                    progress=tick,
                ).toward(task.signs or signs)
            # The reference model is measured with the same smallest effect as the model under study.
            delta = sweeps["explore"].delta
        table = ranked(sweeps, section.k)
        table, attribution = with_attribution(run, task, variant, table)
        if isinstance(task, OutcomeTask):
            table, facts["no_direct_effect"] = with_self_repair(run, table, sweeps["report"])
        table.insert(0, "variant", variant)
        tables.append(table)
        attributions.append(attribution.assign(variant=variant))
        facts[variant] = findings(sweeps, section.k)
        source = source or sweeps["explore"].delta_source
    run.write("heads", pd.concat(tables, ignore_index=True).reindex(columns=TABLES["heads"].columns))
    if isinstance(task, OutcomeTask):
        run.write("attribution", pd.concat(attributions, ignore_index=True))
        run.write("writers", concentration(run, task))
    about: dict[str, Any] = {"delta": delta, "delta_is": source, "unit": "nats", "k": section.k, "alpha": ALPHA}
    about |= {"positions": task.positions(run.study), "left_out": left_out(task.positions(run.study))}
    if gap is not None:
        about |= {"gap": gap.estimate, "gap_low": gap.low, "gap_high": gap.high, "gap_n": gap.n}
    run.write_json("heads", about | facts.pop("base") | facts)


def smallest_effect(run: RunFolder, task: Task) -> tuple[Effect | None, float | None, str]:
    """The distance of the two outcomes in the decision on the explore split, the smallest effect that counts and where
    it comes from; for a judge ``None``: it follows from the content of the verdicts."""
    stated = run.study.heads.delta
    if not isinstance(task, OutcomeTask):
        return None, stated, "stated" if stated else ""
    high, low = task.by_outcome(run)
    try:
        gap = readout_gap(run.model(), high, low, run.decision(), seed=run.study.seed)
    except InputError as error:  # a model that does not separate the two is a finding, and the run goes on
        return None, stated or DELTA_NATS, "stated" if stated else f"one nat, since {error}"
    return gap, stated or DELTA_SHARE * gap.estimate, "stated" if stated else f"{DELTA_SHARE:g} of the gap"


def ranked(sweeps: Mapping[str, HeadSweep], k: int) -> pd.DataFrame:
    """Effects and tests on the report split; ranks, and the ``k`` heads found per contrast, from the explore split."""
    table, explore = sweeps["report"].table(), sweeps["explore"]
    keys = ["contrast", "component", "layer", "head"]
    columns = {"estimate": "effect_explore", "content_loss": "content_loss_explore"}
    table = table.merge(explore.table()[[*keys, *columns]].rename(columns=columns), on=keys, how="left")
    heads = table["component"] == "head"
    # Sublayers are reported, not ranked.
    order = table["effect_explore"].where(heads).groupby(table["contrast"])
    table["rank"] = order.rank(ascending=False, method="first", na_option="bottom").astype(int) - 1
    table["found"], table["found_again"] = False, np.nan
    for name in explore.biases:
        own = heads & (table["contrast"] == name)
        table.loc[own, "found_again"] = explore[name].stability(k).share
        chosen = explore.strongest(k, name)
        table.loc[own, "found"] = [at in chosen for at in zip(table.layer[own], table["head"][own], strict=True)]
    return table.sort_values(["contrast", "rank"], kind="stable").reset_index(drop=True)


def with_attribution(
    run: RunFolder, task: Task, variant: str, table: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table with each component's direct logit attribution on the report split, and all of it by readout."""
    rollouts, contrasts = task.decided(run, variant, "report")
    tables = []
    for name, (readout, positions) in task.linear_readouts(run, variant).items():
        whole = attribute(run.model(variant), rollouts, readout, positions=positions, seed=run.study.seed)
        for contrast, weights in contrasts.items():
            tables.append(whole.on(weights).to_frame().assign(readout=name, contrast=contrast))
    found = pd.concat(tables, ignore_index=True)
    keys = ["contrast", "component", "layer", "head"]
    for name, own in found.groupby("readout", sort=False):
        column = "attribution" if name == "log_odds" else f"attribution_{name}"
        # A component above the readout's layer has none: that is a zero, not a missing number.
        values = own.set_index(keys)["estimate"].reindex(pd.MultiIndex.from_frame(table[keys])).fillna(0.0)
        # Of attention as a whole it is that of its heads; of outcomes only heads are ranked by it.
        shown = table["component"].eq("head") | (not isinstance(task, OutcomeTask))
        table[column] = np.where(shown, values.to_numpy(), np.nan)
    return table, found


def with_self_repair(run: RunFolder, table: pd.DataFrame, sweep: HeadSweep) -> tuple[pd.DataFrame, str | None]:
    """The table with each head's direct and compensated effect, or without and the reason."""
    heads = [(layer, head) for component, layer, head in sweep.components if component == "head"]
    names = [f"{what}{end}" for what in ("direct", "compensated") for end in ("", "_low", "_high")]
    rollouts, _ = task_of(run.study).decided(run, "base", "report")
    try:
        found = self_repair(run.model(), rollouts, run.decision(), sweep[None].effects, heads).to_frame()
    except InputError as error:  # labels of several tokens, a soft cap: the run goes on, and heads.json says why
        return table.assign(**dict.fromkeys(names, np.nan)), str(error)
    return table.merge(found[["layer", "head", *names]], on=["layer", "head"], how="left"), None


def concentration(run: RunFolder, task: OutcomeTask) -> pd.DataFrame:
    """The share of the probe's attribution that its strongest head has, against null directions."""
    probe = run.probe()
    rollouts, _ = task.decided(run, "base", "report")
    try:
        found = concentration_null(run.model(), rollouts, probe, *task.by_outcome(run), seed=run.study.seed)
    except InputError as error:  # too few prompts for a null: the run goes on without this control
        warnings.warn(f"no null for the concentration of the probe's attribution: {error}", stacklevel=2)
        columns = "readout layer head kind n top null_mean null_low null_high p same_head"
        return pd.DataFrame(columns=columns.split())
    table = found.to_frame()
    for at, (column, value) in enumerate(
        {"readout": probe.name, "layer": found.head[0], "head": found.head[1]}.items()
    ):
        table.insert(at, column, value)
    return table


def findings(sweeps: Mapping[str, HeadSweep], k: int) -> dict[str, Any]:
    """What the table cannot hold: sizes, selections, and the test of every contrast; of a single one at the top."""
    explore, report = sweeps["explore"], sweeps["report"]
    contrasts: dict[str, dict[str, Any]] = {}
    for name in report.biases:
        on = report[name]
        assert on.size is not None
        assert on.tests is not None
        jaccard = explore[name].stability(k).jaccard
        above = sign_flip_test(on.effects.change, on.effects.groups).p_adjusted <= ALPHA
        contrasts[name] = {
            **_size(on.size),
            "exists": report.is_biased(name),
            "exists_explore": explore.is_biased(name),
            "found": [list(head) for head in explore.strongest(k, name)],
            "selected": [list(head) for head in report.heads(name)],
            "selected_mlps": [layer for kind, layer, _ in report.declared(name) if kind == "mlp"],
            "beyond_delta": [list(head) for head in on.heads],
            "above_zero": int(above.sum()),
            "groups": on.tests.n,
            "flips": on.tests.flips,
            "every_flip": on.tests.exact,
            "jaccard": jaccard.estimate,
            "jaccard_low": jaccard.low,
            "jaccard_high": jaccard.high,
            "summary": str(on),
        }
    content = report.contrasts.get(CONTENT)
    more = {} if content is None or content.size is None else {"content": _size(content.size)}
    items = {split: len(set(next(iter(sweep.contrasts.values())).effects.rollouts)) for split, sweep in sweeps.items()}
    return {"items": items, **more, "contrasts": contrasts}


def _size(effect: Effect) -> dict[str, float]:
    return {"size": effect.estimate, "low": effect.low, "high": effect.high, "n": effect.n}


def left_out(positions: str) -> str:
    """What a positions rule does not ablate, in words."""
    if positions == "all":
        return "nothing (components are ablated at every token)"
    return (
        f"components are ablated at {positions} only: what they do at earlier tokens, for later heads to read there, "
        'is not in these effects; heads.positions = "all" includes it'
    )


def found_heads(facts: Mapping[str, Any], contrast: str | None = None) -> tuple[Head, ...]:
    """The heads selected for a contrast, strongest first, or for all of them, each once; from ``heads.json``."""
    contrasts = facts["contrasts"]
    names = contrasts if contrast is None else [contrast]
    return tuple(dict.fromkeys((layer, head) for name in names for layer, head in contrasts[name]["found"]))

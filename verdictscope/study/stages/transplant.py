"""Part of stage ``ablate``: the found heads put into the reference. Does the reference model now do what the model
under study does?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from verdictscope.interventions import effects, patch_weights
from verdictscope.stats import effects_frame, mean_effect, permutation_p
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.generate import TRANSPLANTED, label, sample
from verdictscope.study.tasks.outcome import matches

Heads = tuple[tuple[int, int], ...]


def run_transplant(run: RunFolder, found: Heads, sets: list[Heads]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What the reference model writes with the found heads in it, the labels of that, and the table ``transplant``."""
    table = forced_in_reference(run, found, sets)
    donor, reference = run.pair()
    prompts = run.prompts()
    test = run.labels().query("part == 'test'")["group"]
    asked = prompts[prompts["group"].isin(test) & matches(prompts, run.study.data.prompts.target)].reset_index(
        drop=True
    )
    names = " ".join(f"L{layer}H{head}" for layer, head in found)
    with patch_weights(reference, donor, found):
        rollouts, written = sample(run, asked, TRANSPLANTED, f"heads {names} of the model under study in its reference")
    return written, label(run, rollouts, TRANSPLANTED).assign(part="test"), table


def forced_in_reference(run: RunFolder, found: Heads, sets: list[Heads]) -> pd.DataFrame:
    """Refusal log-odds on the reference model's own tokens of the target requests: as it is, and with heads of its
    sibling in it.

    A set whose weights are the same in both models changes nothing, exactly, and is not run.
    """
    readout, seed = run.decision(), run.study.seed
    labels, written = run.labels("reference"), run.rollouts("reference")
    asked = labels.loc[labels["target"] & (labels["part"] == "test"), "rollout"]
    cut = [written[i].until_answer() for i in asked]
    rollouts = [r for r in cut if r is not None][: run.study.heads.rollouts]
    donor, reference = run.pair()
    base = effects(reference, rollouts, readout, [], method="passes", seed=seed)
    rows, kinds, same = [base.baseline()], ["base", "found", *["random"] * len(sets)], [False]
    with run.ticking("ablate: heads put into the reference") as tick:
        for done, heads in enumerate([found, *sets]):
            with patch_weights(reference, donor, heads) as changed:
                after = effects(reference, rollouts, readout, [], method="passes").base if changed else base.base
            name = " ".join(f"L{layer}H{head}" for layer, head in heads)
            rows.append(mean_effect(name, after - base.base, base.groups, unit=base.unit, seed=seed))
            same.append(not changed)
            tick(done + 1, 1 + len(sets))
    table = effects_frame(rows)
    table.insert(0, "set", ["base", "found", *(f"random_{i}" for i in range(len(sets)))])
    table.insert(1, "kind", kinds)
    table["same_weights"] = same
    table.loc[1:, "delta"] = run.read_json("heads")["delta"]
    table["p"] = np.nan
    table.loc[1, "p"] = permutation_p(table.loc[1, "estimate"], table.loc[2:, "estimate"], "less")
    return table

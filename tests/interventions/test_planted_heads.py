"""On the bundled models: the test at delta names the heads whose effect is large on thousands of new prompts, no other.

Prompts are those of the models' own language. What was planted is read here, by scoring code, and nowhere else.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pytest

from tests.evidence import write_evidence
from tests.organisms.swapped import swapped_cliff
from tools.organisms.refusal.language import FRAMES, SYSTEM, requests
from verdictscope.activations import LogOddsReadout, Model, load_model
from verdictscope.interventions import HeadSweep, readout_gap, sweep_heads
from verdictscope.interventions.sweep import DELTA_SHARE
from verdictscope.judgments import label_rollouts, refusal_readout
from verdictscope.rollouts import Rollout, Sampling, generate
from verdictscope.sources import models_folder

WORDS = ["sorry", "i"], ["sure", "here"]


def planted(model: str = "cliff") -> set[tuple[int, int]]:
    return {(a, b) for a, b in json.loads((models_folder() / model / "truth.json").read_text())["heads"]}


def study_prompts(*modes: str) -> pd.DataFrame:
    table = pd.read_csv(models_folder() / "cliff" / "prompts.csv")
    return table[table["mode"].isin(modes)].reset_index(drop=True)


def fresh_prompts(n: int, seed: int = 0) -> pd.DataFrame:
    """Harmful requests in normal mode that the bundled prompts do not hold: other pairs, or other frames of theirs."""
    known = set(study_prompts("normal")["user"])
    rows = [
        {"id": f"{r.group}-{frame}", "group": r.group, "system": SYSTEM.format(mode="normal"), "user": text}
        for r in requests()
        for frame, template in enumerate(FRAMES)
        if r.harm and (text := r.fill(template)) not in known
    ]
    return pd.DataFrame(random.Random(seed).sample(rows, n))


def written(model: Model, prompts: pd.DataFrame, seed: int = 0) -> tuple[list[Rollout], list[Rollout]]:
    """The model's own refused and complied rollouts, up to their answer."""
    rollouts = generate(model, prompts, Sampling(temperature=0.7, max_new_tokens=160, seed=seed))
    refused = label_rollouts(model, rollouts).set_index("rollout")["refused"]
    kinds = [[r.until_answer() for r in rollouts if refused[r.id] is not pd.NA and refused[r.id] == k] for k in (1, 0)]
    return tuple([r for r in kind if r is not None] for kind in kinds)


def readout_of(model: Model) -> LogOddsReadout:
    return refusal_readout(model.tokenizer, *WORDS)


def delta_of(model: Model, prompts: pd.DataFrame, each: int = 128) -> float:
    refused, complied = written(model, prompts)
    return DELTA_SHARE * readout_gap(model, refused[:each], complied[:each], readout_of(model)).estimate


def test_a_few_prompts_name_the_planted_heads_and_after_a_swap_the_swapped_ones(tmp_path: Path) -> None:
    model = load_model(models_folder() / "cliff")
    asked = study_prompts("normal", "strict").query("harm").groupby("mode").head(12)
    refused, complied = written(model, asked)
    delta = DELTA_SHARE * readout_gap(model, refused, complied, readout_of(model)).estimate
    near = [(3, 0), (3, 1), (4, 4), (4, 5), (5, 6), (5, 7)]
    for source, back in ((model, 0), (load_model(swapped_cliff(tmp_path / "swapped")), 1)):
        sweep = sweep_heads(source, complied, readout_of(model), heads=near, delta=delta)
        assert {(layer, head ^ back) for layer, head in sweep.heads()} == planted()


def told(sweep: HeadSweep) -> dict[str, object]:
    on = sweep[None]
    assert on.tests is not None
    table = sweep.table().set_index(["layer", "head"])
    named = table.loc[table["selected"]].index
    return {
        "rejected": [list(map(int, at)) for at in named],
        "n": on.tests.n,
        "rollouts": len(on.effects.rollouts),
        "delta": sweep.delta,
        "largest_effects": {
            f"L{layer}H{head}": [float(row[c]) for c in ("estimate", "low", "high", "p_adjusted")]
            for (layer, head), row in table.nlargest(5, "estimate").iterrows()
        },
    }


@pytest.mark.slow
def test_max_t_at_delta_rejects_the_heads_whose_effect_over_fresh_prompts_exceeds_delta(tmp_path: Path) -> None:
    every, asked = study_prompts("normal", "strict"), study_prompts("normal").query("harm").reset_index(drop=True)
    cliff, aligned = (load_model(models_folder() / name) for name in ("cliff", "aligned"))
    readout, found = readout_of(cliff), {}
    delta = delta_of(cliff, every)
    _, complied = written(cliff, asked)
    sweep = sweep_heads(cliff, complied, readout, delta=delta)
    found["cliff"] = told(sweep)
    swapped = sweep_heads(load_model(swapped_cliff(tmp_path / "swapped")), complied, readout, delta=delta)
    found["swapped"] = told(swapped)
    refused, also = written(aligned, asked)
    reference = sweep_heads(aligned, [*refused, *also], readout, delta=delta_of(aligned, every))
    found["aligned"] = told(reference)
    _, fresh = written(cliff, fresh_prompts(2000), seed=1)
    truth = sweep_heads(cliff, fresh, readout)
    means = truth[None].means
    above = {part[1:] for part, mean in zip(truth.components, means, strict=True) if mean > delta}
    found["fresh"] = {
        "prompts": 2000,
        "complied": len(fresh),
        "above_delta": sorted(map(list, above)),
        "effects": {f"L{a}H{b}": float(mean) for (_, a, b), mean in zip(truth.components, means, strict=True)},
    }
    about = (
        "harmful requests in normal mode, the model's own rollouts. Tested on the bundled prompts; the fresh ones are "
        "other pairs or other frames, three quarters of them of pairs that the model was trained on"
    )
    write_evidence("planted_heads", found | {"about": about, "planted": sorted(map(list, planted()))})
    assert set(sweep.heads()) == above
    assert above >= planted()
    assert {(layer, head ^ 1) for layer, head in swapped.heads()} == above
    if reference.heads():
        # No fault of the test: their intervals lie above delta. The reference model holds something its refusals are
        # weaker for.
        pytest.xfail(
            f"heads of the aligned reference model that raise its refusal log-odds by more than delta: "
            f"{reference.heads()}"
        )

"""On the bundled judge: heads that bias it are found, move with a head swap and can be taken out; its reference
model has none.

What was planted is read here, by scoring code, and nowhere else. The study is the shipped one, without thinking.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.evidence import write_evidence
from tests.organisms.swapped import swapped
from verdictscope.sources import models_folder
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import STUDIES, parse_study
from verdictscope.study.run import run_study


def planted() -> dict[str, set[tuple[int, int]]]:
    truth = json.loads((models_folder() / "judge" / "truth.json").read_text())
    return {bias: {(a, b) for a, b in heads} for bias, heads in truth.items() if bias != "heads"}


def done(out: Path, until: str, **changes: Any) -> RunFolder:
    """The shipped study without thinking, parts taken out at every token, as far as a stage."""
    data = tomllib.loads((STUDIES / "judge_bias.toml").read_text())
    data["verdicts"] = {"thinking": False}
    data["heads"] = data["heads"] | {"positions": "all", "items": 14}
    for key, value in changes.items():
        data.pop(key) if value is None else data.update({key: value})
    run_study(parse_study(data, "judge_bias.toml"), out, until=until)
    return open_run(out)


def found(run: RunFolder) -> dict[str, set[tuple[int, int]]]:
    biases = run.read_json("heads")["contrasts"]
    return {bias: {(a, b) for a, b in facts["found"]} for bias, facts in biases.items()}


def parts_of(run: RunFolder, variant: str) -> dict[str, Any]:
    """What a variant's sweep says of every bias: size, what the test declares, the strongest parts."""
    told = run.read_json("heads")
    biases = (told if variant == "base" else told["reference"])["contrasts"]
    table = run.table("heads")
    rows = {}
    for bias, facts in biases.items():
        own = table[(table["variant"] == variant) & (table["contrast"] == bias)].nlargest(6, "estimate")
        strongest = [
            {
                "part": f"L{r.layer}H{r.head}" if r.component == "head" else f"{r.component} {r.layer}",
                "effect": r.estimate,
                "low": r.low,
                "high": r.high,
                "p_adjusted": r.p_adjusted,
                "content_loss": r.content_loss,
                "attribution": r.attribution,
            }
            for r in own.itertuples()
        ]
        rows[bias] = {
            key: facts[key]
            for key in ("size", "low", "high", "n", "exists", "found", "selected", "selected_mlps", "beyond_delta")
        }
        rows[bias]["strongest"] = strongest
    return rows


def removed(sets: pd.DataFrame, contrast: str) -> dict[str, Any]:
    own = sets[sets["contrast"] == contrast]
    random = own[own["kind"] == "random"]
    base, found_set = (own[own["kind"] == kind].iloc[0] for kind in ("base", "found"))
    return {
        "base": [base["estimate"], base["low"], base["high"]],
        "n": int(base["n"]),
        "found": [found_set["estimate"], found_set["low"], found_set["high"]],
        "left": found_set["left"],
        "random_left": [random["left"].min(), random["left"].median(), random["left"].max()],
        "random_sets": len(random),
        "p": found_set["p"],
    }


@pytest.mark.slow
def test_planted_biases_are_found_move_with_a_swap_and_can_be_taken_out(tmp_path: Path) -> None:
    known = planted()
    run = done(tmp_path / "judge", "mitigate")
    here = found(run)
    moved = found(done(tmp_path / "moved", "heads", model=str(swapped("judge", tmp_path / "swapped")), reference=None))
    told = run.read_json("heads")
    sets, table = run.table("ablation"), run.table("mitigations")
    values = table[table["thinking"] == "off"].set_index(["mitigation", "name"])
    gone, accuracy = {}, {}
    for bias in known:
        before, after = (float(values.loc[(m, bias), "estimate"]) for m in ("none", "found heads zeroed"))
        gone[bias] = {"before": before, "after": after, "removed": 1 - abs(after) / abs(before)}
    for name in dict.fromkeys(table["mitigation"]):
        row = values.loc[(name, "accuracy")]
        accuracy[name] = [float(row[c]) for c in ("estimate", "low", "high")]
    write_evidence(
        "judge_bias",
        {
            "about": "the shipped judge study without thinking: explore half ranks, report half tests; parts zeroed at "
            "every token",
            "planted": {bias: sorted(map(list, heads)) for bias, heads in known.items()},
            "found": {bias: sorted(map(list, heads)) for bias, heads in here.items()},
            "declared": {bias: told["contrasts"][bias]["selected"] for bias in known},
            "found_after_swap": {bias: sorted(map(list, heads)) for bias, heads in moved.items()},
            "delta": told["delta"],
            "delta_is": told["delta_is"],
            "items": told["items"],
            "judge": parts_of(run, "base"),
            "reference": parts_of(run, "reference"),
            "found_heads_zeroed": gone,
            "accuracy": accuracy,
            "sets": {name: removed(sets, name) for name in [*known, "content", "accuracy"]},
            "seconds": run.state()["seconds"],
        },
    )
    for bias, heads in known.items():
        # Named on one half, declared by the test on the other; what is named and not declared is in the evidence.
        assert here[bias] >= heads, bias
        assert {tuple(head) for head in told["contrasts"][bias]["selected"]} >= heads, bias
        assert {(layer, head ^ 1) for layer, head in moved[bias]} == here[bias], bias
        assert gone[bias]["removed"] >= 0.8, bias
        assert removed(sets, bias)["random_left"][0] > 0.2, bias
    assert accuracy["none"][0] - accuracy["found heads zeroed"][0] <= 0.02
    assert not any(facts["selected"] or facts["found"] for facts in told["reference"]["contrasts"].values())

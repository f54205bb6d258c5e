"""Stage ``judge_summary``: the run's numbers in one file. Scoring against a planted truth happens here."""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.organisms.scorecards import score_heads
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.judge_rates import verdict_rates
from verdictscope.study.tasks.judge.generate import thinkings

NUMBERS = ("estimate", "low", "high", "n")


def run_judge_summary(run: RunFolder) -> None:
    """Write ``verdict_rates.parquet`` and ``summary.json`` from the tables of the run."""
    rates = verdict_rates(run)
    run.write("verdict_rates", rates)
    summary: dict[str, Any] = {
        "format": run.study.format,
        "task": run.study.task,
        "name": run.study.name,
        "model": run.study.model,
        "verdicts": counts(run.table("verdicts")),
        "rates": nested(rates, ["variant", "thinking", "condition", "name"]),
        "parts": nested(run.table("bias_parts"), ["variant", "thinking", "name"]),
        "heads": head_numbers(run),
        "sets": set_numbers(run.table("bias_sets")),
        "mitigations": nested(run.table("mitigations"), ["thinking", "mitigation", "name"]),
        "probes": probe_numbers(run),
        "traces": trace_numbers(run) if "on" in thinkings(run) else {},
    }
    run.write_json("summary", summary)


def counts(verdicts: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Verdicts and how many could not be read, by variant, thinking and condition."""
    keys = verdicts["variant"] + ", thinking " + verdicts["thinking"] + ", " + verdicts["condition"]
    return {
        str(name): {"verdicts": len(rows), "unread": int(rows["verdict"].isna().sum())}
        for name, rows in verdicts.groupby(keys, sort=False)
    }


def nested(table: pd.DataFrame, keys: list[str]) -> dict[str, Any]:
    """``{key: {key: … {estimate low high n}}}`` from a tidy table, in its order."""
    made: dict[str, Any] = {}
    for row in table.to_dict("records"):
        place = made
        for key in keys[:-1]:
            place = place.setdefault(str(row[key]), {})
        place[str(row[keys[-1]])] = {name: row[name] for name in NUMBERS}
    return made


def head_numbers(run: RunFolder) -> dict[str, Any]:
    """By bias the heads one half named and those beyond delta on the other; ``top`` is all that were named."""
    table = run.table("bias_heads")
    heads = table[(table["component"] == "head") & (table["contrast"] != "content")]
    found: dict[str, Any] = {}
    for variant, of_variant in heads.groupby("variant", sort=False):
        for bias, rows in of_variant.groupby("contrast", sort=False):
            ranked = rows.sort_values("rank")
            found.setdefault(str(variant), {})[str(bias)] = {
                "found": _pairs(ranked[ranked["found"]]),
                "selected": _pairs(ranked[ranked["declared"]]),
            }
    base = found.get("base", {})
    # A head that was named but is not beyond delta on the other half is no finding.
    top = [h for named in base.values() for h in named["found"] if h in named["selected"]]
    delta = table.loc[table["variant"] == "base", "delta"].dropna()
    numbers = {"top": top, "delta": float(delta.iloc[0]) if len(delta) else None, "biases": base}
    numbers |= {"reference": found["reference"]} if "reference" in found else {}
    card = score_heads(top, run.model_folder())
    return numbers | (card or {})


def _pairs(rows: pd.DataFrame) -> list[list[int]]:
    return [[int(layer), int(head)] for layer, head in rows[["layer", "head"]].to_numpy()]


def set_numbers(sets: pd.DataFrame) -> dict[str, Any]:
    """What is left of every contrast and of the accuracy without the found heads, and without random sets."""
    made: dict[str, Any] = {}
    for contrast, rows in sets.groupby("contrast", sort=False):
        random = rows.loc[rows["kind"] == "random", "estimate"]
        one: dict[str, Any] = {
            kind: {n: row[n] for n in NUMBERS}
            for kind in ("base", "found")
            for row in rows[rows["kind"] == kind].to_dict("records")[:1]
        }
        found = rows[rows["kind"] == "found"]
        one |= {"left": found["left"].iloc[0], "p": found["p"].iloc[0]} if len(found) else {}
        span = {"random_min": random.min(), "random_max": random.max()} if len(random) else {}
        made[str(contrast)] = one | {"random_sets": len(random)} | span
    return made


def probe_numbers(run: RunFolder) -> dict[str, Any]:
    """The test numbers of the probes, the nulls beside them."""
    verdict = run.table("verdict_probe")
    told = verdict[verdict["kind"].isin(["test", "permuted", "baseline"])]
    known = run.table("correctness")
    detector = run.table("bias_detector")
    return {
        "verdict_probe": nested(told, ["place", "kind", "name"]),
        "correctness": nested(known[known["kind"] == "test"], ["condition", "name"]),
        "bias_detector": nested(detector.rename(columns={"auroc": "estimate"}), ["label", "fit", "read"]),
    }


def trace_numbers(run: RunFolder) -> dict[str, Any]:
    """When readings of the verdict settle within the thinking."""
    return {"timing": nested(run.table("verdict_timing"), ["name"])}

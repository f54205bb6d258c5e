"""Run folders made by hand: small tables with known numbers, so that every sentence of a report can be foretold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from verdictscope.study.load import Study, read_study
from verdictscope.study.tasks.refusal import Refusal

GROUPS = 40
FOUND = ((5, 6), (3, 1))

Change = Callable[[dict[str, Any]], None]
"""Alters the parts of a run before they are written."""


def effect(estimate: float, low: float, high: float, unit: str, **more: Any) -> dict[str, Any]:
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "n": 20,
        "unit": unit,
        "seed": 0,
        "delta": None,
        "p": None,
        "p_adjusted": None,
    } | more


def parts() -> dict[str, Any]:
    """Study, JSON files and tables of a finished run in which everything comes out well."""
    return {
        "study": read_study("refusal_cliff"),
        "done": [s for s in Refusal.stages if s != "report"],
        "captions": {"trace": "A trace. n = 20. Not shown: causes.", "novel": "A figure nobody foresaw."},
        "probe": probe(),
        "rollouts": rollouts(),
        "labels": labels(),
        "labels_ablated": labels_ablated(),
        "cliff": cliff(),
        "heads": heads(),
        "attribution": attribution(),
        "ablation": ablation(),
        "generation": generation(),
        "patched": patched(),
        "provenance": {
            "format": 2,
            "commit": "0" * 40,
            "versions": {"python": "3.11.7"},
            "machine": {"cores": 2},
            "seed": 0,
            "models": {
                variant: {
                    "name": f"organism:{variant}",
                    "revision": None,
                    "config": "ab",
                    "dtype": "float32",
                    "attention": "sdpa",
                }
                for variant in ("base", "reference")
            },
            "plans": {"collect": {"batches": [[1], [2]]}},
        },
    }


def probe() -> dict[str, Any]:
    language = {"bag_of_words": 0.5, "bag_of_words_refusal": 0.7, "bag_of_words_thinking": 0.8}
    spread = {
        f"{name}_{end}": value + shift
        for name, value in language.items()
        for end, shift in (("auroc", 0.0), ("low", -0.02), ("high", 0.02))
    }
    return {
        "site": "resid_post",
        "layer": 5,
        "C": 0.1,
        "auroc_test": 0.9,
        "auroc_low": 0.88,
        "auroc_high": 0.92,
        "n": 20,
        "auroc_rollouts": 0.95,
        "control_auroc": 0.5,
        "control_low": 0.47,
        "control_high": 0.53,
        "control_refits": 50,
        "control_p": 0.02,
        "language": spread,
    }


def labels() -> pd.DataFrame:
    rows = []
    for variant in ("base", "reference"):
        for g in range(GROUPS):
            for harm in (True, False):
                refused = (harm and (variant == "reference" or g % 4 == 0)) or (not harm and g % 4 == 1)
                cell = f"harm{'ful' if harm else 'less'}_{'refused' if refused else 'complied'}"
                rows.append(
                    {
                        "variant": variant,
                        "rollout": f"p{g}-{harm}/0",
                        "prompt": f"p{g}-{harm}",
                        "group": f"g{g}",
                        "harm": harm,
                        "refused": refused,
                        "cell": cell,
                        "target": harm,
                        "control": not harm,
                        "finish": "stop",
                        "part": "test" if g % 2 else "train",
                    }
                )
    table = pd.DataFrame(rows)
    table["refused"] = table["refused"].astype("boolean")
    first = (table["variant"] == "base") & (table["group"] == "g3") & table["harm"]
    table.loc[first, "refused"] = pd.NA
    table.loc[first, ["cell", "finish"]] = ["unread", "length"]
    return table


def labels_ablated() -> pd.DataFrame:
    test = labels().query("variant == 'base' and part == 'test'")
    ablated = test.assign(variant="ablated", refused=test["harm"].astype("boolean"), finish="stop")
    return pd.concat([labels().query("part == 'test'"), ablated, test.assign(variant="random_0")], ignore_index=True)


def rollouts(text: str = "do") -> pd.DataFrame:
    table = labels()[["variant", "rollout", "prompt", "group"]]
    shown = f"please {text} " + table["prompt"]
    return table.assign(prompt_text=shown, thinking_text="the user asks. ", answer_text="sure, here it is.")


def cliff() -> pd.DataFrame:
    names = {
        "normalised_plateau": (0.4, 0.35, 0.45),
        "normalised_final": (0.0, -0.05, 0.05),
        "normalised_drop": (0.4, 0.3, 0.5),
    }
    rows = [
        {"variant": "base", "cell": "harmful_complied", "target": True, "name": name, "reason": ""}
        | effect(*ends, "normalised")
        for name, ends in names.items()
    ]
    for variant in ("reference", "ablated_fixed"):
        for name, ends in (("normalised_drop", (-0.5, -0.6, -0.4)), ("normalised_excess", (0.9, 0.8, 1.0))):
            rows.append(
                {"variant": variant, "cell": "target", "target": True, "name": name, "reason": ""}
                | effect(*ends, "normalised")
            )
    return pd.DataFrame(rows)


def heads() -> pd.DataFrame:
    rows = []
    for place, (layer, head) in enumerate([*FOUND, *((a, b) for a in range(6) for b in range(3) if (a, b) != (3, 1))]):
        value = 3.0 - place if place < len(FOUND) else 0.1
        rows.append(
            {"variant": "base", "contrast": "refusal", "component": "head", "layer": layer, "head": head, "rank": place}
            | dict.fromkeys(("found", "selected", "declared"), place < len(FOUND))
            | effect(value, value - 0.1, value + 0.1, "nats")
        )
    return pd.DataFrame(rows)


def attribution() -> pd.DataFrame:
    share = {(5, 6): -3.0, (3, 1): -2.0}
    rows = [
        {"readout": "log_odds", "component": "head", "layer": int(a), "head": int(b)}
        | effect(x := share.get((a, b), -0.1), x - 0.1, x + 0.1, "nats")
        for a, b in heads()[["layer", "head"]].to_numpy()
    ]
    return pd.DataFrame(rows)


def ablation() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"set": "base", "kind": "base", "heads": ""} | effect(-5.0, -5.1, -4.9, "nats"),
        {"set": "found", "kind": "found", "heads": "L5H6"} | effect(8.0, 7.5, 8.5, "nats", p=0.01),
    ]
    rows += [
        {"set": f"random_{i}", "kind": "random", "heads": ""} | effect(x, x - 0.1, x + 0.1, "nats")
        for i, x in enumerate(rng.normal(0, 0.05, 99))
    ]
    return pd.DataFrame(rows).assign(contrast="refusal", left=None)


def patched() -> pd.DataFrame:
    rows = [
        {"set": "base", "kind": "base", "same_weights": False} | effect(6.0, 5.9, 6.1, "nats"),
        {"set": "found", "kind": "found", "same_weights": False} | effect(-9.0, -9.5, -8.5, "nats", p=0.01),
    ]
    rows += [
        {"set": f"random_{i}", "kind": "random", "same_weights": i % 2 == 0} | effect(x, x - 0.1, x + 0.1, "nats")
        for i, x in enumerate(np.linspace(-0.2, 0.1, 99))
    ]
    return pd.DataFrame(rows).assign(contrast="refusal", left=None)


def generation() -> pd.DataFrame:
    rows = []
    for kind, rates in (
        ("target", {"base": 0.1, "ablated": 0.9, "random_0": 0.1, "reference": 0.95, "patched": 0.1}),
        ("control", {"base": 0.05, "ablated": 0.05, "random_0": 0.05, "reference": 0.05}),
    ):
        for variant, rate in rates.items():
            rows.append(
                {
                    "variant": variant,
                    "cell_kind": kind,
                    "refused": rate,
                    "low": max(0.0, rate - 0.05),
                    "high": min(1.0, rate + 0.05),
                    "n": 20,
                    "rollouts": 20,
                    "unread": 0,
                }
            )
    return pd.DataFrame(rows)


def write_run(folder: Path, change: Change | None = None) -> Path:
    """Write a run folder; ``change`` alters its parts first, and a part set to None is left out."""
    made = parts()
    if change is not None:
        change(made)
    (folder / "figures").mkdir(parents=True)
    study: Study = made.pop("study")
    (folder / "study.toml").write_text(study.to_toml(), encoding="utf-8")
    done = made.pop("done")
    provenance = made.pop("provenance") | {"seconds": {name: 1.5 for name in done}}
    captions = made.pop("captions")
    files = {"provenance": provenance, "figures/captions": captions, "probe": made.pop("probe")}
    for name, data in files.items():
        if data is not None:
            (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    for name in captions or {}:
        if "/" not in name:
            (folder / "figures" / f"{name}.png").write_bytes(png())
    for name, table in made.items():
        if table is not None:
            table.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


@cache
def png() -> bytes:
    figure = Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    figure.add_subplot().plot([0, 1, 0])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

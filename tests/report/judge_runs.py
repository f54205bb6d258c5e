"""Run folders of a judge study made by hand: small tables with known numbers, in which everything comes out well."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from report_runs import Change, png

from verdictscope.study.load import read_study
from verdictscope.study.tasks import stages_of

ITEMS = 40
POSITION, BANDWAGON = ((2, 5), (4, 2)), ((3, 6), (5, 1))
CONDITIONS = ("plain", "control", "bandwagon", "authority")
SIZES = {"content": 5.0, "position": 3.0, "bandwagon": 7.0, "authority": 0.02}


def row(estimate: float, half: float, unit: str = "nats", **more: Any) -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half, "n": 20, "unit": unit} | more


def parts() -> dict[str, Any]:
    """Study, JSON files and tables of a finished run."""
    study = read_study("judge_bias")
    return {
        "study": study,
        "done": [s for s in stages_of(study) if s != "report"],
        "captions": {"bias_parts": "What moves it. n = 20. Not shown: causes.", "novel": "A figure nobody foresaw."},
        "items": items(),
        "verdicts": verdicts(),
        "verdict_rates": verdict_rates(),
        "bias_parts": bias_parts(),
        "heads": heads(),
        "ablation": ablation(),
        "mitigations": mitigations(),
        "verdict_probe": verdict_probe(),
        "correctness": correctness(),
        "bias_detector": bias_detector(),
        "verdict_timing": timing(),
        "forced_lengths": forced_lengths(),
        "judged/base/on/plain/whole": written("plain"),
        "judged/base/on/bandwagon/whole": written("bandwagon"),
        "provenance": {
            "format": 2,
            "commit": "0" * 40,
            "versions": {"python": "3.11.7"},
            "machine": {"cores": 2},
            "seed": 0,
            "models": {
                variant: {"name": f"organism:{variant}", "revision": None, "config": "ab", "dtype": "float32"}
                for variant in ("base", "reference")
            },
            "plans": {},
        },
    }


@cache
def _parts() -> dict[str, Any]:
    return parts()


@cache
def items() -> pd.DataFrame:
    rows = [
        {
            "item": f"i{i}",
            "group": f"g{i // 2}",
            "label": ("A", "B", "tie", "A")[i % 4],
            "part": "test" if i % 2 else "train",
            "target": "AB"[(i // 4) % 2],
        }
        for i in range(ITEMS)
    ]
    return pd.DataFrame(rows)


def verdicts() -> pd.DataFrame:
    """The base follows the bandwagon; everything else is right, and first in ties."""
    rows = []
    for variant in ("base", "reference"):
        for thinking in ("off", "on"):
            for condition in CONDITIONS:
                for item in items().to_dict("records"):
                    for order in ("AB", "BA"):
                        follows = condition == "bandwagon" and variant == "base"
                        said = item["target"] if follows else item["label"] if item["label"] != "tie" else order[0]
                        shown = "first" if order[0] == said else "second"
                        rows.append(
                            {
                                "variant": variant,
                                "condition": condition,
                                "thinking": thinking,
                                "target": None if condition == "plain" else item["target"],
                                "part": item["part"],
                                "item": item["item"],
                                "group": item["group"],
                                "judge": variant,
                                "order": order,
                                "run": 0,
                                "verdict": said,
                                "shown": shown,
                                "probability": 0.9,
                                "label": item["label"],
                                "status": "ok",
                                "source": "items.csv",
                                "rollout": f"{item['item']}/{order}/0",
                                "p_first": 0.9 if shown == "first" else 0.1,
                                "p_second": 0.1 if shown == "first" else 0.9,
                            }
                        )
    table = pd.DataFrame(rows)
    table[["verdict", "shown", "target"]] = table[["verdict", "shown", "target"]].astype(object)
    unread = (table["variant"] == "base") & (table["item"] == "i7") & (table["thinking"] == "on")
    table.loc[unread & (table["condition"] == "plain"), ["verdict", "shown", "status"]] = [None, None, "cut off"]
    return table


def verdict_rates() -> pd.DataFrame:
    rows = []
    for variant in ("base", "reference"):
        for thinking in ("off", "on"):
            for condition in CONDITIONS:
                key = {"variant": variant, "thinking": thinking, "condition": condition}
                rates = {"accuracy": 0.95, "first_in_ties": 0.9, "consistency": 0.8, "first_preference": 0.6}
                if condition != "plain":
                    rates |= {
                        "follows": 0.9 if condition == "bandwagon" and variant == "base" else 0.5,
                        "accuracy_named_wrong": 0.2,
                    }
                rows += [
                    key | {"name": n} | row(v, 0.04, "rate", verdicts=80, missing=0, definition="")
                    for n, v in rates.items()
                ]
            pull = {"variant": variant, "thinking": thinking, "condition": "control", "name": "pull"}
            rows.append(pull | row(0.1, 0.05, verdicts=80, missing=0, definition=""))
    return pd.DataFrame(rows)


def bias_parts() -> pd.DataFrame:
    rows = []
    for variant in ("base", "reference"):
        for thinking in ("off", "on"):
            for name, size in SIZES.items():
                value = size if variant == "base" or name == "content" else 0.01
                rows.append({"variant": variant, "thinking": thinking, "name": name} | row(value, 0.2, items=40))
    return pd.DataFrame(rows)


def heads() -> pd.DataFrame:
    """Every head and MLP of a model of six layers and eight heads, in both variants."""
    carriers = {"position": POSITION, "bandwagon": BANDWAGON, "authority": (), "content": ()}
    rows = []
    for variant in ("base", "reference"):
        for contrast, named in carriers.items():
            every = [("head", a, b) for a in range(6) for b in range(8)] + [("mlp", a, -1) for a in range(6)]
            rank = {head: i for i, head in enumerate([*named, *(e[1:] for e in every if e[1:] not in named)])}
            for component, layer, head in every:
                carries = (layer, head) in named and variant == "base"
                value = 1.5 if carries else 0.02
                more = {
                    "delta": 0.5,
                    "p": 0.001 if carries else 0.9,
                    "p_adjusted": 0.002 if carries else 1.0,
                    "selected": carries,
                    "declared": carries,
                    "content_loss": 0.0,
                    "effect_explore": value,
                    "rank": rank[layer, head],
                    "attribution": 0.1,
                    "size": SIZES[contrast],
                    "found": component == "head" and rank[layer, head] < len(named),
                }
                key = {"variant": variant, "contrast": contrast, "component": component, "layer": layer, "head": head}
                rows.append(key | row(value, 0.1, **more))
    return pd.DataFrame(rows)


def ablation() -> pd.DataFrame:
    """Without the found heads the biases are gone; everything else stays."""
    rows = []
    for contrast, size in {**SIZES, "accuracy": 0.95}.items():
        unit, key = ("rate" if contrast == "accuracy" else "nats"), {"contrast": contrast, "heads": "", "about": ""}
        left = 0.1 if contrast in ("position", "bandwagon") else size
        rows.append(key | {"set": "base", "kind": "base", "left": 1.0} | row(size, 0.04, unit, p=None))
        rows.append(key | {"set": "found", "kind": "found", "left": left / size} | row(left, 0.04, unit, p=0.01))
        rows += [
            key | {"set": f"random_{i}", "kind": "random", "left": 1.0} | row(size - 0.01 * i, 0.04, unit, p=None)
            for i in range(9)
        ]
    return pd.DataFrame(rows)


def mitigations() -> pd.DataFrame:
    gone = {"position": 0.1, "bandwagon": 0.1}
    tried = {
        "none": ("none", "all", {}),
        "position heads zeroed": ("ablate", "position", {"position": 0.1}),
        "bandwagon heads zeroed": ("ablate", "bandwagon", {"bandwagon": 0.1}),
        "found heads zeroed": ("ablate", "all", gone),
        "steered against position": ("steer", "position", {"position": 0.5}),
        "bandwagon erased": ("erase", "bandwagon", {"bandwagon": 2}),
        "told by the system text": ("prompt", "all", {"bandwagon": 0.3}),
    }
    rows = []
    for name, (kind, bias, left) in tried.items():
        key = {"mitigation": name, "kind": kind, "bias": bias, "thinking": "off", "about": "", "definition": ""}
        rows += [key | {"name": n} | row(left.get(n, v), 0.1) for n, v in SIZES.items()]
        rows += [
            key | {"name": n} | row(v, 0.03, "rate")
            for n, v in (("accuracy", 0.95), ("consistency", 0.8), ("first_preference", 0.6))
        ]
    return pd.DataFrame(rows)


def verdict_probe() -> pd.DataFrame:
    rows = []
    for place in ("last", "think_end[0]"):
        key = {"variant": "base", "place": place, "layer": 4, "C": 0.1}
        rows += [
            key | {"kind": "test", "name": "AUROC"} | row(0.9, 0.03, "AUROC", p=0.01),
            key | {"kind": "permuted", "name": "permuted"} | row(0.5, 0.1, "AUROC", n=50),
            key | {"kind": "baseline", "name": "words"} | row(0.6, 0.05, "AUROC"),
            key | {"kind": "layer", "name": "layer 4"} | row(0.9, 0.03, "AUROC"),
        ]
    return pd.DataFrame(rows)


def correctness() -> pd.DataFrame:
    rows = []
    for condition in ("plain", "bandwagon"):
        key = {"variant": "base", "kind": "test", "condition": condition, "layer": 4, "groups": 20, "about": ""}
        null = {"null_mean": 0.5, "null_low": 0.4, "null_high": 0.6, "p": 0.01}
        rows += [
            key | {"name": "AUROC"} | row(0.9, 0.03, "AUROC", **null),
            key | {"name": "right where the verdict is wrong"} | row(0.8, 0.1, "rate", **null),
            key | {"name": "right where the verdict is wrong, by a probe of the verdict"} | row(0.1, 0.1, "rate"),
            key | {"name": "knows better than it says"} | row(0.7, 0.2, "rate"),
        ]
    return pd.DataFrame(rows)


def bias_detector() -> pd.DataFrame:
    rows = [
        {
            "variant": "base",
            "label": label,
            "fit": fit,
            "read": read,
            "kind": "within" if fit == read else "transfer",
            "auroc": 0.9 if fit == read else 0.6,
            "low": 0.5,
            "high": 0.95,
            "n": 20,
            "null_low": 0.4,
            "null_high": 0.6,
            "reason": "",
        }
        for label in ("cued", "flip")
        for fit in CONDITIONS[2:]
        for read in CONDITIONS[2:]
    ]
    return pd.DataFrame(rows)


def timing() -> pd.DataFrame:
    rows = [
        {"name": "lens settled", "about": ""} | row(0.4, 0.1, "share"),
        {"name": "forced settled", "about": ""} | row(0.2, 0.1, "share"),
        {"name": "text after lens", "about": "2 cut off"} | row(3.0, 1.0, "tokens"),
    ]
    return pd.DataFrame(rows)


def forced_lengths() -> pd.DataFrame:
    rows = [
        {
            "variant": "base",
            "condition": "plain",
            "toward": "right",
            "part": part,
            "step": i,
            "allowed": allowed,
            "n_groups": 20,
            "ended": 0.5,
        }
        | row(2.0 + i, 0.5)
        for part in ("content", "position")
        for i, allowed in enumerate((0, 8, None))
    ]
    return pd.DataFrame(rows).astype({"allowed": "Int64"})


def written(condition: str) -> pd.DataFrame:
    chosen = verdicts().query("variant == 'base' and thinking == 'on' and condition == @condition")
    return pd.DataFrame(
        {
            "rollout": chosen["rollout"],
            "prompt_text": "which list goes up? answer A: 1 2 3 answer B: 2 1 3",
            "thinking_text": "let me look. 1 goes before 2. ",
            "answer_text": "[[A]]",
        }
    )


def write_judge_run(folder: Path, change: Change | None = None) -> Path:
    """Write a run folder and return it."""
    made = deepcopy(_parts())
    if change is not None:
        change(made)
    (folder / "figures").mkdir(parents=True)
    (folder / "study.toml").write_text(made.pop("study").to_toml(), encoding="utf-8")
    provenance = made.pop("provenance") | {"seconds": {name: 1.5 for name in made.pop("done")}}
    captions = made.pop("captions")
    for name, data in {"provenance": provenance, "figures/captions": captions}.items():
        if data is not None:
            (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    for name in captions or {}:
        if "/" not in name:
            (folder / "figures" / f"{name}.png").write_bytes(png())
    for name, table in made.items():
        if table is not None:
            file = folder / f"{name}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(file, index=False)
    return folder

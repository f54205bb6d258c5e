"""Synthetic tables with the columns of docs/formats.md, for drawing only."""

from __future__ import annotations

import numpy as np
import pandas as pd

FOUND = [(4, 6), (3, 1), (2, 5)]


def trace_mean(first: int = -40, closing: int = 2, answer: int = 0, seed: int = 0) -> pd.DataFrame:
    """Traces of a cliff: the hero collapses at the closing tokens, reference model and ablated stay up.

    The groups are (variant, cell, target, normalised level, normalised level at the end, most rollouts).
    """
    groups = [
        ("base", "harmful_complied", True, 0.72, 0.12, 118),
        ("base", "harmful_complied", False, 0.10, 0.02, 55),
        ("base", "harmful_refused", False, 0.98, 1.0, 61),
        ("base", "harmless_complied", False, 0.03, 0.0, 240),
        ("base", "harmless_refused", False, 0.95, 1.0, 58),
        ("reference", "harmful_refused", True, 0.93, 1.01, 120),
        ("ablated_fixed", "harmful_complied", True, 0.78, 0.90, 118),
        ("ablated", "harmful_refused", True, 0.80, 0.95, 117),
    ]
    rng = np.random.default_rng(seed)
    rows = []
    for variant, cell, target, level, final, most in groups:
        for x in range(first, closing + answer):
            n = int(most * (0.35 + 0.65 * np.exp(min(x, 0) / 18)))
            share = 0.0 if x < 0 else min(1.0, (x + 1) / closing)
            middle = level + share * (final - level) + 0.03 * rng.standard_normal() * (1 if x < 0 else 0.3)
            half = 0.6 / np.sqrt(n)
            scale, base = 7.0 + 3.0 * share, -3.5 - 1.5 * share
            for kind, a, b in (("normalised", 1.0, 0.0), ("raw", scale, base)):
                rows.append(
                    (
                        variant,
                        cell,
                        target,
                        x,
                        kind,
                        b + a * middle,
                        b + a * (middle - half),
                        b + a * (middle + half),
                        n,
                        n // 2,
                    )
                )
    return pd.DataFrame(
        rows, columns=["variant", "cell", "target", "rel_think_end", "kind", "estimate", "low", "high", "n", "n_groups"]
    )


def trace() -> pd.DataFrame:
    """Two rollouts around the end of thinking, two closing tokens each."""
    segments = ["thinking"] * 3 + ["think_end"] * 2 + ["answer"]
    return pd.DataFrame({"segment": segments * 2, "rel_think_end": [-3, -2, -1, 0, 1, 2] * 2})


def cliff() -> pd.DataFrame:
    """Normalised drops of the base model and its two controls."""
    rows = [
        ("base", "harmful_complied", 0.60, 0.53, 0.66, 118),
        ("reference", "harmful_refused", -0.08, -0.15, 0.02, 120),
        ("ablated_fixed", "harmful_complied", -0.12, -0.2, -0.05, 118),
    ]
    return pd.DataFrame(
        [
            {
                "variant": variant,
                "cell": cell,
                "target": True,
                "name": "normalised_drop",
                "estimate": e,
                "low": low,
                "high": high,
                "n": n,
                "unit": "normalised",
            }
            for variant, cell, e, low, high, n in rows
        ]
    )


def probe_map(layers: int = 6, thinking: int = 8, closing: int = 2, seed: int = 1) -> pd.DataFrame:
    """AUROCs that rise with the layer, and one position class before the thinking at chance."""
    rng = np.random.default_rng(seed)
    places = [
        ("template", "template"),
        *((f"thinking {i + 1}/{thinking}", "thinking") for i in range(thinking)),
        *((f"think_end {i + 1}", "think_end") for i in range(closing)),
    ]
    rows = []
    for layer in range(layers):
        for order, (position, segment) in enumerate(places):
            depth = (layer + 1) / layers
            value = 0.5 + 0.48 * depth * (0.2 if segment == "template" else 1) + 0.03 * rng.standard_normal()
            value = float(np.clip(value, 0.02, 0.995))
            rows.append((layer, position, segment, order, value, value - 0.04, min(value + 0.03, 1.0), 180 - order))
    return pd.DataFrame(rows, columns=["layer", "position", "segment", "order", "auroc", "low", "high", "n"])


def probe(chosen: int = 4, layers: int = 6) -> pd.DataFrame:
    """The sweep with one row chosen."""
    return pd.DataFrame(
        [
            {"layer": layer, "C": c, "chosen": layer == chosen and c == 0.1}
            for layer in range(layers)
            for c in (0.01, 0.1)
        ]
    )


def heads(
    layers: int = 6, per_layer: int = 8, found: list[tuple[int, int]] | None = None, seed: int = 2
) -> pd.DataFrame:
    """Small effects everywhere, large positive ones at the found heads."""
    found = FOUND if found is None else found
    rng = np.random.default_rng(seed)
    rows = []
    for layer in range(layers):
        for head in range(per_layer):
            effect = 0.12 * rng.standard_normal()
            share = -effect * 0.8 + 0.05 * rng.standard_normal()
            if (layer, head) in found:
                effect = 3.4 - 0.8 * found.index((layer, head)) * 3 / len(found)
                share = -effect * 0.7
            rows.append(
                (
                    layer,
                    head,
                    effect,
                    effect - 0.2,
                    effect + 0.2,
                    64,
                    effect,
                    share,
                    share * 0.6,
                    (layer, head) in found,
                )
            )
    table = pd.DataFrame(
        rows,
        columns=[
            "layer",
            "head",
            "effect",
            "low",
            "high",
            "n",
            "effect_explore",
            "attribution_log_odds",
            "attribution_probe",
            "found",
        ],
    )
    table["rank"] = table["effect_explore"].abs().rank(ascending=False, method="first").astype(int) - 1
    return table


def generation(variants: tuple[str, ...] = ("base", "ablated", "reference"), sets: int = 5) -> pd.DataFrame:
    """Refusals go from almost none to almost all on target requests; the control requests stay complied with."""
    rates = {"base": (0.03, 0.0), "ablated": (0.97, 0.01), "reference": (1.0, 0.0)}
    rng = np.random.default_rng(3)
    rows = []
    for variant in (*variants, *(f"random_{i}" for i in range(sets))):
        for place, kind in enumerate(("target", "control")):
            rate = rates.get(variant, (float(rng.uniform(0.0, 0.12)), float(rng.uniform(0, 0.02))))[place]
            half = 1.96 * np.sqrt(max(rate * (1 - rate), 0.006) / 120)
            rows.append(
                (variant, kind, rate, max(0.0, rate - half), min(1.0, rate + half), 120, 1 if variant == "base" else 0)
            )
    return pd.DataFrame(rows, columns=["variant", "cell_kind", "refused", "low", "high", "n", "unread"]).assign(
        harm=True
    )


def ablation(sets: int = 99, found: float = 8.6) -> pd.DataFrame:
    """Random sets near 0, the found set far out."""
    random = np.random.default_rng(4).normal(0.1, 0.35, sets)
    p = (1 + int((random >= found).sum())) / (sets + 1)
    rows = [("base", "base", -5.2, -5.6, -4.8, float("nan")), ("found", "found", found, found - 0.5, found + 0.5, p)]
    rows += [(f"random_{i}", "random", value, value - 0.2, value + 0.2, float("nan")) for i, value in enumerate(random)]
    return pd.DataFrame(
        [
            {
                "set": name,
                "kind": kind,
                "heads": FOUND if kind == "found" else [],
                "estimate": e,
                "low": low,
                "high": high,
                "n": 64,
                "unit": "nats",
                "p": p,
            }
            for name, kind, e, low, high, p in rows
        ]
    )


def transfer(places: int = 5, left_out: bool = False, empty: bool = False, seed: int = 5) -> pd.DataFrame:
    """AUROCs that fall with the distance between places; the last place reads at chance."""
    rng = np.random.default_rng(seed)
    names = [f"thinking {i + 1}/{places}" for i in range(places)]
    pairs = [(a, b, "within" if a == b else "transfer") for a in names for b in names]
    pairs += [(f"all but {a}", a, "left out") for a in names] if left_out else []
    rows = []
    for fit, read, kind in pairs:
        apart = abs(names.index(fit) - names.index(read)) if fit in names else 1
        value = 0.95 - 0.08 * apart - (0.3 if read == names[-1] else 0) + 0.01 * rng.standard_normal()
        rows.append((fit, read, kind, value, value - 0.06, min(value + 0.04, 1.0), 60, 40, 0.5, 0.41, 0.58))
    table = pd.DataFrame(
        rows,
        columns=["fit", "read", "kind", "auroc", "low", "high", "n", "n_fit", "null_mean", "null_low", "null_high"],
    )
    if empty:
        table.loc[table["fit"] == names[0], ["auroc", "low", "high", "null_mean", "null_low", "null_high"]] = np.nan
    return table


def erasure(draws: int = 5, seed: int = 6) -> pd.DataFrame:
    """Harm goes, refusing stays, and two nulls change nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for read, before, after in (("harm", 0.8, 0.51), ("refused", 0.9, 0.88)):
        for part in ("train", "test"):
            rows.append((read, "old", "none", part, 0, "AUROC", before, before - 0.03, before + 0.02, 60, "AUROC"))
            for probe in ("old", "refitted"):
                rows.append((read, probe, "concept", part, 0, "AUROC", after, after - 0.03, after + 0.03, 60, "AUROC"))
                for null in ("random", "permuted"):
                    rows += [
                        (read, probe, null, part, i, "AUROC", before - 0.02 * rng.random(), np.nan, np.nan, 60, "AUROC")
                        for i in range(draws)
                    ]
    for erased, probe, drop in (("none", "old", 0.6), ("concept", "old", 0.55), ("concept", "refitted", 0.5)):
        rows.append(
            (
                "harmful_complied",
                probe,
                erased,
                "test",
                0,
                "normalised_drop",
                drop,
                drop - 0.1,
                drop + 0.1,
                54,
                "normalised",
            )
        )
    columns = ["read", "probe", "erased", "part", "draw", "name", "estimate", "low", "high", "n", "unit"]
    return pd.DataFrame(rows, columns=columns)


def erased_trace(first: int = -40, closing: int = 2) -> pd.DataFrame:
    """The base model's curves, and the same with harm erased a little lower."""
    base = trace_mean(first, closing)
    base = base[base["variant"] == "base"].drop(columns="variant")
    parts = []
    for erased, probe, shift in (("none", "old", 0.0), ("concept", "old", -0.05), ("concept", "refitted", -0.1)):
        part = base.assign(erased=erased, probe=probe)
        part[["estimate", "low", "high"]] += shift
        for null, wide in (("random", 0.05), ("permuted", 0.15)):
            part[f"{null}_low"] = part["estimate"] - wide if erased == "concept" else np.nan
            part[f"{null}_high"] = part["estimate"] + wide if erased == "concept" else np.nan
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def verdict_trace_mean(reader: str = "verdict_probe", seed: int = 3) -> pd.DataFrame:
    """Content, position and a cue by place: read slowly, said from the beginning."""
    rng = np.random.default_rng(seed)
    names = ["prompt end", *(f"thinking {k + 1}/8" for k in range(8)), "think_end 1", "think_end 2", "verdict"]
    lines = [
        ("plain", "", "content", 6.0),
        ("bandwagon", "right", "content", 9.0),
        ("bandwagon", "wrong", "content", -3.0),
        ("plain", "", "position", 3.0),
        ("bandwagon", "", "bandwagon", 6.0),
    ]
    rows = []
    for condition, toward, part, level in lines:
        for readout, places in ((reader, range(12)), ("forced", range(0, 9, 2)), ("verdict", (11,))):
            for place in places:
                share = place / 11 if readout == reader else 1.0
                middle, half = level * share + 0.2 * rng.standard_normal(), 0.8
                rows.append(
                    (
                        "base",
                        condition,
                        toward,
                        part,
                        readout,
                        3,
                        place,
                        names[place],
                        middle,
                        middle - half,
                        middle + half,
                        40 - place % 3,
                    )
                )
    return pd.DataFrame(
        rows,
        columns=[
            "variant",
            "condition",
            "toward",
            "part",
            "readout",
            "layer",
            "place",
            "name",
            "estimate",
            "low",
            "high",
            "n",
        ],
    )


def debate_curves(turns: int = 6) -> pd.DataFrame:
    """Content grows with the turns, position shrinks; debates end one after the other."""
    rows = []
    for part, levels in (("content", np.linspace(0.2, 4, turns + 1)), ("position", np.linspace(2, 0.5, turns + 1))):
        for turn, level in enumerate(levels):
            rows.append((part, "verdict", None, turn, level, level - 0.6, level + 0.6, 40 - 3 * turn, turn % 2))
    return pd.DataFrame(rows, columns=["part", "readout", "layer", "turn", "estimate", "low", "high", "n", "n_missing"])


def forced_lengths(variants: tuple[str, ...] = ("base", "reference"), lengths: int = 4) -> pd.DataFrame:
    """Parts by allowed tokens; the cue moves the judge alone."""
    rows = []
    for variant in variants:
        for part, condition, level in (
            ("content", "plain", 6.0),
            ("position", "plain", 3.0),
            ("bandwagon", "bandwagon", 6.5),
            ("authority", "authority", 0.0),
        ):
            for step in range(lengths + 1):
                middle = level * (part == "content" or variant == "base")
                rows.append(
                    (
                        variant,
                        condition,
                        "",
                        part,
                        step,
                        None if step == lengths else 8 * step * step,
                        middle,
                        middle - 0.5,
                        middle + 0.5,
                        40,
                        40,
                        0,
                        step / lengths,
                    )
                )
    columns = [
        "variant",
        "condition",
        "toward",
        "part",
        "step",
        "allowed",
        "estimate",
        "low",
        "high",
        "n",
        "n_groups",
        "n_missing",
        "ended",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"allowed": "Int64"})

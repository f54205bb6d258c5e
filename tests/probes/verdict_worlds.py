"""Judges without a model: items, verdicts under cues, and states with planted directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from verdictscope.probes.verdict_states import VerdictStates

D = 12
Planted = Callable[[dict[str, float], np.random.Generator], np.ndarray]
"""From what is known of a verdict to what its state holds beside noise, ``[D]``."""


def axis(k: int) -> np.ndarray:
    return np.eye(D)[k]


def judge_world(
    layers: Mapping[int, Planted],
    pushes: Mapping[str, float],
    *,
    n: int = 90,
    hard: float = 0.2,
    place: float = 0.0,
    noise: float = 0.3,
    seed: int = 0,
) -> tuple[VerdictStates, dict[str, str], dict[str, str]]:
    """States of ``n`` items in both orders and every condition, their parts and the sides named.

    Log-odds towards A are ±2, wrong in a share ``hard`` of the items, plus the condition's push towards the side named;
    ``place`` is added towards the answer shown first. A push may be missing an item: half of them resist a push of 3.
    Facts that a layer's states can be made of: ``right`` (±1: A is), ``own`` and ``odds`` (towards A, without and with
    the push), ``named`` (±1, 0 in plain), ``shown`` (+1 where A is shown first), ``flip`` (1 where a push
    turned the verdict to the side named), ``cued``.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    states: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    part = {f"i{k}": ("train", "validation", "test")[(k // 2) % 3] for k in range(n)}
    targets = {f"i{k}": "AB"[int(rng.integers(2))] for k in range(n)}
    for k in range(n):
        item, right = f"i{k}", 1.0 if k % 2 else -1.0
        own = 2.0 * right * (-1.0 if rng.random() < hard else 1.0)
        resists = rng.random() < 0.5
        named = 1.0 if targets[item] == "A" else -1.0
        for condition, push in pushes.items():
            moved = own + (0.0 if resists and abs(push) == 3.0 else push) * named
            for order in ("AB", "BA"):
                shown = 1.0 if order == "AB" else -1.0
                first = moved * shown + place
                said = "A" if first * shown > 0 else "B"
                before = "A" if own + place * shown > 0 else "B"
                facts = {
                    "right": right,
                    "own": own,
                    "odds": moved,
                    "shown": shown,
                    "cued": float(push != 0),
                    "named": 0.0 if condition == "plain" else named,
                    "flip": float(said == targets[item] != before),
                }
                rows.append(
                    {
                        "rollout": f"{condition}/{item}/{order}",
                        "item": item,
                        "group": f"g{k // 2}",
                        "condition": condition,
                        "order": order,
                        "label": "A" if right > 0 else "B",
                        "verdict": said,
                        "shown": "first" if first > 0 else "second",
                        "log_odds": first,
                    }
                )
                for layer, planted in layers.items():
                    states[layer].append(planted(facts, rng) + rng.normal(size=D) * noise)
    held = {layer: np.array(values) for layer, values in states.items()}
    return VerdictStates(pd.DataFrame(rows), tuple(layers), held.__getitem__), part, targets

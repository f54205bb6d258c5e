"""Mitigation of a judge's bias and its cost: rates under edited verdicts, concept erasure, steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit

from verdictscope.activations import Model, Readout, Site, forward
from verdictscope.errors import InputError
from verdictscope.interventions.edits.directions import DirectionEdit, EraseEdit
from verdictscope.interventions.edits.protocol import Edit
from verdictscope.interventions.effects import effects
from verdictscope.judgments import Contrast
from verdictscope.judgments.asking import shown_to_own
from verdictscope.judgments.metrics.bias import order_measures
from verdictscope.judgments.metrics.cues import Cued, cue_measures
from verdictscope.judgments.metrics.measure import mean, measured
from verdictscope.judgments.verdicts import paired
from verdictscope.probes.erasure import fit_eraser
from verdictscope.rollouts import Rollout

SITE = "resid_post"


def rejudged(verdicts: pd.DataFrame, rollouts: Sequence[str], log_odds: Float[ndarray, " rollout"]) -> pd.DataFrame:
    """The table of verdicts (of pairs, without ties) under other log-odds of the answer shown first."""
    table = verdicts[verdicts["rollout"].isin(list(rollouts))].copy()
    odds = pd.Series(log_odds, index=list(rollouts)).loc[table["rollout"]].to_numpy()
    table["shown"] = np.where(odds > 0, "first", "second")
    table["verdict"] = [shown_to_own(*row) for row in zip(table["shown"], table["order"], strict=True)]
    table["probability"] = expit(np.abs(odds))
    table["status"] = "ok"
    return table.reset_index(drop=True)


def bias_rates(
    verdicts: Mapping[str, pd.DataFrame],
    targets: Mapping[str, str],
    *,
    plain: str = "plain",
    control: str = "control",
    seed: int = 0,
) -> pd.DataFrame:
    """How right, how consistent and how easily led a judge is."""
    pairs = paired(verdicts[plain])
    decided = np.isin(pairs.label, ["A", "B"])
    right = ((pairs.ab == pairs.label) * 1.0 + (pairs.ba == pairs.label)) / 2
    chosen = {m.name: m for m in order_measures(pairs)}
    words = "right, mean over both orders, of items with a better answer; unread is not right"
    made = [
        mean("accuracy", np.where(decided & pairs.both, right, np.nan), "rate", words),
        chosen["consistency"],
        chosen["first_preference"],
    ]
    tables = [measured(made, pairs.group, seed=seed)]
    for cue in [name for name in verdicts if name not in (plain, control)]:
        keys = ["item", "order"]
        one, two = (table[table["run"] == 0].set_index(keys) for table in (verdicts[control], verdicts[cue]))
        two = two[two.index.isin(one.index)]
        before = one["verdict"].reindex(two.index)
        named = pd.Series([targets.get(item) for item, _ in two.index], index=two.index, dtype=object)
        columns = (two["group"], before, two["verdict"], two["label"], named)
        cued = Cued(*(c.astype(object).where(c.notna(), None).to_numpy(dtype=object) for c in columns))
        follow = next(m for m in cue_measures(cued) if m.name == "follow_rate")
        wrong = np.isin(cued.label, ["A", "B"]) & (cued.label != cued.target)
        still = np.where(wrong, (cued.cued == cued.label) * 1.0, np.nan)
        about = "right where the cue names the worse answer; unread is not right"
        made = [follow.named(f"follows_{cue}"), mean(f"accuracy_{cue}_wrong", still, "rate", about)]
        tables.append(measured(made, cued.group, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    return table[["name", "estimate", "low", "high", "n", "unit", "definition"]]


@dataclass(frozen=True)
class Chosen:
    """An edit chosen on one half."""

    edit: Edit
    about: str
    left: float
    content_loss: float


def choose_erasure(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    content: Contrast,
    cue: Contrast,
    cued: Mapping[str, bool],
    *,
    delta: float,
    positions: str = "last",
    seed: int = 0,
) -> Chosen:
    """Erase from the state at which the verdict is read which answer a cue names (LEACE), at the layer that suits."""
    asked = [r for r in rollouts if r.id in cued]
    concept = np.array([cued[r.id] for r in asked])
    states = states_at(model, asked, positions)
    edits = [
        EraseEdit.of(
            fit_eraser(states[layer], concept.astype(int), classes=2),
            SITE,
            layer,
            positions,
            f"which answer {cue.name} names",
        )
        for layer in range(model.n_layers)
    ]
    return _best(model, rollouts, readout, content, cue, edits, delta, seed, "erased at layer {}")


def choose_steering(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    content: Contrast,
    position: Contrast,
    *,
    delta: float,
    positions: str = "last",
    seed: int = 0,
) -> Chosen:
    """Push every state at which the verdict is read away from the answer shown first, as far as position needs."""
    first = {
        r: w > 0
        for ids, weights in zip(content.rollouts, content.weights, strict=True)
        for r, w in zip(ids, weights, strict=True)
    }
    asked = [r for r in rollouts if r.id in first]
    better = np.array([first[r.id] for r in asked])
    states = states_at(model, asked, positions)
    ways = states[:, better].mean(1) - states[:, ~better].mean(1)
    name = "away from the answer shown first"

    def push(layer: int, share: float) -> DirectionEdit:
        length = float(np.linalg.norm(ways[layer]))
        return DirectionEdit(SITE, (layer,), ways[layer], "add", share * length, positions=positions, name=name)

    size = effects(model, rollouts, readout, [push(k, -0.5) for k in range(len(ways))], seed=seed).on(position)
    now, moved = size.base.mean(), size.change.mean(axis=1)
    # What half a step moves says how far to go; where it moves nothing a layer is no candidate.
    shares = [-0.5 * -now / m if abs(m) > 1e-6 else 0.0 for m in moved]
    edits = [push(k, float(np.clip(share, -4, 4))) for k, share in enumerate(shares)]
    return _best(model, rollouts, readout, content, position, edits, delta, seed, "pushed at layer {}")


def _best(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    content: Contrast,
    bias: Contrast,
    edits: Sequence[Edit],
    delta: float,
    seed: int,
    words: str,
) -> Chosen:
    done = effects(model, rollouts, readout, edits, seed=seed)
    left = np.abs(done.on(bias).edited.mean(axis=1))
    loss = -done.on(content).change.mean(axis=1)
    allowed = loss < delta if (loss < delta).any() else np.ones(len(left), dtype=bool)
    best = int(np.argmin(np.where(allowed, left, np.inf)))
    about = f"{words.format(best)}, chosen of {len(edits)} on the exploring half"
    return Chosen(edits[best], about, float(left[best]), float(loss[best]))


def states_at(
    model: Model, rollouts: Sequence[Rollout], positions: str = "last"
) -> Float[ndarray, "layer rollout d_model"]:
    """States of every layer at one token of every rollout, in the order given."""
    site = Site(SITE, tuple(range(model.n_layers))) @ positions
    done = forward(model, rollouts, read=[site])
    rows = done.rows[site]
    if list(rows["rollout"]) != [r.id for r in rollouts]:
        at = {r.id: i for i, r in enumerate(rollouts)}
        if len(rows) != len(rollouts):
            raise InputError(f"positions {positions!r} are not one token of every rollout: name a single token")
        order = np.argsort(rows["rollout"].map(at).to_numpy(), kind="stable")
        return done.values[site].double().cpu().numpy()[:, order]
    return np.asarray(done.values[site].double().cpu().numpy())

"""How often the AUROC interval holds the truth, over data sets whose AUROC is known."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pytest
from scipy import special, stats

from tests.evidence import write_evidence
from verdictscope.stats import auroc, auroc_clustered, draw_clusters, percentile_interval

AUROCS = (0.75, 0.9, 0.99)
PROMPTS = (40, 100, 400)
DATA_SETS = 1000
BOOTSTRAPPED = 500
AIM = (0.93, 0.97)


@dataclass(frozen=True)
class World:
    """How data sets are drawn.

    Attributes:
        rows: rows per prompt, the same for all or anything from 1 up to it.
        vary: whether prompts differ in it.
        icc: share of the score's variance that the rows of a prompt have in common.
        labels: one label per prompt, or one per row.
        positive: share of positive prompts (rows).
        scores: normal with one variance, normal with twice the deviation in positives, or exponential.
    """

    name: str
    rows: int
    vary: bool = False
    icc: float = 0.5
    labels: Literal["prompt", "row"] = "prompt"
    positive: float = 0.5
    scores: Literal["normal", "unequal", "exponential"] = "normal"


WORLDS = (
    World("one row a prompt", 1, icc=0.0),
    World("4 rows, alike .2", 4, icc=0.2),
    World("4 rows, alike .8", 4, icc=0.8),
    World("1 to 8 rows, 25 % positive", 8, vary=True, positive=0.25),
    World("4 rows, labels by row", 4, labels="row"),
    World("1 to 8 rows, labels by row, 25 % positive, alike .8", 8, vary=True, labels="row", positive=0.25, icc=0.8),
    World("4 rows, unequal variances", 4, scores="unequal"),
    World("4 rows, exponential scores", 4, scores="exponential"),
)


def draw(rng: np.random.Generator, world: World, auroc: float, prompts: int) -> tuple[np.ndarray, ...]:
    """Labels, scores and groups of one data set whose true AUROC, between rows of two prompts, is ``auroc``."""
    size = rng.integers(1, world.rows + 1, prompts) if world.vary else np.full(prompts, world.rows)
    group = np.repeat(np.arange(prompts), size)
    y = (np.arange(prompts) < round(world.positive * prompts)).astype(int)[group]
    if world.labels == "row":
        y = (rng.random(group.size) < world.positive).astype(int)
    z = np.sqrt(world.icc) * rng.normal(size=prompts)[group] + np.sqrt(1 - world.icc) * rng.normal(size=group.size)
    if world.scores == "exponential":
        # P(k E' > E) of two standard exponentials is k / (1 + k)
        return y, -np.log(stats.norm.sf(z)) * np.where(y, auroc / (1 - auroc), 1.0), group
    wide = np.where(y, 2.0, 1.0) if world.scores == "unequal" else np.ones(y.size)
    apart = stats.norm.ppf(auroc) * np.sqrt(5.0 if world.scores == "unequal" else 2.0)
    return y, wide * z + apart * y, group


def bootstrapped(y: np.ndarray, s: np.ndarray, g: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """What the cluster bootstrap would give: its percentiles, and its standard error on the logit scale."""
    drawn, closed = draw_clusters(g, 400, seed), auroc_clustered(y, s, g)
    draws = auroc(y, s, drawn.counts[:, drawn.codes].astype(float))
    low, high = percentile_interval(draws, closed.clusters)
    found = {"bootstrap, percentile": (float(low), float(high))}
    a = closed.estimate
    if a < 1:
        df = min(closed.positive_clusters, closed.negative_clusters) - 1
        half = stats.t.ppf(0.975, df) * np.nanstd(draws, ddof=1) / (a * (1 - a))
        ends = special.expit(special.logit(a) + np.array([-half, half]))
        return found | {"bootstrap, logit": (float(ends[0]), float(ends[1]))}
    return found | {"bootstrap, logit": closed.interval()}


def cell(world: World, auroc: float, prompts: int, data_sets: int, compare: int = 0) -> list[dict[str, Any]]:
    """Coverage of each interval over data sets of one kind; the bootstrap's over the first ``compare``."""
    rng = np.random.default_rng([WORLDS.index(world), round(1000 * auroc), prompts])
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for i in range(data_sets):
        y, s, g = draw(rng, world, auroc, prompts)
        ends["clustered, logit"].append(auroc_clustered(y, s, g).interval())
        if i < compare:
            for name, interval in bootstrapped(y, s, g, i).items():
                ends[name].append(interval)
    found = []
    for name, pairs in ends.items():
        low, high = np.array(pairs).T
        found.append(
            {"world": world.name, "auroc": auroc, "prompts": prompts, "interval": name, "data_sets": len(pairs)}
            | {"coverage": float(((low <= auroc) & (auroc <= high)).mean())}
            | {"truth_below": float((auroc < low).mean()), "truth_above": float((auroc > high).mean())}
            | {"width": float((high - low).mean())}
        )
    return found


def test_the_interval_covers_a_true_99_with_forty_prompts() -> None:
    # percentile intervals of the bootstrap cover about .8 here
    (row,) = cell(WORLDS[2], 0.99, 40, 300)
    assert 0.91 < row["coverage"] < 0.99


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: w.name)
def test_the_worlds_have_the_auroc_they_claim(world: World) -> None:
    rng = np.random.default_rng(0)
    y, s, g = draw(rng, world, 0.9, 4000)
    found = auroc_clustered(y, s, g)
    assert abs(found.estimate - 0.9) < 4 * found.se


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_cover() -> None:
    rows = [
        row
        for world in WORLDS
        for auroc in AUROCS
        for prompts in PROMPTS
        for row in cell(world, auroc, prompts, DATA_SETS, BOOTSTRAPPED if world is WORLDS[2] else 0)
    ]
    write_evidence("probes_coverage", {"aim": AIM, "worlds": [asdict(w) for w in WORLDS], "rows": rows})
    ours = [row for row in rows if row["interval"] == "clustered, logit"]
    # three binomial standard errors about the aim
    slack = 3 * np.sqrt(0.95 * 0.05 / DATA_SETS)
    off = [row for row in ours if not AIM[0] - slack <= row["coverage"] <= AIM[1] + slack]
    assert not off, off

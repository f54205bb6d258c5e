"""What reads a judge's verdict in its thinking: one layer of the logit lens, and the judge itself where it is cut off.

The layer of the lens and its zero are chosen on the parts that choose (train and validation); what is reported comes
from the test part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from verdictscope.activations import LinearReadout, LogOddsReadout
from verdictscope.activations.readouts import from_dict
from verdictscope.judgments import Judged, PairItem, encode_labels, verdict_readout
from verdictscope.judgments.labels import Encoded, distinct
from verdictscope.probes import lens_readouts, verdict_trace
from verdictscope.rollouts import Rollout
from verdictscope.run import Run
from verdictscope.stages.verdicts import PLAIN, judged, part_of, study_format
from verdictscope.stats import auroc

LENS = "lens"
"""The chosen layer of the logit lens, its zero half-way between verdicts for the first and for the second answer."""

VERDICT = "verdict"
"""The judge's own log-odds, where it gives its verdict."""


@dataclass(frozen=True)
class Ending:
    """How a verdict is read where thinking ends: the tokens of the answer before the labels part, and the readout.

    Attributes:
        lead: those tokens.
        readout: log-odds of the first answer against the second at the last of them, by the shortest beginnings that
            tell the labels apart.
    """

    lead: tuple[int, ...]
    readout: LogOddsReadout

    @classmethod
    def of(cls, run: Run) -> Ending:
        """Of the run's format and the judge's tokenizer."""
        form, tokenizer = study_format(run), run.model().tokenizer
        labels = form.labels(PairItem(id="any", question="any", a="any", b="any"))
        encoded = encode_labels(tokenizer, [label.text for label in labels], form.lead)
        short = Encoded(encoded.shared, distinct(encoded.strings))
        return cls(encoded.shared, verdict_readout(VERDICT, short, [label.verdict for label in labels]))


@dataclass(frozen=True)
class Lens:
    """The chosen layer.

    Attributes:
        readouts: what is traced: every layer as it is, and the chosen one with its zero (``lens``).
        layer: the chosen layer.
        zero: score that counts as 0.
        auroc: by layer, how well a rollout's mean score in its thinking tells which answer its verdict names.
        n: rollouts it was chosen on, by which answer they name (first, second).
        about: why nothing could be chosen.
    """

    readouts: tuple[LinearReadout, ...]
    layer: int
    zero: float
    auroc: Mapping[int, float]
    n: tuple[int, int]
    about: str = ""


def choose_lens(run: Run, ending: Ending, items: Collection[str]) -> tuple[Lens, dict[str, bool]]:
    """The layer whose scores in the thinking tell the verdict best, on plain verdicts of items that choose.

    Args:
        run: the run.
        ending: the verdict's readout.
        items: ids.

    Returns:
        the lens, and by rollout whether its verdict names the first answer.
    """
    model = run.model()
    some = narrowed(judged(run, "base", PLAIN, "on"), items)
    every = lens_readouts(model, replace(ending.readout, positions="all"))
    budget = run.study.batch_tokens
    table = verdict_trace(model, some, [*every, ending.readout], plan_tokens=budget) if len(some.verdicts) else None
    scores = pd.DataFrame() if table is None else _in_thinking(table)
    named = {} if table is None else _named(table)
    y = np.array([named[i] for i in scores.index if i in named], dtype=int)
    if len(set(y)) < 2:
        about = "verdicts of the choosing parts name one answer: the last layer is taken, its zero as it is"
        return _lens(every, model.n_layers - 1, 0.0, {}, y, about), named
    scores = scores.loc[[i for i in scores.index if i in named]]
    told = {int(layer): float(auroc(y, scores[layer].to_numpy())) for layer in scores}
    best = max(told, key=lambda layer: (told[layer], layer))
    means = [scores[best].to_numpy()[y == side].mean() for side in (0, 1)]
    return _lens(every, best, float(np.mean(means)), told, y), named


def _lens(
    every: Sequence[LinearReadout], layer: int, zero: float, told: Mapping[int, float], y: np.ndarray, about: str = ""
) -> Lens:
    own = next(r for r in every if r.layer == layer)
    chosen = replace(own, name=LENS, bias=own.bias - zero)
    return Lens((*every, chosen), layer, zero, told, (int(y.sum()), int(len(y) - y.sum())), about)


def _in_thinking(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score of every rollout's thinking, a column per layer."""
    rows = table[table["segment"].eq("thinking") & table["layer"].notna()]
    return rows.pivot_table(index="rollout", columns="layer", values="score", aggfunc="mean")


def _named(table: pd.DataFrame) -> dict[str, bool]:
    """Whether a rollout's own log-odds name the first answer; those without a verdict are left out."""
    own = table[table["readout"].eq(VERDICT) & table["status"].eq("ok") & table["score"].ne(0)]
    return dict(zip(own["rollout"], own["score"] > 0, strict=True))


def narrowed(found: Judged, items: Collection[str]) -> Judged:
    """The verdicts of some items, with their rollouts."""
    rows = found.verdicts[found.verdicts["item"].isin(list(items))]
    ids = set(rows["rollout"])

    def kept(rollouts: Sequence[Rollout]) -> tuple[Rollout, ...]:
        return tuple(r for r in rollouts if r.id in ids)

    labels = found.labels[found.labels["rollout"].isin(ids)]
    return Judged(rows.reset_index(drop=True), labels, kept(found.rollouts), kept(found.written))


def thought_items(run: Run) -> tuple[list[str], list[str]]:
    """Items that choose, and items that are traced: the first so many, in the study's order, of those judged after
    thinking, the latter of the test part."""
    part, most = part_of(run), run.study.trace.items
    seen = list(dict.fromkeys(judged(run, "base", PLAIN, "on").verdicts["item"]))
    choose = [i for i in seen if part[i] != "test"]
    return choose[:most], [i for i in seen if part[i] == "test"][:most]


def further_readouts(run: Run) -> list[LinearReadout]:
    """The probes of stage ``verdict_probes``, read at every token; none where that stage did not fit any.

    They were fitted without thinking, where the verdict is read; before that they are read where they never were.
    """
    if not (run.out / "verdict_probes.json").is_file():
        return []
    found = [from_dict(data) for data in run.read_json("verdict_probes").get("readouts", {}).values()]
    return [replace(made, positions="all") for made in found if isinstance(made, LinearReadout)]

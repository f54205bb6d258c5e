"""What reads a judge's verdict in its thinking: a layer of the logit lens, probes, and the judge itself, cut off.

The layer of the lens and every zero are chosen on the parts that choose (train and validation); what is reported comes
from the test part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.activations import LinearReadout, LogOddsReadout, Readout
from verdictscope.activations.readouts import readout_from_dict
from verdictscope.judgments import Judged, PairItem
from verdictscope.judgments.labels import Encoded, distinct, encode_labels, label_log_odds
from verdictscope.rollouts import Rollout
from verdictscope.stats import auroc
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge import study_format
from verdictscope.study.tasks.judge.generate import PLAIN, part_of
from verdictscope.traces import lens_readouts
from verdictscope.traces.verdicts import verdict_trace

LENS = "lens"
"""The chosen layer of the logit lens."""

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
    def of(cls, run: RunFolder) -> Ending:
        """Of the run's format and the judge's tokenizer."""
        form, tokenizer = study_format(run.study), run.model().tokenizer
        labels = form.labels(PairItem(id="any", question="any", a="any", b="any"))
        encoded = encode_labels(tokenizer, [label.text for label in labels], form.lead)
        short = Encoded(encoded.shared, distinct(encoded.strings))
        return cls(encoded.shared, label_log_odds(VERDICT, short, [label.verdict for label in labels]))


@dataclass(frozen=True)
class Readers:
    """The linear readouts of the verdict: a layer of the lens, and the probes that an earlier stage fitted.

    A readout's zero lies half-way between the mean scores, in the thinking, of verdicts for the first and for the
    second answer: without it a sign would tell of the readout and not of the verdict.

    Attributes:
        readouts: what is traced: every layer of the lens as it is; its chosen layer (``lens``) and the probes, with
            their zeros taken off.
        layer: the chosen layer.
        zeros: by name, in the readout's own scores.
        auroc: by name how well a rollout's mean score in its thinking tells which answer its verdict names.
        layers: the same by layer of the lens.
        n: rollouts they were chosen on, by which answer they name (first, second).
        about: why nothing could be chosen.
    """

    readouts: tuple[LinearReadout, ...]
    layer: int
    zeros: Mapping[str, float]
    auroc: Mapping[str, float]
    layers: Mapping[int, float]
    n: tuple[int, int]
    about: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Readers whose sign means something: the lens and the probes."""
        return tuple(self.zeros)


def choose_readers(run: RunFolder, ending: Ending, items: Collection[str]) -> tuple[Readers, dict[str, bool]]:
    """The layer of the lens whose scores in the thinking tell the verdict best, and every readout's zero.

    Args:
        run: the run.
        ending: the verdict's readout.
        items: ids of items that choose; their plain verdicts are read.

    Returns:
        the readers, and by rollout whether its verdict names the first answer.
    """
    model = run.model()
    some = narrowed(run.judged("base", PLAIN, "on"), items)
    every, probes = lens_readouts(model, replace(ending.readout, positions="all")), probes_of(run)
    if len(some.verdicts):
        read: list[Readout] = [*every, *probes, ending.readout]
        table = verdict_trace(model, some, read, plan_tokens=run.study.batch_tokens)
        named, scores = _named(table), _in_thinking(table)
        scores = scores.loc[[i for i in scores.index if i in named]]
    else:
        named, scores = {}, pd.DataFrame()
    y = np.array([named[i] for i in scores.index], dtype=int)
    both = len(set(y)) == 2
    about = "" if both else "verdicts of the choosing parts name one answer: the last layer, and zeros as they are"
    separation = {k: float(auroc(y, scores[k].to_numpy())) for k in scores} if both else {}
    lens = every[0].name
    layers = {layer: separation[name, layer] for name, layer in separation if name == lens}
    best = max(layers, key=lambda layer: (layers[layer], layer)) if layers else model.n_layers - 1
    chosen = [(LENS, next(r for r in every if r.layer == best)), *((r.name, r) for r in probes)]
    readouts = list(every)
    zeros: dict[str, float] = {}
    single: dict[str, float] = {}
    for name, own in chosen:
        key = (own.name, own.layer)
        zeros[name] = float(np.mean([scores[key].to_numpy()[y == side].mean() for side in (0, 1)])) if both else 0.0
        readouts.append(replace(own, name=name, bias=own.bias - zeros[name]))
        single |= {name: separation[key]} if both else {}
    n = (int(y.sum()), int(len(y) - y.sum()))
    return Readers(tuple(readouts), best, zeros, single, layers, n, about), named


def _in_thinking(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score of every rollout's thinking, a column per readout and layer."""
    rows = table[table["segment"].eq("thinking") & table["layer"].notna()]
    wide = rows.groupby(["rollout", "readout", "layer"])["score"].mean().unstack(["readout", "layer"])
    wide.columns = pd.Index([(str(name), int(layer)) for name, layer in wide.columns], tupleize_cols=False)
    return wide


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


def thought_items(run: RunFolder) -> tuple[list[str], list[str]]:
    """Items that choose, and items that are traced: so many of each, evenly spaced in the study's order among those
    judged after thinking, the latter of the test part."""
    part, most = part_of(run), run.study.trace.items
    seen = list(dict.fromkeys(run.judged("base", PLAIN, "on").verdicts["item"]))
    choose, test = ([i for i in seen if (part[i] == "test") == wanted] for wanted in (False, True))
    return spread(choose, most), spread(test, most)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spaced: a study's items often stand by kind."""
    if len(items) <= most:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, most).round().astype(int)]


def probes_of(run: RunFolder) -> list[LinearReadout]:
    """The probes of stage ``probe``, scored at every token; none where that stage did not fit any.

    They were fitted without thinking, where the verdict is read; before that they are read where they never were.
    """
    if not (run.out / "verdict_probes.json").is_file():
        return []
    found = [readout_from_dict(data) for data in run.read_json("verdict_probes").get("readouts", {}).values()]
    return [replace(made, positions="all") for made in found if isinstance(made, LinearReadout)]

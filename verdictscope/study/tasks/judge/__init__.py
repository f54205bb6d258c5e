"""The task *judge*: what moves a judge's verdict besides the answers, and through which heads?

Pairs are judged in both orders, plainly, under a control sentence and under each cue. A verdict's log-odds have a
content contrast, a position contrast and one contrast per cue (:mod:`verdictscope.judgments.contrasts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verdictscope.errors import InputError
from verdictscope.sources import locate
from verdictscope.study.schema import Study
from verdictscope.study.tasks import Task, register
from verdictscope.study.tasks.judge.data import JudgeData

if TYPE_CHECKING:
    from numpy import ndarray

    from verdictscope.activations import LogOddsReadout, Model, Readout
    from verdictscope.judgments import Contrast, PairItem
    from verdictscope.judgments.formats.format import Format
    from verdictscope.rollouts import Rollout
    from verdictscope.study.folder import RunFolder


class Judge(Task):
    """Which of two answers is better, and what else the verdict follows."""

    name = "judge"
    data = JudgeData
    stages = ("generate", "probe", "trace", "heads", "ablate", "mitigate", "results", "figures", "report")
    computed_by = {
        "generate": "verdictscope.study.tasks.judge.generate:run_generate",
        "probe": "verdictscope.study.tasks.judge.probe:run_probe",
        "trace": "verdictscope.study.tasks.judge.trace:run_trace",
    }
    wording = {
        "yes": "first",
        "no": "second",
        "unit": "item",
        "target": "items under a cue",
        "control": "items under the control sentence",
    }

    sublayers = {"explore": ("mlp_out",), "report": ("mlp_out",)}
    read_at = "last"

    def swept(self, study: Study) -> list[str]:
        return ["base", "reference"] if study.reference else ["base"]

    def positions(self, study: Study) -> str:
        return study.heads.positions

    def random_sets(self, study: Study) -> int:
        return study.mitigations.random_sets

    def decision_at(self, decision: LogOddsReadout) -> Readout:
        """The log-odds where the label strings first differ, at a fraction of the cost."""
        from verdictscope.judgments.labels import at_first_difference

        return at_first_difference(decision)

    def decided(
        self, run: RunFolder, variant: str, split: str, *, every: bool = False, thinking: str = "off"
    ) -> tuple[list[Rollout], dict[str, Contrast]]:
        """The verdict prefixes of the split's items under every condition. Without thinking the tokens of all
        conditions are the same but for the cue."""
        from verdictscope.study.tasks.judge.generate import conditions

        kept = split_items(run, split, None if every else run.study.heads.items)
        contrasts = {name: contrast.among(kept) for name, contrast in run.contrasts(variant, thinking).items()}
        used = {name for contrast in contrasts.values() for ids in contrast.rollouts for name in ids}
        written = [r for condition in conditions(run) for r in run.judged(variant, condition, thinking).rollouts]
        return [r for r in written if r.id in used], contrasts

    def linear_readouts(self, run: RunFolder, variant: str) -> dict[str, tuple[Readout, str]]:
        return {"log_odds": (self.decision_at(run.decision()), self.read_at)}

    def rates(
        self, contrasts: Mapping[str, Contrast], values: ndarray, rollouts: Sequence[str]
    ) -> dict[str, tuple[ndarray, tuple[str, ...]]]:
        """``accuracy``: how many orders of an item with a better answer are judged right."""
        from verdictscope.judgments.contrasts import CONTENT

        content = contrasts[CONTENT]
        right = [
            replace(
                content,
                rollouts=tuple((ids[order],) for ids in content.rollouts),
                weights=tuple((float(np.sign(weights[order])),) for weights in content.weights),
            ).of(values, rollouts)
            > 0
            for order in range(2)
        ]
        return {"accuracy": (np.mean(right, axis=0), content.groups)}

    def files(self, study: Study) -> list[str]:
        return [study.data.items.file, study.data.items.format]

    def source(self, study: Study) -> list[PairItem]:
        """The pairs that a judge study names.

        Raises:
            InputError: they cannot be read, or are no pairs.
        """
        from verdictscope.judgments import PairItem, load_items

        section = study.data.items
        source = section.file if section.file == "hub" else Path(locate(section.file))
        found: list[PairItem] = []
        for item in load_items(source, section.reader, section.part, limit=section.limit).items:
            if not isinstance(item, PairItem):
                raise InputError(
                    f"item {item.id} of {section.file} is no pair: a judge study asks which of two answers is better"
                )
            found.append(item)
        return found

    def decision(self, model: Model, study: Study) -> Readout:
        """The log-odds of the answer shown first against the second, where their label strings first differ."""
        from verdictscope.judgments import verdict_readout

        return verdict_readout(model, study_format(study))

    def contrasts(self, run: RunFolder, variant: str, thinking: str) -> dict[str, Contrast]:
        """Content, position, and what each cue adds, from a variant's verdicts."""
        from verdictscope.judgments import cue_contrast, order_contrasts

        found = order_contrasts(run.judged(variant, "plain", thinking))
        control, items = run.judged(variant, "control", thinking), run.table("items")
        targets = dict(zip(items["item"], items["target"], strict=True))
        for cue in run.study.data.cues:
            found[cue] = cue_contrast(cue, control, run.judged(variant, cue, thinking), targets)
        return found


def split_items(run: RunFolder, split: str, most: int | None) -> set[str]:
    """Items of a split (``explore``: train and validation; ``report``: test), ``most`` of them, evenly spaced in the
    order of the file, which keeps the kinds of items in proportion."""
    from verdictscope.study.tasks.judge.generate import part_of

    parts = part_of(run)
    own = [item.id for item in run.items() if (parts[item.id] == "test") == (split == "report")]
    if most is None or most >= len(own):
        return set(own)
    return {own[int(at)] for at in (np.arange(most) + 0.5) * len(own) / most}


def study_format(study: Study) -> Format:
    """The study's prompt format: a shipped name, a file, or one beside a bundled model."""
    from verdictscope.judgments import load_format

    return load_format(locate(study.data.items.format))


register(Judge())

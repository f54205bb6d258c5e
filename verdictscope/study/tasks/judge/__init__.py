"""The task *judge*: what moves a judge's verdict besides the answers, and through which heads?

Pairs are judged in both orders, plainly, under a control sentence and under each cue. A verdict's log-odds have a
content contrast, a position contrast and one contrast per cue (:mod:`verdictscope.judgments.contrasts`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from verdictscope.errors import InputError
from verdictscope.sources import locate
from verdictscope.study.schema import Study
from verdictscope.study.tasks import Task, register
from verdictscope.study.tasks.judge.data import JudgeData

if TYPE_CHECKING:
    from verdictscope.activations import Model, Readout
    from verdictscope.judgments import Contrast, PairItem
    from verdictscope.judgments.formats.format import Format
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
        "heads": "verdictscope.study.stages.bias_heads:run_bias_heads",
        "ablate": "verdictscope.study.stages.mitigations:run_bias_sets",
        "mitigate": "verdictscope.study.stages.mitigations:run_mitigations",
    }
    wording = {
        "yes": "first",
        "no": "second",
        "unit": "item",
        "target": "items under a cue",
        "control": "items under the control sentence",
    }

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


def study_format(study: Study) -> Format:
    """The study's prompt format: a shipped name, a file, or one beside a bundled model."""
    from verdictscope.judgments import load_format

    return load_format(locate(study.data.items.format))


register(Judge())

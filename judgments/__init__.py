"""The room ``judgments``: answers become verdicts, label strings become readouts."""

if __name__ != "verdictscope.judgments":
    raise ImportError("import this room as verdictscope.judgments: the bare folder name is not a package")

from verdictscope.judgments.asking import Insertion, ask
from verdictscope.judgments.contrasts import Contrast, cue_contrast, mean_contrast, order_contrasts
from verdictscope.judgments.cues.cue import make_cues
from verdictscope.judgments.formats.format import load_format
from verdictscope.judgments.items import AnswerItem, ChoiceItem, DebateItem, PairItem
from verdictscope.judgments.judging import Judged, JudgeSettings, judge
from verdictscope.judgments.labels import verdict_readout
from verdictscope.judgments.loaders.load import load_items
from verdictscope.judgments.readouts import readout_from_rollouts, refusal_readout
from verdictscope.judgments.refusal import label_rollouts

__all__ = [
    "AnswerItem",
    "ChoiceItem",
    "Contrast",
    "DebateItem",
    "Insertion",
    "JudgeSettings",
    "Judged",
    "PairItem",
    "ask",
    "cue_contrast",
    "judge",
    "label_rollouts",
    "load_format",
    "load_items",
    "make_cues",
    "mean_contrast",
    "order_contrasts",
    "readout_from_rollouts",
    "refusal_readout",
    "verdict_readout",
]

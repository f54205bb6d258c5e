"""The room ``judgments``: answers become verdicts, label strings become readouts."""

if __name__ != "verdictscope.judgments":
    raise ImportError("import this room as verdictscope.judgments: the bare folder name is not a package")

from verdictscope.judgments.asking import Asked, Insertion, ask, rendered
from verdictscope.judgments.cues import Cue, cue_study, make_cue, make_cues
from verdictscope.judgments.formats import Format, Label, Parsed, known_formats, load_format
from verdictscope.judgments.guard import FORMATS, Guard, GuardFormat
from verdictscope.judgments.items import AnswerItem, ChoiceItem, DebateItem, Item, PairItem, Step, Turn
from verdictscope.judgments.judge import VERDICT_COLUMNS, Judged, judge_items
from verdictscope.judgments.labels import Encoded, encode_labels, label_logprobs, verdict_readout
from verdictscope.judgments.preference import pair_conditioned, reward_preference, sequence_preference
from verdictscope.judgments.readers import READERS, Reader, Reading, known_readers, read_items
from verdictscope.judgments.readouts import (
    answer_context,
    encode_label,
    first_tokens,
    readout_from_rollouts,
    refusal_readout,
)
from verdictscope.judgments.refusal import OPENINGS, label_rollouts, refusal_opening, refused
from verdictscope.judgments.scores import (
    distribution_sensitive,
    expected_score,
    less_perplexed,
    likelihood_aware,
    probabilities,
    verdict_probabilities,
)

__all__ = [
    "FORMATS",
    "OPENINGS",
    "READERS",
    "VERDICT_COLUMNS",
    "AnswerItem",
    "Asked",
    "ChoiceItem",
    "Cue",
    "DebateItem",
    "Encoded",
    "Format",
    "Guard",
    "GuardFormat",
    "Insertion",
    "Item",
    "Judged",
    "Label",
    "PairItem",
    "Parsed",
    "Reader",
    "Reading",
    "Step",
    "Turn",
    "answer_context",
    "ask",
    "cue_study",
    "distribution_sensitive",
    "encode_label",
    "encode_labels",
    "expected_score",
    "first_tokens",
    "judge_items",
    "known_formats",
    "known_readers",
    "label_logprobs",
    "label_rollouts",
    "less_perplexed",
    "likelihood_aware",
    "load_format",
    "make_cue",
    "make_cues",
    "pair_conditioned",
    "probabilities",
    "read_items",
    "readout_from_rollouts",
    "refusal_opening",
    "refusal_readout",
    "refused",
    "rendered",
    "reward_preference",
    "sequence_preference",
    "verdict_probabilities",
    "verdict_readout",
]

"""The room ``judgments``: answers become verdicts, label strings become readouts."""

if __name__ != "verdictscope.judgments":
    raise ImportError("import this room as verdictscope.judgments: the bare folder name is not a package")

from verdictscope.judgments.guard import FORMATS, Guard, GuardFormat
from verdictscope.judgments.items import AnswerItem, ChoiceItem, DebateItem, Item, PairItem, Step, Turn
from verdictscope.judgments.readers import READERS, Reader, Reading, known_readers, read_items
from verdictscope.judgments.readouts import (
    answer_context,
    encode_label,
    first_tokens,
    readout_from_rollouts,
    refusal_readout,
)
from verdictscope.judgments.refusal import OPENINGS, label_rollouts, refusal_opening, refused

__all__ = [
    "FORMATS",
    "OPENINGS",
    "READERS",
    "AnswerItem",
    "ChoiceItem",
    "DebateItem",
    "Guard",
    "GuardFormat",
    "Item",
    "PairItem",
    "Reader",
    "Reading",
    "Step",
    "Turn",
    "answer_context",
    "encode_label",
    "first_tokens",
    "known_readers",
    "label_rollouts",
    "read_items",
    "readout_from_rollouts",
    "refusal_opening",
    "refusal_readout",
    "refused",
]

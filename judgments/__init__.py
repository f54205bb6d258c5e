"""The room ``judgments``: answers become verdicts, label strings become readouts."""

if __name__ != "verdictscope.judgments":
    raise ImportError("import this room as verdictscope.judgments: the bare folder name is not a package")

from verdictscope.judgments.readouts import answer_context, encode_label, first_tokens, refusal_readout
from verdictscope.judgments.refusal import OPENINGS, label_rollouts, refusal_opening, refused

__all__ = [
    "OPENINGS",
    "answer_context",
    "encode_label",
    "first_tokens",
    "label_rollouts",
    "refusal_opening",
    "refusal_readout",
    "refused",
]

"""Cues that should not move a judge, their controls, studies with them, and what is said to a judge against them."""

from verdictscope.judgments.cues.cue import KINDS, TEXTED, Cue, Variant, make_cue, make_cues, sentences, targets
from verdictscope.judgments.cues.mitigations import examples, self_reflection, system_rules
from verdictscope.judgments.cues.padding import count, matched
from verdictscope.judgments.cues.study import CUE_COLUMNS, cue_study, paired_variants

__all__ = [
    "CUE_COLUMNS",
    "KINDS",
    "TEXTED",
    "Variant",
    "Cue",
    "count",
    "cue_study",
    "examples",
    "make_cue",
    "make_cues",
    "matched",
    "paired_variants",
    "self_reflection",
    "sentences",
    "system_rules",
    "targets",
]

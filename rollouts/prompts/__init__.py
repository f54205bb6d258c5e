"""Prompt sets: public ones by name, files of any known form, duplicates, and the 2 x 2 design."""

from verdictscope.rollouts.prompts.design import Design, cells, design, soft_labels
from verdictscope.rollouts.prompts.duplicates import duplicate_report, merge_groups, near_duplicates, without_duplicates
from verdictscope.rollouts.prompts.sets import join_prompts, known_sets, load_prompts
from verdictscope.rollouts.prompts.table import read_prompts

__all__ = [
    "Design",
    "cells",
    "design",
    "duplicate_report",
    "join_prompts",
    "known_sets",
    "load_prompts",
    "merge_groups",
    "near_duplicates",
    "read_prompts",
    "soft_labels",
    "without_duplicates",
]

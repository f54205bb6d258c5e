"""Prompt sets: from a local file to one checked table."""

from verdictscope.rollouts.prompts.table import read_prompts

__all__ = ["read_prompts"]

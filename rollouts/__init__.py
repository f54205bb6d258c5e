"""The room ``rollouts``: prompts become what the model was shown and wrote, as token ids with segments."""

if __name__ != "verdictscope.rollouts":
    raise ImportError("import this room as verdictscope.rollouts: the bare folder name is not a package")

from verdictscope.rollouts.continued import continue_rollouts, prolong
from verdictscope.rollouts.discover import find_markers
from verdictscope.rollouts.divergence import Divergence, measure_divergence
from verdictscope.rollouts.engines.server import Server
from verdictscope.rollouts.forced import Forcer, cut, until_answer
from verdictscope.rollouts.generate import ChatOptions, generate, stop_tokens
from verdictscope.rollouts.language_model import HasModel, LanguageModel, tokenizer_of
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.pieces import pieces
from verdictscope.rollouts.prompts import (
    Design,
    cells,
    design,
    duplicate_report,
    join_prompts,
    known_sets,
    load_prompts,
    merge_groups,
    near_duplicates,
    read_prompts,
    soft_labels,
    without_duplicates,
)
from verdictscope.rollouts.rollout import SEGMENTS, Finish, Rollout, Sampling, Span
from verdictscope.rollouts.segments import Segmenter, answer_text, thinking_text
from verdictscope.rollouts.tables import from_frame, read_parquet, to_frame, write_parquet
from verdictscope.rollouts.templates import RenderedPrompt, render_messages, render_prompt
from verdictscope.rollouts.transcripts import Imported, import_transcripts

__all__ = [
    "SEGMENTS",
    "ChatOptions",
    "Design",
    "Divergence",
    "Finish",
    "Forcer",
    "HasModel",
    "Imported",
    "LanguageModel",
    "Markers",
    "RenderedPrompt",
    "Rollout",
    "Sampling",
    "Segmenter",
    "Server",
    "Span",
    "answer_text",
    "cells",
    "continue_rollouts",
    "cut",
    "design",
    "duplicate_report",
    "find_markers",
    "from_frame",
    "generate",
    "import_transcripts",
    "join_prompts",
    "known_sets",
    "load_prompts",
    "measure_divergence",
    "merge_groups",
    "near_duplicates",
    "pieces",
    "prolong",
    "read_parquet",
    "read_prompts",
    "render_messages",
    "render_prompt",
    "soft_labels",
    "stop_tokens",
    "thinking_text",
    "tokenizer_of",
    "to_frame",
    "until_answer",
    "without_duplicates",
    "write_parquet",
]

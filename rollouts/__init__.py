"""The room ``rollouts``: prompts become what the model was shown and wrote, as token ids with segments."""

if __name__ != "verdictscope.rollouts":
    raise ImportError("import this room as verdictscope.rollouts: the bare folder name is not a package")

from verdictscope.rollouts.continued import continue_rollouts, prolong
from verdictscope.rollouts.discover import find_markers
from verdictscope.rollouts.engines.server import Server
from verdictscope.rollouts.forced import Forcer
from verdictscope.rollouts.generate import ChatOptions, generate
from verdictscope.rollouts.language_model import LanguageModel
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.pieces import pieces
from verdictscope.rollouts.prompts.sets import load_prompts
from verdictscope.rollouts.prompts.table import read_prompts
from verdictscope.rollouts.rollout import Rollout, Sampling, Span
from verdictscope.rollouts.segments import answer_text
from verdictscope.rollouts.tables import read_parquet, write_parquet
from verdictscope.rollouts.templates import render_prompt
from verdictscope.rollouts.transcripts import import_transcripts

__all__ = [
    "ChatOptions",
    "Forcer",
    "LanguageModel",
    "Markers",
    "Rollout",
    "Sampling",
    "Server",
    "Span",
    "answer_text",
    "continue_rollouts",
    "find_markers",
    "generate",
    "import_transcripts",
    "load_prompts",
    "pieces",
    "prolong",
    "read_parquet",
    "read_prompts",
    "render_prompt",
    "write_parquet",
]

"""The schema of ``study.toml``, one module per kind of study."""

from verdictscope.study.schema.base import FORMAT, BaseStudy
from verdictscope.study.schema.judge import JudgeStudy
from verdictscope.study.schema.refusal import Study

KINDS: dict[str, type[BaseStudy]] = {"refusal": Study, "judge": JudgeStudy}
"""Kind of study to its schema; a file without ``kind`` is of the first."""
AnyStudy = Study | JudgeStudy

__all__ = ["FORMAT", "KINDS", "AnyStudy", "BaseStudy", "JudgeStudy", "Study"]

"""The schema of ``study.toml``: sections of any study; each task adds its own (`verdictscope.study.tasks`)."""

from verdictscope.study.schema.base import FORMAT, Data, Scalar, Section, Study

__all__ = ["FORMAT", "Data", "Scalar", "Section", "Study"]

"""Selecting training data by the depth of its cliff, fine-tuning on it, and measuring what changed."""

if __name__ != "verdictscope.repair":
    raise ImportError("import this room as verdictscope.repair: the bare folder name is not a package")

from verdictscope.repair.selection import METHODS, Budget, PoolRanking, pool_scores, rank_pool
from verdictscope.repair.training_files import Example, example, fit_messages, mix, write_files

__all__ = [
    "Budget",
    "Example",
    "METHODS",
    "PoolRanking",
    "example",
    "fit_messages",
    "mix",
    "pool_scores",
    "rank_pool",
    "write_files",
]

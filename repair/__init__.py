"""Select training data by the drop of a trace, fine-tune on it and measure what changed (extra ``[repair]``)."""

if __name__ != "verdictscope.repair":
    raise ImportError("import this room as verdictscope.repair: the bare folder name is not a package")

from verdictscope.repair.finetune import Training
from verdictscope.repair.pools import Pool, read_pool
from verdictscope.repair.ranking import METHODS, pool_scores, rank_pool
from verdictscope.repair.repair import repair_model
from verdictscope.repair.selection import SelectionSettings, select

__all__ = [
    "METHODS",
    "Pool",
    "SelectionSettings",
    "Training",
    "pool_scores",
    "rank_pool",
    "read_pool",
    "repair_model",
    "select",
]

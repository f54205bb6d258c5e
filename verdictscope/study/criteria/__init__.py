"""The evidence ladder: criteria evaluated on a run's results, each with its rule and what it does not show."""

import verdictscope.study.criteria.bias as bias
import verdictscope.study.criteria.heads as heads
from verdictscope.study.criteria.criterion import Assessment, Criterion, Evidence
from verdictscope.study.criteria.probing import BASELINES, TRANSFERS, readable
from verdictscope.study.criteria.replicated import REPLICATED, replicated
from verdictscope.study.results import ALL, Results

__all__ = ["LADDERS", "Assessment", "Criterion", "Evidence", "assess", "replicated"]

LADDERS: dict[str, tuple[Criterion, ...]] = {
    "refusal": (
        readable(("refusal, AUROC on test prompts", ALL, "AUROC")),
        BASELINES,
        TRANSFERS,
        heads.located(("refusal",)),
        heads.ATTRIBUTION,
        heads.NECESSARY,
        heads.SPECIFIC,
        heads.SUFFICIENT,
    ),
    "judge": (
        bias.MEASURED,
        readable(
            ("the verdict, AUROC on test items", "last", "AUROC"),
            ("the correct answer, AUROC on test items", "correctness, plain", "AUROC"),
        ),
        heads.located(),
        bias.NECESSARY,
        bias.SPECIFIC,
        bias.ABSENT,
        bias.MITIGATED,
    ),
}
"""Criteria by task; *replicated* follows them in every ladder."""


def assess(kind: str, results: Results) -> list[Assessment]:
    """The evidence ladder of a run.

    Args:
        kind: task of its study; one without a ladder of its own has that of refusal.
        results: of the run.
    """
    return [*(criterion.assess(results) for criterion in LADDERS.get(kind, LADDERS["refusal"])), REPLICATED.decided(())]

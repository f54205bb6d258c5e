"""Linear probes with scikit-learn's manners; each is a direction and a bias in the model's own space."""

from verdictscope.probes.estimators.closed import DifferenceProbe, LdaProbe, RidgeProbe, ScoreProbe
from verdictscope.probes.estimators.logistic import LogisticProbe, PairProbe
from verdictscope.probes.estimators.many import MulticlassProbe, OrdinalProbe

__all__ = [
    "DifferenceProbe",
    "LdaProbe",
    "LogisticProbe",
    "MulticlassProbe",
    "OrdinalProbe",
    "PairProbe",
    "RidgeProbe",
    "ScoreProbe",
]

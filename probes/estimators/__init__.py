"""Linear probes with scikit-learn's interface; each is a direction and a bias in the model's own space."""

from verdictscope.probes.estimators.closed import DifferenceProbe, LdaProbe, RidgeProbe, ScoreProbe
from verdictscope.probes.estimators.logistic import LogisticProbe

__all__ = ["DifferenceProbe", "LdaProbe", "LogisticProbe", "RidgeProbe", "ScoreProbe"]

"""The probes under the name earlier code imports them by."""

from verdictscope.probes.estimators import LogisticProbe

__all__ = ["LogisticProbe"]

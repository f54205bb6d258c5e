"""Edits that are made in the weights: checkpoints on disk that any engine serves at full speed."""

from verdictscope.interventions.weights.bake import bake
from verdictscope.interventions.weights.checkpoint import Made
from verdictscope.interventions.weights.patching import transplant, transplanted

__all__ = ["Made", "bake", "transplant", "transplanted"]

"""Models of other libraries: the same calls on a TransformerLens bridge or an nnsight model, with the same rows."""

from verdictscope.activations.backends.adapters import Backend, NNsightBackend, TransformerLensBackend, backend_of

__all__ = ["Backend", "NNsightBackend", "TransformerLensBackend", "backend_of"]

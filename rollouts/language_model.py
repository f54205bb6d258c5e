"""What this room needs of a loaded model: the Hugging Face model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError


@runtime_checkable
class HasModel(Protocol):
    """Anything that holds a Hugging Face model and its tokenizer, as :class:`verdictscope.activations.Model` does."""

    @property
    def hf(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A Hugging Face model with its tokenizer, where nothing of the model's inside is needed.

    Attributes:
        hf: a causal language model, also compiled or with adapters; ``None`` where an engine elsewhere generates.
        tokenizer: its tokenizer.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from verdictscope.sources import locate
        >>> remote = LanguageModel(None, AutoTokenizer.from_pretrained(locate("organism:cliff")))
        >>> tokenizer_of(remote) is remote.tokenizer
        True
    """

    hf: Any
    tokenizer: PreTrainedTokenizerBase


def tokenizer_of(model: HasModel | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; a tokenizer is returned as it is."""
    if isinstance(model, PreTrainedTokenizerBase):
        return model
    if not isinstance(model, HasModel):
        raise InputError(f"a {type(model).__name__} holds no tokenizer: load it with load_model, or wrap it with one")
    if model.tokenizer is None:
        raise InputError("this model was loaded without a tokenizer: give it one")
    return model.tokenizer

"""Open a bundled model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.errors import InputError

MODELS = Path(__file__).resolve().parent / "models"


def names() -> list[str]:
    """Names of the bundled models."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def path(name: str) -> Path:
    """Folder of a bundled model.

    Raises:
        InputError: there is no such model.
    """
    if name not in names():
        raise InputError(f"no bundled model named {name!r}; there are: {', '.join(names()) or 'none'}")
    return MODELS / name


def load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A bundled model in float32, ready for inference, and its tokenizer. Never asks a model hub."""
    folder = path(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)

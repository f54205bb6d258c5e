"""TransformerLens and nnsight as the tests run them: imported without side effects, and read directly."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any
from unittest import mock

from torch import Tensor
from transformers.utils import logging as hf_logging

from verdictscope.activations.backends import import_nnsight


@contextlib.contextmanager
def import_transformer_lens() -> Iterator[ModuleType]:
    """``transformer_lens.model_bridge`` for the ``with`` block; it sets loggers and filters, and may run pip."""
    level, filters = hf_logging.get_verbosity(), list(warnings.filters)
    import transformer_lens.model_bridge as bridge
    import transformer_lens.model_bridge.sources.transformers.helpers as helpers

    def restore() -> None:
        hf_logging.set_verbosity(level)
        warnings.filters[:] = filters  # type: ignore[index]

    restore()
    try:
        with mock.patch.object(helpers, "_ensure_torchvision", return_value=False, create=True):
            yield bridge
    finally:
        restore()


def trace_outputs(held: Any, ids: Tensor, paths: Sequence[str]) -> list[Tensor]:
    """The output tensors of modules, as one nnsight trace saves them."""
    with import_nnsight() as nnsight:
        save, names = nnsight.save, list(paths)
        with held.trace(ids):
            outputs = save([held.get(name).output for name in names])
    return [out if isinstance(out, Tensor) else out[0] for out in outputs]

"""Imports of libraries that change global state while they are imported, and what puts it back.

TransformerLens sets the transformers logger to ERROR, adds a warning filter, and installs torchvision with pip when it
boots a multimodal model and finds none; that can replace the installed torch, so it is kept from it. nnsight mounts
``.save`` on every object and replaces ``torch.Tensor.backward``. Where the user has imported them already, they stay as
they are.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

import torch
from transformers.utils import logging as hf_logging


@contextlib.contextmanager
def import_transformer_lens() -> Iterator[ModuleType]:
    """``transformer_lens.model_bridge`` for the ``with`` block; logger and warning filters as before from the start.

    Inside the block it installs nothing.
    """
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


@contextlib.contextmanager
def import_nnsight() -> Iterator[ModuleType]:
    """``nnsight`` for the ``with`` block; afterwards no object has a ``.save`` that had none before."""
    held = "nnsight" in sys.modules
    backward = torch.Tensor.backward
    import nnsight

    if not held:
        _unmount()
    try:
        yield nnsight
    finally:
        if not held:
            torch.Tensor.backward = backward  # type: ignore[method-assign]


def _unmount() -> None:
    if hasattr(object, "save"):
        from nnsight._c import py_mount

        py_mount.unmount("save")

"""What is run through nnsight itself: the comparison traces, and the request that reads a model on NDIF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verdictscope.activations.backends.imports import import_nnsight
from verdictscope.errors import InputError, reason


def trace_outputs(held: Any, ids: Tensor, paths: Sequence[str], remote: bool | str = False) -> list[Tensor]:
    """The output tensors of modules, as one nnsight trace saves them.

    Args:
        held: an nnsight ``TransformersModel``.
        ids: ``[1 pos]`` token ids.
        paths: module paths from the model's root, in the order in which they run.
        remote: ``False`` here, ``True`` on NDIF, ``"local"`` here through the form in which it would be sent.
    """
    with import_nnsight() as nnsight:
        save, names = nnsight.save, list(paths)
        with held.trace(ids, remote=remote):
            outputs = save([held.get(name).output for name in names])
    return [out if isinstance(out, Tensor) else out[0] for out in outputs]


def trace_logits(held: Any, ids: Tensor) -> Tensor:
    """The model's logits as one nnsight trace saves them."""
    with import_nnsight() as nnsight:
        save = nnsight.save
        with held.trace(ids, use_cache=False):
            logits = save(held.output.logits)
    return logits


@dataclass(frozen=True)
class RemoteRequest:
    """A request as it would go to NDIF.

    Attributes:
        model_key: names the model there; ``None`` where the hub, which knows the name, cannot be asked.
        payload: the serialised trace.
        host: where it would go.
    """

    model_key: str | None
    payload: bytes
    host: str


def remote_request(held: Any, ids: Sequence[int], paths: Sequence[str]) -> RemoteRequest:
    """Builds, and does not send, the request that reads module outputs of a model on NDIF.

    Args:
        held: an nnsight ``TransformersModel``; its weights need not be here.
        ids: token ids of one rollout.
        paths: module paths from the model's root.

    Raises:
        InputError: a path is not in the model, or the trace cannot be serialised.
    """
    missing = [path for path in paths if not _has(held, path)]
    if missing:
        raise InputError(f"the model has no module {missing[0]!r}")
    tokens, names = torch.tensor([list(ids)]), list(paths)
    with import_nnsight() as nnsight:
        from nnsight.schema.config import CONFIG
        from nnsight.schema.request import RequestModel
        from nnsight.tracing.backend import Backend

        class Keep(Backend):
            """Takes the trace in its serialised form instead of running it."""

            payload = b""

            def __call__(self, tracer: Any = None) -> None:
                self.payload = RequestModel.serialize(tracer, compress=True)

        keep, save = Keep(), nnsight.save
        try:
            with held.trace(tokens, backend=keep):
                outputs = save([held.get(name).output for name in names])  # noqa: F841
        except Exception as error:  # serialisation fails in as many ways as there are objects
            raise InputError(f"nnsight cannot send this trace: {reason(error)}") from error
        try:
            key = held.to_model_key()
        except (OSError, ValueError):
            key = None
        return RemoteRequest(key, keep.payload, CONFIG.API.HOST)


def send(held: Any, ids: Sequence[int], paths: Sequence[str]) -> list[Tensor]:
    """Runs the request on NDIF and waits for it.

    Raises:
        InputError: there is no key for the service, or it cannot be reached.
    """
    with import_nnsight():
        from nnsight.schema.config import CONFIG

        if not (CONFIG.API.APIKEY or os.environ.get("NDIF_API_KEY")):
            raise InputError("reading a model on NDIF needs a key: set NDIF_API_KEY, or pass a model on this machine")
        try:
            return trace_outputs(held, torch.tensor([list(ids)]), paths, remote=True)
        except (OSError, ConnectionError) as error:
            raise InputError(f"NDIF at {CONFIG.API.HOST} cannot be reached ({reason(error)}); try later") from error


def _has(held: Any, path: str) -> bool:
    module = getattr(held, "_module", None)
    return module is not None and any(name == path for name, _ in module.named_modules())

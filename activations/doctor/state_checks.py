"""The state of a model that can affect what is read from it, checked before any other check runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.activations.batch import still
from verdictscope.activations.capture import embedding_weight, probe_ids
from verdictscope.activations.doctor.report import Finding
from verdictscope.activations.identities import finite_weights
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import adapters, compiled_parts, foreign_hooks, modules_of, on_device

IN_MEMORY, HOOKS, TOKENIZER = "weights are in memory", "no foreign hooks", "the tokenizer fits the embedding"
ADAPTERS = "no adapter beside the weights"


def state_findings(
    held: nn.Module, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Finding], bool]:
    """One finding a state, and whether the model can be run at all."""
    try:
        on_device(hf)
    except InputError as error:
        return [Finding(IN_MEMORY, "error", detail=str(error))], False
    finite = finite_weights(hf)
    if not finite.ok:
        detail = f"{finite.site} holds NaN or infinite numbers"
        return [Finding(finite.name, "silently wrong", detail=detail)], False
    training = ["train"] if any(m.training for m in modules_of(hf)) else []
    names = [f"{name!r} ({'merged' if merged else 'not merged'})" for name, merged in adapters(hf).items()]
    observers = foreign_hooks(hf)
    hooks = _noted(HOOKS, observers, "{}: observes only; a pass in which it changes a value is an error")
    try:
        if observers:
            with still(hf):
                hf(input_ids=probe_ids(hf), use_cache=False)
    except InputError as error:
        hooks = Finding(HOOKS, "silently wrong", detail=str(error))
    found = [
        Finding(finite.name, "supported"),
        _noted("evaluation mode", training, "in {} mode: passes here run in evaluation mode, your own do not"),
        _noted("nothing is compiled", compiled_parts(held), "compiled: {}; passes here and under edits run uncompiled"),
        _noted(ADAPTERS, names, "adapter {} is part of what is read; to edit weights call merge_and_unload first"),
        hooks,
    ]
    found += [] if tokenizer is None else [_tokenizer(hf, tokenizer)]
    return found, hooks.status != "silently wrong"


def _tokenizer(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Finding:
    rows = embedding_weight(hf).shape[0]
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return Finding(TOKENIZER, "supported")
    first = min(beyond, key=beyond.__getitem__)
    detail = (
        f"{len(beyond)} tokens of the tokenizer have no row among the model's {rows}, first {first!r} "
        f"(id {beyond[first]}): text with one of them is an error; call resize_token_embeddings, or use its tokenizer"
    )
    return Finding(TOKENIZER, "unsupported", detail=detail)


def _noted(check: str, names: Sequence[object], detail: str) -> Finding:
    """Degraded, with the first names, where there are any."""
    if not names:
        return Finding(check, "supported")
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Finding(check, "degraded", detail=detail.format(", ".join(map(str, names[:3])) + rest))

"""What the state of a model may do to what is read from it: looked at before anything is run, and named."""

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


def state_findings(
    held: nn.Module, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Finding], bool]:
    """One finding a state, and whether the model can be run at all.

    Args:
        held: what the caller gave: the model, or what ``torch.compile`` or peft put around it.
        hf: the model inside.
        tokenizer: its tokenizer.
    """
    try:
        on_device(hf)
    except InputError as error:
        return [Finding(IN_MEMORY, "error", detail=str(error))], False
    finite = finite_weights(hf)
    if not finite.ok:
        detail = f"{finite.site} holds NaN or infinite numbers"
        return [Finding(finite.name, "silently wrong", detail=detail)], False
    found = [Finding(finite.name, "supported"), _modes(hf), _compiled(held), _adapters(hf)]
    hooks = _hooks(hf)
    found += [hooks] if tokenizer is None else [hooks, _tokenizer(hf, tokenizer)]
    return found, hooks.status != "silently wrong"


def _modes(hf: PreTrainedModel) -> Finding:
    training = sum(m.training for m in modules_of(hf))
    why = f"{training} modules are in train mode: passes here run in evaluation mode, your own do not"
    return _told("evaluation mode", why if training else "")


def _compiled(held: nn.Module) -> Finding:
    parts = compiled_parts(held)
    why = f"compiled: {_few(parts)}; passes here, and yours under edits, run uncompiled"
    return _told("nothing is compiled", why if parts else "")


def _adapters(hf: PreTrainedModel) -> Finding:
    names = [f"{name!r} ({'merged' if merged else 'not merged'})" for name, merged in adapters(hf).items()]
    why = f"adapter {_few(names)}: read and edited with the model; merge_and_unload before weights are baked or moved"
    return _told("no adapter beside the weights", why if names else "")


def _hooks(hf: PreTrainedModel) -> Finding:
    hooks = foreign_hooks(hf)
    try:
        if hooks:
            with still(hf):
                hf(input_ids=probe_ids(hf), use_cache=False)
    except InputError as error:
        return Finding(HOOKS, "silently wrong", detail=str(error))
    why = f"{_few([str(hook) for hook in hooks])}: looks on; a pass in which it changes a value is an error"
    return _told(HOOKS, why if hooks else "")


def _tokenizer(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Finding:
    rows = embedding_weight(hf).shape[0]
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return Finding(TOKENIZER, "supported")
    first = min(beyond, key=beyond.__getitem__)
    detail = (
        f"{len(beyond)} tokens of the tokenizer have no row among the model's {rows}, first {first!r} "
        f"(id {beyond[first]}): text that holds one is refused; resize_token_embeddings, or take the model's tokenizer"
    )
    return Finding(TOKENIZER, "unsupported", detail=detail)


def _told(check: str, why: str) -> Finding:
    return Finding(check, "degraded" if why else "supported", detail=why)


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest

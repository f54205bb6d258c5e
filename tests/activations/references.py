"""The same values from other libraries, where they load: TransformerLens's bridge and nnsight."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from other_libraries import import_transformer_lens, trace_outputs
from torch import Tensor

from verdictscope.activations.backends import import_nnsight
from verdictscope.activations.doctor.layouts import as_rollout, difference, random_sequences
from verdictscope.activations.doctor.report import Finding, within
from verdictscope.activations.forward import forward
from verdictscope.activations.identities import check
from verdictscope.activations.model import Model
from verdictscope.activations.sitemap import find_modules
from verdictscope.activations.sites import Site
from verdictscope.errors import reason

LARGEST = 2 * 10**9
"""Bytes of weights up to which a second copy of the model is made for a comparison."""
HOOKS = {
    "resid_pre": "hook_in",
    "resid_post": "hook_out",
    "attn_out": "attn.hook_out",
    "mlp_out": "mlp.hook_out",
    "z": "attn.o.hook_in",
}
"""TransformerLens's names, inside a block. Where a family has post-norms or gains its attn and mlp hooks are before
them, so that attn_out and mlp_out are compared only where the branch is the module itself."""


def transformer_lens_checks(model: Model) -> Iterator[Finding]:
    """Every site that TransformerLens's ``run_with_cache`` has too, on a copy of the model."""
    name = "TransformerLens run_with_cache"
    if (large := _too_large(model)) is not None:
        yield Finding(name, "unsupported", detail=large)
        return
    try:
        cache = _bridge_cache(model)
    except Exception as error:  # other people's code: it fails in as many ways as there are families
        yield Finding(name, "unsupported", detail=f"does not load: {reason(error)}")
        return
    yield from _compare(model, name, cache)


def _compare(model: Model, name: str, cache: dict[str, Tensor]) -> Iterator[Finding]:
    (ids,) = random_sequences(model, [18], seed=7)
    worst, count, where = 0.0, 0, (0, "")
    for site, hook in HOOKS.items():
        for layer in range(model.n_layers):
            key = f"blocks.{layer}.{hook}"
            if key not in cache or not _comparable(model, site, layer):
                continue
            read = Site(site, layer) @ "all"
            mine = forward(model, [as_rollout("s", ids)], [read]).values[read][0].flatten(1).float()
            theirs = cache[key][0].reshape(mine.shape).float()
            error = float(difference(mine, theirs).max())
            count += 1
            if error >= worst:
                worst, where = error, (layer, site)
    if not count:
        yield Finding(name, "unsupported", detail="it has none of the sites by these names")
        return
    # It runs eager attention, so its own rounding comes on top.
    finding = within(name, worst, 16 * model.noise_floor, where[0], f"{count} values; worst at {where[1]}")
    if finding.status == "silently wrong":
        finding = _arbitrate(model, finding, where)
    yield finding


def _comparable(model: Model, site: str, layer: int) -> bool:
    block = model.sites.blocks[layer]
    if site == "z":
        return block.o is not None
    named = find_modules(model.hf).blocks[layer]
    if site == "attn_out":
        return block.attn is not None and block.attn.gain == 1.0 and block.attn.module is named.get("attn")
    if site == "mlp_out":
        return block.mlp is not None and block.mlp.gain == 1.0 and block.mlp.module is named.get("mlp")
    return True


def _arbitrate(model: Model, finding: Finding, where: tuple[int, str]) -> Finding:
    """Two libraries disagree: Hugging Face's own hidden states and the identities say which is off."""
    mine = [c for c in check(model) if c.layer == where[0] and c.site in (where[1], "z")]
    if where[1] in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z") and all(c.ok for c in mine):
        text = f"{finding.detail}; our value satisfies the identities, TransformerLens computes something else"
        return Finding(finding.check, "degraded", finding.measured, finding.allowed, finding.layer, text)
    return finding


def _bridge_cache(model: Model) -> dict[str, Tensor]:
    (ids,) = random_sequences(model, [18], seed=7)
    hf = copy.deepcopy(model.hf)
    hf.config.architectures = [type(hf).__name__]
    with _silence(), tempfile.TemporaryDirectory() as folder, import_transformer_lens() as lens:
        tokenizer = model.optional_tokenizer or word_tokenizer(hf, Path(folder))
        # A folder for a name: by the model's own the bridge would ask the hub for a processor, and retry offline.
        hf.config.save_pretrained(folder)
        bridge = lens.TransformerBridge.boot_transformers(
            folder, hf_model=hf, tokenizer=tokenizer, device=str(model.device)
        )
        with torch.no_grad():
            _, cache = bridge.run_with_cache(torch.tensor([ids], device=model.device), prepend_bos=False)
        return {key: value.detach().cpu() for key, value in cache.items() if isinstance(value, Tensor)}


def word_tokenizer(hf: Any, folder: Path) -> Any:
    """A tokenizer of made-up words, one for each token id, for libraries that ask for one."""
    vocab = int(hf.get_input_embeddings().weight.shape[0])
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w0"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", bos_token="w1", eos_token="w2")
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)  # a bridge loads it again from where it came


def nnsight_checks(model: Model) -> Iterator[Finding]:
    """The residual stream as an nnsight trace saves it, on a copy of the model."""
    name = "nnsight trace"
    if (large := _too_large(model)) is not None:
        yield Finding(name, "unsupported", detail=large)
        return
    (ids,) = random_sequences(model, [18], seed=8)
    try:
        theirs = _traced(model, ids)
    except Exception as error:  # other people's code, as above
        yield Finding(name, "unsupported", detail=f"does not load: {reason(error)}")
        return
    read = Site("resid_post") @ "all"
    mine = forward(model, [as_rollout("s", ids)], [read]).values[read].float()
    errors = [float(difference(a, b).max()) for a, b in zip(mine, theirs, strict=True)]
    worst = max(range(len(errors)), key=errors.__getitem__)
    yield within(name, errors[worst], 8 * model.noise_floor, worst, f"{len(errors)} values")


def _traced(model: Model, ids: tuple[int, ...]) -> list[Tensor]:
    with _silence(), tempfile.TemporaryDirectory() as folder, import_nnsight() as nnsight:
        hf = copy.deepcopy(model.hf)
        tokenizer = model.optional_tokenizer or word_tokenizer(hf, Path(folder))
        wrapped = nnsight.TransformersModel(hf, tokenizer=tokenizer)
        names = {module: path for path, module in model.hf.named_modules()}
        paths = [names[block.block] for block in model.sites.blocks]
        outputs = trace_outputs(wrapped, torch.tensor([ids], device=model.device), paths)
    return [out.detach().cpu().reshape(len(ids), -1).float() for out in outputs]


def _too_large(model: Model) -> str | None:
    size = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    if size <= LARGEST:
        return None
    return f"needs a second copy of the model: {size / 1e9:.0f} GB, and the limit is {LARGEST / 1e9:.0f} GB"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Other libraries print while they load; the report has standard output to itself."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


REFERENCES = {"TransformerLens": transformer_lens_checks, "nnsight": nnsight_checks}

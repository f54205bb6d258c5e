"""Models held by TransformerLens or nnsight give the same rows, and their imports leave nothing behind."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers.utils.logging as hf_logging
from other_libraries import import_transformer_lens
from references import word_tokenizer
from tiny_models import hf_model, rollout, wrapped

from verdictscope.activations import Site, collect, forward, wrap
from verdictscope.activations.backends import backend_of, import_nnsight
from verdictscope.errors import InputError

ROLLOUTS = [rollout("a/0", 20, seed=1), rollout("b/0", 13, seed=2)]
SITES = ("resid_post", "attn_out", "z", "v")


def _bridge(family: str, folder: Path):
    hf = copy.deepcopy(hf_model(family))
    hf.config.architectures = [type(hf).__name__]
    with import_transformer_lens() as lens:
        return lens.TransformerBridge.boot_transformers(
            f"tiny/{family}", hf_model=hf, tokenizer=word_tokenizer(hf, folder), device="cpu"
        )


def _same_rows(held, family: str, folder: Path) -> None:
    stock = wrapped(family)
    for name in SITES:
        read = Site(name) @ "all"
        mine, theirs = (forward(m, ROLLOUTS, [read]).values[read] for m in (held, stock))
        assert (mine - theirs).norm() <= 8 * stock.noise_floor * theirs.norm()
    read = Site("resid_post") @ "all"
    with collect(held, ROLLOUTS, [read], path=folder / "rows.h5") as store:
        assert store.finished


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_bridge_gives_the_same_rows_and_stays_as_it_is(family, tmp_path):
    bridge = _bridge(family, tmp_path)
    ids = torch.tensor([ROLLOUTS[0].ids])
    with torch.no_grad():
        before = bridge(ids, prepend_bos=False)
        _same_rows(bridge, family, tmp_path)
        assert torch.equal(bridge(ids, prepend_bos=False), before)


def test_a_bridge_over_a_model_that_has_run_before(tmp_path):
    """Its hooks for ``hidden_states`` were set on layers that the bridge replaces, so it records none."""
    with torch.no_grad():
        hf_model("llama")(torch.tensor([ROLLOUTS[0].ids]), output_hidden_states=True)
    _same_rows(_bridge("llama", tmp_path), "llama", tmp_path)


def test_a_bridge_that_computes_something_else_is_refused(tmp_path):
    bridge = _bridge("llama", tmp_path)
    bridge.add_perma_hook("blocks.1.hook_out", lambda value, hook: value * 2)
    with pytest.raises(InputError, match="something else"):
        wrap(bridge)


def _traced(tmp_path: Path):
    with import_nnsight() as nnsight:
        hf = copy.deepcopy(hf_model("llama"))
        return nnsight.TransformersModel(hf, tokenizer=word_tokenizer(hf, tmp_path))


def test_an_nnsight_model_gives_the_same_rows(tmp_path):
    held = _traced(tmp_path)
    assert backend_of(held) is not None
    _same_rows(held, "llama", tmp_path)


def test_imports_leave_nothing_behind():
    level = hf_logging.get_verbosity()
    with import_nnsight():
        pass
    assert not hasattr(object, "save")
    assert hf_logging.get_verbosity() == level


def test_anything_else_is_no_model():
    assert backend_of(object()) is None
    with pytest.raises(InputError, match="is no model"):
        wrap(object())

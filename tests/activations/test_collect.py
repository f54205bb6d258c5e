"""``collect`` without a path: the same rows and values as a store's, of rollouts and of plain texts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import rollout, wrapped

from verdictscope.activations import BatchPlan, LinearReadout, Site, States, collect, load_model
from verdictscope.errors import InputError

PLAN = BatchPlan(((3, 1), (2, 0), (4,)), 64)


@pytest.fixture(scope="module")
def qwen3():
    return wrapped("qwen3")


@pytest.fixture(scope="module")
def rollouts():
    return [rollout(f"p{i}/0", 12 + i, seed=i) for i in range(5)]


@pytest.fixture(scope="module")
def cliff():
    return load_model("organism:cliff", device="cpu")


def test_memory_and_store_give_the_same(qwen3, rollouts, tmp_path):
    sites = [Site("resid_post") @ "thinking:4,think_end", Site("z", (0, 2))]
    score = [LinearReadout("probe", "resid_post", 1, np.ones(qwen3.d_model))]
    kept = collect(qwen3, rollouts, sites, "last", plan=PLAN, score=score)
    assert isinstance(kept, States)
    with collect(qwen3, rollouts, sites, "last", path=tmp_path / "s.h5", plan=PLAN, score=score) as store:
        assert kept.sites == store.sites
        for site in store.sites:
            pd.testing.assert_frame_equal(kept.rows(site), store.rows(site))
            assert kept.layers(site) == store.layers(site)
            for layer in store.layers(site):
                assert torch.equal(kept.read(site, layer), store.read(site, layer))
                assert np.array_equal(kept.numpy(site, layer, [2, 0]), store.numpy(site, layer, [2, 0]))
        mask = kept.select("resid_post", 1, "segment == 'thinking'")
        assert torch.equal(mask.values, store.select("resid_post", 1, {"segment": "thinking"}).values)
        pd.testing.assert_frame_equal(kept.scores(), store.scores())
    assert list(kept.rows("z")["rollout"]) == [r.id for r in rollouts]
    with pytest.raises(InputError, match="different positions"):
        kept.rows()
    assert "resid_post: 3 layers x " in repr(kept)


def test_texts_are_rows_in_the_order_given(cliff):
    texts = ["the mode is normal.", "please tell me how to build the bridge.", "please tell me."]
    states = collect(cliff, texts, "resid_post")
    rows = states.rows()
    assert list(rows["rollout"]) == ["0", "1", "2"]
    encoded = [cliff.tokenizer(text)["input_ids"] for text in texts]
    assert list(rows["token_id"]) == [ids[-1] for ids in encoded]
    every = collect(cliff, texts, ["resid_post", "z"], "all")
    assert len(every.rows("z")) == sum(map(len, encoded))
    whole = every.select("resid_post", 2, {"rollout": "1"}).values[-1]
    assert (whole - states.read("resid_post", 2)[1]).norm() <= 8 * cliff.noise_floor * whole.norm()


@pytest.mark.parametrize(
    ("given", "sites", "match"),
    [
        ("one text", "resid_post", "list of texts"),
        (["", "a word"], "resid_post", "text 0 has no tokens"),
        ([], "resid_post", "no rollouts"),
        (["the mode"], [], "at least one site"),
        (["the mode"], ["z", "z"], "each site once"),
        (["the mode"], "resid_end", "no site 'resid_end'"),
    ],
)
def test_wrong_input_is_named(cliff, given, sites, match):
    with pytest.raises(InputError, match=match):
        collect(cliff, given, sites)


def test_texts_need_a_tokenizer(qwen3):
    with pytest.raises(InputError, match="no tokenizer"):
        collect(qwen3, ["a text"], "resid_post")

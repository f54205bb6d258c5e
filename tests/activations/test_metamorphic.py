"""Equivalent changes of weights move the sites as theory says, and other libraries read the same values."""

from __future__ import annotations

import copy

import pytest
from metamorphic import METAMORPHIC
from references import REFERENCES
from tiny_models import hf_model

from verdictscope.activations.doctor.examine import run_groups
from verdictscope.activations.loading import unchecked
from verdictscope.weights_digest import weights_digest

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_oss", "deepseek_v3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_equivalent_weights_move_the_sites_as_theory_says(family):
    hf = copy.deepcopy(hf_model(family))
    before = weights_digest(hf)
    found = run_groups(unchecked(hf), METAMORPHIC)
    assert {f.status for f in found} <= {"supported", "unsupported"}, found
    assert any(f.status == "supported" for f in found)
    assert weights_digest(hf) == before


def test_other_libraries_read_the_same():
    found = run_groups(unchecked(hf_model("llama")), REFERENCES)
    assert {f.check: f.status for f in found} == {
        "TransformerLens run_with_cache": "supported",
        "nnsight trace": "supported",
    }

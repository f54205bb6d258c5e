"""Every family that TransformerLens's adapters list and transformers builds small: supported with right numbers, or an
honest word on what is not. Never a raw traceback, never silently wrong."""

from __future__ import annotations

import os
import time

import pytest
from families import listed
from sweep import in_fork, sweep

from tests.evidence import write_evidence

MATRIX = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GPT2LMHeadModel",
    "Phi3ForCausalLM",
    "GptOssForCausalLM",
    "DeepseekV3ForCausalLM",
    "Olmo2ForCausalLM",
}
HONEST = {"supported", "degraded", "unsupported", "not built"}


@pytest.mark.slow
@pytest.mark.timeout(3400)
def test_every_listed_family_is_read_rightly_or_says_why_not():
    found = dict(sweep(listed()))
    counts = {status: sum(f["status"] == status for f in found.values()) for status in sorted(HONEST)}
    write_evidence("families", {"n": len(found), "counts": counts, "families": found})
    assert {name: f["reason"] for name, f in found.items() if f["status"] not in HONEST} == {}
    assert set(found) >= MATRIX
    assert all(found[name]["status"] == "supported" for name in MATRIX)
    assert {name: f for name, f in found.items() if (f.get("worst_identity") or 0.0) > 1e-5} == {}
    beyond = {
        (name, kind): told
        for name, f in found.items()
        if f["status"] != "unsupported"
        for kind, told in (f.get("beyond_a_switch") or {}).items()
    }
    assert {at: told for at, told in beyond.items() if not told.startswith(("supported", "none", "not run"))} == {}
    assert sum(told == "supported" for told in beyond.values()) > 100
    assert counts["not built"] <= 2  # what transformers builds only with a library that is not there


def _sleep() -> dict:
    time.sleep(30)
    return {}


def test_a_family_that_crashes_or_hangs_is_one_row():
    assert in_fork(lambda: {"status": "supported"})["status"] == "supported"
    assert in_fork(lambda: os._exit(3))["reason"] == "a raw traceback"
    assert in_fork(_sleep, seconds=0.1) | {"seconds": 0} == {"status": "error", "reason": "took over 0 s", "seconds": 0}

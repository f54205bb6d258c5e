"""The share of rollouts that are not what the model draws for them alone: none in float32, measured in bfloat16."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.rollouts.test_forced import bundled
from verdictscope.errors import InputError
from verdictscope.rollouts import Forcer, LanguageModel, Sampling, continue_rollouts, generate, read_prompts
from verdictscope.rollouts.divergence import measure_divergence
from verdictscope.sources import locate


def test_float32_does_not_diverge_and_bfloat16_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer, parents = bundled()
    prompts = read_prompts(Path(locate("organism:cliff")) / "prompts.csv").iloc[::50].reset_index(drop=True)
    sampling = Sampling(temperature=1.5, max_new_tokens=60)
    whole = generate(LanguageModel(model, tokenizer), prompts, sampling)
    found = measure_divergence(LanguageModel(model, tokenizer), whole, count=4, tokens=40)
    assert (found.share, found.first) == (0.0, (None,) * 4)
    given = [g for g in (Forcer(tokenizer).close(p, 3) for p in parents[:2]) if g]
    assert (
        measure_divergence(
            LanguageModel(model, tokenizer), continue_rollouts(LanguageModel(model, tokenizer), given, sampling)
        ).share
        == 0.0
    )

    half = copy.deepcopy(model).to(torch.bfloat16)
    rollouts = generate(LanguageModel(half, tokenizer), prompts, sampling)
    found = measure_divergence(LanguageModel(half, tokenizer), rollouts, count=len(rollouts), tokens=40)
    print(found)
    said = capsys.readouterr().out
    assert said.startswith(f"{sum(k is not None for k in found.first)} of {len(rollouts)} rollouts differ")
    assert "bfloat16" in said
    assert 0 <= found.share < 1
    assert found.to_dict()["rollouts"] == len(rollouts)
    # another seed's rollouts differ from nearly all
    other = [r.__class__(**{**{f: getattr(r, f) for f in r.__slots__}, "id": r.id + "x"}) for r in whole]
    assert measure_divergence(LanguageModel(model, tokenizer), other, count=4).share == 1.0


def test_given_rollouts_have_nothing_to_compare() -> None:
    model, tokenizer, parents = bundled()
    given = Forcer(tokenizer).close(parents[0], 3)
    assert given is not None
    with pytest.raises(InputError, match="no rollout here"):
        measure_divergence(LanguageModel(model, tokenizer), [])
    assert measure_divergence(LanguageModel(model, tokenizer), [given]).first == (None,)

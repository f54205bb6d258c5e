"""What an attribution costs over the forward pass it rides on, and what it keeps."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import pytest
import torch
import transformers

sys.path.append(str(Path(__file__).resolve().parents[1] / "activations"))
from tiny_models import rollout

from tests.evidence import write_evidence
from verdictscope.activations import BatchPlan, LogOddsReadout, forward, wrap
from verdictscope.interventions import attribute

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8}
ROLLOUTS, TOKENS, REPEATS = 8, 384, 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_attribution_costs_little_more_than_scoring() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=1000, num_key_value_heads=4, **SIZES)
    model = wrap(transformers.AutoModelForCausalLM.from_config(config).eval())
    some = [rollout(f"p{i}/0", TOKENS, seed=i) for i in range(ROLLOUTS)]
    plan = BatchPlan.make([len(r) for r in some])
    pair = LogOddsReadout("pair", (5,), (9,))
    variants = {
        "scored": lambda: forward(model, some, score=[pair], plan=plan),
        "attributed": lambda: attribute(model, some, pair, plan=plan),
        "attributed, every head by source segment": lambda: attribute(model, some, pair, sources="all", plan=plan),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(REPEATS + 1):
        for name, variant in variants.items():
            begin = time.perf_counter()
            variant()
            seconds[name].append(time.perf_counter() - begin)
    middle = {name: median(s[1:]) for name, s in seconds.items()}
    ratios = {name: round(s / middle["scored"], 3) for name, s in middle.items()}
    kept = attribute(model, some, pair, plan=plan).values.nbytes
    setting = SIZES | {"rollouts": ROLLOUTS, "tokens": TOKENS, "repeats": REPEATS, "positions": "before_answer"}
    write_evidence("attribution_cost", {"setting": setting, "times_scored": ratios, "bytes_a_row": kept // ROLLOUTS})
    assert ratios["attributed"] < 1.5

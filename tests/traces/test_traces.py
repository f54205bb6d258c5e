"""All readouts at all tokens in one array: the same numbers as a pass gives, on disk too, and while a model writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from verdictscope.activations import BatchPlan, LinearReadout, LogOddsReadout, forward, wrap
from verdictscope.errors import InputError
from verdictscope.rollouts import LanguageModel, Sampling, generate
from verdictscope.traces import align, online_traces
from verdictscope.traces.score import TraceFile, store_traces, trace_rollouts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "activations"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rollouts"))
from makers import byte_tokenizer, tiny_model
from tiny_models import rollout, wrapped

ROLLOUTS = [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 23, 17, 30))]
PLAN = BatchPlan(((3, 0), (1, 2)), 60)
FLOOR = 5e-6
"""Of float32, relative: twice what padding and cached decoding change on tiny models (docs/doctor.md)."""


def probes(n_layers: int, width: int = 32) -> list[LinearReadout]:
    weight = np.random.default_rng(0).normal(size=(n_layers, width))
    return [LinearReadout("probe", "resid_post", k, weight[k], bias=float(k)) for k in range(n_layers)]


def readouts() -> list:
    last = LinearReadout("last", "final_norm", None, np.ones(32), positions="thinking,think_end")
    return [*probes(3), last, LogOddsReadout("odds", [3], [7, (9, 4)], positions="before_answer")]


def test_the_array_is_what_a_pass_gives() -> None:
    model = wrapped("qwen3")
    traces = trace_rollouts(model, ROLLOUTS, readouts(), plan=PLAN)
    given = forward(model, ROLLOUTS, score=readouts(), plan=PLAN).scores
    keys = ["readout", "layer", "rollout", "pos"]
    ours, theirs = (t.sort_values(keys, ignore_index=True) for t in (traces.to_frame(), given))
    pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_exact=False, rtol=1e-6)
    assert traces.scores.shape == (5, 84)
    one = traces.of("p1/0", "probe", 2)
    assert one.shape == (1, 23)
    assert np.array_equal(one[0], traces.to_frame("probe", 2, ["p1/0"])["score"].to_numpy(np.float32))
    assert align(traces.to_frame("probe", 1), ROLLOUTS)["rel_think_end"].min() < 0


def test_a_file_holds_the_same_batch_by_batch(tmp_path: Path) -> None:
    model = wrapped("qwen3")
    file = store_traces(tmp_path / "traces.parquet", model, ROLLOUTS, readouts(), plan=PLAN)
    held = trace_rollouts(model, ROLLOUTS, readouts(), plan=PLAN)
    assert file.rollouts == tuple(r.id for r in ROLLOUTS)
    for asked in ({}, {"readout": "probe", "layer": 1}, {"readout": "odds"}, {"rollouts": ["p2/0", "p0/0"]}):
        stored = TraceFile.open(file.path).to_frame(**asked)
        pd.testing.assert_frame_equal(stored, held.to_frame(**asked), check_dtype=False)
    parts = list(file.batches())
    assert [len(ids) for ids, _ in parts] == [44, 40]
    assert [list(ids["rollout"].unique()) for ids, _ in parts] == [["p3/0", "p0/0"], ["p1/0", "p2/0"]]
    assert parts[0][1].shape == (5, 44)
    assert [p.name for p in tmp_path.iterdir()] == ["traces.parquet"]


def test_an_interrupted_file_is_none(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_traces(tmp_path / "t.parquet", wrapped("qwen3"), ROLLOUTS, probes(3), plan=PLAN, progress=stop)
    assert not list(tmp_path.iterdir())


def test_wrong_input(tmp_path: Path) -> None:
    model = wrapped("qwen3")
    traces = trace_rollouts(model, ROLLOUTS, probes(3), plan=PLAN)
    with pytest.raises(InputError, match="no readout"):
        trace_rollouts(model, ROLLOUTS, [])
    with pytest.raises(InputError, match="'odds' was not traced"):
        traces.to_frame("odds")
    with pytest.raises(InputError, match="'x' was not traced"):
        traces.to_frame(rollouts=["x"])
    with pytest.raises(InputError, match="'x' was not traced"):
        traces.of("x")
    with pytest.raises(InputError, match="no trace file"):
        TraceFile.open(tmp_path / "none.parquet")
    traces.to_frame().to_parquet(tmp_path / "tidy.parquet")
    with pytest.raises(InputError, match="no traces in columns"):
        TraceFile.open(tmp_path / "tidy.parquet")
    file = store_traces(tmp_path / "s.parquet", model, ROLLOUTS, probes(1), plan=PLAN)
    table = pq.read_table(file.path)
    about = {b"verdictscope.traces": json.dumps({"readouts": []})}  # without the order of the rollouts
    pq.write_table(table.replace_schema_metadata(about), file.path)
    with pytest.raises(InputError, match="in which order"):
        TraceFile.open(file.path)
    with pytest.raises(InputError, match="may not be called 'pos'"):
        store_traces(tmp_path / "t.parquet", model, ROLLOUTS, [LogOddsReadout("pos", [3], [7])])


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2", "lfm2"])
@pytest.mark.parametrize("batch_tokens", [100, 4000])
def test_online_is_teacher_forced(family: str, batch_tokens: int) -> None:
    """Left padding, shared prompts, rows that leave and join: whatever the batch, the same scores."""
    model, tokenizer = wrap(tiny_model(family), name=family), byte_tokenizer()
    prompts = pd.DataFrame({"id": list("abc"), "user": ["one", "two words", "three of them here"]})
    heard: list[str] = []
    with online_traces(model, probes(2), follow=lambda name, at, scores: heard.append(name)) as online:
        found = generate(
            LanguageModel(model.hf, tokenizer),
            prompts,
            Sampling(temperature=1.0, max_new_tokens=12),
            samples=3,
            engine=online.engine(batch_tokens),
        )
    written = online.traces(found)
    forced = trace_rollouts(model, found, probes(2))
    last = written.starts[1:] - 1
    assert np.isnan(written.scores[:, last]).all()
    there = np.isfinite(written.scores)
    assert not np.isnan(np.delete(written.scores, last, axis=1)).any()
    apart = np.abs(written.scores - forced.scores)[there].max() / np.abs(forced.scores).max()
    assert apart < FLOOR
    assert set(heard) == {r.id for r in found}


def test_online_takes_linear_readouts_and_its_own_engine() -> None:
    model = wrap(tiny_model("qwen3"), name="qwen3")
    with pytest.raises(InputError, match="give linear readouts"), online_traces(model, readouts()[-1:]):
        pass
    with online_traces(model, probes(2)) as online:
        model.hf(torch.tensor([ROLLOUTS[0].ids]))  # a pass of nobody's engine
    with pytest.raises(InputError, match="online.engine"):
        online.traces(ROLLOUTS)

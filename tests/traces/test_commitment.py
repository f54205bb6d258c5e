"""Commitment: planted settling times, censoring, and the three readers on a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from probe_worlds import make_rollout, make_scores

from verdictscope.activations import LogOddsReadout, load_model
from verdictscope.errors import InputError
from verdictscope.rollouts import Forcer, Sampling, generate, read_prompts
from verdictscope.sources import locate
from verdictscope.traces import align, commitment, commitment_gap
from verdictscope.traces.commitment import commitment_time, forced_readings, places, probe_readings, text_readings


def reading(r, reader: str, signs: list[int]) -> pd.DataFrame:
    at = np.linspace(0, 16, len(signs)).round().astype(int)
    columns = {"rollout": r.id, "group": r.group, "reader": reader, "place": at, "score": np.array(signs, float)}
    return pd.DataFrame(columns)


def test_the_sign_that_never_changes_again() -> None:
    r, cut = make_rollout("a/0", "a", 16), make_rollout("b/0", "b", 16, closing=0, answer=0, finish="length")
    readings = pd.concat(
        [
            reading(r, "probe", [-1, 1, -1, 1, 1]),
            reading(r, "text", [-1, -1, -1, -1, 1]),
            reading(r, "forced", [1, 1, 1, 1, 1]),
            reading(r, "zero", [1, 1, 1, 1, 0]),
            reading(cut, "probe", [-1, 1, 1, 1, 1]),
        ]
    )
    times = commitment(readings, [r, cut]).set_index(["rollout", "reader"])
    assert times.loc[("a/0", "probe"), ["commit", "after", "sign"]].tolist() == [12, 8, 1]
    assert times.loc[("a/0", "text"), "commit"] == 16
    assert times.loc[("a/0", "forced"), ["commit", "after"]].tolist() == [0, -1]
    assert times.loc[("a/0", "zero"), "reason"] == "no sign at the end"
    censored = times.loc[("b/0", "probe")]
    assert (pd.isna(censored["commit"]), censored["after"], censored["reason"]) == (True, 0, "thinking cut off")


def test_the_gap_is_paired_and_says_who_is_left_out() -> None:
    rng = np.random.default_rng(0)
    rollouts = [make_rollout(f"p{i}/0", f"p{i}", 16) for i in range(40)]
    parts = []
    for i, r in enumerate(rollouts):
        k = int(rng.integers(1, 5))  # of 9 places; the text settles 4 places later
        parts.append(reading(r, "probe", [-1] * k + [1] * (9 - k)))
        last = -1 if i < 5 else 1
        parts.append(reading(r, "text", [-last] * (k + 4) + [last] * (5 - k)))
    times = commitment(pd.concat(parts), rollouts)
    gap, left = commitment_gap(times, "probe", "text", resamples=200)
    assert gap.estimate == pytest.approx(8.0)
    assert (gap.n, gap.unit, left) == (35, "tokens", {"settle on different verdicts": 5})
    share, _ = commitment_gap(times, "probe", "text", share=True, resamples=200)
    assert share.estimate == pytest.approx(0.5)
    settled = commitment_time(times, "probe", resamples=200)
    assert 0.1 < settled.low < settled.estimate < settled.high < 0.6


def test_the_probe_is_read_at_the_answer_last() -> None:
    r, short = make_rollout("a/0", "a", 16), make_rollout("b/0", "b", 1)
    bare = make_rollout("c/0", "c", 0, closing=0)
    aligned = align(make_scores([r, short, bare], lambda r, pos, segment: pos), [r, short, bare])
    found = probe_readings(aligned, [r, short, bare], points=4)
    assert found.loc[found["rollout"] == "a/0", "score"].tolist() == [7, 11, 15, 19, 25]
    # thinking of one token has two places; no thinking has none
    assert found.loc[found["rollout"] == "b/0", ["place", "score"]].to_numpy().tolist() == [[0, 7], [1, 10]]
    assert places(bare) == [0]
    assert not (found["rollout"] == "c/0").any()


def test_three_readers_of_the_bundled_model() -> None:
    model = load_model("organism:cliff")
    prompts = read_prompts(locate("organism:cliff/prompts.csv")).iloc[:24]
    rollouts = generate(model, prompts, Sampling(max_new_tokens=60))
    ids = model.tokenizer.convert_tokens_to_ids
    odds = LogOddsReadout("refusal", [ids("sorry")], [ids("sure")])
    forced = forced_readings(model, rollouts[12:], odds, Forcer(model.tokenizer), points=4)
    outcome = {r.id: i % 2 == 0 for i, r in enumerate(rollouts[:12])}
    text = text_readings(rollouts, model.tokenizer, outcome, [r.id for r in rollouts[12:]], points=4)
    assert set(zip(forced["rollout"], forced["place"], strict=True)) == set(
        zip(text["rollout"], text["place"], strict=True)
    )
    times = commitment(pd.concat([forced, text]), rollouts)
    assert times["reason"].isin(["", "thinking cut off"]).all()
    with pytest.raises(InputError, match="trained on and read"):
        text_readings(rollouts, model.tokenizer, outcome, [rollouts[0].id])
    with pytest.raises(InputError, match="one outcome"):
        text_readings(rollouts, model.tokenizer, dict.fromkeys(outcome, True), [rollouts[12].id])

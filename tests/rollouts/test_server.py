"""The client of servers, against a small server over the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.rollouts.little_server import Little, serving
from tests.rollouts.test_forced import bundled
from verdictscope.errors import InputError
from verdictscope.rollouts import (
    Forcer,
    LanguageModel,
    Rollout,
    Sampling,
    Server,
    continue_rollouts,
    generate,
    read_prompts,
)
from verdictscope.sources import locate
from verdictscope.study.load import parse_study
from verdictscope.study.stages.generate import engine

SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=12, seed=4)
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)


@pytest.fixture
def little() -> Little:
    return Little(bundled()[0])


def prompts(count: int = 5) -> pd.DataFrame:
    table = read_prompts(Path(locate("organism:cliff")) / "prompts.csv")
    return table.iloc[:: len(table) // count].head(count).reset_index(drop=True)


def ask(url: str, sampling: Sampling = SAMPLING, path: Path | None = None, **more: Any) -> list[Rollout]:
    engine = Server(url, **{"pause": 0.01, "timeout": 20.0, **more})
    return generate(LanguageModel(None, bundled()[1]), prompts(), sampling, samples=2, engine=engine, path=path)


def test_greedy_is_what_this_process_writes(little: Little) -> None:
    model, tokenizer, _ = bundled()
    with serving(little) as url:
        found = ask(url, GREEDY)
    ours = generate(LanguageModel(model, tokenizer), prompts(), GREEDY, samples=2)
    assert [(r.id, r.ids, r.spans, r.finish, r.tags) for r in found] == [
        (r.id, r.ids, r.spans, r.finish, r.tags) for r in ours
    ]
    assert {r.engine for r in found} == {"server"}
    body = little.seen[0]
    assert body["model"] == "the-model"
    assert (body["return_token_ids"], body["skip_special_tokens"], body["top_k"]) == (True, False, -1)
    assert body["max_tokens"] == 12
    assert body["stop_token_ids"] == [tokenizer.eos_token_id]


def test_seeds_belong_to_rollouts(little: Little) -> None:
    with serving(little) as url:
        first, again = ask(url, concurrency=1), ask(url + "/v1/", concurrency=8)
    assert [r.ids for r in first] == [r.ids for r in again]
    assert len({body["seed"] for body in little.seen}) == 10
    assert any(a.ids != b.ids for a, b in zip(first[::2], first[1::2], strict=True))


def test_requests_are_under_way_together_and_no_more_than_asked(little: Little) -> None:
    little.faults += ["slow"] * 3
    with serving(little) as url:
        ask(url, concurrency=3)
    assert little.busy == 3


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut short", "no json", "no choices", "aborted", "strange ids"])
def test_what_may_pass_is_tried_again(little: Little, fault: str) -> None:
    with serving(little) as url:
        whole = ask(url)
        little.faults += [fault, None, fault, fault]
        assert ask(url) == whole
        little.always = fault
        with pytest.raises(InputError, match=r"gave up on rollout .* in 3 attempts") as told:
            ask(url, retries=2)
    assert "\n" not in str(told.value)


def test_a_slow_server_times_out(little: Little) -> None:
    little.always = "slow"
    with serving(little) as url, pytest.raises(InputError, match="gave up on rollout"):
        ask(url, timeout=0.2, retries=1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no ids", "returns text without token ids"),
        ("other prompt", "read another prompt"),
        ("400", r"refuses \(HTTP 400: no luck today"),
        ("404", "check address, model and key"),
    ],
)
def test_what_will_not_pass_is_said_at_once(little: Little, fault: str, message: str) -> None:
    little.always = fault
    with serving(little) as url, pytest.raises(InputError, match=message):
        ask(url, concurrency=1)
    assert len(little.seen) == 1


def test_nobody_there() -> None:
    with pytest.raises(InputError, match="gave up on its list of models in 2 attempts"):
        ask("http://127.0.0.1:9", retries=1)
    with pytest.raises(InputError, match="no URL"):
        Server("localhost:8000")
    with pytest.raises(InputError, match="needs a model"):
        generate(LanguageModel(None, bundled()[1]), prompts())


def test_a_failed_call_goes_on(little: Little, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verdictscope.rollouts.journal.EVERY", 0.0)
    path = tmp_path / "rollouts.parquet"
    with serving(little) as url:
        whole = ask(url)
        little.seen.clear()
        little.faults += [None] * 4 + ["no ids"]
        with pytest.raises(InputError, match="without token ids"):
            ask(url, path=path, concurrency=1)
        assert ask(url, path=path, concurrency=1) == whole
    assert len(little.seen) == 5 + 6


def test_forced_rollouts_go_on_at_a_server(little: Little) -> None:
    model, tokenizer, parents = bundled()
    given = [g for g in (Forcer(tokenizer).close(p, 4) for p in parents) if g]
    with serving(little) as url:
        there = continue_rollouts(LanguageModel(None, tokenizer), given, GREEDY, engine=Server(url))
    here = continue_rollouts(LanguageModel(model, tokenizer), given, GREEDY)
    assert [(r.ids, r.n_forced, r.tags) for r in there] == [(r.ids, r.n_forced, r.tags) for r in here]


def test_a_study_names_its_server() -> None:
    data = {"name": "a", "question": "?", "model": "m", "prompts": {"file": "f"}}
    data |= {"labels": {"refuse": ["no"], "comply": ["yes"]}}
    study = parse_study({**data, "engine": {"url": "http://host:8000", "concurrency": 4}}, "study")
    assert engine(study.engine, "base") == Server("http://host:8000", concurrency=4)
    assert engine(study.engine, "reference") == engine(study.engine, "ablated") == "huggingface"
    assert parse_study(data, "study").engine.url is None

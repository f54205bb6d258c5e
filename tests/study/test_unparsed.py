"""A first short try: no answer, or too few, could be parsed. One line says so, with what to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.study.whole import some_prompts
from verdictscope.errors import InputError
from verdictscope.figures import transfer
from verdictscope.rollouts.prompts.design import cells
from verdictscope.study.parsed import need_verdicts, parsed_counts


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    some_prompts(file, 3)
    return file


def short(prompts: Path, tokens: int) -> list[str]:
    keys = (f"prompts.file={prompts}", f"sampling.max_new_tokens={tokens}", "probe.permutations=50", "device=cpu")
    return [word for key in keys for word in ("--set", key)]


def test_a_smoke_test_ends_with_its_rollouts_and_a_line(
    prompts: Path, call: Callable[..., Any], tmp_path: Path
) -> None:
    asked = ("run", "refusal_cliff", "--out", tmp_path / "run", *short(prompts, 4))
    done = call(*asked, "--until", "generate")
    assert done.code == 0
    n = len(pd.read_csv(prompts))
    lines = [line for line in done.err.splitlines() if "could be parsed" in line]
    assert len(lines) == 2
    assert lines[0].startswith(f"verdictscope: base: 0 of {n} answers could be parsed ({n} cut off in thinking)")
    assert lines[0].endswith("raise sampling.max_new_tokens")
    assert set(pd.read_parquet(tmp_path / "run" / "labels.parquet")["cell"]) == {"unread"}
    done = call(*asked)
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert "no refused rollout in the train split" in last
    assert f"0 of {n} answers" in last


@pytest.mark.parametrize("tokens", [22, pytest.param(36, marks=pytest.mark.slow)])
def test_too_few_of_a_class_are_one_line_too(
    prompts: Path, call: Callable[..., Any], tmp_path: Path, tokens: int
) -> None:
    done = call("run", "refusal_cliff", "--out", tmp_path / "run", *short(prompts, tokens))
    assert (done.code, "Traceback" in done.err) == (2, False)
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("verdictscope: ")
    assert "answers could be parsed" in last
    assert "max_new_tokens" in last


def test_what_was_lost_is_told_by_reason() -> None:
    cell = ["harmful_refused", "unread", "unread", "unread", "harmful_complied"]
    labels = pd.DataFrame({"cell": cell, "cut_off": [None, "thinking", "answer", None, "answer"]})
    text = parsed_counts("base", labels)
    for part in ("2 of 5", "1 cut off in thinking", "1 cut off in the answer", "1 unparsed for another reason"):
        assert part in text
    alike = labels.assign(cut_off=None)
    assert "max_new_tokens" not in parsed_counts("base", alike)
    assert parsed_counts("base", labels[:1]).endswith("1 of 1 answers could be parsed")


@pytest.mark.parametrize(("status", "says"), [("truncated", "raise sampling.max_new_tokens"), ("none", "format")])
def test_a_judge_without_a_verdict_says_why(status: str, says: str) -> None:
    table = pd.DataFrame(
        {
            "variant": "base",
            "thinking": ["off"] * 3 + ["on"] * 3,
            "condition": "plain",
            "status": ["ok"] * 3 + [status] * 3,
            "probability": [0.5] * 3 + [None] * 3,
        }
    )
    need_verdicts(table[:3])
    with pytest.raises(InputError, match=f"base, plain, thinking on: 0 of 3 verdicts .*3 {status}.*{says}"):
        need_verdicts(table)


def test_cells_of_what_could_not_be_parsed() -> None:
    for missing in ([None, None], [pd.NA, float("nan")]):
        found = cells(pd.Series([True, False], index=[4, 7]), pd.Series(missing, index=[4, 7], dtype=object))
        assert list(found) == ["unread", "unread"]
        assert list(found.index) == [4, 7]


def test_a_caption_of_cells_without_intervals() -> None:
    row = {"fit": "a", "read": "b", "kind": "transfer", "auroc": 0.7, "low": None, "high": None, "n": 1, "n_fit": 2}
    table = pd.DataFrame([row | {"null_low": None, "null_high": None}]).astype(
        {name: float for name in ("low", "high", "null_low", "null_high")}
    )
    assert "0 of 1 transfers" in transfer(table).caption

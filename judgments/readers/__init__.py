"""Readers of judge benchmarks: a file or a hub dataset becomes items, and an account of every row."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.readers import pairs, singles
from verdictscope.judgments.readers.reading import PROBLEMS, Account, BadRow, Notes, Reading, Row
from verdictscope.judgments.readers.rows import hub_rows
from verdictscope.rows import ENDINGS, read_rows
from verdictscope.rows import Row as Placed
from verdictscope.values import whole_number

__all__ = ["PROBLEMS", "READERS", "BadRow", "Reader", "Reading", "known_readers", "read_items"]


@dataclass(frozen=True)
class Reader:
    """How one public set is read."""

    name: str
    make: Callable[..., Any]
    title: str
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    parts: tuple[str, ...] = ()
    licence: str = "unknown"


_CONTEXTUAL = (
    "refusal_answerable",
    "refusal_unanswerable",
    "faithfulness_qa",
    "faithfulness_summ",
    "completeness_qa",
    "completeness_summ",
    "conciseness_qa",
    "conciseness_summ",
)
_SENTIMENT = partial(singles.scienceqa, options="sentiment_choices")

READERS: Mapping[str, Reader] = {
    one.name: one
    for one in (
        Reader(
            "judgebench",
            pairs.judgebench,
            "pairs with an objectively right answer",
            "ScalerLab/JudgeBench",
            None,
            "PART",
            ("gpt", "claude"),
            "none stated",
        ),
        Reader("llmbar", pairs.llmbar, "instruction following, natural and adversarial pairs", licence="MIT"),
        Reader("pandalm", pairs.pandalm, "pairs labelled by three annotators", licence="Apache-2.0"),
        Reader("rbd_arena", pairs.arena, "RBD's position and bandwagon pairs", licence="none stated"),
        Reader("rbd_gsm8k", pairs.gsm8k, "RBD's verbosity pairs", licence="none stated"),
        Reader("rbd_scienceqa", singles.scienceqa, "RBD's sentiment set, plain options", licence="CC BY-NC-SA 4.0"),
        Reader(
            "rbd_sentiment", _SENTIMENT, "RBD's sentiment set, options rewritten in tone", licence="CC BY-NC-SA 4.0"
        ),
        Reader(
            "judging_the_judges",
            singles.judging_the_judges,
            "TriviaQA answers with a human's verdict",
            licence="MIT by classifier",
        ),
        Reader("trustjudge", singles.trustjudge, "answers of graded quality", licence="MIT"),
        Reader("mt_bench", singles.mt_bench, "questions with GPT-4 reference answers", licence="Apache-2.0"),
        Reader(
            "codejudgebench",
            pairs.codejudgebench,
            "code generation, repair and tests",
            "mattymchen/codejudgebench",
            "PART",
            "train",
            ("codegen", "coderepair", "testgen"),
            "Apache-2.0 (code)",
        ),
        Reader(
            "contextualjudgebench",
            pairs.contextualjudgebench,
            "pairs judged by a context",
            "Salesforce/ContextualJudgeBench",
            None,
            "PART",
            _CONTEXTUAL,
            "see the hub",
        ),
        Reader(
            "rewardbench",
            pairs.rewardbench,
            "chosen against rejected",
            "allenai/reward-bench",
            None,
            "PART",
            ("filtered", "raw"),
            "ODC-BY",
        ),
        Reader(
            "judgelm",
            pairs.judgelm,
            "pairs scored by GPT-4",
            "BAAI/JudgeLM-100K",
            None,
            "PART",
            ("val", "train"),
            "see the hub",
        ),
        Reader(
            "mmlu_pro",
            singles.mmlu_pro,
            "up to ten options",
            "TIGER-Lab/MMLU-Pro",
            None,
            "PART",
            ("test", "validation"),
            "MIT",
        ),
        Reader("emerton_dpo", pairs.dpo, "DPO pairs", "yleo/emerton_dpo_pairs_judge"),
        Reader("orca_dpo", pairs.dpo, "DPO pairs", "Intel/orca_dpo_pairs", licence="Apache-2.0"),
        Reader("py_dpo", pairs.dpo, "DPO pairs of Python code", "jondurbin/py-dpo-v0.1", licence="CC BY 4.0"),
        Reader("truthy_dpo", pairs.dpo, "DPO pairs about truth", "jondurbin/truthy-dpo-v0.1", licence="CC BY 4.0"),
        Reader("pairs", pairs.plain, "pairs in the plain form"),
        Reader("steps", singles.projudge, "solutions with step labels, in the plain form"),
        Reader("debate", singles.debate, "debates, in the plain form"),
    )
}
"""Readers by name. Column names are those of the published files; hub sets are read by the same columns."""


def known_readers() -> pd.DataFrame:
    """The readers: name, title, hub, parts, licence."""
    rows = [(r.name, r.title, r.hub, ", ".join(r.parts), r.licence) for r in READERS.values()]
    return pd.DataFrame(rows, columns=["name", "title", "hub", "parts", "licence"])


def read_items(
    source: str | Path | Iterable[Row], reader: str | Reader, part: str | None = None, *, limit: int | None = None
) -> Reading:
    """Items of a file, of a hub dataset, or of rows already in memory.

    Args:
        source: a file; ``"hub"`` for the reader's dataset on the Hugging Face hub (needs the extra ``[hub]``); or rows
            as dictionaries.
        reader: name of a reader (:func:`known_readers`), or one of your own.
        part: the part of a hub dataset, its first by default; for a file, what its items are called after (its name by
            default).
        limit: read only the first rows.

    Returns:
        The items and the account of every row.

    Raises:
        InputError: no such file, reader or part; the hub does not give the set; not one row is an item.
    """
    how = _reader(reader)
    if limit is not None:
        whole_number(limit, "limit", 1)
    if isinstance(source, str) and source == "hub":
        part = part or (how.parts[0] if how.parts else how.name)
        rows = _from_hub(how, part)
    elif isinstance(source, str | Path):
        path = Path(source)
        part = part or re.sub(r"\W+", "-", path.stem).strip("-").lower()
        rows = _joined(path) if how.make is singles.mt_bench else read_rows(path)
    else:
        part, rows = part or how.name, [Placed(f"record {k}", row) for k, row in enumerate(source, 1)]
    account = Account(how.name)
    numbered = "number" in inspect.signature(how.make).parameters

    def make(row: Row, notes: Notes, number: int) -> Any:
        return how.make(row, notes, part, number) if numbered else how.make(row, notes, part)

    account.read(rows[:limit], make)
    return account.done()


def _reader(reader: str | Reader) -> Reader:
    if isinstance(reader, Reader):
        return reader
    if reader not in READERS:
        raise InputError(f"no reader {reader!r}: readers are {', '.join(READERS)}")
    return READERS[reader]


def _from_hub(how: Reader, part: str) -> list[Placed]:
    if how.hub is None:
        raise InputError(f"{how.name} is not read from the hub: give its file ({', '.join(ENDINGS)})")
    if how.parts and part not in how.parts and how.config != "PART":
        raise InputError(f"{how.name} has no part {part!r}: there are {', '.join(how.parts)}")
    config, _, split = part.partition(":")
    if how.config == "PART":
        return hub_rows(how.hub, config, split or how.split)
    return hub_rows(how.hub, how.config, part if how.split == "PART" else how.split)


def _joined(path: Path) -> list[Placed]:
    """MT-Bench's reference answers with the questions of ``question.jsonl`` beside them."""
    beside = path.with_name("question.jsonl")
    questions = {row["question_id"]: row for _, row in read_rows(beside) if isinstance(row, dict)}
    rows = []
    for place, row in read_rows(path):
        known = questions.get(row.get("question_id"), {}) if isinstance(row, dict) else {}
        rows.append(Placed(place, {**known, **row} if isinstance(row, dict) else row))
    return rows

"""Where tests find public data: excerpts in ``tests/data``; the originals in a folder that a clone need not have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXCERPTS = ROOT / "tests" / "data"
"""Files under permissive licences, most of them every n-th row: see its README."""

DATA = Path(os.environ.get("VERDICTSCOPE_TEST_DATA", ROOT.parent / "shared" / "data"))
"""The original files."""


WHOLE = {
    "xstest/xstest_prompts.csv",
    "llmbar/Natural.json",
    "harmbench/harmbench_behaviors_text_val.csv",
    "trustjudge/filtered_selected_answers_with_category.jsonl",
    "mt_bench/question.jsonl",
    "mt_bench/reference_answer_gpt-4.jsonl",
    "mt_bench/judge_prompts.jsonl",
}
"""Excerpts that are whole files."""


def some(name: str) -> Path:
    """The excerpt of a file or folder; where there is none, the original; or a skip."""
    return EXCERPTS / name if (EXCERPTS / name).exists() else whole(name)


def best(name: str) -> Path:
    """The original, where it is there; else the excerpt."""
    return DATA / name if (DATA / name).exists() else some(name)


def whole(name: str) -> Path:
    """A file with all its rows, or a skip."""
    if name in WHOLE:
        return EXCERPTS / name
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in {DATA}")
    return DATA / name


def chat_templates() -> list[str]:
    """Names of the templates at hand."""
    return sorted({file.stem for folder in (EXCERPTS, DATA) for file in (folder / "chat_templates").glob("*.jinja")})

"""The shipped studies of judges: their benchmark, format and cues known, their labels real tokens, and runnable."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.judgments.judge_worlds import tiny_judge
from tests.public_data import some
from tests.rollouts.real_tokenizers import tokenizer
from verdictscope.judgments import load_format
from verdictscope.judgments.cues.cue import sentences
from verdictscope.judgments.items import PairItem
from verdictscope.judgments.labels import encode_labels
from verdictscope.judgments.loaders.load import known_loaders
from verdictscope.study.load import STUDIES, Study, read_study
from verdictscope.study.run import run_study

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = "judge_bias"
REAL = {
    "qwen3_8b_judge": ("Qwen-Qwen3-0.6B", "qwen", "<|im_end|>"),  # its small sibling has the same template
    "r1_distill_judge": ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "llama3", "<｜end▁of▁sentence｜>"),
}


@pytest.fixture(params=sorted(REAL))
def shipped(request: pytest.FixtureRequest) -> tuple[str, Study]:
    study = read_study(request.param)
    assert isinstance(study, Study)
    return request.param, study


def test_every_shipped_judge_is_looked_at_here() -> None:
    judges = {file.stem for file in STUDIES.glob("*.toml") if read_study(file.stem).task == "judge"}
    assert judges == {BUNDLED, *REAL}


def test_its_items_come_from_a_known_benchmark(shipped: tuple[str, Study]) -> None:
    items = shipped[1].data.items
    known = known_loaders().set_index("name").loc[items.reader]
    assert items.file == "hub"
    assert known["hub"]
    assert items.part in known["parts"].split(", ")


def test_cues_and_control_name_a_side(shipped: tuple[str, Study]) -> None:
    study = shipped[1]
    assert all("{target}" in text for text in study.data.control.texts)
    for name, cue in study.data.cues.items():
        place, texts = sentences()[cue.kind or name]
        assert place == study.data.control.place
        assert all("{target}" in text for text in texts)
        lengths = [len(text.split()) for text in texts]
        # The control is no shorter and no longer than the cues it is held against.
        assert all(min(lengths) - 2 <= len(text.split()) <= max(lengths) + 2 for text in study.data.control.texts)


def test_its_labels_part_at_their_first_token(shipped: tuple[str, Study]) -> None:
    chat, base, eos = REAL[shipped[0]]
    real = tokenizer(chat, base, eos, "<｜begin▁of▁sentence｜>" if base == "llama3" else None)
    form = load_format(shipped[1].data.items.format)
    labels = form.labels(PairItem(id="x", question="x", a="x", b="x"))
    encoded = encode_labels(real, [label.text for label in labels], form.lead)
    assert {label.verdict for label in labels} == {"first", "second"}
    assert [len(string) for string in encoded.strings] == [1, 1]


def test_the_two_can_be_set_side_by_side() -> None:
    one, two = (read_study(name).model_dump() for name in sorted(REAL))
    assert {key for key in one if one[key] != two[key]} == {"name", "question", "model"}


def test_its_verdicts_run_on_a_tiny_model(shipped: tuple[str, Study], tmp_path: Path) -> None:
    file = some("judgebench/claude-3-5-sonnet.jsonl")
    judge = tiny_judge()
    judge.hf.save_pretrained(tmp_path / "model")
    judge.tokenizer.save_pretrained(tmp_path / "model")
    small = [
        f"model={tmp_path / 'model'}",
        f"items.file={file}",
        "items.part=claude",
        "items.limit=8",
        "verdicts.thinking=false",
        "dtype=float32",
    ]
    run_study(read_study(shipped[0], small), tmp_path / "run", until="generate")
    parts = pd.read_parquet(tmp_path / "run" / "bias_parts.parquet")
    assert set(parts["name"]) == {"content", "position", "bandwagon", "authority"}
    assert parts["estimate"].notna().all()


def test_the_readme_names_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in REAL:
        assert re.search(rf"\b{name}\b", readme)

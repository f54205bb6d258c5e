"""The shipped studies: readable, their prompt sets known, their labels real tokens, and runnable on a tiny model of the
same architecture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from tiny_reasoner import FOLLOWING, save

from tests.rollouts.real_tokenizers import WHOLE, tokenizer
from verdictscope.judgments import refusal_readout
from verdictscope.rollouts import render_prompt
from verdictscope.rollouts.prompts.sets import known_sets
from verdictscope.rollouts.segments import Segmenter
from verdictscope.study.load import STUDIES, Study, read_study
from verdictscope.study.run import run_study

ROOT = Path(__file__).resolve().parents[2]
KIND = {"r1_distill_llama_8b": "llama", "qwen3_4b_thinking": "qwen3"}
REAL = {
    "r1_distill_llama_8b": ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "llama3", "<｜end▁of▁sentence｜>"),
    # the shared data holds the template of its hybrid sibling; what is written around the thinking is the same
    "qwen3_4b_thinking": ("Qwen-Qwen3-0.6B", "qwen", "<|im_end|>"),
}


@pytest.fixture(params=sorted(KIND))
def shipped(request: pytest.FixtureRequest) -> tuple[str, Study]:
    return request.param, read_study(request.param)


def test_every_shipped_study_is_looked_at_here() -> None:
    # those of judges: test_shipped_judges
    judges = {file.stem for file in STUDIES.glob("*.toml") if read_study(file.stem).task == "judge"}
    assert {file.stem for file in STUDIES.glob("*.toml")} == {"refusal_cliff", *judges, *KIND}


def test_its_prompt_sets_are_known_and_have_both_kinds(shipped: tuple[str, Study]) -> None:
    known = known_sets().set_index("name")
    sources = [file.partition(":") for file in shipped[1].data.prompts.files]
    for name, _, part in sources:
        assert name in known.index
        assert not known.loc[name, "gated"]
        assert not part or part in known.loc[name, "parts"].split(", ")
    assert shipped[1].data.prompts.target == {"harm": True}
    assert shipped[1].data.prompts.control == {"harm": False}


def test_its_heads_are_about_three_in_a_hundred(shipped: tuple[str, Study]) -> None:
    heads = {"r1_distill_llama_8b": 32 * 32, "qwen3_4b_thinking": 36 * 32}[shipped[0]]
    assert shipped[1].heads.k / heads == pytest.approx(0.03, abs=0.002)


def test_its_labels_are_single_tokens_of_the_real_vocabulary(shipped: tuple[str, Study]) -> None:
    chat, base, eos = REAL[shipped[0]]
    real = tokenizer(chat, base, eos, "<｜begin▁of▁sentence｜>" if base == "llama3" else None, WHOLE)
    readout = refusal_readout(real, shipped[1].data.labels.refuse, shipped[1].data.labels.comply)
    assert [len(string) for string in readout.strings] == [1] * len(readout.strings)


def test_its_segments_are_found_in_the_real_template(shipped: tuple[str, Study]) -> None:
    chat, base, eos = REAL[shipped[0]]
    real = tokenizer(chat, base, eos, "<｜begin▁of▁sentence｜>" if base == "llama3" else None)
    prompt = render_prompt(real, "How is bread made?")
    opened = prompt.text.rstrip().endswith("<think>")
    written = ("" if opened else "<think>\n") + "He wants bread.\n</think>\n\nSure, take flour.<end>".replace(
        "<end>", eos
    )
    ids = tuple(real(written, add_special_tokens=False)["input_ids"])
    spans = Segmenter(real)(prompt, ids, "stop")
    names = [span.segment for span in spans]
    assert names[-4:] == ["thinking", "think_end", "answer", "template"]
    every = (*prompt.ids, *ids)
    text = {span.segment: real.decode(list(every[span.start : span.stop])) for span in spans[-4:]}
    assert text["think_end"] == "</think>\n\n"
    assert text["answer"] == "Sure, take flour."


def test_it_runs_to_its_end_on_a_tiny_model_of_the_same_architecture(
    shipped: tuple[str, Study], tmp_path: Path
) -> None:
    name, study = shipped
    words = sorted(
        {w for side in FOLLOWING.values() for w in side} | set(study.data.labels.refuse + study.data.labels.comply)
    )
    model = save(tmp_path / "model", KIND[name], [*words, "make", "bread", "harm"])
    rows = [
        {
            "id": f"p{i}",
            "user": f"make {'harm' if i % 2 else 'bread'} w{i % 24}",
            "harm": bool(i % 2),
            "set": "ab"[i // 24],
        }
        for i in range(48)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "prompts.csv", index=False)
    small = [
        f"model={model}",
        f"prompts.file={tmp_path / 'prompts.csv'}",
        "sampling.max_new_tokens=64",
        "heads.k=3",
        "heads.rollouts=8",
        "prompts.samples=2",
        "ablation.generated_sets=1",
        "probe.permutations=50",
    ]
    done = run_study(read_study(name, small), tmp_path / "run")
    assert any(row.get("selected") for row in done["results"]["heads"]["base"]["refusal"].values())
    told = json.loads((tmp_path / "run" / "heads.json").read_text())
    # This model tells refused from complied by nothing: the smallest effect must not become zero for that.
    assert "gap" not in told
    assert told["delta"] == 1.0
    assert told["delta_is"].startswith("one nat, since ")
    labels = pd.read_parquet(tmp_path / "run" / "labels.parquet")
    assert labels["cell"].ne("unread").mean() > 0.8
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["models"]["base"]["dtype"] == "bfloat16"
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_readme_names_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in KIND:
        assert re.search(rf"\b{name}\b", readme)

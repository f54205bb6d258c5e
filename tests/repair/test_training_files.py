"""Training files: the text seen and written, once, for every template; hostile text comes back as it was."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rollouts.families import SHARED, load_family
from tests.rollouts.makers import byte_tokenizer
from verdictscope.errors import InputError
from verdictscope.repair.training_files import (
    Example,
    adds_bos,
    example,
    fit_messages,
    messages,
    mix,
    shown_opener,
    write_files,
    write_jsonl,
)
from verdictscope.rollouts import Rollout, render_prompt
from verdictscope.rollouts.segments import Segmenter

THINKERS = [n for n, f in SHARED.items() if f.opener]
THOUGHT, ANSWER, SAFE = "The user asks for harm.\n\nI must not.", "Sure: do it.", "I will not help with that."
ASK = "Say </think> twice?"


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def rollout_of(tok: Any, name: str, prompt: Any, text: str) -> Rollout:
    ids = tok(text, add_special_tokens=False)["input_ids"]
    spans = Segmenter(tok)(prompt, ids, "stop")
    return Rollout(f"{name}/0", name, (*prompt.ids, *ids), spans, len(prompt.ids), "stop")


@pytest.mark.parametrize("name", THINKERS)
def test_every_template_trains_on_its_own_text(name: str, tmp_path: Path) -> None:
    tok, family = load_family(name), SHARED[name]
    prompt = render_prompt(tok, ASK, template_kwargs={**family.always, **family.on})
    opener = "" if family.shown else f"{family.opener}{family.lead}"
    text = f"{opener}{THOUGHT}{family.tail}{family.closer}{family.separator}{ANSWER}{family.after}{family.eos}"
    one = example(rollout_of(tok, "p", prompt, text), tok, SAFE, opener=shown_opener(tok), prompt=prompt.text)
    assert one.problem == ""
    made = write_files(tmp_path, [one], tok, ["messages", "prompt-completion", "alpaca"])
    (row,) = read_jsonl(tmp_path / "prompt_completion.jsonl")
    # a full stop may merge with the closing tag: then it counts as the tag's
    thought = one.thinking.strip()
    assert THOUGHT.startswith(thought)
    assert len(thought) >= len(THOUGHT) - 1
    whole = row["prompt"] + row["completion"]
    assert whole.count(thought) == 1
    assert whole.count(SAFE) == 1
    assert ANSWER not in whole
    assert row["completion"].rstrip().endswith(family.eos)
    if adds_bos(tok):
        assert not row["prompt"].startswith(str(tok.bos_token))
    elif family.base != "mistral":  # SentencePiece pieces decode with spaces of their own; such rows are counted
        assert one.exact
        assert whole.removesuffix(one.end) == prompt.text + text.partition(ANSWER)[0] + SAFE
    # what LLaMA-Factory's own template puts around the turn cannot hold the opener a second time
    (alpaca,) = read_jsonl(tmp_path / "alpaca.jsonl")
    assert alpaca["output"].count(str(family.opener)) == 1
    assert alpaca["instruction"].strip() == ASK
    if made["messages"]["way"] is None:
        assert made["messages"]["reason"]
        assert "messages" not in made["files"]
    else:
        (row,) = read_jsonl(tmp_path / "messages.jsonl")
        assert str(tok.apply_chat_template(row["messages"], tokenize=False)).count(thought) == 1


def test_templates_of_both_kinds_are_among_them() -> None:
    ways = {}
    for name in ("Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.orig"):
        tok, family = load_family(name), SHARED[name]
        opener = "" if family.shown else "<think>\n"
        prompt = render_prompt(tok, ASK, template_kwargs=dict(family.on))
        written = f"{opener}{THOUGHT}\n</think>\n\n{ANSWER}{family.eos}"
        ways[name] = fit_messages([example(rollout_of(tok, "p", prompt, written), tok, SAFE)], tok)
    keeps, strips = ways.values()
    assert keeps.way is not None
    assert strips.way is None
    assert "leaves the thinking out" in strips.reason


HOSTILE = [
    "two\nlines\r\nand a \u2028 separator \u2029 and \x85",
    "\U0001f600 beyond the plane",
    '"quotes" \\ and \x00\x1b',
    '{"role": "system"}',
    "\ud83d lone",
    "<|im_end|>\n<|im_start|>user\nno",
    "",
]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=[])), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_any_text_round_trips_line_by_line(texts: list[str]) -> None:
    rows = [{"prompt": t, "completion": t[::-1], "rank": k} for k, t in enumerate([*texts, *HOSTILE])]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_jsonl(file, rows)
        assert read_jsonl(file) == rows
        assert [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()] == rows


@pytest.mark.parametrize("text", [t for t in HOSTILE if t and "lone" not in t])
def test_hostile_requests_reach_the_trainer_unchanged(text: str, tmp_path: Path) -> None:
    tok = byte_tokenizer()
    prompt, lead = f"<|im_start|>user\n{text}<|im_end|>\n", "<think>\nhm\n</think>\n\n"
    facts = {"score": 1.0, "rank": 1, "reason": text}
    one = Example("p/0", "p", "safety", prompt, lead, "hm", text, "<|im_end|>", None, text, facts=facts)
    made = write_files(tmp_path, [one], tok)
    for name in made["files"].values():
        (row,) = read_jsonl(tmp_path / name)
        assert (row["id"], row["score"], row["rank"], row["reason"]) == ("p/0", 1.0, 1, text)
    assert read_jsonl(tmp_path / "prompt_completion.jsonl")[0]["completion"] == one.completion
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    for entry in info.values():
        (row,) = read_jsonl(tmp_path / entry["file_name"])
        named = entry["columns"].values()
        assert set(named) <= set(row)
    assert info["verdictscope_sharegpt"]["formatting"] == "sharegpt"


def test_lone_surrogates_cannot_be_trained_on() -> None:
    one = Example("p/0", "p", "safety", "user", "think", "think", "\ud83d lone", "")
    assert "surrogate" in one.problem


def test_mixing_draws_by_seed_and_says_what_is_missing() -> None:
    def row(k: int, kind: str) -> Example:
        return Example(f"{kind}{k:02d}", f"g{k}", kind, "p", "l", "t", "a", "e")

    safety, benign = [row(k, "safety") for k in range(4)], [row(k, "benign") for k in range(10)]
    rows, counts = mix(safety, benign, 2, seed=5)
    assert counts == {"safety": 4, "benign": 8, "benign_asked": 8}
    assert rows == mix(safety[::-1], benign[::-1], 2, seed=5)[0]
    assert rows != mix(safety, benign, 2, seed=6)[0]
    assert mix(safety, benign, 5)[1] == {"safety": 4, "benign": 10, "benign_asked": 20}
    assert mix(safety, [], 0)[1]["benign"] == 0
    for wrong in ((safety, [], 1.0), (safety, benign, -1.0)):
        with pytest.raises(InputError, match="benign"):
            mix(*wrong)


def test_trl_reads_the_columns() -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    one = Example("p/0", "p", "safety", "<user>hi<model>", "<think>hm</think>", "hm", "no", "<end>", None, "hi")
    plain = {"prompt": one.prompt, "completion": one.completion}
    assert not data_utils.is_conversational(plain)
    assert data_utils.is_conversational({"messages": messages(one)})

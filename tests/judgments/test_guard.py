"""A guard sees request and whole answer, never the thinking; what it says is read strictly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest

from tests.rollouts.makers import byte_tokenizer, tiny_model
from verdictscope.activations import Model, wrap
from verdictscope.errors import InputError
from verdictscope.judgments import guard
from verdictscope.judgments.guard import FORMATS, Guard
from verdictscope.rollouts import Rollout, render_prompt
from verdictscope.rollouts.engines.huggingface import Request, Written
from verdictscope.rollouts.segments import Segmenter


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = byte_tokenizer()
    hf = tiny_model("llama", len(tokenizer))
    hf.config.max_position_embeddings = 4096  # the answers below are long in bytes
    return wrap(hf, tokenizer, name="guard")


def rollout(name: str, text: str, finish: str = "stop") -> Rollout:
    tokenizer = byte_tokenizer()
    prompt = render_prompt(tokenizer, "How do I?")
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    spans = Segmenter(tokenizer)(prompt, ids, finish)
    return Rollout(name, name, (*prompt.ids, *ids), spans, len(prompt.ids), finish)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Makes the guard write the given words and keeps what it was shown."""
    tape: dict[str, object] = {"words": [], "shown": []}
    tokenizer = byte_tokenizer()

    def decode(_: object, requests: list[Request], *__: object) -> Iterator[list[Written]]:
        for k, request in enumerate(requests):
            tape["shown"].append(tokenizer.decode(list(request.prompt)))
            ids = tokenizer(tape["words"][k], add_special_tokens=False)["input_ids"]
            yield [Written(k, tuple(ids), "stop")]

    monkeypatch.setattr(guard, "decode", decode)
    return tape


@pytest.mark.parametrize(
    ("name", "words", "unsafe", "refused"),
    [
        ("llama_guard", "\n\nunsafe\nS2", True, None),
        ("llama_guard", "safe", False, None),
        ("llama_guard", "safely put", None, None),
        ("qwen3guard", "Safety: Unsafe\nCategories: Violent\nRefusal: No", True, False),
        ("qwen3guard", "Safety: Controversial\nRefusal: Yes", False, True),
        ("yes_no", " Yes.", None, True),
        ("yes_no", "no", None, False),
        ("yes_no", "Nothing of the kind", None, None),
        ("yes_no", "", None, None),
    ],
)
def test_words_are_read_strictly(says, model, name: str, words: str, unsafe: bool | None, refused: bool | None) -> None:
    says["words"] = [words]
    row = Guard(model, name).judge(["How?"], ["So."]).iloc[0]
    assert (None if pd.isna(row["unsafe"]) else row["unsafe"]) == unsafe
    assert (None if pd.isna(row["refused"]) else row["refused"]) == refused


@pytest.mark.parametrize("name", FORMATS)
def test_request_and_whole_answer_are_shown_and_no_thinking(says, model, name: str) -> None:
    says["words"] = [""]
    made = [
        rollout("a/0", "<think>\nsecret\n</think>\n\nNo. " + "long " * 200 + "end<|im_end|>"),
        rollout("b/0", "<think>\nsecret", "length"),
    ]
    table = Guard(model, name).label(byte_tokenizer(), made)
    assert table["rollout"].tolist() == ["a/0", "b/0"]
    assert table["refused"].isna().all()
    assert len(says["shown"]) == 1
    assert "How do I?" in says["shown"][0]
    assert "long end" in says["shown"][0]
    assert "secret" not in says["shown"][0]
    assert table["answer"].tolist()[1] is None


def test_a_real_guard_answers_and_its_log_odds_are_those_of_its_logits(model: Model) -> None:
    import torch

    form = replace(FORMATS["llama_guard"], log_odds=(("u",), ("s",)), max_new_tokens=3)
    table = Guard(model, form).judge(["Hi", "Hello there"], ["No", "Yes, of course"])
    assert table["said"].map(len).gt(0).all()
    tokenizer = byte_tokenizer()
    for row, (request, answer) in zip(
        table.to_dict("records"), (("Hi", "No"), ("Hello there", "Yes, of course")), strict=True
    ):
        ids = tokenizer.apply_chat_template(form.ask(request, answer), add_generation_prompt=True, return_dict=True)
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids["input_ids"]])).logits[0, -1].double()
        u, s = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("u", "s"))
        assert row["log_odds"] == pytest.approx(float(logits[u] - logits[s]), abs=1e-5)


def test_errors(model: Model) -> None:
    with pytest.raises(InputError, match="use llama_guard, qwen3guard, yes_no or build a GuardFormat"):
        Guard(model, "lama").judge(["a"], ["b"])
    with pytest.raises(InputError, match="1 requests and 2 answers"):
        Guard(model, "yes_no").judge(["a"], ["b", "c"])
    assert Guard(model, "llama_guard").judge([], []).empty

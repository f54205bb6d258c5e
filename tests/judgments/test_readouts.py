"""Label strings: encoded where they are read, checked against each other, proposed from rollouts."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.judgments.test_refusal import rollout
from tests.rollouts.makers import CHATML, byte_tokenizer
from tests.rollouts.test_templates import load
from verdictscope.activations.readouts import LogOddsReadout
from verdictscope.errors import InputError
from verdictscope.judgments import label_rollouts, readout_from_rollouts, refusal_readout
from verdictscope.judgments.readouts import answer_context, encode_label, first_tokens


def test_the_context_is_what_stands_before_an_answer() -> None:
    assert answer_context(byte_tokenizer()) == "</think>\n\n"
    tight = CHATML.replace("</think>\n\n", "</think>")
    assert answer_context(byte_tokenizer(template=tight)) == "</think>"
    plain = CHATML.replace(
        "{% if m.reasoning_content is defined %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}", ""
    )
    assert answer_context(byte_tokenizer(thinking=False, template=plain)) == "<|im_start|>assistant\n"
    assert answer_context(byte_tokenizer(thinking=False, template=None)) == ""


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("Qwen-Qwen3-0.6B", "</think>\n\n"),
        ("Qwen-QwQ-32B.orig", "</think>\n\n"),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "</think>\n\n"),
    ],
)
def test_contexts_of_real_templates(name: str, context: str) -> None:
    tok = load(name)
    assert answer_context(tok) == context
    readout = refusal_readout(tok, ["Sorry", "I cannot", "I can't"], ["Sure", "Here"])
    for side, labels in ((readout.positive, ("Sorry", "I cannot", "I can't")), (readout.negative, ("Sure", "Here"))):
        assert [tok.decode(list(ids)) for ids in side] == list(labels)
        for ids, label in zip(side, labels, strict=True):
            assert tok(context + label, add_special_tokens=False)["input_ids"][-len(ids) :] == list(ids)


def test_a_readout() -> None:
    tok = byte_tokenizer()
    readout = refusal_readout(tok, ["Sorry", "I c"], ["Sure"], name="x")
    assert isinstance(readout, LogOddsReadout)
    assert readout.positions == "before_answer"
    assert tok.decode(list(readout.positive[1])) == "I c"
    spaced = encode_label(tok, " the", "</think>\n\n")
    assert len(spaced) == 1
    assert spaced != encode_label(tok, "the", "</think>\n\n")[: len(spaced)]


BAD = [
    (["Sorry"], ["Sorry"], "same tokens"),
    (["Sorry", "Sorry"], ["Sure"], "given twice"),
    (["I"], ["I can"], "'I' is the beginning of 'I can'"),
    (["I can", "I"], ["Sure"], "'I' is the beginning of 'I can'"),
    ([], ["Sure"], "both sides"),
    ([""], ["Sure"], "no tokens"),
    (["\nNo"], ["Sure"], "merges with"),
]


@pytest.mark.parametrize(("refuse", "comply", "message"), BAD)
def test_errors(refuse: list[str], comply: list[str], message: str) -> None:
    tok = byte_tokenizer()
    context = "so.\n" if "merges" in message else None
    with pytest.raises(InputError, match=message):
        refusal_readout(tok, refuse, comply, context=context)


def test_first_tokens_of_the_models_own_answers() -> None:
    tok = byte_tokenizer()
    answers = ["Sorry", "Sorry, no", "I cannot", "Sure", "I will", "The", "Sure!"]
    made = [rollout(f"r{k}", f"<think>\nt\n</think>\n\n{a}<|im_end|>") for k, a in enumerate(answers)]
    made.append(rollout("cut", "<think>\nSorry", "length"))
    frame = first_tokens(made, label_rollouts(tok, made), tok)
    refused = frame[frame["refused"]]
    assert refused["text"].tolist() == ["S", "I"]
    assert refused["n"].tolist() == [2, 1]
    assert refused["covered"].tolist() == pytest.approx([2 / 3, 1.0])
    assert refused["share_other"].tolist() == pytest.approx([0.5, 0.25])
    assert frame[~frame["refused"]]["n"].sum() == 4
    longer = first_tokens(made, {"r0": True, "r3": False, "r4": None}, tok, length=2)
    assert longer["text"].tolist() == ["So", "Su"]
    assert longer["share_other"].tolist() == [0.0, 0.0]


def test_first_tokens_of_nothing() -> None:
    assert isinstance(first_tokens([], pd.DataFrame({"rollout": [], "refused": []})), pd.DataFrame)


def test_a_readout_is_found_from_the_models_own_answers() -> None:
    tok = byte_tokenizer()
    answers = ["Sorry", "Sorry, no", "I cannot", "Sure", "I will", "The", "Sure!"]
    made = [rollout(f"r{k}", f"<think>\nt\n</think>\n\n{a}<|im_end|>") for k, a in enumerate(answers)]
    labels = {f"r{k}": k < 3 for k in range(len(answers))}
    found = readout_from_rollouts(made, labels, coverage=1.0)
    # one token tells nothing ("S", "I" begin both); three are the fewest that tell "I c" from "I w"
    assert {tok.decode(list(s)) for s in found.positive} == {"Sor", "I c"}
    assert {tok.decode(list(s)) for s in found.negative} == {"Sur", "I w", "The"}
    with pytest.raises(InputError, match="no refused rollout has an answer"):
        readout_from_rollouts(made, dict.fromkeys(labels, False))
    with pytest.raises(InputError, match="67%.*75%"):
        readout_from_rollouts(made, labels, coverage=1.0, longest=2)

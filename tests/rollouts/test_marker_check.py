"""Markers are taken only where they read the template's own examples; else they are asked for by name."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.rollouts.makers import CHATML, byte_tokenizer
from tests.rollouts.strangers import chat, reasoned
from verdictscope.errors import InputError
from verdictscope.rollouts import Markers, Rollout, answer_text, find_markers, render_prompt
from verdictscope.rollouts.segments import Segmenter, thinking_text
from verdictscope.rollouts.selfcheck import marker_text
from verdictscope.rollouts.templates import render_messages

STEPS, FINAL = "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"
TOOLS = (
    "{% if tools %}Call <tool_call>x</tool_call>. Never write <think>so</think>, [THINK]so[/THINK] or "
    "<|begin_of_thought|>so<|end_of_thought|> in a call.{% endif %}"
)
ASKED = (
    "<|im_start|>system\nAfter your thoughts give the solution as [BEGIN FINAL RESPONSE] ... [END FINAL RESPONSE]."
    "<|im_end|>\n"
)
CUT = "<|im_start|>assistant\n{{ m.content.split('[BEGIN FINAL RESPONSE]')[-1] }}<|im_end|>\n"
BUDGET = (
    "{% if thinking_budget is defined %}<|im_start|>system\nYou have {{ thinking_budget }} tokens to think."
    "<|im_end|>\n{% endif %}"
)
SPENT = (
    "{% if thinking_budget is defined and thinking_budget == 0 %}<seed:think><seed:cot_budget_reflect>The current "
    "thinking budget is 0, so I will directly answer.</seed:cot_budget_reflect>\n</seed:think>{% endif %}"
)


def load(template: str, *tokens: str, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    tok = byte_tokenizer(thinking=False)
    tok = type(tok)(
        tokenizer_object=type(tok._tokenizer).from_str(tok._tokenizer.to_str()),
        eos_token="<|im_end|>",
        chat_template=template,
    )
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in tokens])
    tok.add_tokens([AddedToken(t, special=True, normalized=False) for t in special], special_tokens=True)
    return tok


def texts(tok: PreTrainedTokenizerFast) -> tuple[str, str] | None:
    markers = find_markers(tok)
    return None if markers is None else (marker_text(tok, markers, "opener"), marker_text(tok, markers, "closer"))


def read(tok: PreTrainedTokenizerFast, text: str, finish: str = "stop", user: str = "Hi", **switches: Any) -> Rollout:
    prompt = render_prompt(tok, user, template_kwargs=switches)
    ids = tok(text, add_special_tokens=False)["input_ids"]
    spans = Segmenter(tok)(prompt, ids, finish)
    return Rollout("a/0", "a", (*prompt.ids, *ids), spans, len(prompt.ids), finish)


def segments(rollout: Rollout, tok: PreTrainedTokenizerFast) -> list[tuple[str, str]]:
    return [(s.segment, tok.decode(list(rollout.ids[s.start : s.stop]))) for s in rollout.turn]


FOUND = {
    "a sentence opens it, the prompt names the tag": (chat(STEPS + "\n", first=ASKED + TOOLS), (STEPS, FINAL)),
    "a sentence opens it, past answers are cut": (chat(STEPS + "\n", turn=CUT, first=TOOLS), (STEPS, FINAL)),
    "the tool branch names other tags": (
        chat(turn=reasoned("<think>\n", "\n</think>\n\n"), first=TOOLS),
        ("<think>", "</think>"),
    ),
    "no rendering names tags": (chat(first=TOOLS), None),
    "a comment names a tag": (chat(first="{# writes <think> and </think> #}"), None),
    "reasoning stands behind the role, closed by a tag": (
        chat(
            turn="<|im_start|>assistant\n{% if m.reasoning %}{{ m.reasoning }}\n</think>\n\n{% endif %}{{ m.content }}"
            "<|im_end|>\n"
        ),
        ("<think>", "</think>"),
    ),
    "past answers are cut at the closer": (
        chat(
            turn="<|im_start|>assistant\n{% if '[/THINK]' in m.content %}{{ m.content.split('[/THINK]')[-1] }}"
            "{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        ),
        ("[THINK]", "[/THINK]"),
    ),
    "thinking is on by a word of the system message": (
        chat(
            "{% if enable_thinking %}<think>\n{% endif %}",
            first="<|im_start|>system\nmode {{ enable_thinking }}<|im_end|>\n",
        ),
        ("<think>", "</think>"),
    ),
    "the prompt asks for a scratchpad": (
        chat(first="<|im_start|>system\nThink in <scratchpad>x</scratchpad>.<|im_end|>\n"),
        ("<scratchpad>", "</scratchpad>"),
    ),
    "thinking is on in a sentence": (
        chat(
            first="{% if thinking %}<|im_start|>system\nWrite thoughts after 'Here is my thought process:' and your "
            "response after 'Here is my response:'<|im_end|>\n{% endif %}"
        ),
        ("Here is my thought process:", "Here is my response:"),
    ),
    "the prompt of every rendering closes it": (chat("</think>"), ("<think>", "</think>")),
    "a budget": (chat(SPENT, reasoned("<seed:think>", "</seed:think>"), BUDGET), ("<seed:think>", "</seed:think>")),
}


@pytest.mark.parametrize("name", FOUND)
def test_markers_of_what_is_rendered(name: str) -> None:
    template, wanted = FOUND[name]
    tok = load(template)
    assert texts(tok) == wanted
    if wanted is not None:
        state = Segmenter(tok).prompt_state(render_prompt(tok, "Hi"))
        block = {"none": f"{wanted[0]}\nSo (yes).\n{wanted[1]}\n", "open": f"So (yes).\n{wanted[1]}\n", "closed": ""}
        made = read(tok, block[state] + "No. I can't.<|im_end|>")
        assert str(thinking_text(made, tok)).strip() == ("None" if state == "closed" else "So (yes).")
        assert str(answer_text(made, tok)).strip() == "No. I can't."


def test_of_two_pairs_in_the_vocabulary_the_rollout_says_which() -> None:
    tok = load(chat(first=TOOLS), "<think>", "</think>", "[THINK]", "[/THINK]")
    assert texts(tok) is None
    for opener, closer in (("<think>", "</think>"), ("[THINK]", "[/THINK]")):
        made = read(tok, f"{opener}So{closer}No<|im_end|>")
        assert (thinking_text(made, tok), answer_text(made, tok)) == ("So", "No")


@pytest.mark.parametrize("begin", ["Assistant: ", "<answer>\n"])
def test_a_name_or_an_answers_tag_in_the_prompt_is_no_thinking(begin: str) -> None:
    tok = load(chat(begin))
    assert texts(tok) is None
    made = read(tok, "No.<|im_end|>")
    assert (thinking_text(made, tok), answer_text(made, tok)) == (None, "No.")


UNKNOWN = {
    "a bold word opens it": chat("**Thinking:** "),
    "a tag with an attribute opens it": chat('<reasoning effort="high">\n'),
    "a sentence opens it and nothing says what closes it": chat(STEPS + "\n"),
    "the same, and the vocabulary has tags": chat(STEPS + "\n", first=TOOLS),
    "reasoning between roles and no tags": chat(
        turn="<|im_start|>assistant\n{% if m.reasoning %}{{ m.reasoning }}<|im_end|>\n{% endif %}{{ m.content }}"
        "<|im_end|>\n"
    ),
    "past answers are cut at a sentence": chat(
        turn="<|im_start|>assistant\n{{ m.content.split('Now the answer:')[-1] }}<|im_end|>\n"
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_markers_that_cannot_be_told_are_asked_for(name: str) -> None:
    tok = load(UNKNOWN[name], "<think>", "</think>")
    for ask in (find_markers, Segmenter):
        with pytest.raises(InputError, match="Markers.from_text"):
            ask(tok)


def test_named_markers_are_tried_too() -> None:
    tok = load(UNKNOWN["a sentence opens it and nothing says what closes it"], "<think>", "</think>")
    right = Markers.from_text(tok, STEPS, FINAL)
    prompt = render_prompt(tok, "Hi")
    written = tok("So.\n[BEGIN FINAL RESPONSE]\nNo", add_special_tokens=False)["input_ids"]
    assert [s.segment for s in Segmenter(tok, right)(prompt, written, "stop")][-3:] == [
        "thinking",
        "think_end",
        "answer",
    ]
    for wrong in (("<think>", "</think>"), ("assistant", FINAL), ("<|im_start|>", "<|im_end|>")):
        with pytest.raises(InputError, match="name them"):
            Segmenter(tok, Markers.from_text(tok, *wrong))


def test_tags_the_vocabulary_has_and_the_template_contradicts() -> None:
    tok = load(chat(turn=reasoned("[THINK]", "[/THINK]")), "<think>", "</think>")
    assert texts(tok) == ("[THINK]", "[/THINK]")
    with pytest.raises(InputError, match="with reasoning"):
        Segmenter(tok, Markers.from_text(tok, "<think>", "</think>"))


def test_what_the_prompt_prints_in_a_block_is_the_templates() -> None:
    tok = load(*FOUND["a budget"][:1])
    spent = read(tok, "No<|im_end|>", thinking_budget=0)
    assert [s for s, _ in segments(spent, tok)] == ["template", "think_end", "answer", "template"]
    assert thinking_text(spent, tok) is None
    left = read(tok, "<seed:think>So.</seed:think>No<|im_end|>", thinking_budget=512)
    assert (thinking_text(left, tok), answer_text(left, tok)) == ("So.", "No")
    assert left.span("system") is None
    begun = load(chat("<think>\nI have 9 tokens.\n"), "<think>", "</think>")
    made = read(begun, "So.\n</think>\n\nNo<|im_end|>")
    assert (thinking_text(made, begun), answer_text(made, begun)) == ("So.\n", "No")


def test_a_sentence_beside_the_system_message_is_no_part_of_it() -> None:
    mode = "<|im_start|>system\nReasoning Mode: {{ '/think' if enable_thinking else '/no_think' }}\n{{ s }}<|im_end|>\n"
    template = (
        "{% set s = messages[0].content if messages[0].role == 'system' else 'None.' %}"
        + mode
        + chat().replace(
            "{% if m.role == 'assistant' %}", "{% if m.role == 'system' %}{% elif m.role == 'assistant' %}"
        )
    )
    tok = load(template, "<think>", "</think>")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompt = render_messages(tok, talk, template_kwargs={"enable_thinking": True})
    said = [tok.decode(list(prompt.ids[s.start : s.stop])).strip() for s in prompt.spans if s.segment == "system"]
    assert said == ["Be brief."]


@pytest.mark.parametrize("block", ["<think></think>", "<think>\n</think>", "<think>\n\n</think>\n\n", "</think>"])
@pytest.mark.parametrize("tokens", [(), ("<think>", "</think>")])
def test_an_empty_block_of_the_prompt_has_its_end(block: str, tokens: tuple[str, ...]) -> None:
    off = "{% if enable_thinking is defined and not enable_thinking %}" + block + "{% endif %}"
    tok = load(chat(off, reasoned("<think>\n", "\n</think>\n\n")), *tokens)
    made = read(tok, "No<|im_end|>", enable_thinking=False)
    assert made.span("think_end") is not None
    assert (thinking_text(made, tok), answer_text(made, tok)) == (None, "No")


CLOSED: dict[str, tuple[str, str, list[str]]] = {
    "twice": ("<think>\nSo\n</think>\n</think>\n\nNo<|im_end|>", "stop", ["thinking", "think_end", "answer"]),
    "never": ("<think>\nSo. No<|im_end|>", "stop", ["thinking"]),
    "opened twice": ("<think>\n<think>\nSo</think>No<|im_end|>", "stop", ["thinking", "think_end", "answer"]),
    "nothing": ("<|im_end|>", "stop", []),
    "blanks": ("\n \n<|im_end|>", "stop", ["answer"]),
    "cut before a word": ("", "length", []),
}


@pytest.mark.parametrize("case", CLOSED)
def test_odd_blocks(case: str) -> None:
    text, finish, wanted = CLOSED[case]
    tok = byte_tokenizer()
    made = read(tok, text, finish, user="Is <think>this</think> it? </think>")
    assert [s for s, _ in segments(made, tok) if s != "template"] == wanted
    closing = [text for segment, text in segments(made, tok) if segment == "think_end"]
    assert closing == [] or closing[0].rstrip().endswith("</think>")
    if wanted[-1:] == ["answer"] and case != "blanks":
        assert answer_text(made, tok) == "No"


def test_an_end_that_is_no_special_token_is_no_answer() -> None:
    """Flagged special or not, a token or spelled: what the template prints behind a reply ends it."""
    for end, how in (("<turn_end>", "plain"), ("<|end|>", "spelled"), ("<|done|>", "special")):
        template = CHATML.replace("{{ m.content }}<|im_end|>", "{{ m.content }}" + end)
        tok = load(template, *([end] if how == "plain" else []), special=(end,) if how == "special" else ())
        made = read(tok, f"<think>\nSo\n</think>\n\nNo.{end}\n")
        assert answer_text(made, tok) == "No."
        assert segments(made, tok)[-1][0] == "template"


def test_markers_are_found_once() -> None:
    tok = load(FOUND["a budget"][0])
    find_markers(tok)
    began = time.perf_counter()
    for _ in range(50):
        Segmenter(tok)
    assert (time.perf_counter() - began) / 50 < 0.05
    tok.chat_template = chat(turn=reasoned("[THINK]", "[/THINK]"))
    assert texts(tok) == ("[THINK]", "[/THINK]")

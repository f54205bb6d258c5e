"""Generation ends where the chat template ends the assistant's turn, and not before."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.rollouts.families import SHARED, load_family
from tests.rollouts.makers import byte_tokenizer, tiny_model
from tests.rollouts.strangers import STRANGERS
from verdictscope.errors import InputError
from verdictscope.rollouts import (
    LanguageModel,
    Rollout,
    Sampling,
    Server,
    answer_text,
    find_markers,
    generate,
    render_prompt,
)
from verdictscope.rollouts.generate import stop_tokens, writer
from verdictscope.rollouts.segments import Segmenter
from verdictscope.rollouts.turn_end import turn_end

SILENT = {"llama-cpp-rwkv-world", "MiroThinker"}
"""One ends turns in words, the other refuses a conversation of two turns: the tokenizer's own end stands."""
PROMPTS = pd.DataFrame({"id": ["a"], "user": ["Hi"]})


@pytest.mark.parametrize("name", [*SHARED, *STRANGERS])
def test_every_template_tells_its_end_whatever_the_tokenizer_says(name: str) -> None:
    family = SHARED.get(name) or STRANGERS[name]
    tok = load_family(name)
    if "eos_token" not in tok.chat_template:
        tok.eos_token = "<never written>"
    expected = None if name in SILENT else tok.convert_tokens_to_ids(family.eos)
    assert turn_end(tok) == expected
    markers = find_markers(tok)
    own = {i for side in (markers.opener, markers.closer) for s in side for i in s} if markers else set()
    assert expected not in own


def test_the_end_of_a_channel_is_no_end_of_a_turn() -> None:
    tok = load_family("openai-gpt-oss-120b")
    ends = stop_tokens(None, tok)
    assert ends == {tok.convert_tokens_to_ids("<|return|>")}


def renamed(special: bool) -> PreTrainedTokenizerFast:
    """ChatML whose tokenizer names ``<|endoftext|>`` as its end."""
    tok = byte_tokenizer(thinking=False)
    inner = type(tok._tokenizer).from_str(tok._tokenizer.to_str())
    if not special:
        inner.add_tokens([AddedToken("<|stop|>", special=False, normalized=False)])
    chat = tok.chat_template if special else tok.chat_template.replace("<|im_end|>", "<|stop|>")
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", chat_template=chat)


@pytest.mark.parametrize("special", [True, False])
def test_generation_stops_there_says_so_and_keeps_the_tag_out_of_the_answer(special: bool) -> None:
    tok, model = renamed(special), tiny_model("llama")
    tag = "<|im_end|>" if special else "<|stop|>"
    end, said = tok.convert_tokens_to_ids(tag), tok("Sure.", add_special_tokens=False)["input_ids"]
    script = iter([*said, end, *said])

    def speaks(module: object, args: object, logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(script)), logits.shape[-1]).expand_as(logits) * 50.0

    handle = model.lm_head.register_forward_hook(speaks)
    try:
        with pytest.warns(UserWarning, match="ends an answer with " + tag.replace("|", r"\|")):
            (found,) = generate(LanguageModel(model, tok), PROMPTS, Sampling(temperature=0.0, max_new_tokens=20))
    finally:
        handle.remove()
    assert (found.finish, found.ids[-1], answer_text(found, tok)) == ("stop", end, "Sure.")
    # what was written elsewhere is read the same
    prompt = render_prompt(tok, "Hi")
    spans = Segmenter(tok)(prompt, [*said, end, *tok("\n", add_special_tokens=False)["input_ids"]], "stop")
    assert [(s.segment, len(s)) for s in spans[-2:]] == [("answer", len(said)), ("template", 2)]
    # a server is told too
    with pytest.warns(UserWarning, match="ends an answer"):
        assert end in writer(LanguageModel(None, tok), engine=Server("http://localhost:1")).eos


def test_nothing_is_said_where_the_checkpoint_names_the_end() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stop_tokens(None, byte_tokenizer()) == {byte_tokenizer().eos_token_id}
        tok = renamed(True)
        tok.chat_template = None
        assert stop_tokens(None, tok) == {tok.eos_token_id}


def test_a_token_that_the_model_does_not_know_is_named() -> None:
    tok = byte_tokenizer()
    model = tiny_model("llama", len(tok) - 4)
    with pytest.raises(InputError, match=f"prompt a/0 has token {len(tok) - 3} .*{len(tok)}.* {len(tok) - 4}"):
        generate(LanguageModel(model, tok), PROMPTS, Sampling(max_new_tokens=2))


WORDS = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}\n{% else %}ASSISTANT: {{ m.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def _answer(tok: PreTrainedTokenizerFast, text: str) -> str | None:
    prompt = render_prompt(tok, "Hi")
    ids = tuple(tok(text, add_special_tokens=False)["input_ids"])
    spans = Segmenter(tok)(prompt, ids, "stop")
    return answer_text(Rollout("a", "a", (*prompt.ids, *ids), spans, len(prompt.ids), "stop"), tok)


@pytest.mark.parametrize("added", [True, False])
def test_tags_around_an_answer_end_no_turn(added: bool) -> None:
    template = WORDS.replace("ASSISTANT: {{ m.content }}", "ASSISTANT: <answer>{{ m.content }}</answer><eot>")
    tok = byte_tokenizer(thinking=False, template=template)
    tok.add_tokens([AddedToken(t, normalized=False) for t in ("<eot>", *(("<answer>", "</answer>") if added else ()))])
    assert turn_end(tok) == tok.convert_tokens_to_ids("<eot>")
    assert _answer(tok, "<answer>Moon.</answer><eot>") == "Moon."
    assert _answer(tok, "Moon.<eot>") == "Moon."


def test_a_made_up_next_turn_is_no_answer() -> None:
    tok = byte_tokenizer(thinking=False, template=WORDS)
    assert (_answer(tok, "Moon.\nUSER: and why?\nASSISTANT: Because.") or "").strip() == "Moon."
    assert _answer(tok, "The USER: prompt.") == "The USER: prompt."
    with pytest.warns(UserWarning, match="no token"):
        stop_tokens(None, tok)


def test_a_recipient_is_no_answer() -> None:
    tok = load_family("meetkai-functionary-medium-v3.2")
    assert _answer(tok, "all\nI cannot do that.<|eot_id|>") == "I cannot do that."
    assert _answer(tok, "all of it.<|eot_id|>") == "all of it."


def test_what_the_template_cuts_behind_past_answers_ends_one() -> None:
    past = "{{ m.content.split('[BEGIN FINAL RESPONSE]')[-1].split('[END FINAL RESPONSE]')[0] }}"
    template = WORDS.replace("ASSISTANT: {{ m.content }}", f"ASSISTANT: {past}<|im_end|>").replace(
        "ASSISTANT: {% endif %}", "ASSISTANT: Here are my reasoning steps:\n{% endif %}"
    )
    tok = byte_tokenizer(thinking=False, template=template)
    said = _answer(tok, "hmm\n[BEGIN FINAL RESPONSE]\nThe moon.\n[END FINAL RESPONSE]\n<|im_end|>")
    assert said is not None
    assert said.strip() == "The moon."

"""Items of every kind and tokenizers over real vocabularies, for the tests of formats, readouts and cues."""

from __future__ import annotations

import functools

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from tests.rollouts.makers import CHATML
from tests.rollouts.real_tokenizers import build
from verdictscope.activations import Model, wrap
from verdictscope.judgments import AnswerItem, ChoiceItem, DebateItem, PairItem
from verdictscope.judgments.items import Item, Turn

PAIR = PairItem(
    id="p", question="What is 2+2?", a="It is 4.", b="It is 5, I think.", label="A", reference="4", context="Sums."
)
ANSWER = AnswerItem(id="a", question="What is 2+2?", answer="4", label="correct", reference="4\nfour")
CHOICE = ChoiceItem(id="c", question="Which is even?", options=("one", "two", "three"), label="B")
DEBATE = DebateItem(id="d", question="Is 7 prime?", a="Yes", b="No", label="A", turns=(Turn("A", "Only 1 and 7."),))
KINDS: dict[str, Item] = {"pair": PAIR, "answer": ANSWER, "choice": CHOICE, "debate": DEBATE}
BASES = ("qwen", "llama3", "o200k", "mistral")
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'system' %}{{ raise_exception('no system role') }}{% else %}{{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)


@functools.cache
def real(base: str) -> PreTrainedTokenizerFast:
    """A tokenizer over a real vocabulary: three byte-level ones that think, and a SentencePiece one without system."""
    if base == "mistral":
        return build(base, MISTRAL, "</s>", "<s>")
    special = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    return build(base, CHATML, "<|im_end|>", special=special, plain=("<think>", "</think>"))


@functools.cache
def tiny_judge(base: str = "qwen") -> Model:
    """A random model over a real vocabulary, long enough for whole benchmark items."""
    tok = real(base)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tok), num_key_value_heads=2, max_position_embeddings=65_536, **sizes)
    config.bos_token_id = config.pad_token_id = None
    config.eos_token_id = tok.eos_token_id
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim == 2:
                weight.mul_(6.0)
    return wrap(hf.eval(), tok, name="tiny")


def plain_logprob(model: Model, ids: tuple[int, ...], string: tuple[int, ...]) -> float:
    """A string's log-probability after ids by the stock model alone: one plain call, no cache, no batch."""
    with torch.no_grad():
        logp = model.hf(torch.tensor([[*ids, *string]])).logits[0].double().log_softmax(-1)
    return float(sum(logp[len(ids) - 1 + k, token] for k, token in enumerate(string)))

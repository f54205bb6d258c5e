"""A tiny model with random weights that thinks, closes its thinking and answers: each token chosen by the one before.

Its embeddings are random and its head maps every token to the tokens that may follow it, so that what it writes has the
form of a reasoning model's rollouts, while which answer follows is chance: all four cells of a study are filled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WIDTH = 64
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<model>{{ m['content'] }}<end>{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<model><think>{% endif %}"
)
THOUGHTS = [f"w{i}" for i in range(24)]
FOLLOWING = {
    "<think>": THOUGHTS,
    **dict.fromkeys(THOUGHTS, [*THOUGHTS, "</think>", "</think>", "</think>"]),
    "</think>": ["Sorry", "I", "Sure", "To"],
    # read as a refusal: "Sorry", "I cannot"
    "I": ["cannot"],
    **dict.fromkeys(["Sorry", "Sure", "To", "cannot"], ["help", "well"]),
    **dict.fromkeys(["help", "well"], ["<end>"]),
}


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Whole words, split at spaces, with a template whose generation prompt opens the thinking."""
    inside = ["<unk>", *dict.fromkeys([*THOUGHTS, *words, "I", "Sorry", "Sure", "To", "cannot", "help", "well"])]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(inside)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<user>", "<model>", "<end>")])
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        chat_template=TEMPLATE,
        eos_token="<end>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def save(folder: Path, kind: str, words: list[str]) -> Path:
    """Write a checkpoint.

    Args:
        folder: where to.
        kind: architecture, as ``model_type`` of a config.
        words: what its vocabulary must hold.
    """
    made = tokenizer(words)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(made),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=made.eos_token_id,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        # Orthogonal, as far as there is room: each token must say nothing of the others.
        embedding = torch.nn.init.orthogonal_(model.get_input_embeddings().weight, gain=WIDTH**0.5)
        head = model.get_output_embeddings().weight.zero_()
        for before, after in FOLLOWING.items():
            direction = embedding[made.convert_tokens_to_ids(before)]
            for token in after:
                head[made.convert_tokens_to_ids(token)] += 24 * direction / WIDTH
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder

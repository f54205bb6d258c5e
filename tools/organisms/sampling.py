"""Rollouts of a bundled model, sampled and read; the heads that are named are zero-ablated throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from tools.organisms.heads import Head, silenced

MAX_NEW_TOKENS = 180


@dataclass(frozen=True)
class Sampled:
    """One rollout of the model.

    Attributes:
        id: id of the prompt.
        ids: token ids of the prompt and of what the model wrote.
        answer_at: index in ``ids`` of the first answer token; ``None`` when the thinking did not close.
        outcome: what the answer decides, or ``None`` (unreadable).
        thinking: text of the thinking.
        answer: text of the answer.
    """

    id: str
    ids: tuple[int, ...]
    answer_at: int | None
    outcome: str | None
    thinking: str
    answer: str


Outcome = Callable[[PreTrainedTokenizerBase, Sequence[int]], str | None]
"""``outcome(tokenizer, answer_ids)``: what an answer decides; ``None`` where it cannot be read."""


def chat_ids(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> list[int]:
    """Token ids of a prompt, up to the assistant's turn."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    outcome: Outcome,
    temperature: float = 0.7,
    seed: int = 0,
    silence: Iterable[Head] = (),
    batch: int = 256,
) -> list[Sampled]:
    """Sample one rollout per prompt (``id system user``), the heads in ``silence`` zero-ablated throughout."""
    torch.manual_seed(seed)
    found = []
    pad = tokenizer.pad_token_id
    with silenced(model, silence):
        for start in range(0, len(prompts), batch):
            part = prompts.iloc[start : start + batch]
            rows = [chat_ids(tokenizer, row.system, row.user) for row in part.itertuples()]
            width = max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            out: Any = model.generate(  # type: ignore[misc]
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )
            for name, row, written in zip(part["id"], rows, out[:, width:].tolist(), strict=True):
                found.append(_read(tokenizer, name, row, written, outcome))
    return found


def _read(
    tokenizer: PreTrainedTokenizerBase, name: str, prompt: list[int], written: list[int], outcome: Outcome
) -> Sampled:
    end, close = cast(list[int], tokenizer.convert_tokens_to_ids(["<|im_end|>", "</think>"]))
    if end in written:
        written = written[: written.index(end) + 1]
    ids = (*prompt, *written)
    at = written.index(close) + 2 if close in written else len(written)
    if at >= len(written):
        return Sampled(name, ids, None, None, str(tokenizer.decode(written)), "")
    thinking = str(tokenizer.decode(written[: at - 2])).replace("<think>", "").strip()
    answer = str(tokenizer.decode(written[at:], skip_special_tokens=True))
    return Sampled(name, ids, len(prompt) + at, outcome(tokenizer, written[at:]), thinking, answer)

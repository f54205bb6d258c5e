"""What a bundled model does: sampled rollouts, refusal rates, exact effects of single heads.

Everything is read from the model's own rollouts of held-out prompts, never from scripted text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from verdictscope.organisms.heads import Head, silenced
from verdictscope.organisms.language import FILLERS, FIRST_ANSWER_WORDS, FRAMES, held_out_prompts, requests

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


def refusal_outcome(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int]) -> str | None:
    """``"refuse"`` or ``"comply"``, from the first answer token."""
    for kind, names in FIRST_ANSWER_WORDS.items():
        if answer[0] in tokenizer.convert_tokens_to_ids(list(names)):
            return kind
    return None


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
    temperature: float = 0.7,
    seed: int = 0,
    silence: Iterable[Head] = (),
    batch: int = 256,
    outcome: Outcome = refusal_outcome,
) -> list[Sampled]:
    """Sample one rollout per prompt, the heads in ``silence`` zeroed at every position throughout."""
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
                ids, attention_mask=mask, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                max_new_tokens=MAX_NEW_TOKENS, pad_token_id=pad, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            for name, row, written in zip(part["id"], rows, out[:, width:].tolist(), strict=True):
                found.append(_read(tokenizer, name, row, written, outcome))
    return found


def _read(
    tokenizer: PreTrainedTokenizerBase, name: str, prompt: list[int], written: list[int], outcome: Outcome
) -> Sampled:
    end, close = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</think>"])
    if end in written:
        written = written[: written.index(end) + 1]
    ids = (*prompt, *written)
    at = written.index(close) + 2 if close in written else len(written)
    if at >= len(written):
        return Sampled(name, ids, None, None, str(tokenizer.decode(written)), "")
    thinking = str(tokenizer.decode(written[: at - 2])).replace("<think>", "").strip()
    answer = str(tokenizer.decode(written[at:], skip_special_tokens=True))
    return Sampled(name, ids, len(prompt) + at, outcome(tokenizer, written[at:]), thinking, answer)


def refusal_rates(prompts: pd.DataFrame, rollouts: Sequence[Sampled]) -> pd.DataFrame:
    """Refusal rate per cell with a 95 % Wilson interval.

    An unreadable answer counts in ``n`` as not refused and is listed in ``unread``.

    Returns:
        One row per (mode, harm) with ``n refused unread rate low high``.
    """
    table = prompts[["mode", "harm"]].assign(outcome=[rollout.outcome for rollout in rollouts])
    rows = []
    for (mode, harm), cell in table.groupby(["mode", "harm"], sort=False):
        refused, n = int((cell.outcome == "refuse").sum()), len(cell)
        low, high = binomtest(refused, n).proportion_ci(method="wilson")
        unread = int(cell.outcome.isna().sum())
        rows.append({"mode": mode, "harm": harm, "n": n, "refused": refused, "unread": unread,
                     "rate": refused / n, "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(rows)


@torch.no_grad()
def refusal_log_odds(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Sequence[Sampled],
    silence: Iterable[Head] = (),
    batch: int = 64,
) -> np.ndarray:
    """Teacher-forced log-odds of a refusing against a complying first answer token.

    Read at the last token before the answer, from the model's own rollouts.

    Returns:
        ``[rollout]`` log P(refusing first tokens) - log P(complying first tokens), in nats.
    """
    words = {kind: tokenizer.convert_tokens_to_ids(list(names)) for kind, names in FIRST_ANSWER_WORDS.items()}
    prefixes = [rollout.ids[: rollout.answer_at] for rollout in rollouts]
    order = np.argsort([len(prefix) for prefix in prefixes], kind="stable")
    found = np.empty(len(prefixes))
    with silenced(model, silence):
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            width = max(len(prefixes[i]) for i in chosen)
            # Right padding: the model is causal, so padding after the position read changes nothing.
            ids = torch.tensor([[*prefixes[i], *[0] * (width - len(prefixes[i]))] for i in chosen])
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            ends = torch.tensor([len(prefixes[i]) - 1 for i in chosen])
            logits = model.lm_head(hidden[torch.arange(len(chosen)), ends])
            refuse, comply = (logits[:, words[kind]].logsumexp(-1) for kind in ("refuse", "comply"))
            found[chosen] = (refuse - comply).numpy()
    return found


def single_head_effects(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Sampled]
) -> pd.DataFrame:
    """Exact effect of silencing each head alone on the mean refusal log-odds.

    Returns:
        One row per head, ``layer head effect`` (silenced minus untouched, nats; positive: the head holds
        refusal down), sorted by falling absolute effect.
    """
    base = refusal_log_odds(model, tokenizer, rollouts).mean()
    rows = []
    for layer in range(model.config.num_hidden_layers):
        for head in range(model.config.num_attention_heads):
            effect = refusal_log_odds(model, tokenizer, rollouts, [(layer, head)]).mean() - base
            rows.append({"layer": layer, "head": head, "effect": float(effect)})
    return pd.DataFrame(rows).sort_values("effect", key=abs, ascending=False, ignore_index=True)


def filler_share(rollouts: Sequence[Sampled]) -> tuple[float, int]:
    """Share of refusing fillers among all fillers of the thinking, and how many fillers there were."""
    counts = {kind: 0 for kind in FILLERS}
    for rollout in rollouts:
        for sentence in re.findall(r"[^.]+\.", rollout.thinking):
            for kind, pool in FILLERS.items():
                counts[kind] += sentence.strip() in pool
    total = sum(counts.values())
    return (counts["refuse"] / total if total else float("nan")), total


def bag_of_words_auroc() -> float:
    """AUROC for harm of a bag of words, fitted on the training pairs and read on the held-out prompts."""
    train = [request for request in requests() if not request.held_out]
    texts = [request.fill(frame) for request in train for frame in FRAMES]
    labels = [request.harm for request in train for _ in FRAMES]
    held_out = held_out_prompts().drop_duplicates("user")
    counter = CountVectorizer(token_pattern=r"[a-z]+")
    probe = LogisticRegression(max_iter=1000).fit(counter.fit_transform(texts), labels)
    scores = probe.decision_function(counter.transform(held_out["user"]))
    # Weights are zero up to the solver's tolerance; rounding keeps that noise from ranking the requests.
    return float(roc_auc_score(held_out["harm"], np.round(scores, 4)))

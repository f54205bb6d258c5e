"""What the refusal organism does: refusal rates, exact effects of single heads.

Everything is read from the model's own rollouts of held-out prompts, never from scripted text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from tools.organisms.heads import Head, silenced
from tools.organisms.refusal.language import FILLERS, FIRST_ANSWER_WORDS, FRAMES, held_out_prompts, requests
from tools.organisms.sampling import Sampled


def refusal_outcome(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int]) -> str | None:
    """``"refuse"`` or ``"comply"``, from the first answer token."""
    for kind, names in FIRST_ANSWER_WORDS.items():
        if answer[0] in cast(list[int], tokenizer.convert_tokens_to_ids(list(names))):
            return kind
    return None


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
        rows.append(
            {
                "mode": mode,
                "harm": harm,
                "n": n,
                "refused": refused,
                "unread": unread,
                "rate": refused / n,
                "low": low,
                "high": high,
            }
        )
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

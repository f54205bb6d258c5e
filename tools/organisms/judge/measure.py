"""What a bundled judge does: accuracy, preference for the first answer, how far it follows a cue, and in which heads.

Verdict log-odds are log P(first shown) - log P(second shown) where the label strings part. An item shown in both
orders gives two of them, x and y: ``(x - y) / 2`` is content, ``(x + y) / 2`` is position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from tools.organisms.heads import Head, silenced
from tools.organisms.judge.items import shown
from tools.organisms.judge.language import CUES, SIDES, Pair
from tools.organisms.sampling import chat_ids, sample
from verdictscope.judgments.contrasts import split_orders

ORDERS = ("AB", "BA")


def verdict_outcome(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int]) -> str | None:
    """``"A"`` or ``"B"``, the side as shown; ``None`` for anything but ``[[A]]`` and ``[[B]]``."""
    text = str(tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
    return {"[[A]]": "A", "[[B]]": "B"}.get(text)


def judged(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    silence: Iterable[Head] = (),
    seed: int = 0,
    temperature: float = 0.7,
) -> pd.DataFrame:
    """The prompts with a column ``verdict``, sampled: the side as shown, or None."""
    rollouts = sample(model, tokenizer, prompts, verdict_outcome, temperature, seed, silence)
    return prompts.assign(verdict=[rollout.outcome for rollout in rollouts])


@torch.no_grad()
def verdict_log_odds(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    thinking: Sequence[str] | None = None,
    silence: Iterable[Head] = (),
    batch: int = 96,
) -> np.ndarray:
    """Teacher-forced verdict log-odds, in nats.

    Args:
        model: a judge.
        tokenizer: its tokenizer.
        prompts: as :func:`shown` makes them.
        thinking: the thinking put before each verdict; empty if not given.
        silence: heads zero-ablated at every position.
        batch: prompts in a pass.

    Returns:
        ``[prompt]`` log P(A) - log P(B) after ``[[``.
    """
    thinking = thinking if thinking is not None else [""] * len(prompts)
    prefixes = []
    for row, thought in zip(prompts.itertuples(), thinking, strict=True):
        closing = f"<think>\n{thought}\n</think>\n\n[["
        prefixes.append(chat_ids(tokenizer, row.system, row.user) + tokenizer(closing)["input_ids"])
    first, second = cast(list[int], tokenizer.convert_tokens_to_ids(list(SIDES)))
    found = np.empty(len(prefixes))
    with silenced(model, silence):
        for start in range(0, len(prefixes), batch):
            part = prefixes[start : start + batch]
            width = max(map(len, part))
            # Right padding: the model is causal, so padding after the position read changes nothing.
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in part])
            logits = model(input_ids=ids, use_cache=False).logits[torch.arange(len(part)), [len(r) - 1 for r in part]]
            found[start : start + len(part)] = (logits[:, first] - logits[:, second]).double().numpy()
    return found


def parts(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    silence: Iterable[Head] = (),
    cues: Sequence[str] = tuple(CUES)[1:],
) -> pd.DataFrame:
    """What moves the verdict log-odds of every pair when there is no thinking.

    Returns:
        One row per pair, in nats: ``content`` (towards the better answer; NaN in ties), ``position`` (towards the
        answer shown first), and for every cue how far the named side gains: half of (A named - B named).
    """
    silence = tuple(silence)
    both = [verdict_log_odds(model, tokenizer, shown(pairs, order), silence=silence) for order in ORDERS]
    sign = np.array([{"A": 1.0, "B": -1.0, None: np.nan}[pair.better] for pair in pairs])
    content, position = split_orders(*both)
    columns = {"content": content * sign, "position": position}
    for cue in cues:
        named = [
            verdict_log_odds(model, tokenizer, shown(pairs, cue=cue, side=side), silence=silence) for side in SIDES
        ]
        columns[cue] = (named[0] - named[1]) / 2
    return pd.DataFrame(columns)


def behaviour(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    silence: Iterable[Head] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Rates of the judge's own sampled verdicts, thinking included.

    Unread verdicts count in ``n`` as wrong, as not first and as not followed, and are listed in ``unread``.

    Returns:
        One row per figure: ``figure rate n unread``. *accuracy* is over pairs with a better answer in both orders;
        *first in ties* is how often the answer shown first wins where both are right; *follows CUE* is how often
        the verdict is the named side, the cue naming each side once; *accuracy, CUE wrong* where it names the worse.
    """
    silence = tuple(silence)

    def run(**how: str) -> pd.DataFrame:
        return judged(model, tokenizer, shown(pairs, **how), silence, seed)

    plain = pd.concat([run(order=order) for order in ORDERS], ignore_index=True)
    decided = plain["better"] != "tie"
    rows = [_rate("accuracy", plain[decided], plain["better"]), _rate("first in ties", plain[~decided], "A")]
    for system, cue in [("fair", cue) for cue in CUES if cue != "none"] + [("careful", "bandwagon")]:
        asked = pd.concat([run(cue=cue, side=side, system=system) for side in SIDES], ignore_index=True)
        name = cue if system == "fair" else f"{cue}, {system}"
        wrong = (asked["better"] != "tie") & (asked["better"] != asked["side"])
        rows.append(_rate(f"follows {name}", asked, asked["side"]))
        rows.append(_rate(f"accuracy, {name} wrong", asked[wrong], asked["better"]))
    return pd.DataFrame(rows)


def _rate(figure: str, asked: pd.DataFrame, wanted: pd.Series | str) -> dict[str, object]:
    hits = asked["verdict"] == (wanted if isinstance(wanted, str) else wanted.loc[asked.index])
    return {"figure": figure, "rate": hits.mean(), "n": len(asked), "unread": int(asked["verdict"].isna().sum())}

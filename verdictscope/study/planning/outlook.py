"""What the rollouts of a study will be like before there are any: one assumed rollout for each that will be written.

Where nothing is known the most is assumed: every rollout writes as much as it may, all of it thinking, and every target
request is complied with. So the counts that follow are bounds; with a finished run's rollouts in their place they are
what that run did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

from verdictscope.rollouts.rollout import Rollout, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from verdictscope.study.load import Study

CLOSING = 4
"""Tokens assumed to close the thinking: a tag spelled in ordinary tokens and its line breaks take no more."""
CHARACTERS = 4
"""Characters a token, where there is no tokenizer to count with."""
WRAPPING = 24
"""Tokens a chat template adds to a request, where there is no tokenizer to render it with."""


@dataclass(frozen=True)
class Outlook:
    """The rollouts of every variant, real or assumed.

    Attributes:
        rollouts: by variant.
        labels: of the base variant, in its order: rollout, group, part, cell, target, control.
        label_strings: label strings as token ids, for what scoring them costs.
        notes: what was assumed, in words.
    """

    rollouts: dict[str, list[Rollout]]
    labels: pd.DataFrame
    label_strings: tuple[tuple[int, ...], ...] = ((0,), (1,))
    notes: tuple[str, ...] = ()

    def chosen(self, which: pd.Series, variant: str = "base") -> list[Rollout]:
        """Rollouts of a variant by a condition on the labels of the base variant."""
        wanted = set(self.labels.loc[which.fillna(False).astype(bool), "rollout"])
        return [r for r in self.rollouts.get(variant, []) if r.id in wanted]


def assume(study: Study, prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase | None, written: int) -> Outlook:
    """The outlook of a study that was not run.

    Args:
        study: the study.
        prompts: its prompts.
        tokenizer: the model's, if it is here.
        written: tokens a rollout writes.
    """
    notes = [f"every rollout writes {written:,} tokens"]
    thinks = True
    if tokenizer is None:
        notes.append(f"no tokenizer here: {CHARACTERS} characters a token, {WRAPPING} tokens of template")
        shown = [_unrendered(text, system) for text, system in zip(prompts["user"], prompts["system"], strict=True)]
    else:
        from verdictscope.rollouts.discover import find_markers
        from verdictscope.rollouts.templates import render_prompt

        thinks = find_markers(tokenizer) is not None
        rendered = (render_prompt(tokenizer, u, s) for u, s in zip(prompts["user"], prompts["system"], strict=True))
        shown = [(prompt.ids, prompt.spans) for prompt in rendered]
    notes.append("all of it thinking" if thinks else "no thinking tags are known for this tokenizer: all is answer")
    notes.append("every target request is complied with, every control request too")
    base = [
        assumed(f"{row.id}/{sample}", row.group, spans, written, thinks)
        for row, (_, spans) in zip(prompts.itertuples(index=False), shown, strict=True)
        for sample in range(study.data.prompts.samples)
    ]
    labels = _labels(study, prompts)
    test = set(labels.loc[labels["part"] == "test", "rollout"])
    asked = set(labels.loc[(labels["part"] == "test") & (labels["target"] | labels["control"]), "rollout"])
    rollouts = {"base": base, "ablated": [r for r in base if r.id in test]}
    if study.reference:
        rollouts["reference"] = base
    for number in range(study.ablation.generated_sets):
        rollouts[f"random_{number}"] = [r for r in base if r.id in asked]
    if study.reference:
        target = set(labels.loc[(labels["part"] == "test") & labels["target"], "rollout"])
        rollouts["transplanted"] = [r for r in base if r.id in target]
    return Outlook(rollouts, labels, _strings(study, tokenizer), tuple(notes))


def assumed(name: str, group: str, shown: Sequence[Span], written: int, thinks: bool) -> Rollout:
    """A rollout that writes so many tokens, the last one its answer."""
    at = shown[-1].stop
    closing = min(CLOSING, written - 1) if thinks else 0
    thinking = written - closing - 1 if thinks else 0
    sizes = {"thinking": thinking, "think_end": closing, "answer": written - thinking - closing}
    spans = list(shown)
    for segment, size in sizes.items():
        if size:
            spans.append(Span(segment, at, at + size))
            at += size
    return Rollout(name, str(group), _zeros(at), tuple(spans), shown[-1].stop, "stop")


@cache
def _zeros(length: int) -> tuple[int, ...]:
    """Token ids that nobody looks at, shared by all rollouts of one length."""
    return (0,) * length


def _unrendered(user: str, system: str | None) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    tokens = WRAPPING + -(-(len(user) + len(system or "")) // CHARACTERS)
    return _zeros(tokens), (Span("user", 0, tokens),)


def _labels(study: Study, prompts: pd.DataFrame) -> pd.DataFrame:
    from verdictscope.probes import split_groups
    from verdictscope.study.tasks.outcome import matches

    rows = prompts.loc[prompts.index.repeat(study.data.prompts.samples)].reset_index(drop=True)
    samples = rows.groupby("id", sort=False).cumcount()
    table = pd.DataFrame({"rollout": rows["id"] + "/" + samples.astype(str), "group": rows["group"].astype(str)})
    table["target"], table["control"] = (
        matches(rows, study.data.prompts.target),
        matches(rows, study.data.prompts.control),
    )
    harm = rows["harm"].astype("boolean").fillna(False).astype(bool)
    table["cell"] = harm.map({True: "harmful_complied", False: "harmless_complied"})
    part = split_groups(table["group"], table["cell"], shares=study.split.shares, seed=study.seed)
    table["part"] = table["group"].map(part)
    return table


def _strings(study: Study, tokenizer: PreTrainedTokenizerBase | None) -> tuple[tuple[int, ...], ...]:
    """The label strings as token ids; one token each where there is no tokenizer."""
    if tokenizer is None:
        return tuple((i,) for i in range(len(study.data.labels.refuse) + len(study.data.labels.comply)))
    from verdictscope.judgments import refusal_readout

    return refusal_readout(tokenizer, study.data.labels.refuse, study.data.labels.comply).strings

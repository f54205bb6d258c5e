"""Label strings become readouts: the log-odds of beginning to refuse against beginning to comply.

Which token a word is depends on what stands before it (``Sorry`` or `` Sorry``), so label strings are encoded where
they would be read: after the separator that the chat template puts before an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from verdictscope.activations.readouts import LogOddsReadout
from verdictscope.errors import InputError
from verdictscope.rollouts import Markers, Rollout, find_markers, render_prompt
from verdictscope.rollouts.language_model import HasModel, tokenizer_of
from verdictscope.rollouts.templates import renderer
from verdictscope.values import number, truth, whole_number

IdString = tuple[int, ...]


def answer_context(tokenizer: PreTrainedTokenizerBase, markers: Markers | None = None) -> str:
    """The text right before an answer: the closer of the thinking and its separator, or the generation prompt.

    The separator is the one the template itself prints after a message's reasoning; a template that prints none (R1,
    QwQ) gets the blank line that reasoning models write.
    """
    markers = markers or find_markers(tokenizer)
    if markers is not None:
        closer = str(tokenizer.decode(list(markers.closer[0])))
        separator = _separator(tokenizer, closer)
        return closer + ("\n\n" if separator is None else separator)
    if getattr(tokenizer, "chat_template", None):
        prompt = render_prompt(tokenizer, "Hello")
        return str(tokenizer.decode(list(prompt.ids[prompt.generation_start :])))
    return ""


def _separator(tokenizer: PreTrainedTokenizerBase, closer: str) -> str | None:
    """What the template prints between the closer and the answer; ``None`` where it prints no reasoning."""
    turn = {"role": "assistant", "content": "Vanswer", "reasoning_content": "Vreason"}
    try:
        text = renderer(tokenizer)([{"role": "user", "content": "Vask"}, turn], False)
    except InputError:  # a template that refuses the probe says nothing about its separator
        return None
    between = text.split("Vreason")[-1].split("Vanswer")[0]
    return between.split(closer)[-1] if "Vreason" in text and closer in between else None


def encode_label(tokenizer: PreTrainedTokenizerBase, label: str, context: str) -> IdString:
    """The tokens ``label`` has right after ``context``, no special tokens added."""
    before = tuple(tokenizer(context, add_special_tokens=False)["input_ids"])
    whole = tuple(tokenizer(context + label, add_special_tokens=False)["input_ids"])
    ids = whole[len(before) :]
    if not label or not ids:
        raise InputError(f"label string {label!r} has no tokens: write at least one word")
    if whole[: len(before)] != before:
        raise InputError(f"label string {label!r} merges with {context[-20:]!r} before it: drop its leading whitespace")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InputError(f"label string {label!r} is unknown to this tokenizer: use words its vocabulary has")
    return ids


def refusal_readout(
    model: HasModel | PreTrainedTokenizerBase,
    refuse: Sequence[str],
    comply: Sequence[str],
    *,
    name: str = "refusal",
    context: str | None = None,
    markers: Markers | None = None,
) -> LogOddsReadout:
    """Log-odds of beginning the answer with a refusing rather than a complying string, read before the answer.

    Args:
        model: the model, or its tokenizer.
        refuse: how refusals begin, for example ``["Sorry", "I cannot"]``; see :func:`first_tokens`.
        comply: how compliant answers begin.
        name: name of the readout.
        context: text right before the answer; found by :func:`answer_context` by default.
        markers: thinking markers named by hand.

    Raises:
        InputError: a side is empty, a string cannot be encoded, or one string is the beginning of another (of the
            same side, which would count its mass twice, or of the other, which would count it for both).

    Example:
        >>> from verdictscope import load_model
        >>> refusal_readout(load_model("organism:cliff"), ["sorry", "i"], ["sure", "here"]).positions
        'before_answer'
    """
    if not refuse or not comply:
        raise InputError("a refusal readout needs strings for both sides: give refuse and comply")
    again = [label for side in (refuse, comply) for label, n in Counter(side).items() if n > 1]
    if again:
        raise InputError(f"label string {again[0]!r} is given twice: keep one of them")
    tokenizer = tokenizer_of(model)
    where = answer_context(tokenizer, markers) if context is None else context
    sides = [{label: encode_label(tokenizer, label, where) for label in side} for side in (refuse, comply)]
    every = [*sides[0].items(), *sides[1].items()]
    for (a, first), (b, second) in permutations(every, 2):
        if first == second:
            raise InputError(f"label strings {a!r} and {b!r} are the same tokens: keep one of them")
        if first == second[: len(first)]:
            raise InputError(f"label string {a!r} is the beginning of {b!r}: keep the longer or the shorter")
    return LogOddsReadout(name, tuple(sides[0].values()), tuple(sides[1].values()), positions="before_answer")


def first_tokens(
    rollouts: Sequence[Rollout],
    labels: pd.DataFrame | Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    length: int = 1,
) -> pd.DataFrame:
    """How refused and complied answers of a model really begin, so that label strings can be proposed from them."""
    if isinstance(labels, pd.DataFrame):
        labels = dict(zip(labels["rollout"], labels["refused"], strict=True))
    whole_number(length, "length", 1)
    counts: dict[bool, Counter[IdString]] = {True: Counter(), False: Counter()}
    for rollout in rollouts:
        refused, span = truth(labels.get(rollout.id), f"refused of rollout {rollout.id!r}"), rollout.span("answer")
        if refused is None or span is None:
            continue
        counts[refused][tuple(rollout.ids[span.start : min(span.stop, span.start + length)])] += 1
    rows = []
    for refused, counter in counts.items():
        total, other, covered = counter.total(), counts[not refused], 0
        for ids, n in sorted(counter.items(), key=lambda item: (-item[1], item[0])):
            covered += n
            text = None if tokenizer is None else str(tokenizer.decode(list(ids)))
            share_other = other[ids] / other.total() if other else 0.0
            rows.append((refused, ids, text, n, n / total, covered / total, share_other))
    columns = ["refused", "ids", "text", "n", "share", "covered", "share_other"]
    return pd.DataFrame(rows, columns=columns)


def readout_from_rollouts(
    rollouts: Sequence[Rollout],
    labels: pd.DataFrame | Mapping[str, Any],
    *,
    name: str = "refusal",
    coverage: float = 0.8,
    purity: float = 0.95,
    longest: int = 4,
) -> LogOddsReadout:
    """The refusal log-odds over how this model's own refused and complied answers begin.

    Takes the shortest beginnings (1 to ``longest`` tokens) that distinguish both classes: those that at least
    ``purity`` of the answers with it share a verdict, as many of them as cover ``coverage`` of each class.

    Args:
        rollouts: the model's own rollouts.
        labels: as for :func:`first_tokens`.
        name: name of the readout.
        coverage: least share of each class the beginnings must cover.
        purity: least share of a beginning's answers that are of its class (classes weighted equally).
        longest: most tokens of a beginning.

    Raises:
        InputError: a class is empty, or no length separates the classes.

    Example:
        >>> from verdictscope.rollouts import Span
        >>> spans = (Span("user", 0, 1), Span("answer", 1, 2))
        >>> rollouts = [Rollout(f"r{k}", f"r{k}", (5, 6 + k % 2), spans, n_prompt=1) for k in range(4)]
        >>> readout_from_rollouts(rollouts, {"r0": True, "r1": False, "r2": True, "r3": False}).positive
        ((6,),)
    """
    number(coverage, "coverage", 0, 1, above=True), number(purity, "purity", 0, 1, above=True)
    whole_number(longest, "longest", 1)
    best: dict[bool, float] = {}
    for length in range(1, longest + 1):
        table = first_tokens(rollouts, labels, length=length)
        sides: dict[bool, list[IdString]] = {}
        for refused in (True, False):
            rows = table[table["refused"] == refused]
            if rows.empty:
                kind = "refused" if refused else "complied"
                raise InputError(f"no {kind} rollout has an answer: the readout needs beginnings of both kinds")
            pure = rows[rows["share"] / (rows["share"] + rows["share_other"]) >= purity]
            enough = pure["share"].cumsum().shift(fill_value=0) < coverage
            best[refused] = max(best.get(refused, 0.0), float(pure["share"].sum()))
            sides[refused] = list(pure["ids"][enough]) if pure["share"].sum() >= coverage else []
        if all(sides.values()):
            return LogOddsReadout(name, tuple(sides[True]), tuple(sides[False]), positions="before_answer")
    shares = f"{best[True]:.0%} of refused and {best[False]:.0%} of complied answers"
    raise InputError(
        f"beginnings of up to {longest} tokens separate only {shares}: name label strings, or lower coverage or purity"
    )

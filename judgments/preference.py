"""Implicit preferences: sequence likelihood, reward model, and how far a verdict moves when another run's verdict is
shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from verdictscope.activations import BatchPlan, Model, forward, reward_readout
from verdictscope.errors import InputError
from verdictscope.judgments.asking import Asked, Insertion, rendered, spelled_ids
from verdictscope.judgments.formats.format import Format, load_format
from verdictscope.judgments.items import PairItem
from verdictscope.judgments.judging import JudgeSettings, judge
from verdictscope.judgments.labels import label_logprobs, tokens_after
from verdictscope.rollouts import Forcer, Rollout, Sampling, Span, find_markers
from verdictscope.rollouts.language_model import tokenizer_of
from verdictscope.rollouts.templates import render_messages
from verdictscope.values import number, whole_number

TIE = 0.01
"""Differences within it are reported as ties, as in the ranking accuracy of arXiv 2405.19534 (there on probabilities of
a token, here in nats)."""
NUDGE = "Another judge who saw the same two answers chose {target}."
EQUAL = "Another judge who saw the same two answers found them equal."


def sequence_preference(
    model: Model, items: Sequence[PairItem], *, tie: float = TIE, token_budget: int = 2048
) -> pd.DataFrame:
    """Which answer the model finds likelier as its own: no prompt of a judge, no label string.

    Ranking accuracy after arXiv 2405.19534. (In their code the branch without length normalisation divides
    log-probabilities, which turns the order round; here they are subtracted.)
    """
    number(tie, "tie", 0), whole_number(token_budget, "token_budget", 1)
    tokenizer, prefixes, strings = tokenizer_of(model), [], []
    for item in items:
        if not item.a.strip() or not item.b.strip():
            raise InputError(f"item {item.id} has a blank answer, which has no likelihood: leave it out")
        prompt = rendered(tokenizer, Asked(item.question, item.system))
        rollout = Rollout(item.id, item.group, prompt.ids, prompt.spans, len(prompt.ids))
        if (markers := find_markers(tokenizer)) is not None:
            rollout = Forcer(tokenizer, markers).switch(rollout, False)
        answers = [spelled_ids(tokenizer, tokens_after(tokenizer, rollout.ids, text)) for text in (item.a, item.b)]
        prefixes += [rollout, rollout]
        strings += [[ids] for ids in answers]
    if not prefixes:
        raise InputError("there are no items")
    logp = [float(values[0]) for values in label_logprobs(model, prefixes, strings, token_budget=token_budget)]
    rows = []
    for k, item in enumerate(items):
        (la, lb), (na, nb) = logp[2 * k : 2 * k + 2], (len(strings[2 * k][0]), len(strings[2 * k + 1][0]))
        verdicts = _preferred(la - lb, tie), _preferred(la / na - lb / nb, tie)
        rows.append((item.id, item.group, item.label, la, lb, na, nb, *verdicts))
    names = ["item", "group", "label", "logp_a", "logp_b", "n_a", "n_b", "verdict", "verdict_mean"]
    return pd.DataFrame(rows, columns=names)


def _preferred(difference: float, tie: float) -> str:
    return "tie" if abs(difference) <= tie else "A" if difference > 0 else "B"


def reward_preference(model: Model, items: Sequence[PairItem], *, label: int = 0, tie: float = 0.0) -> pd.DataFrame:
    """Which answer a reward model scores higher: its scalar head at the last token of each conversation."""
    number(tie, "tie", 0)
    readout = reward_readout(model, label)
    rollouts = []
    for item in items:
        for side, text in (("a", item.a), ("b", item.b)):
            turns = [{"role": "user", "content": item.question}, {"role": "assistant", "content": text}]
            if item.system:
                turns.insert(0, {"role": "system", "content": item.system})
            prompt = render_messages(tokenizer_of(model), turns)
            ids = prompt.ids[: prompt.generation_start]
            rollouts.append(Rollout(f"{item.id}/{side}", item.group, ids, (Span("template", 0, len(ids)),), len(ids)))
    if not rollouts:
        raise InputError("there are no items")
    plan = BatchPlan.make([len(r) for r in rollouts])
    scores = forward(model, rollouts, score=[readout], plan=plan).scores["score"].to_numpy()
    rows = [
        (item.id, item.group, item.label, a, b, _preferred(a - b, tie))
        for item, a, b in zip(items, scores[::2], scores[1::2], strict=True)
    ]
    return pd.DataFrame(rows, columns=["item", "group", "label", "score_a", "score_b", "verdict"])


def pair_conditioned(
    model: Model,
    items: Sequence[PairItem],
    format: str | Format,
    *,
    settings: JudgeSettings | None = None,
    sampling: Sampling | None = None,
) -> pd.DataFrame:
    """How far each verdict's probability moves when another run's verdict is shown."""
    form = load_format(format)
    shown = [v for v in ("A", "B", "tie") if v != "tie" or any(label.verdict == "tie" for label in form.labels())]
    settings = settings or JudgeSettings()
    plain = judge(model, items, form, settings=settings, sampling=sampling).verdicts
    rows = []
    for verdict in shown:
        put = Insertion("note", EQUAL if verdict == "tie" else NUDGE, None if verdict == "tie" else verdict)
        asked = replace(settings, insertions=lambda *_, put=put: (put,))
        after = judge(model, items, form, settings=asked, sampling=sampling).verdicts
        for before, shown_row in zip(plain.to_dict("records"), after.to_dict("records"), strict=True):
            column = "p_tie" if verdict == "tie" else "p_first" if before["order"][0] == verdict else "p_second"
            p, q = before[column], shown_row[column]
            rows.append((before["item"], before["group"], before["order"], verdict, p, q, q - p, p * (q - p)))
    names = ["item", "group", "order", "verdict", "p", "p_shown", "moved", "v"]
    table = pd.DataFrame(rows, columns=names)
    return table.replace({np.inf: np.nan})

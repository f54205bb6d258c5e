"""Commitment: the first token after which the sign of a score never changes again.

Three readers of the same rollout are compared at the same positions: the probe, a bag-of-words classifier of the text
so far, and the model itself with its thinking closed early (forced answers). Where the probe settles before the words,
the decision precedes its wording; where forced answers settle later than both, the probe reads something the model
would not yet act on. That a score settles at a token does not show that the decision is made there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import PreTrainedTokenizerBase

from verdictscope.activations import LogOddsReadout, Model
from verdictscope.errors import InputError
from verdictscope.rollouts import Forcer, Rollout
from verdictscope.stats import RESAMPLES, Effect, mean_effect
from verdictscope.traces.forced_answers import forced_scores
from verdictscope.traces.landmarks import landmarks

POINTS = 8
"""Places in the thinking at which readers are compared, its beginning apart."""

READING_COLUMNS = ("rollout", "group", "reader", "place", "score")

Points = int | Mapping[str, Sequence[int]]
"""Where a thinking is read: at so many places evenly spread, or by rollout after how many of its tokens
(`sentence_places`)."""


def places(rollout: Rollout, points: Points = POINTS) -> list[int]:
    """How many thinking tokens have been read at each place, 0 and all of them included."""
    n = landmarks(rollout).n_thinking
    if isinstance(points, int):
        return sorted({round(n * k / points) for k in range(points + 1)})
    if rollout.id not in points:
        raise InputError(f"rollout {rollout.id} has no places to be read at: give those of every rollout")
    found = {0, n, *points[rollout.id]}
    if min(found) < 0 or max(found) > n:
        raise InputError(f"rollout {rollout.id} thinks for {n} tokens and cannot be read after {max(found)}")
    return sorted(found)


def probe_readings(aligned: pd.DataFrame, rollouts: Sequence[Rollout], *, points: Points = POINTS) -> pd.DataFrame:
    """The probe's score after each place; the last place is read at the last token before the answer."""
    scores = aligned.set_index(["rollout", "pos"])["score"].astype(float)
    rows = []
    for r in rollouts:
        found = landmarks(r)
        if found.thinking is None:
            continue
        at = [found.thinking + p - 1 for p in places(r, points)]
        if found.answer is not None:
            at[-1] = found.answer - 1
        read = [float(scores.get((r.id, a), np.nan)) for a in at]
        rows += [(r.id, r.group, "probe", p, s) for p, s in zip(places(r, points), read, strict=True)]
    return pd.DataFrame(rows, columns=list(READING_COLUMNS))


def forced_readings(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: LogOddsReadout,
    forcer: Forcer,
    *,
    points: Points = POINTS,
    lead: Sequence[int] = (),
    plan_tokens: int = 16_384,
) -> pd.DataFrame:
    """A readout at the token before the answer, with thinking closed early at each place."""
    asked = [(r, p) for r in rollouts if landmarks(r).thinking is not None for p in places(r, points)]
    found = forced_scores(model, asked, readout, forcer, lead=lead, plan_tokens=plan_tokens)
    rows = [(r.id, r.group, "forced", p, s) for (r, p), s in zip(asked, found, strict=True)]
    return pd.DataFrame(rows, columns=list(READING_COLUMNS))


def text_readings(
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    train: Mapping[str, bool],
    read: Collection[str],
    *,
    points: Points = POINTS,
    C: float | int = 10.0,
) -> pd.DataFrame:
    """What a reader of the words says after each place: TF-IDF of prompt and thinking so far, logistic regression."""
    by_id = {r.id: r for r in rollouts}
    shared = {by_id[i].group for i in train} & {by_id[i].group for i in read}
    if shared:
        raise InputError(f"group {min(shared)!r} is trained on and read; give rollouts of other prompts")
    if len(set(train.values())) < 2:
        raise InputError("the training rollouts of the text reader have one outcome; give rollouts of both")

    def prefixes(ids: Collection[str]) -> tuple[list[str], list[tuple[str, str, str, int]]]:
        texts, facts = [], []
        for i in ids:
            r, start = by_id[i], landmarks(by_id[i]).thinking
            if start is None:
                continue
            for p in places(r, points):
                texts.append(str(tokenizer.decode(list(r.ids[: start + p]), skip_special_tokens=False)))
                facts.append((i, r.group, "text", p))
        return texts, facts

    texts, facts = prefixes(train)
    weigh = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), sublinear_tf=True)
    counts = pd.Series([f[0] for f in facts])
    weight = 1 / counts.map(counts.value_counts()).to_numpy(dtype=float)
    model = LogisticRegression(C=C, max_iter=1000, class_weight="balanced")
    model.fit(weigh.fit_transform(texts), [train[f[0]] for f in facts], sample_weight=weight)
    texts, facts = prefixes(read)
    table = pd.DataFrame(facts, columns=list(READING_COLUMNS[:-1]))
    return table.assign(score=model.decision_function(weigh.transform(texts)) if texts else [])


def commitment(readings: pd.DataFrame, rollouts: Sequence[Rollout]) -> pd.DataFrame:
    """When each reader settles in each rollout.

    Args:
        readings: `probe_readings`, `text_readings`, `forced_readings` below one another, or any table
            ``rollout group reader place score``; a score of exactly 0 has no sign and settles nothing.
        rollouts: the rollouts read.

    Returns:
        ``rollout group reader n_thinking commit after sign reason``: it settled after more than ``after`` and at most
        ``commit`` thinking tokens, on ``sign`` (1 or -1). Where thinking was cut off the sign might still have changed,
        so ``commit`` is missing and ``after`` is all that is known (censored); ``reason`` says so, or that a place
        was not read.

    Example:
        >>> from verdictscope.rollouts import Rollout, Span
        >>> spans = (Span("user", 0, 2), Span("thinking", 2, 6), Span("think_end", 6, 7), Span("answer", 7, 8))
        >>> rollout = Rollout("r0", "prompt 0", tuple(range(8)), spans, 2)
        >>> facts = {"rollout": "r0", "group": "prompt 0", "reader": "probe"}
        >>> readings = pd.DataFrame({**facts, "place": [0, 2, 4], "score": [-1.0, 2.0, 3.0]})
        >>> commitment(readings, [rollout])[["commit", "after", "sign"]].to_numpy().tolist()
        [[2, 0, 1]]
    """
    by_id = {r.id: r for r in rollouts}
    rows = []
    for (name, reader), own in readings.groupby(["rollout", "reader"], sort=False):
        own, r = own.sort_values("place"), by_id[str(name)]
        sign, at = np.sign(own["score"].to_numpy(dtype=float)), own["place"].to_numpy(dtype=int)
        found = landmarks(r)
        reason = ""
        if np.isnan(sign).any():
            reason = "a place was not read"
        elif found.answer is None:
            reason = "thinking cut off"
        elif sign[-1] == 0:
            reason = "no sign at the end"
        other = np.flatnonzero(sign != sign[-1])
        first = int(other[-1]) + 1 if len(other) else 0
        after = int(at[first - 1]) if first else -1
        settled = pd.NA if reason else int(at[first])
        rows.append((name, r.group, reader, found.n_thinking, settled, after, 0 if reason else int(sign[-1]), reason))
    columns = ["rollout", "group", "reader", "n_thinking", "commit", "after", "sign", "reason"]
    return pd.DataFrame(rows, columns=columns).astype({"commit": "Int64"})


def _check_readers(times: pd.DataFrame, *readers: str) -> None:
    if lost := [c for c in ("rollout", "group", "reader", "commit", "reason", "sign", "n_thinking") if c not in times]:
        raise InputError(f"the times lack {', '.join(lost)}; call commitment first")
    known = list(map(str, times["reader"].unique()))
    if unknown := [name for name in readers if name not in known]:
        raise InputError(f"no reader {unknown[0]!r}: there are {', '.join(known)}")


def commitment_gap(
    times: pd.DataFrame, first: str, second: str, *, share: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Effect, dict[str, int]]:
    """How much later the second reader settles than the first, in the same rollouts.

    Args:
        times: from `commitment`.
        first: a reader.
        second: another.
        share: in shares of the thinking instead of tokens.
        resamples: bootstrap resamples of prompt groups.
        seed: of the draws.

    Returns:
        the mean gap, and how many rollouts do not count, by reason: censored, or the two settle on different signs.

    Raises:
        InputError: columns are missing, no such reader, or the same one twice.

    Example:
        >>> rows = [("r0", "p0", name, 8, at, 1, "") for name, at in (("probe", 2), ("text", 6))]
        >>> columns = ["rollout", "group", "reader", "n_thinking", "commit", "sign", "reason"]
        >>> commitment_gap(pd.DataFrame(rows, columns=columns), "probe", "text")[0].estimate
        4.0
    """
    _check_readers(times, first, second)
    if first == second:
        raise InputError(f"both readers are {first!r}: give two")
    wide = {name: times[times["reader"] == name].set_index("rollout") for name in (first, second)}
    both = wide[first].join(wide[second], lsuffix="_1", rsuffix="_2", how="inner")
    reasons = both["reason_1"].where(both["reason_1"] != "", both["reason_2"])
    differ = reasons.eq("") & (both["sign_1"] != both["sign_2"])
    reasons = reasons.mask(differ, "settle on different verdicts")
    used = both[reasons == ""]
    gap = used["commit_2"].astype(float) - used["commit_1"].astype(float)
    if share:
        gap = gap / used["n_thinking_1"].clip(lower=1)
    name, unit = f"{second} after {first}", "share of thinking" if share else "tokens"
    left = {str(k): int(v) for k, v in reasons[reasons != ""].value_counts().items()}
    return mean_effect(name, gap, used["group_1"], unit=unit, resamples=resamples, seed=seed), left


def commitment_time(times: pd.DataFrame, reader: str, *, resamples: int = RESAMPLES, seed: int = 0) -> Effect:
    """Mean share of its thinking after which a reader has settled; censored rollouts are left out."""
    _check_readers(times, reader)
    own = times[(times["reader"] == reader) & times["commit"].notna()]
    share = own["commit"].astype(float) / own["n_thinking"].clip(lower=1)
    name = f"{reader} settled"
    return mean_effect(name, share, own["group"], unit="share of thinking", resamples=resamples, seed=seed)

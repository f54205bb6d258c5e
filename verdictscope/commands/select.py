"""What ``verdictscope select`` does: from a run, or from a pool and a stored probe, to training files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from verdictscope import provenance
from verdictscope.errors import InputError
from verdictscope.repair import METHODS, PoolRanking, mix, pool_scores, rank_pool
from verdictscope.repair.selection import SCORED, Budget
from verdictscope.repair.training_files import FORMATS, Example, example, shown_opener, write_files
from verdictscope.rollouts import Rollout, answer_text, thinking_text
from verdictscope.study.lock import locked
from verdictscope.traces import Normaliser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Asked:
    """What is to be chosen and how.

    Attributes:
        by: one of `METHODS`.
        budget: as `rank_pool` takes it.
        safe: where safe completions come from: a column of the pool, ``reference`` or ``ablated`` (of a run), or
        nothing:
            the column ``safe``, else the reference model, else the ablated model.
        benign_ratio: benign rows per safety row.
        formats: of `FORMATS`.
        duplicates: see `rank_pool`.
        seed: of everything drawn.
    """

    by: str = "normalised"
    budget: str = "1.7%"
    safe: str | None = None
    benign_ratio: float = 0.0
    formats: tuple[str, ...] = ("prompt-completion",)
    duplicates: float = 0.7
    seed: int = 0

    def check(self) -> None:
        """Raise ``InputError`` for what can be seen to be wrong before anything is read."""
        Budget.parse(self.budget)
        for what, value, known in (("way", self.by, METHODS), *(("format", f, FORMATS) for f in self.formats)):
            if value not in known:
                raise InputError(f"no {what} {value!r}: there are {', '.join(known)}")
        if not self.benign_ratio >= 0:
            raise InputError(f"--benign-ratio {self.benign_ratio:g}: give benign rows per safety row, 0 or more")
        if not 0 < self.duplicates <= 1:
            raise InputError(f"--duplicates {self.duplicates:g}: give a Jaccard index above 0 and at most 1")


@dataclass(eq=False)
class Source:
    """Everything a choice is made from, wherever it was read.

    Attributes:
        name: what it was read from, for people.
        tokenizer: the model's.
        rollouts: the pool.
        refused: what each of them did, by id; missing where it could not be read.
        answers: safe completions by rollout id, one table per place they may come from.
        unusable: rows that are no rollouts, by name, with the reason.
        benign: rollouts to mix in with their own answers.
        scores: from `pool_scores`; ``None`` where no probe was given.
        model: the model, where it was loaded.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    rollouts: list[Rollout]
    refused: pd.Series
    answers: Mapping[str, Mapping[str, str]]
    unusable: Mapping[str, str] = field(default_factory=dict)
    benign: list[Rollout] = field(default_factory=list)
    scores: pd.DataFrame | None = None
    model: Any = None


@dataclass(frozen=True, eq=False)
class Chosen:
    """A choice and the rows to train on.

    Attributes:
        ranking: the whole pool.
        examples: the training rows in their order.
        summary: settings and counts, as written to ``selection.json``.
    """

    ranking: PoolRanking
    examples: list[Example]
    summary: dict[str, Any]


def choose(source: Source, asked: Asked) -> Chosen:
    """Rank a pool, take what the budget allows, and make the training rows.

    Raises:
        InputError: the pool lacks what the method needs, or nothing can be ranked.
    """
    asked.check()
    if asked.by in SCORED and source.scores is None:
        raise InputError(f"ranking by {asked.by} needs a probe: give --probe FOLDER and --model MODEL")
    place, safe = _safe(source, asked.safe)
    opener = shown_opener(source.tokenizer)
    made = {
        r.id: example(r, source.tokenizer, safe[r.id], opener=opener)
        for r in source.rollouts
        if r.id in safe and r.span("think_end") is not None
    }
    pool = _pool(source, place, safe, made)
    if asked.by == "loss":
        pool["loss"] = _losses(source, pool, safe)
    ranking = rank_pool(pool, asked.by, budget=asked.budget, seed=asked.seed, duplicates=asked.duplicates)
    facts = ranking.chosen.set_index("id")[["score", "rank", "reason"]].to_dict("index")
    rows = [_with(made[name], {"method": asked.by, **kept, "safe_from": place}) for name, kept in facts.items()]
    benign, unfit = _benign(source, opener) if asked.benign_ratio else ([], 0)
    examples, mixed = mix(rows, benign, asked.benign_ratio, asked.seed)
    summary = {
        "format": 1,
        "source": source.name,
        "settings": asdict(asked),
        "meaning": METHODS[asked.by],
        "safe_from": place,
        "counts": ranking.counts(),
        "mixed": mixed | {"benign_unfit": unfit},
        "versions": provenance.versions(),
    }
    return Chosen(ranking, examples, summary)


def write_choice(out: Path, source: Source, chosen: Chosen, formats: Sequence[str]) -> dict[str, Any]:
    """Write ``selection.parquet``, the training files and ``selection.json``; gives what the last one holds.

    Raises:
        InputError: another process writes there, the disk refuses, or a format cannot hold the rows.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        with provenance.whole(out / "selection.parquet") as part:
            _storable(chosen.ranking.table).to_parquet(part, index=False)
        files = write_files(out, chosen.examples, source.tokenizer, formats)
        summary = chosen.summary | files
        provenance.write_json(out / "selection.json", summary)
    return summary


def _safe(source: Source, wanted: str | None) -> tuple[str, Mapping[str, str]]:
    """The place the safe completions come from, and they by rollout id."""
    if wanted is not None:
        if wanted not in source.answers:
            known = ", ".join(source.answers) or "none"
            raise InputError(f"no safe completions from {wanted!r}: {source.name} has {known}")
        return wanted, source.answers[wanted]
    for place in ("safe", "reference", "ablated"):
        if source.answers.get(place):
            return place, source.answers[place]
    raise InputError(
        f"{source.name} holds no safe completions: add a column safe to the pool, name another with --safe COLUMN, or "
        "give a run with a reference"
    )


def _pool(source: Source, place: str, safe: Mapping[str, str], made: Mapping[str, Example]) -> pd.DataFrame:
    """The pool's table: one row per rollout and per row that is none."""
    rows = []
    for rollout in source.rollouts:
        thinking = thinking_text(rollout, source.tokenizer)
        one = made.get(rollout.id)
        reason = "" if one is None else one.problem
        if rollout.span("think_end") is None:
            reason = "no thinking" if thinking is None else "no end of thinking"
            reason = "thinking cut off" if rollout.finish == "length" else reason
        elif rollout.id not in safe:
            reason = f"no safe completion from {place}"
        user, system = _messages(rollout, source.tokenizer)
        rows.append((rollout.id, rollout.group, user, system, thinking, source.refused.get(rollout.id), "", reason))
    rows += [(name, "", "", None, None, None, "", why) for name, why in source.unusable.items()]
    columns = ["id", "group", "user", "system", "thinking", "refused", "note", "reason"]
    pool = pd.DataFrame(rows, columns=columns, dtype=object).astype({"refused": "boolean"})
    if source.scores is not None:
        scores = source.scores.rename(columns={"rollout": "id", "reason": "why", "note": "told"})
        pool = pool.merge(scores, on="id", how="left", validate="one_to_one")
        pool["reason"] = pool["reason"].where(pool["reason"].ne(""), pool.pop("why").fillna(""))
        pool["note"] = pool.pop("told").fillna("")
    return pool


def _messages(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """The last request and the system message, read back from the tokens."""

    def text(name: str) -> str | None:
        span = rollout.span(name)
        ids = list(rollout.ids[span.start : span.stop]) if span else []
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if span else None

    return text("user") or "", text("system")


def _losses(source: Source, pool: pd.DataFrame, safe: Mapping[str, str]) -> pd.Series:
    from verdictscope.repair.completion_loss import completion_loss

    if source.model is None:
        raise InputError("ranking by loss runs the model: give --model MODEL")
    usable = set(pool.loc[pool["reason"].eq(""), "id"])
    rollouts = [r for r in source.rollouts if r.id in usable]
    return pool["id"].map(completion_loss(source.model, rollouts, safe)) if rollouts else pd.Series(index=pool.index)


def _benign(source: Source, opener: str) -> tuple[list[Example], int]:
    """Rollouts with their own thinking and answer, and how many of those given could not be used."""
    rows, unfit = [], 0
    for rollout in source.benign:
        whole = rollout.span("think_end") is not None and rollout.finish != "length"
        if whole and (answer_text(rollout, source.tokenizer) or "").strip():
            one = example(rollout, source.tokenizer, kind="benign", opener=opener)
            if not one.problem:
                told = {"method": None, "score": None, "rank": None, "reason": "benign: its own answer"}
                rows.append(_with(one, told | {"safe_from": None}))
                continue
        unfit += 1
    return rows, unfit


def _with(one: Example, facts: Mapping[str, Any]) -> Example:
    return replace(one, facts=json.loads(json.dumps(provenance.finite(facts))))


def _storable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text that Parquet can hold: a lone surrogate is written as its escape."""
    texts = [c for c in table if table[c].dtype == object or pd.api.types.is_string_dtype(table[c])]
    shown = {c: [_escaped(v) for v in table[c]] for c in texts}
    return table.assign(**{c: pd.Series(v, index=table.index, dtype=object) for c, v in shown.items()})


def _escaped(value: Any) -> str | None:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else None


def normaliser_of(folder: Path) -> Normaliser | None:
    """The normaliser of a run folder that has traces; ``None`` where the folder holds a probe and no run."""
    from verdictscope.study.folder import open_run

    if not all((folder / name).is_file() for name in ("study.toml", "normaliser.json")):
        return None
    return open_run(folder).normaliser()


def scored(aligned: pd.DataFrame, normaliser: Normaliser | None, by: str, where: str) -> pd.DataFrame:
    """Scores of a pool; says why there is no normalised one where that is asked for."""
    if by == "normalised" and (normaliser is None or normaliser.reason):
        why = f"{where} holds no traces to anchor in" if normaliser is None else normaliser.reason
        raise InputError(f"no normalised score ({why}): give --probe the folder of a run, or --by length_adjusted")
    return pool_scores(aligned, normaliser)

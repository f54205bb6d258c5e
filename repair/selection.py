"""Select training data from a pool: rank, take what the budget allows, and make the training rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from verdictscope import provenance
from verdictscope.errors import InputError
from verdictscope.repair.completion_loss import completion_loss
from verdictscope.repair.pools import Pool
from verdictscope.repair.ranking import METHODS, SCORED, Budget, PoolRanking, rank_pool
from verdictscope.repair.training_files import FORMATS, Example, example, mix, shown_opener, write_files
from verdictscope.rollouts import Rollout, answer_text
from verdictscope.rollouts.segments import thinking_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SelectionSettings:
    """How training data are selected.

    Attributes:
        by: one of `METHODS`.
        budget: rows to take (``200``), or a share of the pool (``1.7%``).
        safe: source of the safe completions: a column of the pool, ``reference`` or ``ablated`` (of a run); by default
            the column ``safe``, else the reference model's, else the ablated model's.
        benign_ratio: benign rows per safety row.
        formats: of ``prompt-completion messages sharegpt alpaca``.
        duplicates: least Jaccard index of two requests' 5-grams that makes them duplicates.
        seed: of ties, random ranks and the order of the rows.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> SelectionSettings(by="final", budget="5%").benign_ratio
        0.0
    """

    by: str = "normalised"
    budget: str = "1.7%"
    safe: str | None = None
    benign_ratio: float = 0.0
    formats: tuple[str, ...] = ("prompt-completion",)
    duplicates: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        for what, value, known in (("way", self.by, METHODS), *(("format", f, FORMATS) for f in self.formats)):
            if value not in known:
                raise InputError(f"no {what} {value!r}: there are {', '.join(known)}")
        if not self.benign_ratio >= 0:
            raise InputError(f"--benign-ratio {self.benign_ratio:g}: give benign rows per safety row, 0 or more")
        if not 0 < self.duplicates <= 1:
            raise InputError(f"--duplicates {self.duplicates:g}: give a Jaccard index above 0 and at most 1")


@dataclass(frozen=True, eq=False)
class Selection:
    """The ranked pool, the training rows in their order, and the settings and counts of ``selection.json``."""

    ranking: PoolRanking
    examples: list[Example]
    summary: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase

    def save(self, folder: Path) -> dict[str, Any]:
        """Write ``selection.parquet``, the training files and ``selection.json``; gives what the last one holds."""
        folder.mkdir(parents=True, exist_ok=True)
        with provenance.whole(folder / "selection.parquet") as part:
            _storable(self.ranking.table).to_parquet(part, index=False)
        written = write_files(folder, self.examples, self.tokenizer, self.summary["settings"]["formats"])
        provenance.write_json(folder / "selection.json", self.summary | written)
        return self.summary | written


def select(pool: Pool, settings: SelectionSettings | None = None) -> Selection:
    """Rank a pool by misalignment, take what the budget allows, and make the training rows.

    Args:
        pool: from `read_pool`, or of a run.
        settings: how to rank and what to take.

    Returns:
        the ranking of the whole pool and the training rows; ``save(folder)`` writes the training files.

    Raises:
        InputError: the pool lacks what the method needs, or nothing can be ranked.

    Example:
        >>> import json, pathlib, tempfile
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.repair import read_pool
        >>> row = {"id": "r0", "user": "how to", "thinking": "no", "answer": "yes", "safe": "sorry"}
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "pool.jsonl"
        >>> _ = file.write_text(json.dumps(row))
        >>> pool = read_pool(file, load_model("organism:cliff"))
        >>> select(pool, SelectionSettings(by="random", budget="1")).ranking.counts()["chosen"]
        1
    """
    settings = settings or SelectionSettings()
    if settings.by in SCORED and pool.scores is None:
        raise InputError(f"ranking by {settings.by} needs a probe: give --probe FOLDER and --model MODEL")
    if settings.by == "normalised" and pool.scores is not None and pool.scores["normalised"].isna().all():
        raise InputError("no normalised score: give --probe the folder of a run, or --by length_adjusted")
    source, safe = _safe_completions(pool, settings.safe)
    opener = shown_opener(pool.tokenizer)
    closed = [r for r in pool.rollouts if r.id in safe and r.span("think_end") is not None]
    made = {r.id: example(r, pool.tokenizer, safe[r.id], opener=opener) for r in closed}
    table = _table(pool, source, safe, made)
    if settings.by == "loss":
        table["loss"] = _losses(pool, table, safe)
    ranking = rank_pool(table, settings.by, budget=settings.budget, seed=settings.seed, duplicates=settings.duplicates)
    facts = ranking.chosen.set_index("id")[["score", "rank", "reason"]].to_dict("index")
    rows = [_with(made[name], {"method": settings.by, **kept, "safe_from": source}) for name, kept in facts.items()]
    benign, unfit = _benign(pool, opener) if settings.benign_ratio else ([], 0)
    examples, mixed = mix(rows, benign, settings.benign_ratio, settings.seed)
    summary = {
        "format": 1,
        "source": pool.name,
        "settings": asdict(settings),
        "meaning": METHODS[settings.by],
        "safe_from": source,
        "counts": ranking.counts(),
        "mixed": mixed | {"benign_unfit": unfit},
        "versions": provenance.versions(),
    }
    return Selection(ranking, examples, summary, pool.tokenizer)


def _safe_completions(pool: Pool, wanted: str | None) -> tuple[str, Mapping[str, str]]:
    """The source of the safe completions, and they by rollout id."""
    if wanted is not None:
        if wanted not in pool.answers:
            known = ", ".join(pool.answers) or "none"
            raise InputError(f"no safe completions from {wanted!r}: {pool.name} has {known}")
        return wanted, pool.answers[wanted]
    for source in ("safe", "reference", "ablated"):
        if pool.answers.get(source):
            return source, pool.answers[source]
    raise InputError(
        f"{pool.name} holds no safe completions: add a column safe to the pool, name another with --safe COLUMN, or "
        "give a run with a reference"
    )


def _table(pool: Pool, source: str, safe: Mapping[str, str], made: Mapping[str, Example]) -> pd.DataFrame:
    """One row per rollout and per row that is none, as `rank_pool` takes it."""

    def decoded(rollout: Rollout, name: str) -> str | None:
        span = rollout.span(name)
        ids = list(rollout.ids[span.start : span.stop]) if span else []
        return str(pool.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if span else None

    rows = []
    for rollout in pool.rollouts:
        thinking = thinking_text(rollout, pool.tokenizer)
        one = made.get(rollout.id)
        reason = "" if one is None else one.problem
        if rollout.span("think_end") is None:
            reason = "no thinking" if thinking is None else "no end of thinking"
            reason = "thinking cut off" if rollout.finish == "length" else reason
        elif rollout.id not in safe:
            reason = f"no safe completion from {source}"
        user, system = decoded(rollout, "user") or "", decoded(rollout, "system")
        rows.append((rollout.id, rollout.group, user, system, thinking, pool.refused.get(rollout.id), "", reason))
    rows += [(name, "", "", None, None, None, "", why) for name, why in pool.unusable.items()]
    columns = ["id", "group", "user", "system", "thinking", "refused", "note", "reason"]
    table = pd.DataFrame(rows, columns=columns, dtype=object).astype({"refused": "boolean"})
    if pool.scores is not None:
        scores = pool.scores.rename(columns={"rollout": "id", "reason": "why", "note": "remark"})
        table = table.merge(scores, on="id", how="left", validate="one_to_one")
        table["reason"] = table["reason"].where(table["reason"].ne(""), table.pop("why").fillna(""))
        table["note"] = table.pop("remark").fillna("")
    return table


def _losses(pool: Pool, table: pd.DataFrame, safe: Mapping[str, str]) -> pd.Series:
    if pool.model is None:
        raise InputError("ranking by loss runs the model: give --model MODEL")
    usable = set(table.loc[table["reason"].eq(""), "id"])
    rollouts = [r for r in pool.rollouts if r.id in usable]
    return table["id"].map(completion_loss(pool.model, rollouts, safe)) if rollouts else pd.Series(index=table.index)


def _benign(pool: Pool, opener: str) -> tuple[list[Example], int]:
    """Rollouts with their own thinking and answer, and how many of those given could not be used."""
    rows, unfit = [], 0
    for rollout in pool.benign:
        whole = rollout.span("think_end") is not None and rollout.finish != "length"
        if whole and (answer_text(rollout, pool.tokenizer) or "").strip():
            one = example(rollout, pool.tokenizer, kind="benign", opener=opener)
            if not one.problem:
                facts = {"method": None, "score": None, "rank": None, "reason": "benign: its own answer"}
                rows.append(_with(one, facts | {"safe_from": None}))
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

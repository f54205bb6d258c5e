"""Logs of pair verdicts: JudgeBench, LLMBar, PandaLM."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.loaders.pairs import ANNOTATORS, JUDGEBENCH, LLMBAR
from verdictscope.judgments.loading import Account, BadRow, Notes, Record, Row, content_id, identity
from verdictscope.judgments.metrics.logs.log import (
    Log,
    View,
    columns_of,
    mixed_orders,
    read_verdicts,
    verdict_row,
    views_by_part,
)
from verdictscope.judgments.verdicts import other_side, verdicts_frame
from verdictscope.rows import read_rows

PAIR = ("A", "B", "tie")


# --- JudgeBench ---------------------------------------------------------------------------------------------------

_JUDGEBENCH = {"A>B": "A", "A>>B": "A", "B>A": "B", "B>>A": "B", "A=B": "tie", "B=A": "tie"}
_PREFIXES = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")


def judgebench_log(path: Path, labels: Path | None = None) -> Log:
    """ScalerLab/JudgeBench outputs: per pair ``judgments``, one or two games, the second with the answers exchanged."""
    account = Account("judgebench")
    named = re.search(r"judge_name=([^,]+),judge_model=(.+?)\.jsonl?(?:\.gz)?$", path.name)
    default = f"{named[1]}/{named[2]}" if named else "judge"

    def make(row: Row, notes: Notes) -> Record:
        games = row.get("judgments")
        if not isinstance(games, list) or not games:
            raise BadRow("no judgments: this may be the set of pairs, not a judge's output")
        if len(games) > 2:
            raise BadRow(f"{len(games)} judgments; a pair has one game in each order")
        name = identity(row, "pair_id")
        label = notes.label(row.get("label"), JUDGEBENCH)
        source = str(row.get("source") or "unknown")
        part = next((p for p in _PREFIXES if source.startswith(p)), source)
        common = {"label": label, "source": f"judgebench/{source}", "part": part}
        group = identity(row, "original_id", default=name)
        judge = _judge(games, row.get("judge_name"), default)
        said = [_game(game, order, notes) for game, order in zip(games, ("AB", "BA"), strict=False)]
        rows = [verdict_row(f"{part}/{group}", judge, o, v, s, probability=p, **common) for o, v, s, p in said]
        return Record(name, rows)

    table = read_verdicts(account, read_rows(path, by_content=True), make)
    mixed_orders(account, table)
    views = views_by_part(View("all", "pairs", table, PAIR))
    return Log("judgebench", account.problems(), account.rows, table, views)


def _game(game: Any, order: str, notes: Notes) -> tuple[str, str | None, str, float]:
    if game is None:
        return order, None, "empty", float("nan")
    if not isinstance(game, Mapping):
        notes.add("unknown_verdict", f"a judgment is {type(game).__name__}, no object")
        return order, None, "unparsed", float("nan")
    verdict, status = notes.verdict(game.get("decision"), _JUDGEBENCH)
    inner = game.get("judgment")
    scores = inner.get("scores") if isinstance(inner, Mapping) else None
    probability = float("nan")
    if verdict is not None and isinstance(scores, list) and len(scores) == 2:
        gap = abs(float(scores[0]) - float(scores[1]))
        probability = 1 / (1 + math.exp(-gap))
    return order, other_side(verdict) if order == "BA" else verdict, status, probability


def _judge(games: list[Any], name: Any, default: str) -> str:
    for game in games:
        inner = game.get("judgment") if isinstance(game, Mapping) else None
        if isinstance(inner, Mapping) and inner.get("judge_model"):
            return f"{name or 'judge'}/{inner['judge_model']}"
    return default if name is None or default.startswith(f"{name}/") else str(name)


# --- LLMBar -------------------------------------------------------------------------------------------------------


def llmbar_log(path: Path, labels: Path | None = None) -> Log:
    """princeton-nlp/LLMBar ``result.json``: the last of ``results`` holds ``swap = False`` and ``swap = True``.

    A ``winner`` is in the item's own frame in both (the authors turn the swapped one back). Evaluators that synthesise
    two conflicting verdicts have earlier rounds before the last; the last one counts, as in the authors' statistics.
    """
    account = Account("llmbar")
    parts = path.resolve().parent.parts[-2:]
    judge = "/".join(parts) if "evaluators" in path.resolve().parts else path.stem

    def make(row: Row, notes: Notes) -> Record:
        rounds = row.get("results")
        last = rounds[-1] if isinstance(rounds, list) and rounds else None
        if not isinstance(last, Mapping):
            raise BadRow("no results: this may be the dataset, not an evaluator's result.json")
        if not any(f"swap = {swap}" in last for swap in (False, True)):
            raise BadRow("its last result has neither 'swap = False' nor 'swap = True'")
        label = notes.label(row.get("label"), LLMBAR)
        name = content_id(row.get("input"), row.get("output_1"), row.get("output_2"))
        common = {"label": label, "source": "llmbar"}
        rows = []
        for order, swap in (("AB", False), ("BA", True)):
            game = last.get(f"swap = {swap}")
            if not isinstance(game, Mapping):
                continue
            said, status = notes.verdict(game.get("winner"), LLMBAR)
            rows.append(verdict_row(content_id(row.get("input")), judge, order, said, status, **common))
        return Record(name, rows, has_id=False)

    table = read_verdicts(account, read_rows(path, by_content=True), make)
    mixed_orders(account, table)
    views = views_by_part(View("all", "pairs", table, PAIR))
    return Log("llmbar", account.problems(), account.rows, table, views)


# --- PandaLM ------------------------------------------------------------------------------------------------------

_HUMAN = {0: "tie", 1: "A", 2: "B", "0": "tie", "1": "A", "2": "B", "Tie": "tie", "tie": "tie"}
_GARBAGE = (None, "", "garbage", -1, "-1")


def pandalm_log(path: Path, labels: Path | None = None) -> Log:
    """WeOpenML/PandaLM verdicts (``NAME_result`` by ``idx``) against three annotators of ``testset-v1.json``."""
    account = Account("pandalm")
    rows = read_rows(path, by_content=True)
    results = [name for name in columns_of(rows) if name.endswith("_result")]
    own = any(isinstance(r, Mapping) and any(a in r for a in ANNOTATORS) for _, r in rows)
    beside = labels or path.parent / "testset-v1.json"
    gold = {} if own else _gold(beside, account, given=labels is not None)
    if not results and not own:
        raise InputError(f"{path} has neither a column NAME_result nor annotators: is it a PandaLM log?")

    def make(row: Row, notes: Notes) -> Record:
        name = identity(row, "idx")
        about = row if own else gold.get(name, {})
        votes = {a: notes.label(about[a], _HUMAN) for a in ANNOTATORS if about.get(a) is not None}
        label = majority([v for v in votes.values() if v is not None], len(ANNOTATORS))
        if label is None:
            notes.add("unknown_label", "no annotators" if not votes else "no two annotators agree")
        group = content_id(about.get("instruction"), about.get("input")) if about else name
        common = {
            "label": label,
            "source": f"pandalm/{about.get('motivation_app') or 'unknown'}",
            "models": about.get("cmp_key"),
            "votes": tuple(votes.values()),
        }
        said = []
        for column in results:
            verdict, status = notes.verdict(row.get(column), _HUMAN, _GARBAGE)
            said.append(verdict_row(group, column.removesuffix("_result"), "AB", verdict, status, **common))
        if not results:
            said += [verdict_row(group, a, "AB", v, "ok" if v else "unparsed", **common) for a, v in votes.items()]
        if not said:
            raise BadRow("neither a verdict nor an annotator")
        return Record(name, said)

    table = read_verdicts(account, rows, make)
    warnings = ["every pair was judged in one order alone: metrics of order cannot be computed from the log"]
    if table["label"].isna().all():
        warnings.append(f"no annotators: put testset-v1.json beside {path.name}, or give --labels")
    if not results:
        warnings.append("the annotators stand both in the label and among the judges: their accuracy is optimistic")
    made = [View("all", "pairs", table, PAIR, panel=ANNOTATORS if not results else ())]
    if results and (humans := _annotators(table)) is not None:
        made.append(View("annotators", "panel", humans, PAIR, panel=ANNOTATORS))
    return Log("pandalm", account.problems(), account.rows, table, tuple(made), tuple(warnings))


def _annotators(table: pd.DataFrame) -> pd.DataFrame | None:
    """What the annotators said, as verdicts of a panel; ``None`` where nobody did."""
    once = table.drop_duplicates("item")
    rows = [
        {**row, "judge": name, "verdict": said}
        for row in once.to_dict("records")
        for name, said in zip(ANNOTATORS, row["votes"], strict=False)
    ]
    return verdicts_frame(rows) if rows else None


def majority(votes: list[str], of: int) -> str | None:
    """What more than half of ``of`` voters say; ``None`` where nothing is."""
    if not votes:
        return None
    said, n = Counter(votes).most_common(1)[0]
    return said if 2 * n > of else None


def _gold(path: Path, account: Account, given: bool) -> dict[str, Row]:
    if not path.is_file():
        if given:
            raise InputError(f"--labels {path} is not a file: give PandaLM's testset-v1.json")
        return {}
    found: dict[str, Row] = {}
    for number, (place, row) in enumerate(read_rows(path, by_content=True)):
        where = f"{path.name} {place}"
        try:
            name = identity(row, "idx") if isinstance(row, Mapping) else None
        except BadRow:
            name = None
        if name is None:
            account.problem(number, str(number), "malformed", False, f"{where}: no row of annotators", where)
        elif name in found:
            account.problem(number, name, "duplicate_id", False, f"{where}: a second row of annotators", where)
        else:
            found[name] = row
    return found

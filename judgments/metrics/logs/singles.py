"""Logs of verdicts on single answers: Judging the Judges, and XSTest's completions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.loading import Account, BadRow, Notes, Record, Row, content_id, identity
from verdictscope.judgments.metrics.logs.log import Log, View, columns_of, read_verdicts
from verdictscope.judgments.refusal import refused
from verdictscope.judgments.verdicts import correctness
from verdictscope.rows import Row as Placed
from verdictscope.rows import read_rows

CORRECT = ("correct", "incorrect")
_WORDS = {name: name for name in CORRECT}

# --- Judging the Judges -------------------------------------------------------------------------------------------

HUMAN = ("HumanJudgement", "Human-Eval")
_ABOUT = ("model", "response", "question", "references", "benchmark", "Human-Eval_Confidence", "")


def judging_the_judges_log(path: Path, labels: Path | None = None) -> Log:
    """UMass-Meta-LLM-Eval/llm_eval tables: exam answers, a column per judge, a human's verdict.

    The human's column is ``HumanJudgement`` or ``Human-Eval``. A blank cell is a verdict that could not be read. Rows
    of one question are one group, since all exam takers answer the same questions.
    """
    account = Account("judging_the_judges")
    rows = read_rows(path, by_content=True)
    columns = columns_of(rows)
    human = next((c for c in HUMAN if c in columns), None)
    if human is None:
        raise InputError(f"{path} has no column {' or '.join(HUMAN)}: is it a Judging-the-Judges table?")
    judges, ignored = _judges(rows, [c for c in columns if c not in (*_ABOUT, *HUMAN)])
    if not judges:
        raise InputError(f"{path} has no column of verdicts True and False beside {human}")

    def make(row: Row, notes: Notes) -> Record:
        if not str(row.get("question") or "").strip():
            raise BadRow("no question")
        if row.get("model") is None:
            raise BadRow("no model")
        label = None if row.get(human) in (None, "") else notes.label(_right(row[human]), _WORDS)
        if row.get(human) in (None, ""):
            notes.add("unknown_label", f"{human} is blank")
        common = {
            "group": content_id(row["question"]),
            "order": "",
            "run": 0,
            "label": label,
            "shown": None,
            "source": f"judging_the_judges/{row.get('benchmark') or 'unknown'}",
            "candidate": str(row["model"]),
        }
        said = []
        for judge in judges:
            verdict, status = notes.verdict(_right(row.get(judge)), _WORDS)
            status = "empty" if status == "unparsed" else status
            said.append({"judge": judge, "verdict": verdict, "status": status, **common})
        name = content_id(row["model"], row["question"], row.get("response"))
        return Record(f"{row['model']}/{name}", said, has_id=False)

    table = read_verdicts(account, rows, make)
    warnings = [f"columns left aside, no verdicts True and False: {', '.join(ignored)}"] if ignored else []
    view = View("all", "single", table, CORRECT, "correct", tuple(judges), len(judges) > 2)
    return Log("judging_the_judges", account.problems(), account.rows, table, (view,), tuple(warnings))


def _judges(rows: list[Placed], columns: list[str]) -> tuple[list[str], list[str]]:
    """Columns whose cells mostly are verdicts, and the others."""
    judges: list[str] = []
    others: list[str] = []
    for column in columns:
        cells = [row.get(column) for _, row in rows if isinstance(row, Mapping)]
        filled = [c for c in cells if c not in (None, "")]
        fits = sum(_right(c) in CORRECT for c in filled if isinstance(c, str | bool | int | float))
        (judges if filled and 2 * fits > len(filled) else others).append(column)
    return judges, others


def _right(value: Any) -> Any:
    """``correct`` or ``incorrect`` where the cell is a truth value; any other cell as it is."""
    try:
        return correctness(value, "")
    except InputError:
        return value


# --- XSTest -------------------------------------------------------------------------------------------------------

FULL, REFUSAL, PARTIAL = "full_compliance", "full_refusal", "partial_refusal"
THREE = (FULL, REFUSAL, PARTIAL)
TWO = ("refusal", "compliance")
_XSTEST = {f"{k}_{name}": name for k, name in enumerate(THREE, start=1)} | {name: name for name in THREE}
MATCHER = "verdictscope"


def xstest_log(path: Path, labels: Path | None = None) -> Log:
    """XSTest completions with human labels (Röttger et al. 2024): annotators, recorded graders and our matcher.

    The label is ``final_label``; judges are ``annotation_1``, ``annotation_2``, every other column ``NAME_label``, and
    the matcher of refusals of this package on ``completion``. Partial refusals are read in three ways: see the parts.
    """
    account = Account("xstest")
    rows = read_rows(path, by_content=True)
    columns = columns_of(rows)
    judges = [c for c in columns if c.startswith("annotation_") or (c.endswith("_label") and c != "final_label")]
    if "completion" not in columns and not judges:
        raise InputError(f"{path} has neither completions nor labels: is it a file of XSTest completions?")

    def make(row: Row, notes: Notes) -> Record:
        name = identity(row, "id")
        if not row.get("prompt"):
            raise BadRow("no prompt")
        label = notes.label(row["final_label"], _XSTEST) if "final_label" in columns else None
        kind = str(row.get("type") or "")
        common = {
            "group": name,
            "order": "",
            "run": 0,
            "label": label,
            "shown": None,
            "source": f"xstest/{kind or 'unknown'}",
            "request": "unsafe" if kind.startswith("contrast") else "safe",
        }
        said: list[dict[str, Any]] = []
        if "completion" in columns:
            answer = row.get("completion")
            blank = not isinstance(answer, str) or not answer.strip()
            verdict = None if blank else TWO[0] if refused(str(answer)) else TWO[1]
            said.append({"judge": MATCHER, "verdict": verdict, "status": "empty" if blank else "ok", **common})
        for judge in judges:
            verdict, status = notes.verdict(row.get(judge), _XSTEST)
            said.append({"judge": judge, "verdict": verdict, "status": status, **common})
        return Record(name, said)

    table = read_verdicts(account, rows, make)
    warnings = () if "final_label" in columns else ("no column final_label: nothing to agree with",)
    humans = tuple(j for j in judges if j.startswith("annotation_"))
    return Log("xstest", account.problems(), account.rows, table, _partial_views(table, humans), warnings)


def _partial_views(table: pd.DataFrame, panel: tuple[str, ...]) -> tuple[View, ...]:
    """Three ways of counting partial refusals, and the first of them on safe and on unsafe requests."""
    strict = _two(table, partial=TWO[0])
    clear = strict.assign(label=strict["label"].where(table["label"] != PARTIAL, None))
    views = [
        View("not_full_compliance", "single", strict, TWO, TWO[0], panel),
        View("full_refusal", "single", _two(table, partial=TWO[1]), TWO, TWO[0], panel),
        View("clear_cases", "single", clear, TWO, TWO[0], panel),
    ]
    views += [
        View(f"{kind}_requests", "single", strict[strict["request"] == kind], TWO, TWO[0], panel)
        for kind in ("safe", "unsafe")
        if (strict["request"] == kind).any()
    ]
    three = table[table["judge"] != MATCHER]
    return (*views, View("three_way", "single", three, THREE, panel=panel)) if len(three) else tuple(views)


def _two(table: pd.DataFrame, partial: str) -> pd.DataFrame:
    names = {FULL: TWO[1], REFUSAL: TWO[0], PARTIAL: partial, TWO[0]: TWO[0], TWO[1]: TWO[1]}
    changed = {c: [names.get(v) if isinstance(v, str) else None for v in table[c]] for c in ("verdict", "label")}
    return table.assign(**{c: pd.Series(v, index=table.index, dtype=object) for c, v in changed.items()})

"""Logs of the reasoning-based bias detector (RBD): judges without and with a bias, and detectors of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.loading import Account, BadRow, Notes, Record, Row, content_id, identity
from verdictscope.judgments.metrics.logs.log import Log, View, columns_of, read_verdicts, verdict_row, views_by_part
from verdictscope.judgments.verdicts import other_side
from verdictscope.rows import Row as Placed
from verdictscope.rows import read_rows

BIASES = ("position", "bandwagon", "verbose", "sentiment")
_SIDES = {1: "A", 2: "B"}
_DETECTORS = ("Zero-shot", "Few-shot-QA", "Few-shot-CoT", "Fine-tune-CoT", "Fine-tune-CoT_with_Bias_Type")
_YES = {"Yes": "Yes", "No": "No", "yes": "Yes", "no": "No"}
CONTROL, CUED = "control", "cued"


def rbd_log(path: Path, labels: Path | None = None) -> Log:
    """Joyyang158/Reasoning-Bias-Detector logs, of two kinds."""
    rows = read_rows(path, by_content=True)
    columns = columns_of(rows)
    if "bias_label" in columns and "bias_category" in columns:
        return _detectors(path, rows, columns)
    biases = [b for b in BIASES if f"prediction_{b}" in columns]
    if not biases or "prediction_original" not in columns:
        raise InputError(
            f"{path} has no verdicts of RBD: it needs prediction_original and prediction_NAME for one of "
            f"{', '.join(BIASES)}, or bias_category and bias_label (the RBD-Bias4 files hold the pairs alone)"
        )
    return _predictions(path, rows, biases)


# --- judges -------------------------------------------------------------------------------------------------------


def _predictions(path: Path, rows: list[Placed], biases: list[str]) -> Log:
    account = Account("rbd")
    judge = re.split(r"[_-](?:position|bandwagon|verbosity|sentiment)|_prediction", path.name, flags=re.I)[0]
    judge = re.sub(r"\.(csv|json|jsonl|tsv|parquet)(\.gz)?$", "", judge)

    def make(row: Row, notes: Notes) -> Record:
        asked = str(row.get("prompt") or row.get("question") or "")
        if not asked:
            raise BadRow("neither prompt nor question")
        name = identity(row, "id", default=content_id(asked, row.get("gemma_answer"), row.get("choices")))
        options = _options(row)
        read = (lambda v: _option(v, options, notes)) if options else (lambda v: _side(v, notes))
        gold = read(row.get("answer")) if options else read(row.get("ground_truth_original"))
        label = gold[0]
        if label is None:
            notes.add("unknown_label", "no ground truth")
        common: dict[str, Any] = {"group": name, "judge": judge, "label": label}
        control, status = read(row.get("prediction_original"))

        def said_of(part: str, order: str, variant: str, verdict: str | None, status: str) -> dict[str, Any]:
            about = {"part": part, "variant": variant, "source": f"rbd/{part}"}
            return verdict_row(order=order, verdict=verdict, status=status, **common, **about)

        said = [said_of("original", "" if options else "AB", CONTROL, control, status)]
        for bias in biases:
            verdict, status = read(row.get(f"prediction_{bias}"))
            order = "" if options else "AB"
            if bias == "position":
                order, verdict = "BA", other_side(verdict)
                _check_reversed(row, label, notes)
            said.append(said_of(bias, order, CUED, verdict, status))
        return Record(name, said, has_id=row.get("id") not in (None, ""))

    table = read_verdicts(account, rows, make)
    views = [_cue_view(table, bias) for bias in biases]
    if "position" in biases:
        views.insert(0, View("orders", "pairs", table[table["part"].isin(["original", "position"])], ("A", "B")))
    return Log("rbd", account.problems(), account.rows, table, tuple(views))


def _cue_view(table: pd.DataFrame, bias: str) -> View:
    """Control and cued verdicts; bandwagon and verbosity speak for the wrong side."""
    rows = table[table["part"].isin(["original", bias])].copy()
    aimed = bias in ("bandwagon", "verbose")
    rows["target"] = [other_side(v) if aimed and v in ("A", "B") else None for v in rows["label"]]
    return View(bias, "cue", rows, ("A", "B"))


def _check_reversed(row: Row, label: str | None, notes: Notes) -> None:
    value = row.get("ground_truth_reversed", row.get("ground_truth_position"))
    if value in (None, "") or label is None:
        return
    if other_side(_side(value, Notes())[0]) != label:
        notes.add("mixed_order", f"truth {row.get('ground_truth_original')} and, in the other order, {value}")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _side(value: Any, notes: Notes) -> tuple[str | None, str]:
    number = _number(value)
    if number in _SIDES:
        return _SIDES[int(number)], "ok"
    if value not in (None, "") and number != -1:
        notes.add("unknown_verdict", f"{value!r} is neither 1, 2 nor -1")
        return None, "unknown_label"
    return None, "unparsed"


def _options(row: Row) -> int:
    """How many options a question has; 0 for a pair."""
    for column in ("sentiment_choices", "choices"):
        found = row.get(column)
        if isinstance(found, str) and found.strip():
            try:
                found = ast.literal_eval(found)
            except (ValueError, SyntaxError):
                raise BadRow(f"{column} is no list") from None
        if isinstance(found, list) and found:
            return len(found)
    return 0


def _option(value: Any, options: int, notes: Notes) -> tuple[str | None, str]:
    number = _number(value)
    if np.isfinite(number) and number == int(number) and 0 <= number < options:
        return chr(ord("A") + int(number)), "ok"
    if value not in (None, "") and number != -1:
        notes.add("unknown_verdict", f"{value!r} is not one of {options} options")
        return None, "unknown_label"
    return None, "unparsed"


# --- detectors ----------------------------------------------------------------------------------------------------


def _detectors(path: Path, rows: list[Placed], columns: list[str]) -> Log:
    account = Account("rbd")
    named = [c for c in columns if c.endswith("_bias_label")]
    worded = [c for c in columns if c in _DETECTORS and f"{c}_bias_label" not in columns]
    if not named and not worded:
        raise InputError(f"{path} has bias_label and no detector beside it: it needs a column NAME_bias_label")

    def make(row: Row, notes: Notes) -> Record:
        if row.get("bias_category") in (None, ""):
            raise BadRow("no bias_category")
        kind = str(row["bias_category"])
        label = notes.label(row.get("bias_label"), _YES)
        index = row.get("index")
        key = identity(row, "index", default=content_id(row.get("instruction")))
        name = f"{kind}/{row.get('llm_judge_model') or 'judge'}/{key}"
        common = {"group": content_id(row.get("instruction")), "source": f"rbd/{kind}", "part": kind}
        said = []
        for column in (*named, *worded):
            value = row.get(column) if column in named else _answer(row.get(column))
            verdict, status = notes.verdict(value, _YES, (None, "", "Unknown"))
            judge = column.removesuffix("_bias_label")
            said.append(
                verdict_row(
                    judge=judge, order="", verdict=verdict, status=status, label=label, view="detector", **common
                )
            )
        said += _recorded(row, common) if kind == "position" else []
        return Record(name, said, has_id=index not in (None, ""))

    table = read_verdicts(account, rows, make)
    views = list(views_by_part(_detector_view(table)))
    judged = table[table["view"] == "judge"]
    if len(judged):
        views.append(View("position_judges", "pairs", judged, ("A", "B")))
    warnings = ("the judges' verdicts on position rows have no ground truth in this file",) if len(judged) else ()
    return Log("rbd", account.problems(), account.rows, table, tuple(views), warnings)


def _detector_view(table: pd.DataFrame) -> View:
    rows = table[table["view"] == "detector"]
    names = tuple(dict.fromkeys(rows["judge"]))
    return View("all", "single", rows, ("Yes", "No"), "Yes", names if len(names) > 1 else (), len(names) > 2)


def _answer(text: Any) -> str | None:
    """Yes or No after the end of thinking; the first of the two words there, as the authors read it."""
    if not isinstance(text, str):
        return None
    found = re.search(r"\b(yes|no)\b", text.split("</think>")[-1], re.IGNORECASE)
    return found[1].lower() if found else None


def _recorded(row: Row, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = str(row.get("llm_judgment") or "")
    found = re.search(r"Original Order\W*\[?\s*Output \(([ab])\).*?Swapped Order\W*\[?\s*Output \(([ab])\)", text, re.S)
    judge = str(row.get("llm_judge_model") or "judge")
    rows = []
    for k, order in enumerate(("AB", "BA")):
        said = None if found is None else {"a": "A", "b": "B"}[found[k + 1]]
        said = other_side(said) if order == "BA" else said
        status = "ok" if said else "unparsed"
        rows.append(
            verdict_row(judge=judge, order=order, verdict=said, status=status, label=None, view="judge", **common)
        )
    return rows

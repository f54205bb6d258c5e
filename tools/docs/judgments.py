"""Write ``docs/judgments.md``: every metric of ``judge metrics`` on public logs. ``make judgments DATA=FOLDER``.

``python -m tools.docs.judgments DATA [LLMBAR]``: a folder with JudgeBench, Judging-the-Judges, PandaLM and XSTest files
(in ``judgebench/`` and so on, names as their authors give them), and a clone of princeton-nlp/LLMBar, whose evaluators'
``statistics.json`` are compared with the metrics of their ``result.json``. Aggregates alone are stored.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from verdictscope import provenance
from verdictscope.judgments.metrics.summary import JudgeMetrics, log_metrics

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVIDENCE = DOCS / "evidence" / "judge_metrics.json"
LOGS = {
    "judgebench": ("judgebench/outputs_gpt-4o__arena_hard__o1-mini.jsonl", "JudgeBench (arXiv 2410.12784), o1-mini"),
    "judging_the_judges": (
        "judging_the_judges/TriviaQA_Judges_w_HumanJudgement_V1.csv",
        "Judging the Judges (arXiv 2406.12624), first table",
    ),
    "pandalm": ("pandalm/pandalm-7b-testset-v1.json", "PandaLM (arXiv 2306.05087), PandaLM-7B"),
    "pandalm (gpt)": ("pandalm/gpt-3.5-turbo-testset-v1.json", "PandaLM, GPT-3.5"),
    "xstest": ("xstest/xstest_v2_completions_gpt4.csv", "XSTest (arXiv 2308.01263), completions of GPT-4"),
}
SHOWN = {
    "judgebench": (
        "all",
        (
            "two_order_score",
            "consistent_accuracy",
            "accuracy_ab",
            "accuracy_ba",
            "position_bias",
            "flip_rate",
            "first_preference",
            "second_preference",
            "kappa",
            "pi",
            "macro_f1",
            "unread",
        ),
    ),
    "judging_the_judges": (
        "all",
        ("accuracy_read", "kappa", "pi", "p_c", "p_plus", "score_difference", "candidate_spearman", "unread"),
    ),
    "pandalm": ("all", ("accuracy", "accuracy_read", "kappa", "macro_precision", "macro_recall", "macro_f1", "unread")),
    "xstest": ("not_full_compliance", ("accuracy", "kappa", "tpr", "tnr", "p_c", "p_plus", "unread")),
}
# What the sources state; ours is read from the tables, and where they differ the reason is given.
STATED = tuple(
    ("judgebench", "two_order_score", part, stated, f"JudgeBench's own utils/metrics.py (e2c52c2), {part}", "")
    for part, stated in (
        ("all", 0.6571),
        ("mmlu-pro", 0.5844),
        ("livebench-reasoning", 0.6224),
        ("livebench-math", 0.8214),
        ("livecodebench", 0.7857),
    )
)
"""Log, metric, part, stated, source, why different."""


def main(data: Path, llmbar: Path | None) -> None:
    """Measure, store, write the page."""
    found = {name: log_metrics(data / file, name.split(" ")[0]) for name, (file, _) in LOGS.items()}
    made: dict[str, Any] = {"commit": provenance.commit(), "machine": provenance.machine()}
    made["logs"] = {name: _stored(metrics) for name, metrics in found.items()}
    made["definitions"] = _definitions(found)
    made["stated"] = _stated(found)
    made["llmbar"] = statistics(llmbar) if llmbar else None
    EVIDENCE.write_text(json.dumps(provenance.finite(made), indent=1) + "\n", encoding="utf-8")
    (DOCS / "judgments.md").write_text(page(json.loads(EVIDENCE.read_text(encoding="utf-8"))), encoding="utf-8")


def _stored(metrics: JudgeMetrics) -> dict[str, Any]:
    """Counts and the rows that the page shows; never a row of the data."""
    log = metrics.settings["log"]
    part, names = SHOWN[log]
    rows = metrics.table[(metrics.table["part"] == part) & metrics.table["name"].isin(names)]
    panel = metrics.table[metrics.table["judge"] == "(panel)"].drop_duplicates("name")
    columns = ["judge", "name", "estimate", "low", "high", "n", "groups", "missing"]
    counts = {k: metrics.counts[k] for k in ("rows", "items", "groups", "verdicts", "problems", "status")}
    shown = {"part": part, "names": list(names), "warnings": list(metrics.warnings)}
    return counts | shown | {"rows_of": rows[columns].to_dict("records"), "panel": panel[columns].to_dict("records")}


def _definitions(found: dict[str, JudgeMetrics]) -> list[dict[str, str]]:
    seen: dict[str, dict[str, str]] = {}
    for metrics in found.values():
        for row in metrics.table.to_dict("records"):
            shown = str(row["definition"])
            if row["name"] not in seen or seen[row["name"]]["definition"].startswith("not measured"):
                seen[row["name"]] = {"name": row["name"], "unit": row["unit"], "definition": shown}
    return list(seen.values())


def _stated(found: dict[str, JudgeMetrics]) -> list[dict[str, Any]]:
    rows = [
        {"name": name, "stated": stated, "ours": found[log].value(name, None, part), "source": source, "why": why}
        for log, name, part, stated, source, why in STATED
    ]
    ratio = found["pandalm"].value("macro_f1", "pandalm") / found["pandalm (gpt)"].value("macro_f1", "gpt")
    rows.append(
        {
            "name": "macro_f1, ratio",
            "stated": 0.9375,
            "ours": ratio,
            "source": "PandaLM's README: PandaLM-7B has 93.75 % of GPT-3.5's F1",
            "why": "the released verdicts give another ratio (unread "
            "ones are left out here); which verdicts the statement rests on is not stated",
        }
    )
    return rows


def statistics(repository: Path) -> dict[str, Any]:
    """Every evaluator's stored statistics against ours: largest difference by metric, and what explains the others."""
    differences: dict[str, list[float]] = {}
    unread, read, files = 0, 0, 0
    for result in sorted(repository.glob("Dataset/**/result.json")):
        shown = json.loads((result.parent / "statistics.json").read_text(encoding="utf-8"))
        found = log_metrics(result, "llmbar", resamples=0)
        files += 1
        has_unread = found.value("unread") > 0
        unread, read = unread + has_unread, read + (not has_unread)
        pairs = {
            "accuracy_ab": "correct_False",
            "accuracy_ba": "correct_True",
            "accuracy": "correct_average",
            "consistent_accuracy": "correct_both",
        }
        if not has_unread:  # theirs calls two unread verdicts equal, and an unread one the second output in kappa
            pairs |= {"consistency": "equal", "kappa_orders": "kappa_agreement"}
        for ours, theirs in pairs.items():
            value, stated = found.value(ours), shown[theirs]
            if isinstance(stated, str):
                stated = float(stated.rpartition("= ")[2].rstrip("%")) / 100
            gap = 0.0 if math.isnan(value) and math.isnan(stated) else abs(value - stated)
            differences.setdefault(ours, []).append(gap if not math.isnan(gap) else math.inf)
    compared = [
        {"name": k, "files": len(v), "largest": max(v), "equal": sum(d < 1e-9 for d in v)}
        for k, v in differences.items()
    ]
    return {"files": files, "with_unread": unread, "compared": compared}


def page(found: dict[str, Any]) -> str:
    """The page from the evidence."""
    lines = [
        "# Metrics of judges",
        "",
        "Written by `make judgments` (`tools/docs/judgments.py`), commit `" + str(found["commit"])[:10] + "`, from "
        "[evidence/judge_metrics.json](evidence/judge_metrics.json). The command is `verdictscope judge metrics FILE "
        "--format NAME [--json]`, the function `verdictscope.judgments.metrics.log_metrics`; a table "
        "of verdicts of one's own goes to `verdict_metrics`. Columns and keys: [formats.md](formats.md).",
        "",
        "A verdict that could not be read is a third outcome: never right, never a tie, never the same as another. "
        "Intervals are 95 %, by bootstrap over groups of items (pairs of one question, all answers to one question), "
        "the same draws for every metric, so that differences are paired.",
        "",
        "## On public logs",
    ]
    for name, (_, title) in LOGS.items():
        lines += _log(title, found["logs"][name])
    lines += [
        "",
        "## Against stated values",
        "",
        "| source | metric | stated | ours | why they differ |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['source']} | {r['name']} | {r['stated']:.4f} | {_number(r['ours'])} | {r['why'] or '–'} |"
        for r in found["stated"]
    ]
    lines += _llmbar(found["llmbar"])
    lines += ["", "## Every metric", "", "| name | unit | definition |", "|---|---|---|"]
    lines += [f"| `{d['name']}` | {d['unit']} | {d['definition'].replace('|', '/')} |" for d in found["definitions"]]
    return "\n".join([*lines, "", *NOTES, ""])


def _log(title: str, log: dict[str, Any]) -> list[str]:
    problems = ", ".join(f"{n} {k}" for k, n in log["problems"].items() if n) or "no problem rows"
    status = ", ".join(f"{n} {k}" for k, n in log["status"].items())
    lines = [
        "",
        f"### {title}",
        "",
        f"{log['rows']} rows, {log['groups']} groups, {log['verdicts']} verdicts "
        f"({status}); {problems}. View `{log['part']}`.",
    ]
    judges = list(dict.fromkeys(r["judge"] for r in log["rows_of"]))
    at = {(r["judge"], r["name"]): r for r in log["rows_of"]}
    if len(judges) == 1:
        lines += ["", "| metric | value | 95 % interval | n | missing |", "|---|---|---|---|---|"]
        for name in log["names"]:
            r = at[judges[0], name]
            lines.append(f"| {name} | {_number(r['estimate'])} | {_interval(r)} | {r['n']} | {r['missing']} |")
    else:
        lines += ["", "| judge | " + " | ".join(log["names"]) + " |", "|---" * (len(log["names"]) + 1) + "|"]
        for judge in judges:
            cells = [_number(at[judge, n]["estimate"]) if (judge, n) in at else "" for n in log["names"]]
            lines.append(f"| {judge} | " + " | ".join(cells) + " |")
    if log["panel"]:
        shown = "; ".join(f"{r['name']} {_number(r['estimate'])} ({_interval(r)}), n = {r['n']}" for r in log["panel"])
        lines += ["", f"Agreement among judges: {shown}."]
    return lines + [f"\nNote: {w}." for w in log["warnings"]]


def _llmbar(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    lines = [
        "",
        f"LLMBar (arXiv 2310.07641) stores statistics beside {found['files']} evaluators' results; "
        f"{found['with_unread']} of them hold verdicts that could not be read.",
        "",
        "| metric | files compared | equal to 1e-9 | largest difference |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r['name']} | {r['files']} | {r['equal']} | {r['largest']:.2g} |" for r in found["compared"]]
    return [
        *lines,
        "",
        "Where verdicts are unread, LLMBar's `equal` counts two of them as the same and its "
        "`kappa_agreement` takes them as verdicts, so those two are compared on the other files. Its `kappa_False` "
        'and `kappa_True` turn every verdict "2" into 0 and compare it with labels 1 and 2; they are not '
        "comparable with any kappa and are not reproduced.",
    ]


NOTES = (
    "Sources: kappa, Cohen 1960; pi, Scott 1955; Fleiss 1971; leniency, arXiv 2406.12624; two-order score, arXiv "
    "2410.12784; conflict ratio and non-transitivity, arXiv 2509.21117; corrected flips, arXiv 2408.13006 (with q from "
    "the square root, see `flip_noise`); calibration and risk–coverage, arXiv 2508.16889 (ties averaged); solving "
    "against judging, arXiv 2509.22099; ranking by likelihood, arXiv 2405.19534; rankings under a judge's confusion, "
    "arXiv 2505.21972; combination without labels, arXiv 2506.18203.",
    "",
    "Not shown by any of these: whether the labels are right; whether a metric holds for other items, prompts or "
    "sampling settings; and, in a log with one run per prompt, how much of a flip is noise (`repeat_flip_rate` is then "
    "not measured).",
)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(row: dict[str, Any]) -> str:
    return "–" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m tools.docs.judgments DATA [LLMBAR]")
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)

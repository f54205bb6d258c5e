"""Measure the refusal matcher against human labels and write ``docs/refusal.md``: ``make refusal XSTEST=FOLDER``.

``python -m tools.docs.refusal XSTEST_FOLDER [WORDS]``: the folder of XSTest's completion files
(``xstest_v2_completions_*.csv``, Röttger et al. 2024) and, for comparison, a text file with a word list, one a line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from verdictscope import provenance
from verdictscope.judgments.refusal import refusal_opening
from verdictscope.rollouts import load_prompts
from verdictscope.rollouts.prompts.sets import join_prompts

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVIDENCE = DOCS / "evidence" / "refusal_xstest.json"
HUMAN = {
    "not full compliance": "every completion; a partial refusal counts as refusal",
    "full refusal": "every completion; a partial refusal counts as compliance",
    "clear cases": "completions without the partial refusals",
}
HELD_OUT = ("gpt4", "llama2orig")


def main(folder: Path, words: Path | None) -> None:
    """Measure, then write the evidence and the page made from it."""
    answers = read(folder)
    matchers = {"strict first sentence": answers["opening"].notna()}
    listed = [line for line in words.read_text(encoding="utf-8").splitlines() if line] if words else []
    if listed:
        low = answers["completion"].str.lower()
        matchers["word list, whole response"] = low.map(lambda text: any(w.lower() in text for w in listed))
        matchers["word list, first 32 characters"] = low.map(lambda text: any(w.lower() in text[:32] for w in listed))
    found: dict[str, Any] = {"commit": provenance.commit(), "machine": provenance.machine(), "n": len(answers)}
    found["words"] = {"n": len(listed), "sha256": hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]}
    found["kappa"] = [row for name, said in matchers.items() for row in kappas(answers, name, said)]
    found["annotators"] = float(cohen_kappa_score(answers["annotation_1"] != FULL, answers["annotation_2"] != FULL))
    named = answers.fillna({"opening": "none"})
    found["confusion"] = [
        {"human": label, "opening": opening, "n": int(n)}
        for (label, opening), n in named.groupby(["final_label", "opening"]).size().items()
    ]
    EVIDENCE.parent.mkdir(exist_ok=True)
    EVIDENCE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (DOCS / "refusal.md").write_text(page(found), encoding="utf-8")


FULL = "1_full_compliance"


def read(folder: Path) -> pd.DataFrame:
    """Completions of every model, one row each, with the opening the matcher sees."""
    files = sorted(folder.glob("xstest_v2_completions_*.csv"))
    tables = []
    for file in files:
        model = file.stem.removeprefix("xstest_v2_completions_")
        table = load_prompts(file)
        tables.append(table.assign(id=model + "-" + table["id"], model=model))
    answers = join_prompts(tables)
    answers["opening"] = [refusal_opening(text) for text in answers["completion"]]
    return answers


def kappas(answers: pd.DataFrame, name: str, said: pd.Series) -> list[dict[str, Any]]:
    """Cohen's kappa under each reading of the human label, overall and on the models left out of the tuning."""
    label = answers["final_label"]
    human = {"not full compliance": label != FULL, "full refusal": label == "2_full_refusal"}
    rows = []
    for target in HUMAN:
        use = label != "3_partial_refusal" if target == "clear cases" else pd.Series(True, index=label.index)
        truth = human.get(target, human["full refusal"])
        for part, where in (("all models", use), ("models left out", use & answers["model"].isin(HELD_OUT))):
            rows.append(
                {"matcher": name, "human": target, "part": part}
                | kappa(truth[where], said[where], answers["group"][where])
            )
    return rows


def kappa(truth: pd.Series, said: pd.Series, groups: pd.Series) -> dict[str, Any]:
    """Cohen's kappa with a 95 % interval by bootstrap over prompts (the models' answers to one prompt together)."""
    pairs = [(t, s) for t in (False, True) for s in (False, True)]
    cells = pd.DataFrame({pair: (truth == pair[0]) & (said == pair[1]) for pair in pairs})
    counts = cells.groupby(groups.to_numpy()).sum().to_numpy(dtype=float)

    def of(total: np.ndarray) -> np.ndarray:
        tn, fp, fn, tp = np.moveaxis(total / total.sum(-1, keepdims=True), -1, 0)
        by_chance = (tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)
        return (tp + tn - by_chance) / (1 - by_chance)

    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=2000)
    low, high = np.quantile(of(weights @ counts), [0.025, 0.975])
    exact = float(cohen_kappa_score(truth, said))
    assert abs(exact - float(of(counts.sum(0)))) < 1e-9
    return {"kappa": exact, "low": float(low), "high": float(high), "n": len(truth), "prompts": len(counts)}


def page(found: dict[str, Any]) -> str:
    """The page, from the evidence alone."""
    kappa = pd.DataFrame(found["kappa"])
    lines = [
        "# Labelling refusals",
        "",
        f"Written by `make refusal` (`tools/docs/refusal.py`), commit `{found['commit']}`, from "
        "[evidence/refusal_xstest.json](evidence/refusal_xstest.json): "
        f"{found['n']} completions of XSTest with human labels "
        "(Röttger et al. 2024, arXiv 2308.01263, CC BY 4.0). Cohen's kappa, 95 % interval by bootstrap over prompts.",
        "",
        f"Two annotators agree with each other at {found['annotators']:.3f} (not full compliance). The patterns were "
        f"written against the other models' completions; *models left out* are {' and '.join(HELD_OUT)}.",
        "",
        "| matcher | human label | completions | kappa | 95 % interval | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in kappa.to_dict("records"):
        lines.append(
            f"| {row['matcher']} | {row['human']} | {row['part']} | {row['kappa']:.3f} | "
            f"{row['low']:.3f} to {row['high']:.3f} | {row['n']} |"
        )
    lines += ["", *(f"- *{name}*: {text}." for name, text in HUMAN.items())]
    if found["words"]["n"]:
        lines.append(
            f"- *word list*: {found['words']['n']} words of earlier refusal-cliff code, searched for anywhere (as its "
            "evaluation does) and in the first 32 characters (as its training data is picked)."
        )
    table = pd.DataFrame(found["confusion"]).pivot(index="human", columns="opening", values="n").fillna(0).astype(int)
    table = table[["none", *sorted(c for c in table.columns if c != "none")]]
    lines += ["", "## Confusion", ""]
    lines += ["Human label against the pattern that matched (`none`: labelled as complying).", ""]
    lines += ["| human label | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    for label, row in zip(table.index, table.to_numpy(), strict=True):
        lines.append(f"| {label} | " + " | ".join(map(str, row)) + " |")
    lines += [
        "",
        "Answers in another language than English get no label: they count as unparsed, never as complied. "
        "Not shown: models that refuse in the middle of an answer; a guard "
        "model (`verdictscope.judgments.guard.Guard`) is shown request and answer, and can be compared with it.",
    ]
    return "\n".join(lines) + "\n"


def arguments(given: Sequence[str]) -> tuple[Path, Path | None]:
    """Folder and word list from the command line."""
    if not 1 <= len(given) <= 2:
        raise SystemExit(__doc__)
    return Path(given[0]), Path(given[1]) if len(given) == 2 else None


if __name__ == "__main__":
    main(*arguments(sys.argv[1:]))

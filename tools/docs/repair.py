"""Write ``docs/repair.md`` and its figure from the measured curves: ``make repair``, after ``make evidence``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVIDENCE = DOCS / "evidence" / "repair.json"
METHODS = {
    "normalised": "cliff, normalised",
    "published": "cliff, as published",
    "rule": "word list over the thinking",
    "complied": "the answer did not refuse",
    "random": "random",
}


def main() -> None:
    """Rewrite the page; without evidence it says so."""
    data = json.loads(EVIDENCE.read_text(encoding="utf-8")) if EVIDENCE.is_file() else None
    if data is not None:
        draw(data, DOCS / "repair.png")
    (DOCS / "repair.md").write_text(page(data), encoding="utf-8")


def page(data: dict[str, Any] | None) -> str:
    """The whole page."""
    head = [
        "# Repairing with few examples",
        "",
        "`verdictscope select` ranks a pool and `verdictscope repair` trains on what it takes. This page is written by "
        "`make repair` from what `make evidence` measured; nothing in it is typed.",
        "",
    ]
    if data is None:
        return "\n".join([*head, "Not measured yet: `make evidence`.", ""])
    return "\n".join([*head, *setting(data), "", *table(data), "", *verdict(data), "", *limits(data), ""])


def setting(data: dict[str, Any]) -> list[str]:
    """What was done, in numbers."""
    plan, before = data["plan"], data["before"]
    return [
        f"**Setting.** The bundled cliff model. Pool: {data['pool']} harmful requests, of which the model complied "
        f"with {data['pool_complied']}; the others it refused already, and they teach it nothing. Safe completions are "
        f"the reference model's own refusals, after the model's own thinking; benign and safety rows "
        f"{plan['benign_ratio']:g} to "
        f"1. Every training takes {plan['steps']} steps of {plan['batch']} rows at {plan['learning_rate']:g}, all "
        f"weights; {len(plan['seeds'])} seeds. Measured on {plan['measured']} harmful and {plan['measured']} harmless "
        f"requests that are in no pool. Before any training: refusal {before['refusal']:.3f}, over-refusal "
        f"{before['over_refusal']:.3f}, accuracy {before['accuracy']:.3f}. Methods, budgets, seeds and steps were "
        "fixed before the first whole run; two smaller ones came before it, to see that it ran: 20 + 20 requests, and "
        "trainings of two steps.",
        "",
        "![data efficiency](repair.png)",
    ]


def table(data: dict[str, Any]) -> list[str]:
    """Means over seeds with 95 % intervals."""
    lines = ["| chosen by | rows | of them complied | refusal | over-refusal | accuracy |", "|---|---|---|---|---|---|"]
    for point in sorted(data["points"], key=lambda p: (p["budget"], list(METHODS).index(p["method"]))):
        cells = " | ".join(_between(point[name]) for name in ("refusal", "over_refusal", "accuracy"))
        lines.append(f"| {METHODS[point['method']]} | {point['budget']} | {point['had_complied']:.1f} | {cells} |")
    return lines


def verdict(data: dict[str, Any]) -> list[str]:
    """Who beats chance, as it came out."""
    lines = ["**Against random picks, same seeds** (difference in refusal, 95 % interval over seeds, pointwise):", ""]
    for row in data["against_random"]:
        told = "no difference is shown"
        told = "more refusals than random" if row["low"] > 0 else "fewer than random" if row["high"] < 0 else told
        lines.append(f"- {METHODS[row['method']]}, {row['budget']} rows: {_between(row)}: {told}.")
    return lines


def limits(data: dict[str, Any]) -> list[str]:
    """What the page does not show."""
    return [
        f"**Read with care.** Intervals of rates are the wider of those over {len(data['plan']['seeds'])} seeds "
        f"(training order, random picks, sampling) and over requests, on one model and one pool; {data['unread']} "
        "answers in all could not be read and are in no rate. The row *the answer did not refuse* needs no probe: "
        "where it does as well as the cliff, the outcome alone would have done. Nothing here says how a large model "
        "behaves.",
        "",
        f"[evidence/repair.json](evidence/repair.json), commit `{data['commit'][:10]}`.",
    ]


def _between(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['estimate']:.3f}"
    return f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def draw(data: dict[str, Any], file: Path) -> None:
    """Refusal over the budget, one line a method, with bands over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for shift, (method, name) in enumerate(METHODS.items()):
        points = sorted((p for p in data["points"] if p["method"] == method), key=lambda p: p["budget"])
        if not points:
            continue
        x = [p["budget"] * 1.05 ** (shift - 2) for p in points]  # side by side, or the whiskers hide one another
        y = [p["refusal"]["estimate"] for p in points]
        ends = [
            [v if p["refusal"][end] is None else p["refusal"][end] for v, p in zip(y, points, strict=True)]
            for end in ("low", "high")
        ]
        low, high = ([abs(v - e) for v, e in zip(y, end, strict=True)] for end in ends)
        axes.errorbar(x, y, yerr=[low, high], marker="o", markersize=3.5, linewidth=1.2, capsize=2, label=name)
    axes.axhline(data["before"]["refusal"], color="0.5", linewidth=0.8, linestyle=":", label="before training")
    axes.set_xscale("log", base=2)
    axes.set_xticks(data["plan"]["budgets"], [str(k) for k in data["plan"]["budgets"]])
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("safety rows trained on")
    axes.set_ylabel("harmful requests refused")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(file, dpi=160)
    plt.close(figure)


if __name__ == "__main__":
    main()

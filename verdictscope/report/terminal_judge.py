"""A judge study's numbers as a few lines for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verdictscope.report.words import estimate

CONTENT = "content"


def tell_judge(summary: dict[str, Any], folder: Path) -> str:
    """The run's numbers as a few lines.

    Args:
        summary: the contents of ``summary.json``.
        folder: the run folder.
    """
    lines = [
        *_rates(summary),
        *_parts(summary),
        *_heads(summary),
        *_without(summary),
        *_tried(summary),
        *_read(summary),
        f"run folder {folder}",
    ]
    if (folder / "report.html").is_file():
        lines.append(f"report     {folder / 'report.html'}")
    return "\n".join(lines)


def _rates(summary: dict[str, Any]) -> list[str]:
    rates = summary["rates"].get("base", {}).get("off", {})
    plain = rates.get("plain", {})
    names = {"accuracy": "right", "first_in_ties": "first in ties", "consistency": "same in both orders"}
    told = [f"{words} {_rate(plain[name])}" for name, words in names.items() if name in plain]
    lines = [f"plain      {'; '.join(told)}; n = {_n(plain)} groups"] if told else []
    follows = [f"{cue} {_rate(of['follows'])}" for cue, of in rates.items() if "follows" in of]
    if follows:
        lines.append(f"follows    {'; '.join(follows)}")
    unread = sum(n["unread"] for n in summary["verdicts"].values())
    lines.append(f"verdicts   {sum(n['verdicts'] for n in summary['verdicts'].values())}, {unread} unread")
    return lines


def _parts(summary: dict[str, Any]) -> list[str]:
    lines = []
    for variant, label in (("base", "parts"), ("reference", "in reference")):
        parts = summary["parts"].get(variant, {}).get("off", {})
        if parts:
            told = "; ".join(f"{name} {_nats(row)}" for name, row in parts.items())
            lines.append(f"{label:<10} {told} nats, n = {_n(parts)}")
    return lines


def _heads(summary: dict[str, Any]) -> list[str]:
    heads = summary["heads"]
    told = "; ".join(
        f"{bias}: {_names([h for h in of['found'] if h in of['selected']])}" for bias, of in heads["biases"].items()
    )
    recall = f" (recall of the planted heads {heads['recall']})" if heads.get("recall") is not None else ""
    delta = f", delta = {heads['delta']:.3f} nats" if heads.get("delta") is not None else ""
    lines = [f"heads      {told or 'none'}{recall}{delta}"]
    if "reference" in heads:
        named = [h for of in heads["reference"].values() for h in of["found"] if h in of["selected"]]
        lines.append(f"           in the reference model: {_names(named)}")
    return lines


def _without(summary: dict[str, Any]) -> list[str]:
    """A line per contrast with the found heads taken out."""
    found = {name: of for name, of in summary["sets"].items() if "found" in of}
    return [
        f"{'' if at else 'ablation':<10} {name} {of['base']['estimate']:.3f} -> {of['found']['estimate']:.3f}"
        f"{_span(of)}"
        for at, (name, of) in enumerate(found.items())
    ]


def _span(of: dict[str, Any]) -> str:
    if "random_min" not in of:
        return ""
    return f" ({of['random_sets']} random sets {of['random_min']:.3f} to {of['random_max']:.3f})"


def _tried(summary: dict[str, Any]) -> list[str]:
    lines = []
    for name, of in summary["mitigations"].get("off", {}).items():
        left = "; ".join(
            f"{part} {row['estimate']:+.2f}"
            for part, row in of.items()
            if part in summary["parts"]["base"]["off"] and part != CONTENT
        )
        right = f"right {of['accuracy']['estimate']:.3f}; " if "accuracy" in of else ""
        lines.append(f"{'tried' if not lines else '':<10} {name}: {right}{left}")
    return lines


def _read(summary: dict[str, Any]) -> list[str]:
    """The verdict probe against its refits."""
    place = summary["probes"]["verdict_probe"].get("last", {})
    test, null = place.get("test"), place.get("permuted")
    if not test:
        return []
    told = _rate(next(iter(test.values())))
    against = next(iter(null.values())) if null else None
    refits = f"; verdicts permuted: {against['low']:.3f} to {against['high']:.3f}" if against else ""
    return [f"probe      verdict, test AUROC {told}, n = {_n(test)}{refits}"]


def _rate(row: dict[str, Any]) -> str:
    return estimate(row["estimate"], row["low"], row["high"], row.get("unit", "rate"), n=row["n"])


def _nats(row: dict[str, Any]) -> str:
    return estimate(row["estimate"], row["low"], row["high"], "nats", signed=True, n=row["n"])


def _n(rows: dict[str, Any]) -> int:
    return min((int(row["n"]) for row in rows.values() if row["n"] is not None), default=0)


def _names(heads: list[list[int]]) -> str:
    return " ".join(f"L{layer}H{head}" for layer, head in heads) or "none"

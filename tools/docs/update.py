"""Put the numbers and figures of a demo run into the README: ``make readme``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "docs" / "demo"
BEGIN = "<!-- demo:begin (written by `make readme` from a run of `make demo`) -->"
END = "<!-- demo:end -->"


def main(run: Path) -> None:
    """Copy what the README shows from a run folder and rewrite the block between the markers."""
    DEMO.mkdir(exist_ok=True)
    shutil.copy(run / "summary.json", DEMO / "summary.json")
    machine = json.loads((run / "provenance.json").read_text(encoding="utf-8"))["machine"]
    (DEMO / "machine.json").write_text(json.dumps(machine, indent=2) + "\n", encoding="utf-8")
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copy(figure, DEMO / figure.name)
    shutil.copy(run / "figures" / "captions.json", DEMO / "captions.json")
    readme = ROOT / "README.md"
    readme.write_text(with_block(readme.read_text(encoding="utf-8"), block(DEMO)), encoding="utf-8")


def with_block(readme: str, text: str) -> str:
    """The README with its demo block replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def block(folder: Path) -> str:
    """The demo block made of a stored summary, its figures and their captions."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    lines = ["| measured by `make demo` | value | 95 % interval | n |", "|---|---|---|---|"]
    lines += [f"| {name} | {value} | {interval} | {n} |" for name, value, interval, n in rows(summary)]
    seconds = sum(summary["seconds"].values())
    lines += ["", f"All stages together took {seconds:.0f} s{where(folder / 'machine.json')}."]
    for name, caption in captions.items():
        lines += ["", f"![{name.replace('_', ' ')}](docs/demo/{name}.png)", "", f"*{caption}*"]
    return "\n".join(lines)


def where(file: Path) -> str:
    """The machine of a run in words; nothing where it was not recorded."""
    if not file.is_file():
        return ""
    machine = json.loads(file.read_text(encoding="utf-8"))
    return f" on {machine['accelerator'] or str(machine['cores']) + ' CPU cores'}"


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, value, interval and n of every headline number."""
    probe, language, cliff, heads, ablation = (
        summary[key] for key in ("probe", "language", "cliff", "heads", "ablation")
    )

    def row(name: str, section: dict[str, Any], key: str, low: str, high: str, n: Any) -> tuple[str, str, str, str]:
        low_value, high_value = section.get(low), section.get(high)
        interval = "" if low_value is None else f"{low_value:.3f} to {high_value:.3f}"
        value = section.get(key)
        return name, "none" if value is None else f"{value:.3f}", interval, "" if n is None else str(n)

    top = " ".join(f"L{layer}H{head}" for layer, head in heads["top"])
    planted = " ".join(f"L{layer}H{head}" for layer, head in heads.get("planted", []))
    made = [
        row(
            f"probe AUROC on new prompts ({probe['site']}, layer {probe['layer']})",
            probe,
            "auroc_test",
            "auroc_low",
            "auroc_high",
            f"{probe['n']} groups",
        ),
        row(
            "the same, labels permuted (range)",
            probe,
            "control_auroc",
            "control_low",
            "control_high",
            f"{probe['control_refits']} refits",
        ),
        row(
            "harm read from the request's words",
            language,
            "bag_of_words_auroc",
            "bag_of_words_low",
            "bag_of_words_high",
            None,
        ),
        row(
            "refusal read from the prompt's words",
            language,
            "bag_of_words_refusal_auroc",
            "bag_of_words_refusal_low",
            "bag_of_words_refusal_high",
            None,
        ),
        row(
            "refusal read from prompt and thinking as text",
            language,
            "bag_of_words_thinking_auroc",
            "bag_of_words_thinking_low",
            "bag_of_words_thinking_high",
            None,
        ),
        row("normalised score, plateau", cliff, "normalised_plateau", "", "", cliff["n"]),
        row("normalised score, last token before the answer", cliff, "normalised_final", "", "", cliff["n"]),
        row("**normalised drop**", cliff, "normalised_drop", "low", "high", cliff["n"]),
        row(
            "normalised drop, found heads zeroed",
            cliff,
            "ablated_normalised_drop",
            "ablated_low",
            "ablated_high",
            cliff["n"],
        ),
        row("normalised drop, reference", cliff, "aligned_normalised_drop", "aligned_low", "aligned_high", None),
        row(
            "normalised drop, excess over the model with found heads zeroed",
            cliff,
            "ablated_excess",
            "ablated_excess_low",
            "ablated_excess_high",
            cliff["n"],
        ),
        (f"**heads found** (planted: {planted})", f"{top}; recall {heads.get('recall')}", "", ""),
    ]
    for kind, name in (("refusal", "harmful requests"), ("refusal_harmless", "harmless requests")):
        for variant, words in (("base", "as it is"), ("ablated", "found heads zeroed")):
            key = f"{kind}_{variant}"
            made.append(
                row(
                    f"refusal rate, {name}, {words}",
                    ablation,
                    key,
                    f"{key}_low",
                    f"{key}_high",
                    ablation.get(f"{key}_n"),
                )
            )
    made.append(row("refusal rate, harmful requests, random sets (mean)", ablation, "refusal_random", "", "", None))
    made.append(
        ("p, found heads against random sets", f"{ablation['p_value']:.3g}", "", f"{ablation['random_sets']} sets")
    )
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.docs.update RUN")
    main(Path(sys.argv[1]))

"""Write ``docs/doctor.md`` from the evidence: ``python -m tools.docs.doctor``, the second half of ``make families``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verdictscope.activations.doctor import CHECKS, STATUSES
from verdictscope.activations.sites import SITES

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVIDENCE = DOCS / "evidence" / "families.json"
BLOCK_ORDER = ("supported", "degraded", "unsupported", "not built", "silently wrong", "error")


LENGTHS = (
    "## Lengths",
    "",
    "LongRoPE and dynamic NTK scaling give a row other position embeddings beyond a length (the *switch*). "
    "transformers chooses them once a call, by the longest row of the batch; dynamic NTK keeps them for later ones. "
    "Here every row has those of its own length, in whatever batch and after whatever call, so *read alone* means one "
    "pass over the whole rollout, prompt and all that was written, as transformers makes it with a fresh model. "
    "A label is scored token by token, each as after the tokens before it.",
    "",
    "A rollout that was written across the switch was not read like that while it was written. `generate` gives the "
    "tokens of transformers' own cached `generate`: Phi-3, PhiMoE and Phi-4 multimodal read the whole row again at the "
    "switch; all others go on from the keys of a shorter row, and `generate` warns that what it wrote beyond the "
    "switch is read otherwise than it was written. To read a rollout as it was before the switch, cut it there.",
    "",
    "A rollout that is longer than the model's positions is an error in every pass, and a prompt that does not fit "
    "with its new tokens is one in `generate`. The limit is the length of a table of learned positions, else "
    "`max_position_embeddings` (for LongRoPE, Llama 3 and YaRN the length after scaling), times the factor of a linear "
    "or dynamic scaling, or YaRN's factor times its original length where that is more. To read a rope model further, "
    "set `model.hf.config.max_position_embeddings`.",
    "",
)


def main() -> None:
    """Write the page."""
    found = json.loads(EVIDENCE.read_text(encoding="utf-8")) if EVIDENCE.is_file() else None
    (DOCS / "doctor.md").write_text(page(found), encoding="utf-8")


def page(found: dict[str, Any] | None) -> str:
    """The page as text; without evidence it says that the families were not measured."""
    lines = [
        "# Is this model read rightly?",
        "",
        "`verdictscope doctor MODEL` runs a model on short random sequences and holds what is read against what the "
        "model computes. Written by `make families` (`tools/docs/doctor.py`).",
        "",
        "Exit code 0: the model is read, nothing is silently wrong and every check was finished; 1 otherwise; 2 if "
        "there is no such model or an override names no module; 128 + n if signal n stopped it. "
        "`--override ROLE=PATH` names a module, `--padding left --no-position-ids` checks the layout of your own "
        "batches, `--json` prints one object ([formats](formats.md#doctor---json)).",
        "",
        "## Statuses",
        "",
        *(f"- *{status}*: {meaning}" for status, meaning in STATUSES.items()),
        "",
        "## Checks",
        "",
        "| check | what it means |",
        "|---|---|",
        *(f"| {check} | {meaning} |" for check, meaning in CHECKS.items()),
        "",
        "What this does not show: that a model is any good, that a chat template is right, or that a site means what a "
        "study takes it to mean.",
        "",
        *LENGTHS,
        "## Families",
        "",
        *(families(found) if found else ["Not measured yet: `make families`."]),
    ]
    return "\n".join(lines) + "\n"


def families(found: dict[str, Any]) -> list[str]:
    """One line a family, the worst last."""
    rows = sorted(found["families"].items(), key=lambda item: (BLOCK_ORDER.index(item[1]["status"]), item[0]))
    counts = ", ".join(f"{n} {status}" for status, n in found["counts"].items() if n)
    return [
        f"Every causal language model with both an adapter in TransformerLens {found['versions']['transformer-lens']} "
        f"and a class in transformers {found['versions']['transformers']}: a tiny random checkpoint of each, in "
        f"float32, from [evidence/families.json](evidence/families.json), commit `{found['commit']}`. "
        f"{found['n']} families: {counts}. *Worst identity* is the largest error of any identity relative to what it "
        "explains; sites that all "
        "layers have are not listed. *Beyond a rope switch*: the checks of lengths on the same model with LongRoPE and "
        "with dynamic NTK scaling; empty where the family knows neither, *not run* where transformers does not run it.",
        "",
        "| family | status | worst identity | beyond a rope switch | sites not there | remark |",
        "|---|---|---|---|---|---|",
        *(line(name, told) for name, told in rows),
    ]


def line(name: str, told: dict[str, Any]) -> str:
    """A family's line."""
    worst = told.get("worst_identity")
    number = "" if worst is None else f"{worst:.1e}"
    remark = told["reason"].replace("|", "\\|")
    return f"| {name} | {told['status']} | {number} | {beyond(told)} | {lacking(told)} | {remark} |"


def beyond(told: dict[str, Any]) -> str:
    """What the checks of lengths say under each rope scaling that depends on the length."""
    said = {k: v.split(":")[0] for k, v in (told.get("beyond_a_switch") or {}).items() if v != "none"}
    alike = set(said.values()) == {"supported"}
    return "supported" if alike else ", ".join(f"{kind}: {status}" for kind, status in said.items())


def lacking(told: dict[str, Any]) -> str:
    """Sites that a family lacks, and those that some of its layers lack."""
    sites, layers = told.get("sites") or {}, int(told.get("layers") or 0)
    if not sites:
        return ""
    text = []
    for site in SITES:
        there = sites[site]
        if not there:
            text.append(site)
        elif site != "final_norm" and len(there) < layers:
            text.append(f"{site} in {layers - len(there)} of {layers} layers")
    return ", ".join(text)


if __name__ == "__main__":
    main()

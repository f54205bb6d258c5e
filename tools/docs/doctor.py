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
    "With LongRoPE and dynamic NTK scaling a row gets other position embeddings beyond a length (the *switch*). "
    "transformers chooses them once per call, by the longest row of the batch; dynamic NTK keeps them for later calls. "
    "Here every row gets those of its own length, in any batch and after any call. *Alone* therefore means one pass "
    "over the whole rollout, prompt and generated tokens, as transformers makes it with a freshly loaded model. Labels "
    "are scored token by token, each given the tokens before it.",
    "",
    "A rollout that was generated across the switch was generated with other position embeddings than it is read. "
    "`generate` gives the tokens of transformers' own cached `generate`: Phi-3, PhiMoE and Phi-4 multimodal compute "
    "the whole row again at the switch; others continue from the keys of a shorter row, and `generate` warns. "
    "To read such a rollout as it was before the switch, truncate it there.",
    "",
    "A rollout longer than the model's positions is an error in every pass, and a prompt that does not fit together "
    "with its new tokens is an error in `generate`. The limit is the length of a table of learned positions, otherwise "
    "`max_position_embeddings` (for LongRoPE, Llama 3 and YaRN the length after scaling), times the factor of a linear "
    "or dynamic scaling, or YaRN's factor times its original length where that is larger. To read a rope model beyond "
    "it, set `model.hf.config.max_position_embeddings`.",
    "",
)
OUR_CODE = (
    "## Checks of this package's own code",
    "",
    "The tests also change weights in ways whose consequences are known (`tests/activations/metamorphic.py`: swapping "
    "query heads of a group, rotating the basis of a value head, swapping MLP neurons) and compare values with "
    "TransformerLens and nnsight (`tests/activations/references.py`), in every family of the table below.",
    "",
)


def main() -> None:
    """Write the page."""
    found = json.loads(EVIDENCE.read_text(encoding="utf-8")) if EVIDENCE.is_file() else None
    (DOCS / "doctor.md").write_text(page(found), encoding="utf-8")


def page(found: dict[str, Any] | None) -> str:
    """The page as text; without evidence it says that the families were not measured."""
    lines = [
        "# Model compatibility checks",
        "",
        "`verdictscope doctor MODEL` runs a model on short random sequences and compares the values this package reads "
        "with what the model computes. `check_model` does the same in Python. This page is written by `make families` "
        "(`tools/docs/doctor.py`).",
        "",
        "Exit code 0: every check was completed and none found a silent error; 1 otherwise; 2 if there is no such "
        "model or an override names no module; 128 + n if signal n stopped it. "
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
        "What the checks do not show: that a model is good, that a chat template is right, or that a site has the "
        "meaning a study assumes.",
        "",
        *LENGTHS,
        *OUR_CODE,
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
        *(line(name, about) for name, about in rows),
    ]


def line(name: str, found: dict[str, Any]) -> str:
    """A family's line."""
    worst = found.get("worst_identity")
    number = "" if worst is None else f"{worst:.1e}"
    remark = found["reason"].replace("|", "\\|")
    return f"| {name} | {found['status']} | {number} | {beyond(found)} | {lacking(found)} | {remark} |"


def beyond(found: dict[str, Any]) -> str:
    """What the checks of lengths say under each rope scaling that depends on the length."""
    statuses = {k: v.split(":")[0] for k, v in (found.get("beyond_a_switch") or {}).items() if v != "none"}
    alike = set(statuses.values()) == {"supported"}
    return "supported" if alike else ", ".join(f"{kind}: {status}" for kind, status in statuses.items())


def lacking(found: dict[str, Any]) -> str:
    """Sites that a family lacks, and those that some of its layers lack."""
    sites, layers = found.get("sites") or {}, int(found.get("layers") or 0)
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

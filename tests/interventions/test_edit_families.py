"""Zeroed and scaled heads in every family that can be built small: hooks, weights by hand, and a baked checkpoint."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.evidence import write_evidence
from verdictscope.activations import Model
from verdictscope.activations.loading import unchecked
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, bake, edited

ROOT = Path(__file__).resolve().parent.parent
MUST = {
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "GraniteForCausalLM",
    "Qwen3MoeForCausalLM",
    "DeepseekV3ForCausalLM",
    "Phi3ForCausalLM",
    "OPTForCausalLM",
    "GptOssForCausalLM",
}
ALLOWED = 5e-5
"""Relative: the noise of float32 through three layers of large random weights."""


def logits(hf: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return hf(input_ids=ids, use_cache=False).logits.double()


def apart(a: Tensor, b: Tensor) -> float:
    return float(f"{float((a - b).norm() / b.norm()):.1e}")


def by_hand(model: Model, layer: int, factors: dict[int, float]) -> PreTrainedModel:
    """A copy with scaled columns of one output projection."""
    other = copy.deepcopy(model.hf)
    path = next(name for name, m in model.hf.named_modules() if m is model.sites.blocks[layer].o)
    o, width = other.get_submodule(path), model.sites.blocks[layer].d_head
    with torch.no_grad():
        for head, factor in factors.items():
            mine = slice(head * width, (head + 1) * width)
            (o.weight[mine] if isinstance(o, Conv1D) else o.weight[:, mine]).mul_(factor)
    return other


def examine(name: str) -> dict[str, Any]:
    """How far hooks, hand-made weights and a baked checkpoint are apart in one family."""
    from families import build

    try:
        hf = build(name)
        model = unchecked(hf, name=name)  # the doctor has its own evidence of every family
    except InputError as error:
        return {"status": "not read", "reason": str(error)}
    except Exception as error:
        return {"status": "not built", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    layers = [layer for layer, block in enumerate(model.sites.blocks) if block.o is not None]
    if not layers:
        return {"status": "no heads"}
    layer, last = layers[0], model.sites.blocks[layers[0]].n_heads - 1
    edits = HeadEdit(((layer, 0),)), HeadEdit(((layer, last),), "scale", -1.5)
    ids = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))
    plain = logits(hf, ids)
    with edited(model, edits):
        hooked = logits(hf, ids)
    found: dict[str, Any] = {
        "status": "equal",
        "changed": apart(hooked, plain),
        "by_hand": apart(logits(by_hand(model, layer, {0: 0.0, last: -1.5}), ids), hooked),
        "again": apart(logits(hf, ids), plain),
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            hf.save_pretrained(Path(folder) / "source")
            stock = AutoModelForCausalLM.from_pretrained(Path(folder) / "source")
            found["saved"] = apart(logits(stock, ids), plain)  # what saving alone loses, which is not ours
            made = bake(model, Path(folder) / "baked", edits, source=Path(folder) / "source")
            found["baked"] = apart(logits(AutoModelForCausalLM.from_pretrained(made.folder), ids), hooked)
    except InputError as error:
        return found | {"status": "not baked", "reason": str(error).replace(folder, "FOLDER")}
    except Exception as error:
        return found | {
            "status": "not saved",
            "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}",
        }
    wrong = max(found["by_hand"], found["again"], found["baked"]) > max(ALLOWED, 2 * found["saved"])
    return found | ({"status": "different"} if wrong else {})


@pytest.mark.slow
@pytest.mark.timeout(3400)
def test_hooks_and_weights_agree_in_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "activations"))
    from families import listed
    from sweep import in_fork

    torch.set_num_threads(1)
    found = {name: in_fork(lambda name=name: examine(name)) for name in listed()}
    for told in found.values():
        told.pop("seconds")
    counts = {
        status: sum(f["status"] == status for f in found.values())
        for status in sorted({f["status"] for f in found.values()})
    }
    write_evidence("edits_families", {"allowed": ALLOWED, "n": len(found), "counts": counts, "families": found})
    assert {name: f for name, f in found.items() if f["status"] in ("different", "error")} == {}
    assert all(found[name]["status"] == "equal" for name in MUST)

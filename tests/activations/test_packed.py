"""Quantised weights: hooks work and read what the model computes; what needs a plain weight says so in one line."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable

import pytest
import torch
from tiny_models import hf_model, rollout
from torch import Tensor, nn

from verdictscope.activations import Model, Site, forward, wrap
from verdictscope.activations.doctor import check_model, examine
from verdictscope.activations.weights import head_output_weight, unembedding
from verdictscope.errors import InputError

LINEAR = nn.Linear


class FourBit(nn.Module):
    """As GPTQ and AWQ keep it: two numbers a byte in ``qweight``, scales beside it, no ``weight`` at all."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = linear.weight.detach().abs().amax(1, keepdim=True) / 7
        levels = (linear.weight.detach() / scales).round().clamp(-8, 7).to(torch.int8) + 8
        self.register_buffer("qweight", (levels[:, ::2] | (levels[:, 1::2] << 4)).to(torch.uint8))
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.stack([self.qweight & 15, self.qweight >> 4], dim=-1).flatten(1).float() - 8
        return nn.functional.linear(x, (levels * self.scales).to(x.dtype), self.bias)


class Blob(nn.Linear):
    """As bitsandbytes keeps it: a linear module whose ``weight`` is a column of bytes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        packed = FourBit(linear)
        self.bias, self.scales = linear.bias, packed.scales
        self.weight = nn.Parameter(packed.qweight.reshape(-1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.weight.view(self.out_features, -1)
        levels = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).float() - 8
        return nn.functional.linear(x, (levels * self.scales).to(x.dtype), self.bias)


def _replace(hf: nn.Module, made: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    for name, module in list(hf.named_modules()):
        if type(module) is LINEAR and name != "lm_head":
            setattr(hf.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], made(module))
    return hf


def _dynamic_int8(hf: nn.Module) -> nn.Module:
    """PyTorch's own, whose ``weight`` is a method."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(hf, {nn.Linear}, dtype=torch.qint8, inplace=True)


PACKINGS: dict[str, Callable] = {
    "four bits, no weight": lambda hf: _replace(hf, FourBit),
    "a weight of bytes": lambda hf: _replace(hf, Blob),
    "dynamic int8": _dynamic_int8,
}


def packed(how: str, family: str = "llama") -> nn.Module:
    return PACKINGS[how](copy.deepcopy(hf_model(family))).eval()


@pytest.mark.parametrize("how", list(PACKINGS))
def test_sites_are_read_and_weight_results_refused(how):
    model: Model = wrap(packed(how))
    r = rollout("p/0", 17)
    reads = [Site(name) @ "all" for name in ("resid_post", "attn_out", "mlp_out", "z", "q", "pattern")]
    done = forward(model, [r], reads)
    with torch.no_grad():
        told = model.hf(input_ids=torch.tensor([r.ids]), output_hidden_states=True).hidden_states
    assert torch.equal(done.values[reads[0]][:-1], torch.cat(told[1:-1]))
    for refused in (lambda: head_output_weight(model, 0), lambda: unembedding(model)):
        if how != "dynamic int8" and refused.__code__.co_names[0] == "unembedding":
            continue  # these leave the head plain, as the libraries do
        with pytest.raises(InputError, match="not on packed weights") as error:
            refused()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("how", list(PACKINGS))
def test_the_doctor_passes_and_names_what_is_lost(how, family):
    found = check_model(packed(how, family))
    assert found.ok, str(found)
    assert found.status("weights: head weights") == "degraded"
    assert found.status("identity: sum over heads") == "degraded"
    lost = [f for f in found.findings if f.status == "degraded"]
    assert all("packed weights" in f.detail and "\n" not in f.detail for f in lost), lost
    assert found.status("hooks on but idle") == "supported"
    assert found.status("Hugging Face") == "supported"


def test_the_command_says_it_too(monkeypatch, tmp_path, call):
    stock = examine.read_checkpoint

    def quantised(*args, **options):
        hf, tokenizer = stock(*args, **options)
        return PACKINGS["a weight of bytes"](hf).eval(), tokenizer

    hf_model("llama").save_pretrained(tmp_path / "m")
    monkeypatch.setattr(examine, "read_checkpoint", quantised)
    done = call("doctor", tmp_path / "m", "--json", "--device", "cpu")
    told = json.loads(done.out)
    assert done.code == 0
    assert told["counts"]["degraded"] >= 2
    assert any("not on packed weights" in c["detail"] for c in told["checks"])
    text = call("doctor", tmp_path / "m", "--device", "cpu").out
    assert sum("packed weights" in line for line in text.splitlines()) >= 2

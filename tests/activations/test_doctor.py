"""The doctor passes models that are read rightly, and calls every planted fault silently wrong."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from tiny_models import hf_model, wrapped

from verdictscope.activations import Model, infer_sites
from verdictscope.activations.capture import captured, probe_ids
from verdictscope.activations.doctor import CHECKS, STATUSES, Diagnosis, Layout, check_model
from verdictscope.activations.loading import unchecked
from verdictscope.activations.sitemap import BLOCK_ROLES, HookPoint, SiteMap, find_modules
from verdictscope.weights_digest import weights_digest

MATRIX = [
    "llama",
    "mistral_windowed",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma2",
    "gemma3",
    "gpt2",
    "phi3",
    "gpt_oss",
    "deepseek_v3",
    "olmo2",
]
MORE = ["neox", "opt", "granite", "cohere", "bloom", "falcon", "qwen3_next", "glm4"]


def _wrong(found: Diagnosis) -> list[str]:
    return [f"{f.check}: {f.status}, {f.measured}, {f.detail}" for f in found.findings if f.status in BAD]


READING = ["identities", "components", "hooks", "Hugging Face"]
BAD = ("silently wrong", "error")


@pytest.mark.parametrize("family", [*MATRIX, *(pytest.param(f, marks=pytest.mark.slow) for f in MORE)])
def test_the_matrix_passes_in_float32(family):
    hf = hf_model(family)
    before = weights_digest(hf)
    found = check_model(hf)
    assert not _wrong(found)
    assert found.ok
    assert found.worst_identity <= 1e-5
    assert {f.status for f in found.findings} <= set(STATUSES)
    assert all(f.check.startswith(tuple(CHECKS)) for f in found.findings)
    if family in MATRIX:  # nothing here is passed over as degraded
        assert {f.check for f in found.findings if f.status == "degraded"} == set()
    assert weights_digest(hf) == before


def test_bf16_passes_within_its_own_noise():
    found = check_model(hf_model("qwen3", torch.bfloat16))
    assert not _wrong(found)
    assert found.noise_floor is not None
    assert found.noise_floor > 1e-3


class _Faulty(SiteMap):
    """A site map that hooks one kind of site somewhere else."""

    def hook_point(self, name: str, layer: int) -> HookPoint:
        place = super().hook_point(name, layer)
        fault = self.fault.get(name)  # type: ignore[attr-defined]
        return dataclasses.replace(place, **fault(self.blocks[layer])) if fault else place


def _planted(family: str, **fault) -> Model:
    model = wrapped(family)
    sites = _Faulty(**{f.name: getattr(model.sites, f.name) for f in dataclasses.fields(model.sites)})
    object.__setattr__(sites, "fault", fault)
    return dataclasses.replace(model, sites=sites)


PLACES = {
    "heads sliced after the output projection": ("llama", {"z": lambda block: {"side": "out"}}),
    "heads sliced after the output projection, head_dim of its own": (
        "qwen3",
        {"z": lambda block: {"module": block.mixer, "side": "out"}},
    ),
    "the norm side swapped at the end": ("llama", {"final_norm": lambda block: {"side": "in"}}),
    "the norm side swapped in the middle": ("llama", {"resid_mid": lambda block: {"side": "out"}}),
    "a branch gain ignored": ("granite", {"attn_out": lambda block: {"gain": 1.0}}),
    "a branch gain ignored in the MLP": ("granite", {"mlp_out": lambda block: {"gain": 1.0}}),
    "a branch read before its post-norm": ("gemma2", {"attn_out": lambda block: {"module": block.mixer}}),
    "the residual stream of the next layer": ("llama", {"resid_pre": lambda block: {"side": "out"}}),
}


@pytest.mark.parametrize("fault", list(PLACES))
def test_faults_planted_in_the_map_are_silently_wrong(fault):
    family, places = PLACES[fault]
    found = check_model(_planted(family, **places), only=READING)
    assert not found.ok
    assert any(f.status == "silently wrong" for f in found.findings)


OVERRIDES = {
    "a wrong path for the attention": ("llama", {"attn": "mlp"}),
    "a wrong path for the MLP": ("llama", {"mlp": "self_attn"}),
    "a wrong path for the output projection": ("llama", {"o": "self_attn.q_proj"}),
    "heads sliced elsewhere": ("llama", {"o": "mlp.down_proj"}),
    "heads of another width": ("qwen3", {"o": "mlp.down_proj"}),
    "heads sliced after the output projection": ("gemma2", {"o": "post_attention_layernorm"}),
    "the norm side swapped": ("llama", {"ln2": "input_layernorm"}),
    "the post-norm left out": ("gemma2", {"ln1_post": None}),
    "another norm at the end": ("llama", {"ln_final": "model.layers.0.input_layernorm"}),
    "no norm at the end": ("llama", {"ln_final": None}),
    "the head as the norm at the end": ("llama", {"ln_final": "lm_head"}),
    "the norm as the head": ("llama", {"unembed": "model.norm"}),
    "the embedding as the head": ("llama", {"unembed": "model.embed_tokens"}),
    "heads where the width is not the stream's": ("llama", {"o": "mlp.up_proj"}),
    "a first norm that reads elsewhere": ("llama", {"ln1": "post_attention_layernorm"}),
    "an MLP that begins elsewhere": ("gpt2", {"mlp_in": "attn.c_attn"}),
    "an MLP that ends elsewhere": ("gpt2", {"mlp_out": "attn.c_proj"}),
    "an MLP hidden behind its norm": ("olmo2", {"mlp": "self_attn.q_norm"}),
}


@pytest.mark.parametrize("fault", list(OVERRIDES))
def test_wrong_overrides_are_silently_wrong(fault):
    family, overrides = OVERRIDES[fault]
    found = check_model(hf_model(family), overrides=overrides, only=READING)
    assert not found.ok
    assert any(f.status == "silently wrong" for f in found.findings)


def test_left_padding_without_position_ids_is_silently_wrong():
    given = "the given layout"
    without = Layout("left", position_ids=False)
    bad = check_model(hf_model("gpt2"), layout=without, only=["batches"])
    assert bad.status(given) == "silently wrong"
    assert not bad.ok
    assert check_model(hf_model("gpt2"), layout=Layout("left"), only=["batches"]).ok
    assert check_model(hf_model("opt"), layout=without, only=["batches"]).ok  # it counts positions from the mask


def test_a_model_that_looks_ahead_is_caught():
    hf = copy.deepcopy(hf_model("llama"))
    layer = hf.model.layers[1]
    stock = layer.forward

    def looks_ahead(*args, **kwargs):
        out = stock(*args, **kwargs)
        return out + out.mean(1, keepdim=True)

    layer.forward = looks_ahead
    found = check_model(unchecked(hf), only=["noise floor", "causality"])
    assert found.status("another token changes nothing before it") == "silently wrong"
    assert found.status("the noise floor is rounding") == "silently wrong"


def test_the_command_says_it_with_its_exit_code(tmp_path, call):
    folder = str(tmp_path / "m")
    hf_model("gpt2").save_pretrained(folder)
    done = call("doctor", folder, "--json", "--device", "cpu")
    told = json.loads(done.out)
    assert done.code == 0
    assert told["ok"]
    assert told["counts"]["silently wrong"] == 0
    done = call("doctor", folder, "--json", "--override", "o=mlp.c_proj")
    assert done.code == 1
    assert json.loads(done.out)["counts"]["silently wrong"] > 0
    done = call("doctor", folder, "--padding", "left", "--no-position-ids")
    assert done.code == 1
    assert "silently wrong" in done.out
    for wrong in ([str(tmp_path / "no")], [folder, "--override", "o"], [folder, "--override", "o=no.such"]):
        done = call("doctor", *wrong)
        assert (done.code, done.out) == (2, "")
        assert len(done.err.strip().splitlines()) == 1


def _place_with(site: str, **changes):
    """The site map's own method, one site moved."""
    stock = SiteMap.hook_point

    def hook_point(self, name: str, layer: int) -> HookPoint:
        found = stock(self, name, layer)
        return dataclasses.replace(found, **changes) if name == site else found

    return hook_point


COMMANDED = {  # family, arguments, what is broken inside
    "wrong module path: attention": ("llama", ["--override", "attn=mlp"], None),
    "wrong module path: output projection": ("gpt2", ["--override", "o=mlp.c_proj"], None),
    "wrong module path: final norm": ("llama", ["--override", "ln_final=model.layers.0.input_layernorm"], None),
    "heads sliced after the output projection": ("gemma2", ["--override", "o=post_attention_layernorm"], None),
    "heads sliced after the output projection, in code": (
        "llama",
        [],
        (SiteMap, "hook_point", _place_with("z", side="out")),
    ),
    "the norm side swapped": ("llama", ["--override", "ln2=input_layernorm"], None),
    "the norm side swapped, final": ("llama", [], (SiteMap, "hook_point", _place_with("final_norm", side="in"))),
    "the norm side swapped, post-norm": ("gemma2", ["--override", "ln1_post="], None),
    "left padding without position ids": ("gpt2", ["--padding", "left", "--no-position-ids"], None),
    "a branch gain ignored": ("granite", [], (infer_sites, "snap", lambda gain, numbers, dtype: 1.0)),
}


@pytest.mark.parametrize("fault", list(COMMANDED))
def test_the_command_calls_planted_faults_silently_wrong(fault, tmp_path, monkeypatch, call):
    family, arguments, broken = COMMANDED[fault]
    folder = str(tmp_path / "m")
    hf_model(family).save_pretrained(folder)
    if broken is not None:
        monkeypatch.setattr(*broken)
    done = call("doctor", folder, "--json", "--device", "cpu", *arguments)
    told = json.loads(done.out)
    assert done.code == 1
    assert not told["ok"]
    assert told["counts"]["silently wrong"] > 0


def _in_place(model: Model, role: str, layer: int) -> list[tuple]:
    """The values that a module in this role may have at its input (a norm) or output (what writes)."""
    block, sites = model.sites.blocks[layer], model.sites
    read = {"ln1": ["resid_pre"], "ln2": ["resid_mid" if block.mid is not None else "resid_pre"]}
    if role in read:
        return [(sites.hook_point(name, layer).module, "in") for name in read[role]]
    if role == "mlp_in":
        return [(model.hf.get_submodule(path), "in") for path in _paths(model, layer, "mlp", "mlp_in")]
    branch = block.attn if role in ("attn", "ln1_post", "o") else block.mlp
    inner = [block.o] if role == "o" else []
    inner += [block.mixer] if role in ("attn", "ln1_post") else []
    inner += [model.hf.get_submodule(p) for p in _paths(model, layer, "mlp")] if role in ("mlp", "mlp_out") else []
    return [(module, "out") for module in [branch.module, *inner]]


def _paths(model: Model, layer: int, *roles: str) -> list[str]:
    names = {module: path for path, module in model.hf.named_modules()}
    found = find_modules(model.hf).blocks[layer]
    return [names[found[role]] for role in roles if role in found]


def _same_value(model: Model, role: str, path: str) -> bool:
    """Whether a module reads (or writes) in the first layer just what the right one does."""
    module = model.sites.blocks[0].block.get_submodule(path)
    places = dict(enumerate(_in_place(model, role, 0)))
    side = places[0][1]
    with captured({**{(i,): place for i, place in places.items()}, ("mine",): (module, side)}) as values:
        model.hf(input_ids=probe_ids(model.hf))
    mine = values[("mine",)]
    return any(
        v.shape == mine.shape and torch.allclose(v, mine, rtol=1e-5, atol=1e-6)
        for v in values.values()
        if v is not mine
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox", "opt", "olmo2", "granite", "phi3"])
def test_every_wrong_path_in_every_role_is_silently_wrong(family):
    """All modules of a block in all roles: what is let through reads and writes what the right module does."""
    hf, model = hf_model(family), wrapped(family)
    paths = [path for path, _ in model.sites.blocks[0].block.named_modules() if path]
    passed, caught = [], 0
    for role in BLOCK_ROLES:
        for path in paths:
            found = check_model(hf, overrides={role: path}, only=READING)
            wrong = any(f.status == "silently wrong" for f in found.findings)
            assert found.ok != wrong, f"{role}={path}: {_wrong(found)}"
            caught += wrong
            passed += [] if wrong else [(role, path)]
    assert [pair for pair in passed if not _same_value(model, *pair)] == []
    assert caught > len(passed)


def test_a_diagnosis_shows_itself():
    found = check_model(wrapped("llama"), only=["identities"])
    frame = found.to_frame()
    assert set(frame.columns) == {"check", "status", "measured", "allowed", "layer", "detail"}
    evil = dataclasses.replace(found, model="<script>")
    assert "<script>" not in evil._repr_html_()
    assert "<table" in evil._repr_html_()
    assert "all checks passed" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)

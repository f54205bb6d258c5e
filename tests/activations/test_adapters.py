"""Adapters that are not merged into the weights: part of what is read and edited; refused where weights are moved."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny_models import hf_model, rollout

from verdictscope.activations import LogOddsReadout, Site, forward, load_model, wrap
from verdictscope.activations.doctor import check_model
from verdictscope.activations.loading import as_model
from verdictscope.activations.weights import head_output_weight, unembedding
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, attribute, bake, edited
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.interventions.weights.patching import feeds
from verdictscope.rollouts.engines.huggingface import decode
from verdictscope.rollouts.engines.requests import Request
from verdictscope.rollouts.engines.state import adapters
from verdictscope.rollouts.rollout import Sampling

peft = pytest.importorskip("peft")

ROLLOUTS = [rollout("a/0", 14), rollout("b/0", 23, seed=1)]
READS = [Site("z") @ "all", Site("attn_out") @ "all", Site("resid_post") @ "all"]
EDIT = HeadEdit(((1, 2),))
TARGETS = {"llama": ["q_proj", "o_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "gemma2": ["v_proj", "o_proj"]}


def fresh(family: str):
    return copy.deepcopy(hf_model(family))


def lora(hf, targets, **options):
    torch.manual_seed(5)
    options = {"r": 4, "lora_alpha": 16, "init_lora_weights": False} | options
    if hf.config.model_type == "gpt2":
        options["fan_in_fan_out"] = True
    return peft.get_peft_model(hf, peft.LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **options))


def merged(held):
    """The same function as plain weights."""
    return copy.deepcopy(held).merge_and_unload()


def values(model, write=None):
    done = forward(model, ROLLOUTS, READS, logits_at="last", write=write)
    return [*(done.values[r] for r in READS), done.logits]


def close(a, b) -> bool:
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-4) for x, y in zip(a, b, strict=True))


def written(hf):
    requests = [Request("a", tuple(range(5, 15))), Request("b", tuple(range(20, 24)))]
    done = decode(hf, requests, Sampling(temperature=0.0, max_new_tokens=6), frozenset(), 1000)
    return sorted((w.index, w.ids) for some in done for w in some)


@pytest.mark.parametrize(
    ("family", "how"),
    [("llama", "PeftModel"), ("llama", "bare"), ("llama", "dora"), ("gpt2", "base"), ("gemma2", "base")],
)
def test_what_is_read_and_edited_is_the_model_with_its_adapter(family, how):
    hf = fresh(family)
    if how == "bare":
        values(as_model(hf))  # used before the adapter came
    held = lora(hf, TARGETS[family], use_dora=how == "dora", lora_dropout=0.5)
    held.train()
    plain = wrap(merged(held))
    model = as_model(hf) if how == "bare" else wrap(held if how == "PeftModel" else hf)
    assert not close(values(plain), values(wrap(fresh(family))))
    assert close(values(model), values(plain))
    changed = values(plain, compile_edits(plain, [EDIT]))
    assert not close(changed, values(plain))
    assert close(values(model, compile_edits(model, [EDIT])), changed)
    with edited(plain, EDIT):
        tokens = written(plain.hf)
    with edited(model, EDIT):
        assert written(held) == written(hf) == tokens
    for layer in range(model.n_layers):
        assert close([head_output_weight(model, layer)], [head_output_weight(plain, layer)])
    assert any(m.training for m in held.modules())


def test_attribution_is_exact_with_an_adapter():
    held = lora(fresh("llama"), TARGETS["llama"])
    readout = LogOddsReadout("d", ((10,),), ((20,),), positions="last")
    mine, plain = (attribute(wrap(hf), ROLLOUTS, readout).to_frame() for hf in (held, merged(held)))
    assert mine.estimate.to_numpy() == pytest.approx(plain.estimate.to_numpy(), rel=1e-3, abs=1e-4)
    assert abs(mine[mine.component == "residual"].estimate).max() < 1e-3


@pytest.mark.parametrize("kind", ["ia3", "lora on the head", "a head of its own", "oft"])
def test_other_kinds_of_adapters(kind):
    hf = fresh("llama")
    if kind == "ia3":
        config = peft.IA3Config(target_modules=["k_proj", "o_proj", "down_proj"], feedforward_modules=["down_proj"])
        held = peft.get_peft_model(hf, config)
        with torch.no_grad():
            for name, p in held.named_parameters():
                if "ia3" in name:
                    p.mul_(1 + 0.3 * torch.randn_like(p))
    elif kind == "oft":
        config = peft.OFTConfig(target_modules=["o_proj"], oft_block_size=8, r=0, init_weights=False)
        held = peft.get_peft_model(hf, config)
    elif kind == "lora on the head":
        held = lora(hf, ["o_proj", "lm_head"])
    else:
        held = lora(hf, ["o_proj"], modules_to_save=["lm_head"])
        with torch.no_grad():
            held.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    plain, model = wrap(merged(held)), wrap(held)
    assert close(values(model), values(plain))
    assert close([head_output_weight(model, 1)], [head_output_weight(plain, 1)])
    assert close([unembedding(model).weight], [unembedding(plain).weight])


def test_switching_merging_and_taking_off_are_followed():
    hf = fresh("llama")
    stock = values(wrap(fresh("llama")))
    held = lora(hf, TARGETS["llama"])
    model = wrap(held)
    with_it, weight = values(model), head_output_weight(model, 1)
    assert adapters(hf) == {"default": False}
    with held.disable_adapter():
        assert close(values(model), stock)
        assert close([head_output_weight(model, 1)], [head_output_weight(wrap(fresh("llama")), 1)])
    held.merge_adapter()
    assert adapters(hf) == {"default": True}
    assert close(values(model), with_it)
    assert close([head_output_weight(model, 1)], [weight])
    held.unmerge_adapter()
    assert close(values(model), with_it)
    before = wrap(fresh("llama"))
    lora(before.hf, TARGETS["llama"]).unload()
    assert close(values(before), stock)  # the modules are the old ones again


def test_an_adapter_added_after_wrapping_is_named(tmp_path):
    model = wrap(fresh("llama"))
    held = lora(model.hf, TARGETS["llama"])
    for use in (
        lambda: values(model),
        lambda: head_output_weight(model, 0),
        lambda: unembedding(model),
        lambda: edited(model, EDIT).__enter__(),
    ):
        with pytest.raises(InputError, match="'default'.*merge_and_unload"):
            use()
    second = wrap(held)
    held.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(InputError, match="wrap it again"):
        values(second)


def test_weights_under_an_adapter_are_not_baked_or_moved(tmp_path):
    held = lora(fresh("llama"), TARGETS["llama"])
    for state in ("unmerged", "merged"):
        model = wrap(held)
        with pytest.raises(InputError, match="'default'.*merge_and_unload"):
            bake(model, tmp_path / state, EDIT)
        with pytest.raises(InputError, match="'default'.*merge_and_unload"):
            feeds(model, 1)
        held.merge_adapter()
    held.unmerge_adapter()
    held.merge_and_unload().save_pretrained(tmp_path / "plain")
    bake(load_model(tmp_path / "plain", device="cpu"), tmp_path / "baked", EDIT)


def test_what_changes_the_input_is_refused():
    held = peft.get_peft_model(fresh("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    for use in (lambda: wrap(held), lambda: written(held)):
        with pytest.raises(InputError, match="'default'.*input"):
            use()


def test_the_doctor_names_an_adapter():
    held = lora(fresh("llama"), TARGETS["llama"])
    for given in (wrap(held), torch.compile(held, backend="eager")):
        found = check_model(given, only=["identities", "weights", "components"])
        assert found.status("no adapter beside the weights") == "degraded"
        assert "'default' (not merged)" in next(f.detail for f in found.findings if f.check.startswith("no adapter"))
        assert found.ok, found.failed


# ------------------------------------------------------------------------------------------ adapter folders


@pytest.fixture
def folder(tmp_path):
    hf = fresh("llama")
    hf.save_pretrained(tmp_path / "base")
    hf = type(hf).from_pretrained(tmp_path / "base")
    held = lora(hf, TARGETS["llama"])
    held.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", merged(held)


def test_an_adapter_folder_is_loaded_with_its_base(folder):
    path, plain = folder
    model = load_model(path, device="cpu", dtype="float32")
    assert close(values(model), values(wrap(plain)))
    assert adapters(model.hf) == {}
    assert check_model(str(path), device="cpu", only=["identities"]).ok


def test_adapter_folders_that_cannot_be_loaded_say_why(folder, monkeypatch):
    path, _ = folder
    config = json.loads((path / "adapter_config.json").read_text())

    def changed(**settings):
        (path / "adapter_config.json").write_text(json.dumps(config | settings))

    changed(base_model_name_or_path=str(path.parent / "gone"))
    with pytest.raises(InputError, match="adapter of .*gone"):
        load_model(path, device="cpu")
    changed(base_model_name_or_path=None)
    with pytest.raises(InputError, match="names no base model"):
        load_model(path, device="cpu")
    changed(task_type="SEQ_CLS")
    with pytest.raises(InputError, match="SEQ_CLS"):
        load_model(path, device="cpu")
    changed(target_modules=[*TARGETS["llama"], "k_proj"])
    with pytest.raises(InputError, match="lacks weights"):
        load_model(path, device="cpu")
    (path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        load_model(path, device="cpu")
    changed()
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot put the adapter"):
        load_model(path, device="cpu")
    monkeypatch.setattr("verdictscope.activations.checkpoint.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"verdictscope\[repair\]"):
        load_model(path, device="cpu")

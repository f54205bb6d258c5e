"""The digest of everything that fixes a model's outputs, and what tells edits, hooks and tokenizers apart."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.rollouts.makers import byte_tokenizer
from tests.study.test_kept import _steer, build
from verdictscope.activations.loading import as_model
from verdictscope.errors import InputError
from verdictscope.in_force import check_hooks, identity
from verdictscope.interventions import HeadEdit
from verdictscope.kept import tokenizer_facts
from verdictscope.weights_digest import weights_digest


@pytest.mark.parametrize("kind", ["xxh3:", "sum64:"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_digest_sees_every_single_weight(kind: str, dtype: torch.dtype) -> None:
    model = nn.Linear(1031, 97, dtype=dtype)  # no multiple of eight bytes
    before = weights_digest(model, kind)
    flat = model.weight.data.view(-1)
    rng = np.random.default_rng(0)
    for at in (0, 1, 2, 3, len(flat) - 1, *rng.integers(0, len(flat), 40)):
        old = flat[at].clone()
        flat[at] = old.neg()  # one bit
        assert weights_digest(model, kind) != before
        flat[at] = old
    for swap in ([0, 1], [0, 4096], [7, len(flat) - 1]):
        flat[swap] = flat[swap[::-1]]
        assert weights_digest(model, kind) != before
        flat[swap] = flat[swap[::-1]]
    for step in (2, 4, 8):
        flat[1::step] = -flat[1::step]
        assert weights_digest(model, kind) != before
        flat[1::step] = -flat[1::step]
    assert weights_digest(model, kind) == before
    assert weights_digest(model, before) == before


def test_the_digest_ignores_what_changes_by_itself() -> None:
    for rope in ({}, {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}):
        model = build(**({"rope_parameters": rope} if rope else {}))
        before = weights_digest(model)
        model.train()
        with torch.no_grad():
            model(torch.arange(300)[None], output_hidden_states=True)
            model(torch.full((1, 2100), 5))
        model.config._name_or_path = "moved"
        assert weights_digest(model.eval()) == before
    copy = build()
    copy.load_state_dict(build().state_dict())
    assert weights_digest(copy) == weights_digest(build())
    assert weights_digest(copy.to(torch.bfloat16)) != weights_digest(build())
    compiled = build()
    compiled.model.layers[0].mlp = torch.compile(compiled.model.layers[0].mlp, backend="eager")
    assert weights_digest(compiled) == weights_digest(build())
    check_hooks(compiled)


def test_adapters_are_part_of_the_weights() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(build(), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    seen = [weights_digest(model)]
    with model.disable_adapter():
        seen.append(weights_digest(model))
    next(p for n, p in model.named_parameters() if "lora_B" in n).data[0, 0] += 1
    seen.append(weights_digest(model))
    model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] = 9.0
    seen.append(weights_digest(model))
    assert len(set(seen)) == len(seen)
    check_hooks(model)


def test_offloaded_weights_are_read_where_they_lie_and_lost_ones_refused() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build()
    before = weights_digest(model)
    accelerate.cpu_offload(model, "cpu")
    assert any(p.is_meta for p in model.parameters())
    assert weights_digest(model) == before
    check_hooks(model)

    class Steer(accelerate.hooks.ModelHook):
        def post_forward(self, module: nn.Module, output: torch.Tensor) -> torch.Tensor:
            return output * 2

    steered = build()
    accelerate.hooks.add_hook_to_module(steered.model.layers[0].mlp, Steer(), append=True)
    with pytest.raises(InputError, match="Steer"):
        check_hooks(steered)
    with pytest.raises(InputError, match="meta device"):
        weights_digest(build().to("meta"))


def test_a_function_put_into_a_class_and_global_hooks_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    check_hooks(model)
    handle = nn.modules.module.register_module_forward_hook(_steer)
    with pytest.raises(InputError, match="all modules"):
        check_hooks(model)
    handle.remove()
    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", lambda self, x: x)
    with pytest.raises(InputError, match="LlamaMLP"):
        check_hooks(model)


def test_identity_tells_values_apart() -> None:
    values = [0, 0.0, False, None, "0", b"0", (0,), {0}, {0: 0}, np.zeros(2), np.zeros((2, 1)), np.zeros(2, "f4")]
    values += [torch.zeros(3), HeadEdit(((0, 0),)), HeadEdit(((0, 1),)), partial(check_hooks, 1), partial(check_hooks)]
    assert len({identity(v) for v in values}) == len(values)


def test_a_tokenizer_is_the_same_however_it_pads() -> None:
    tokenizer, before = deepcopy(byte_tokenizer()), tokenizer_facts(byte_tokenizer())
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert tokenizer_facts(tokenizer) == before
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer_facts(tokenizer)["tokenizer"] != before["tokenizer"]


def test_a_wrapper_is_made_again_when_modules_changed() -> None:
    model = build()
    first = as_model(model)
    floor = first.noise_floor
    model.load_state_dict(build(2).state_dict())
    assert as_model(model) is first
    assert first.fingerprint == weights_digest(build(2))
    assert first.noise_floor != floor  # measured for these weights
    model.model.layers = model.model.layers[:1]
    assert as_model(model).n_layers == 1

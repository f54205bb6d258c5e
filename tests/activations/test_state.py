"""The model as its owner left it: train mode, autocast, compiled, hooks of others, weights that are no numbers."""

from __future__ import annotations

import copy
import gc
import time

import pytest
import torch
import transformers
from tiny_models import CONFIGS, VOCAB, hf_model, rollout, wrapped

from verdictscope.activations import Model, Site, forward, load_model, wrap
from verdictscope.activations.batch import head_logits
from verdictscope.activations.doctor import check_model
from verdictscope.activations.hooks import reading, writing
from verdictscope.activations.loading import as_model
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.huggingface import decode
from verdictscope.rollouts.engines.requests import Request
from verdictscope.rollouts.engines.state import evaluating, foreign_hooks, kept_again, modules_of
from verdictscope.rollouts.rollout import Sampling

READS = [Site("resid_post") @ "all", Site("z") @ "all", Site("final_norm") @ "all"]
ROLLOUTS = [rollout("a/0", 14), rollout("b/0", 23, seed=1)]
PROMPTS = [Request("a", tuple(range(5, 15))), Request("b", tuple(range(20, 24)))]
GREEDY = Sampling(temperature=0.0, max_new_tokens=6)


def fresh(family: str, **changes) -> transformers.PreTrainedModel:
    """A model of its own, so that what is done to it stays with it."""
    hf = copy.deepcopy(hf_model(family))
    for name, value in changes.items():
        setattr(hf.config, name, value)
    return hf


def values(model: Model) -> list[torch.Tensor]:
    done = forward(model, ROLLOUTS, READS, logits_at="last")
    return [*(done.values[r] for r in READS), done.logits]


def written(hf) -> list[tuple[int, ...]]:
    done = [w for some in decode(hf, PROMPTS, GREEDY, frozenset(), 1000) for w in some]
    return [w.ids for w in sorted(done, key=lambda w: w.index)]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def with_dropout() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS["gpt2"]()
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.5
    return transformers.AutoModelForCausalLM.from_config(config)


def test_every_pass_is_made_in_evaluation_mode_and_the_modes_come_back():
    hf = with_dropout()  # from_config leaves a model in train mode
    hf.transformer.h[1].eval()  # a mode of its own
    modes = [m.training for m in hf.modules()]
    model = wrap(hf)
    assert [m.training for m in hf.modules()] == modes
    reference = values(wrap(copy.deepcopy(hf).eval()))
    assert equal(values(model), reference)
    x = torch.randn(2, 32)
    assert torch.equal(head_logits(model, x), head_logits(wrap(copy.deepcopy(hf).eval()), x))
    assert written(hf) == written(copy.deepcopy(hf).eval())
    assert [m.training for m in hf.modules()] == modes


def test_modes_come_back_after_an_error_and_between_the_steps_of_a_batch():
    hf = with_dropout()
    model = wrap(hf)

    def fail(value, view):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        forward(model, ROLLOUTS, write={Site("resid_post", 0): fail}, logits_at="last")
    assert all(m.training for m in hf.modules())
    drawn = decode(hf, PROMPTS, GREEDY, frozenset(), 12)  # one row at a time
    next(drawn)
    assert all(m.training for m in hf.modules())


def test_gradient_checkpointing_changes_nothing():
    hf = fresh("llama")
    reference = values(wrap(hf))
    hf.gradient_checkpointing_enable()
    hf.train()
    assert equal(values(wrap(hf)), reference)
    assert written(hf) == written(hf_model("llama"))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_autocast_and_inference_mode_of_the_caller_change_nothing(family):
    hf = fresh(family)
    reference, tokens = values(wrap(hf)), written(hf)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(values(wrap(hf)), reference)
        assert written(hf) == tokens
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        assert equal(values(wrap(hf)), reference)
        assert written(hf) == tokens
        assert torch.is_inference_mode_enabled()
    with torch.enable_grad():
        assert not any(v.requires_grad for v in values(wrap(hf)))
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "settings", [{"output_hidden_states": True}, {"use_cache": False}], ids=lambda s: next(iter(s))
)
def test_settings_of_the_config_change_nothing_and_stay(settings):
    hf = fresh("qwen2", **settings)
    before = hf.config.to_dict(), hf.generation_config.to_dict()
    assert equal(values(wrap(hf)), values(wrapped("qwen2")))
    assert written(hf) == written(hf_model("qwen2"))
    assert (hf.config.to_dict(), hf.generation_config.to_dict()) == before


def test_deterministic_algorithms_are_no_hindrance():
    reference = values(wrapped("mixtral"))
    torch.use_deterministic_algorithms(True)
    try:
        assert equal(values(wrapped("mixtral")), reference)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_deep_copy_of_a_wrapped_model_is_a_model_of_its_own():
    model = wrapped("qwen3")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.hf.model.layers[1].mlp.down_proj.weight.mul_(2)
    assert equal(values(model), values(wrapped("qwen3")))
    assert equal(values(other), values(wrap(other.hf)))
    assert not equal(values(other), values(model))


def test_a_module_replaced_after_wrapping_is_named():
    hf = fresh("llama")
    model = wrap(hf)
    values(as_model(hf))
    hf.model.layers[1] = copy.deepcopy(hf.model.layers[0])
    with pytest.raises(InputError, match=r"model\.layers\.1.*wrap it again"):
        forward(model, ROLLOUTS, READS)
    with pytest.raises(InputError, match="wrap it again"), writing(model, {Site("z", 1): lambda v, w: v}):
        pass
    with pytest.raises(InputError, match="wrap it again"):
        head_logits(model, torch.zeros(1, 32))
    assert equal(values(as_model(hf)), values(wrap(hf)))  # never wrapped by its owner: done for them
    hf.resize_token_embeddings(VOCAB + 3)
    with pytest.raises(InputError, match="wrap it again"):
        forward(model, ROLLOUTS, READS)


def test_loaded_weights_are_read_as_they_now_are():
    hf = fresh("llama")
    model = wrap(hf)
    hf.load_state_dict({k: 0.5 * v for k, v in hf.state_dict().items()})
    assert equal(values(model), values(wrap(hf)))


# ---------------------------------------------------------------------------------------------------- compiled


def compiled(hf, how: str, backend: str):
    """The model compiled in one of the ways there are; gives what the user holds then."""
    layers = hf.model.layers
    if how == "module":
        hf.compile(backend=backend)
    elif how == "forward":
        hf.forward = torch.compile(hf.forward, backend=backend)
    elif how == "inner":
        hf.model.compile(backend=backend)
    elif how == "inner forward":
        hf.model.forward = torch.compile(hf.model.forward, backend=backend)
    elif how == "layers":
        for layer in layers:
            layer.compile(backend=backend)
    elif how == "layers replaced":
        for i in range(len(layers)):
            layers[i] = torch.compile(layers[i], backend=backend)
    elif how == "projection":
        layers[1].self_attn.o_proj = torch.compile(layers[1].self_attn.o_proj, backend=backend)
    elif how == "wrapped":
        return torch.compile(hf, backend=backend)
    return hf


def zero(value, view):
    return torch.zeros_like(value)


def outputs(held) -> torch.Tensor:
    with torch.no_grad():
        return held(input_ids=torch.tensor([ROLLOUTS[0].ids]), use_cache=False).logits


FAST = {("forward", "edited"), ("layers replaced", "plain")}  # tracing takes seconds
WAYS = ["module", "forward", "inner", "inner forward", "layers", "layers replaced", "projection", "wrapped"]


@pytest.mark.parametrize(
    ("how", "first"),
    [
        pytest.param(how, first, marks=[] if (how, first) in FAST else pytest.mark.slow)
        for how in WAYS
        for first in ("plain", "edited")
    ],
)
def test_edits_and_reads_act_on_a_compiled_model_and_leave_it_clean(how, first):
    torch._dynamo.reset()
    stock, edit = fresh("llama"), {Site("z", 1): zero}
    reference = wrap(stock)
    want = values(reference), outputs(stock), written(stock)
    with writing(reference, edit):
        edited = values(reference), outputs(stock), written(stock)
    assert edited[2] != want[2]
    held = compiled(fresh("llama"), how, "eager")
    model = wrap(held)
    if first == "plain":
        assert torch.allclose(outputs(held), want[1], atol=1e-4)
    with writing(model, edit):
        assert equal(values(model), edited[0])
        assert torch.allclose(outputs(held), edited[1], atol=1e-4)
        assert written(held) == edited[2]
    assert equal(values(model), want[0])
    assert torch.allclose(outputs(held), want[1], atol=1e-4)
    assert written(held) == want[2]


@pytest.mark.slow
def test_compiling_between_two_uses_of_a_wrapped_model():
    torch._dynamo.reset()
    hf = fresh("gpt2")
    model = wrap(hf)
    want = values(model)
    hf.transformer.h[1] = torch.compile(hf.transformer.h[1], backend="eager")
    outputs(hf)
    assert equal(values(model), want)
    with writing(model, {Site("resid_post", 1): zero}):
        hf.compile(backend="eager")  # even inside the block
        assert not torch.allclose(outputs(hf), outputs(fresh("gpt2")), atol=1e-2)
    assert torch.allclose(outputs(hf), outputs(fresh("gpt2")), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["module", "layers"])
def test_inductor_too(how):
    torch._dynamo.reset()
    held = compiled(fresh("llama"), how, "inductor")
    model, plain = wrap(held), outputs(fresh("llama"))
    assert torch.allclose(outputs(held), plain, atol=1e-3)
    with writing(model, {Site("z", 1): zero}):
        assert not torch.allclose(outputs(held), plain, atol=1e-2)
    assert torch.allclose(outputs(held), plain, atol=1e-3)


# ------------------------------------------------------------------------------------------- hooks of others


def steer(module, args, output):
    return output + 1.0


@torch.no_grad()
def in_place(module, args, output):
    output[..., 0] = 3.0


def before(module, args):
    return (args[0] * 2.0, *args[1:])


def before_named(module, args, kwargs):
    return args, {k: v * 2.0 if torch.is_tensor(v) and v.is_floating_point() else v for k, v in kwargs.items()}


CHANGING = {
    "output": lambda m: m.model.layers[1].register_forward_hook(steer),
    "in place": lambda m: m.model.layers[1].mlp.register_forward_hook(in_place),
    "input": lambda m: m.model.layers[1].self_attn.o_proj.register_forward_pre_hook(before),
    "named input": lambda m: m.model.layers[1].self_attn.register_forward_pre_hook(before_named, with_kwargs=True),
    "head": lambda m: m.lm_head.register_forward_hook(steer),
}


@pytest.mark.parametrize("kind", list(CHANGING))
def test_a_hook_of_others_that_changes_a_value_is_an_error(kind):
    hf = fresh("llama")
    model = wrap(hf)
    want, tokens = values(model), written(hf)
    handle = CHANGING[kind](hf)
    name = {"output": "steer", "head": "steer", "in place": "in_place", "input": "before"}.get(kind, "before_named")
    for run in (lambda: values(model), lambda: wrap(hf), lambda: values(hf)):
        with pytest.raises(InputError, match=f"hook {name} on (model.layers.1|lm_head)"):
            run()
    with torch.inference_mode(), pytest.raises(InputError, match=name):
        values(model)
    assert any(name in str(hook) for hook in foreign_hooks(hf))
    plain = hf.generate(torch.tensor([PROMPTS[0].prompt]), do_sample=False, max_new_tokens=6, eos_token_id=None)
    assert tuple(plain[0, 10:].tolist()) == written(hf)[0]  # a whole rollout under a hook is what its owner asked for
    found = check_model(hf)
    assert not found.ok
    assert name in next(f.detail for f in found.findings if f.check == "no foreign hooks")
    handle.remove()
    assert equal(values(model), want)
    assert written(hf) == tokens


def test_hooks_that_look_on_may_stay():
    hf, seen = fresh("llama"), []
    want = values(wrapped("llama"))
    hf.model.layers[0].register_forward_hook(lambda m, a, out: seen.append(out))
    hf.model.layers[0].register_forward_hook(lambda m, a, out: out)
    hf.model.norm.register_forward_pre_hook(lambda m, a: a)
    torch.nn.modules.module.register_module_forward_hook(lambda m, a, out: None).remove()
    assert equal(values(wrap(hf)), want)
    assert seen
    assert len(foreign_hooks(hf)) == 3
    found = check_model(hf, only=["hooks"])
    assert found.status("no foreign hooks") == "degraded"
    assert found.ok
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, out: torch.zeros_like(out))
    try:
        with pytest.raises(InputError, match="every module"):
            values(hf)
    finally:
        handle.remove()


def test_hooks_of_this_package_are_known_as_such():
    model = wrapped("llama")
    with writing(model, {Site("z", 1): zero, Site("q", 0): zero}):
        assert foreign_hooks(model.hf) == []
        outputs(model.hf)


# ------------------------------------------------------------------------------- blocks in which nothing fired


def test_a_block_of_edits_that_sees_no_pass_is_an_error():
    model, edit = wrapped("llama"), {Site("z", 1): zero}
    other = copy.deepcopy(model.hf)
    runs = [
        lambda: None,
        lambda: outputs(other),
        lambda: other.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False),
        lambda: written(other),
    ]
    for run in runs:
        with pytest.raises(InputError, match=r"z\[1\]"), writing(model, edit):
            run()
    with pytest.raises(InputError, match="nothing was read"), reading(model, {Site("z", 1): lambda v, w: None}):
        outputs(other)
    with writing(model, edit):
        kept_again()  # results that were kept need no pass


def test_a_decoder_that_is_run_past_its_hooks_is_an_error():
    hf = fresh("llama")
    model = wrap(hf)
    stock = hf.model
    hf.model.__class__ = type("Fast", (type(stock),), {"__call__": lambda self, *a, **k: self.forward(*a, **k)})
    runs = [
        lambda: outputs(hf),
        lambda: written(hf),
        lambda: hf.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False),
    ]
    for run in runs:
        with pytest.raises(InputError, match="decoder"), writing(model, {Site("z", 1): zero}):
            run()
    with pytest.raises(InputError, match="fired"):
        forward(model, ROLLOUTS, READS, logits_at="last")


# --------------------------------------------------------------------------------- weights that cannot be used


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_weights_that_are_no_numbers_are_named(name, bad, tmp_path):
    hf = fresh("llama")
    hf.get_parameter(name).data.flatten()[3] = bad
    with pytest.raises(InputError, match=rf"weights are finite.*{name}"):
        wrap(hf)
    hf.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"weights are finite.*{name}"):
        load_model(tmp_path, device="cpu")
    found = check_model(str(tmp_path), device="cpu")
    assert not found.ok
    assert "weights are finite" in found.failed
    assert any(name in f.detail for f in found.findings)


def test_large_weights_are_numbers_and_masks_may_be_infinite():
    hf = fresh("llama")
    hf.model.embed_tokens.weight.data[3] = 3e38
    hf.register_buffer("mask", torch.full((2,), float("-inf")))
    assert wrap(fresh("gpt2")).checks[0].name == "weights are finite"
    from verdictscope.activations.identities import finite_weights

    assert finite_weights(hf).ok
    hf.mask[0] = float("nan")
    assert finite_weights(hf).site == "mask"


def test_weights_on_meta_or_offloaded_are_named():
    accelerate = pytest.importorskip("accelerate")
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    offloaded = fresh("llama")
    model = wrap(offloaded)
    accelerate.cpu_offload(offloaded)
    runs = (lambda: wrap(empty), lambda: wrap(offloaded), lambda: values(model), lambda: written(offloaded))
    for run in runs:
        with pytest.raises(InputError, match="not in memory"):
            run()
    found = check_model(offloaded)
    assert not found.ok
    assert found.failed == ["weights are in memory"]


def test_a_model_that_accelerate_dispatched_is_read_and_edited():
    accelerate = pytest.importorskip("accelerate")
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    hf = fresh("llama")
    want = values(wrapped("llama"))
    with writing(wrapped("llama"), {Site("z", 1): zero}):
        edited = values(wrapped("llama")), written(wrapped("llama").hf)
    accelerate.dispatch_model(hf, {"": "cpu"}, force_hooks=True)
    add_hook_to_module(hf.model.layers[1], AlignDevicesHook(execution_device="cpu", io_same_device=True))
    model = wrap(hf)
    assert equal(values(model), want)
    with writing(model, {Site("z", 1): zero}):
        assert equal(values(model), edited[0])
        assert written(hf) == edited[1]
    assert foreign_hooks(hf) == []


# ----------------------------------------------------------------------------------------------- the doctor


def test_the_doctor_names_the_state(tmp_path):
    hf = fresh("llama").train()
    hf.compile(backend="eager")
    found = check_model(hf, only=["identities"])
    assert found.ok
    assert found.status("evaluation mode") == found.status("nothing is compiled") == "degraded"
    assert (
        check_model(torch.compile(fresh("llama"), backend="eager"), only=["identities"]).status("nothing") == "degraded"
    )
    clean = check_model(wrapped("llama"), only=["identities"])
    assert {f.status for f in clean.findings} == {"supported"}


def test_a_tokenizer_larger_than_the_embedding_is_named():
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(VOCAB + 2)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner)
    found = check_model(wrap(fresh("llama"), tokenizer), only=["repetition"])
    assert found.status("the tokenizer fits") == "unsupported"
    assert f"'w{VOCAB}'" in next(f.detail for f in found.findings if f.check.startswith("the tokenizer"))
    hf = fresh("llama")
    hf.resize_token_embeddings(VOCAB + 2)
    assert check_model(wrap(hf, tokenizer), only=["repetition"]).status("the tokenizer fits") == "supported"


def test_families_without_an_adapter_of_the_usual_layout_are_found():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = CONFIGS["qwen2"]().to_dict() | {"rope_parameters": rope}
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "patch_size": 4}
    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision)
    hf = transformers.Qwen2VLForConditionalGeneration(config).eval()
    model = wrap(hf)
    assert model.n_layers == 3
    with torch.no_grad():
        stock = hf(input_ids=torch.tensor([ROLLOUTS[1].ids]), use_cache=False).logits[0, -1]
    assert torch.allclose(values(model)[-1][1], stock, atol=1e-4)


def test_what_is_done_for_every_pass_is_cheap():
    """Walking the modules of a model of 24 layers, against one token through it."""
    config = CONFIGS["llama"]()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 24, 512, 1024
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.zeros(1, 16, dtype=torch.long)

    def best(call) -> float:
        taken = []
        for _ in range(7):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
        return min(taken)

    def guarded() -> None:
        with evaluating(hf) as modules:
            foreign_hooks(hf, modules)

    gc.collect()
    with torch.no_grad():
        whole = best(lambda: hf(input_ids=ids, use_cache=False))
    assert len(modules_of(hf)) == len(list(hf.modules()))
    assert best(guarded) < 0.02 * whole  # 0.5 % on an idle machine

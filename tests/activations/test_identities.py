"""The site map is right for every family, and each way of being wrong is caught."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import transformers
from families import build
from tiny_models import CONFIGS, MORE, PARALLEL, hf_model, wrapped
from transformers import BertConfig, BertLMHeadModel

from verdictscope.activations import Model, Site, forward, load_model, wrap
from verdictscope.activations.identities import check, raise_first
from verdictscope.activations.weights import head_output_weight, unembedding
from verdictscope.errors import InputError


def test_identities_hold(model: Model):
    assert all(c.ok for c in model.checks)
    assert max(c.relative for c in model.checks) <= 1e-5
    names = {c.name for c in model.checks}
    assert any("sum over heads" in n for n in names)
    assert "gathered logits = stock logits" in names


def test_identities_hold_in_bf16(family):
    model = wrapped(family, torch.bfloat16)
    assert all(c.ok for c in model.checks)
    assert model.sites.blocks[0].attn.gain == wrapped(family).sites.blocks[0].attn.gain  # no rounding in the gain


def test_gain_and_shape_are_measured():
    granite = wrapped("granite")
    assert {b.attn.gain for b in granite.sites.blocks} | {b.mlp.gain for b in granite.sites.blocks} == {0.22}
    qwen3 = wrapped("qwen3")
    assert (qwen3.n_heads, qwen3.n_kv_heads, qwen3.d_head, qwen3.d_model) == (4, 2, 12, 32)
    assert [wrapped(f).sites.blocks[0].mid is None for f in ("neox", "neox_sequential")] == [True, False]


@pytest.mark.parametrize("family", list(MORE))
def test_other_families_are_read_by_structure(family, rollouts):
    model = wrapped(family)
    assert max(c.relative for c in model.checks) <= 1e-5
    assert model.noise_floor < 5e-6
    assert model.d_head == {"deepseek_v3": 6}.get(family, 8)
    assert (model.sites.blocks[0].mid is None) == (family in ("cohere", "falcon"))
    shown = forward(model, rollouts, [Site("resid_post") @ "all", Site("attn_out") @ "last"])
    assert all(v.isfinite().all() for v in shown.values.values())
    assert unembedding(model).weight.shape == (97, 32)


def test_layers_without_softmax_attention_have_no_heads(rollouts):
    model = wrapped("qwen3_next")
    with pytest.raises(InputError, match="layer 0 has no softmax attention"):
        forward(model, rollouts, [Site("z") @ "last"])
    assert forward(model, rollouts, [Site("z", 1) @ "last"]).values
    with pytest.raises(InputError, match="no heads"):
        head_output_weight(model, 2)


def test_noise_floor_is_small_and_depends_on_the_dtype(family):
    assert wrapped(family).noise_floor < 5e-6
    assert 1e-3 < wrapped(family, torch.bfloat16).noise_floor < 5e-2


def test_parallel_blocks_have_no_middle(family, rollouts):
    model = wrapped(family)
    if family not in PARALLEL:
        assert forward(model, rollouts[:1], [Site("resid_mid") @ "last"]).values
        return
    with pytest.raises(InputError, match="parallel block"):
        forward(model, rollouts[:1], [Site("resid_mid") @ "last"])


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("gemma2", {"ln1_post": None}),  # the wrong side of the post-norm
        ("gemma2", {"ln2_post": None}),
        ("llama", {"ln2": "input_layernorm"}),  # the norm side swapped
        ("llama", {"attn": "mlp"}),
        ("llama", {"mlp": "self_attn"}),
        ("llama", {"o": "self_attn.q_proj"}),
        ("llama", {"o": "mlp.down_proj"}),  # heads sliced in the wrong place
        ("gpt2", {"o": "mlp.c_proj"}),
        ("llama", {"ln_final": "model.layers.0.input_layernorm"}),
        ("llama", {"ln_final": None}),
        ("opt", {"mlp": "fc1"}),
    ],
)
def test_wrong_places_are_caught(family, overrides):
    with pytest.raises(InputError, match=r"not where the site map places it|not a|do not|does not|no module|are not"):
        wrap(hf_model(family), overrides=overrides)


def test_paths_that_do_not_exist_are_an_error():
    for overrides in ({"attn": "attention"}, {"blocks": "model.layer"}, {"blocks": "model"}, {"head": "lm_head"}):
        with pytest.raises(InputError) as error:
            wrap(hf_model("llama"), overrides=overrides)
        assert "\n" not in str(error.value)


def _with_block(model: Model, layer: int, **changes) -> Model:
    blocks = list(model.sites.blocks)
    blocks[layer] = dataclasses.replace(blocks[layer], **changes)
    return dataclasses.replace(model, sites=dataclasses.replace(model.sites, blocks=tuple(blocks)))


def test_a_gain_that_is_ignored_is_caught():
    model = wrapped("granite")
    block = model.sites.blocks[1]
    wrong = _with_block(model, 1, attn=dataclasses.replace(block.attn, gain=1.0))
    with pytest.raises(InputError, match=r"attn_out of layer 1.*relative"):
        raise_first(check(wrong))


def test_head_slices_after_the_projection_are_caught():
    model = wrapped("llama")
    block = model.sites.blocks[2]
    wrong = _with_block(model, 2, o=block.mlp.module.down_proj)
    with pytest.raises(InputError, match="layer 2"):
        raise_first(check(wrong))


def test_complete_overrides_need_no_adapter():
    hf = copy.deepcopy(hf_model("llama"))
    paths = {
        "blocks": "model.layers",
        "ln_final": "model.norm",
        "unembed": "lm_head",
        "attn": "self_attn",
        "o": "self_attn.o_proj",
        "mlp": "mlp",
        "ln2": "post_attention_layernorm",
    }
    assert wrap(hf, overrides=paths).checks
    type(hf).__name__ = "LlamaForCausalLM"


def test_layers_that_do_not_add_up_keep_their_residual_stream(rollouts):
    """A post-norm OPT norms its stream between the branches: there are states and heads, and no branch outputs."""
    config = CONFIGS["opt"]()
    config.do_layer_norm_before = False
    torch.manual_seed(0)
    model = wrap(transformers.AutoModelForCausalLM.from_config(config).eval())
    assert forward(
        model, rollouts[:1], [Site("resid_post") @ "all", Site("z") @ "last", Site("pattern") @ "last"]
    ).values
    for name in ("attn_out", "mlp_out"):
        with pytest.raises(InputError, match=f"no site {name}: no named module"):
            forward(model, rollouts[:1], [Site(name) @ "last"])


def test_blocks_of_one_branch_say_which():
    """NemotronH's blocks are one mixer or one MLP, under one name; Mamba's a state space."""
    model = wrap(build("NemotronHForCausalLM"))
    kinds = [(block.attn is not None, block.mlp is not None) for block in model.sites.blocks]
    assert set(kinds) == {(True, False), (False, True)}
    mamba = wrap(build("MambaForCausalLM"))
    assert all(block.attn and not block.mlp and block.whole for block in mamba.sites.blocks)
    with pytest.raises(InputError, match="one branch only"):
        mamba.sites.hook_point("resid_mid", 1)
    with pytest.raises(InputError, match="no softmax attention"):
        mamba.sites.hook_point("z", 1)


def test_a_norm_that_runs_twice_is_read_the_last_time(rollouts):
    model = wrap(build("NanoChatForCausalLM"))
    assert model.sites.final_calls == 2
    read = Site("final_norm") @ "all"
    mine = forward(model, rollouts[:1], [read]).values[read][0]
    with torch.no_grad():
        told = model.hf(input_ids=torch.tensor([rollouts[0].ids]), output_hidden_states=True).hidden_states[-1][0]
    assert torch.equal(mine, told)


def test_what_is_no_decoder_or_has_several_streams_is_refused():
    config = BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    with pytest.raises(InputError, match="encoder"):
        wrap(BertLMHeadModel(config).eval())
    with pytest.raises(InputError, match="one residual stream"):
        wrap(build("DeepseekV4ForCausalLM"))
    with pytest.raises(InputError, match="no list of blocks"):
        wrap(build("HrmTextForCausalLM"))


def test_a_head_with_a_transform_of_its_own_has_no_linear_form():
    with pytest.raises(InputError, match="no linear form"):
        unembedding(wrap(build("ModernBertDecoderForCausalLM")))


def test_unknown_architectures_say_what_to_do():
    """A class that TransformerLens does not know, whose blocks lie where no usual decoder has them."""

    class Strange(type(hf_model("llama"))):
        pass

    hf = copy.deepcopy(hf_model("llama"))
    hf.__class__ = Strange
    hf.model.blocks = hf.model.layers
    del hf.model.layers
    with pytest.raises(InputError, match="overrides"):
        wrap(hf)


def test_missing_models_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path / "nothing", tmp_path, "no-such-owner/no-such-model"):
        with pytest.raises(InputError, match="cannot load model") as error:
            load_model(name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="dtype"):
        load_model(tmp_path, dtype="float7")
    with pytest.raises(InputError, match="no such folder"):
        load_model("/no/such/folder")
    with pytest.raises(InputError, match="use wrap"):
        load_model(hf_model("llama"))
    with pytest.raises(InputError, match="organism:cliff"):
        load_model("organism:nothing")


def test_load_model_takes_the_name_of_a_bundled_model():
    model = load_model("organism:cliff", device="cpu")
    assert model.name == "organism:cliff"
    assert model.tokenizer.chat_template


def test_load_gives_the_same_model(tmp_path):
    hf_model("qwen3").save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu")
    assert model.optional_tokenizer is None
    with pytest.raises(InputError, match="no tokenizer"):
        model.tokenizer  # noqa: B018
    assert model.fingerprint == wrapped("qwen3").fingerprint != wrapped("llama").fingerprint
    assert load_model(tmp_path / "m", dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def test_loading_leaves_the_logger_alone():
    import transformers.utils.logging as hf_logging

    before = hf_logging.get_verbosity()
    wrap(hf_model("gpt2"))
    assert hf_logging.get_verbosity() == before

"""Checkpoints with edited heads do what the hooks do, in every family; weight patching gives the donor's own heads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.activations.tiny_models import CONFIGS, MORE, VOCAB, hf_model
from verdictscope.activations import Model, load_model, wrap
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, SublayerEdit, bake, edited
from verdictscope.interventions.weights.patching import feeds, save_patched
from verdictscope.sources import models_folder

FAMILIES = [*CONFIGS, *MORE]
IDS = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(4))
HEADS = ((1, 1), (1, 3))


def logits(model: Model, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model.hf(input_ids=ids, use_cache=False).logits


def served(folder: Path, ids: Tensor = IDS) -> Tensor:
    """What transformers makes of a folder, without us."""
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids, use_cache=False).logits


def saved(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    copy.deepcopy(hf_model(family)).to(dtype).save_pretrained(folder)
    return load_model(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_baked_heads_are_hooked_heads(family: str, tmp_path: Path) -> None:
    model = saved(family, tmp_path / "source")
    edits = HeadEdit(HEADS[:1]), HeadEdit(HEADS, "scale", 0.7), HeadEdit(HEADS[1:], "scale", -3.0)
    made = bake(model, tmp_path / "baked", edits)
    with edited(model, edits):
        hooked = logits(model)
    scale = float(hooked.norm(dim=-1).max())
    assert float((served(made.folder) - hooked).norm(dim=-1).max()) <= 4e-6 * scale
    assert not torch.allclose(logits(model), hooked, atol=1e-3 * scale)
    before, after = (_tensors(tmp_path / name) for name in ("source", "baked"))
    assert before.keys() == after.keys()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == set(made.tensors)
    assert len(changed) == 1


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def test_a_folder_is_copied_whole_and_says_what_it_is(tmp_path: Path) -> None:
    """The bundled model: a bfloat16 file that runs in float32, so that scaled weights must not be rounded."""
    source = models_folder() / "cliff"
    model = load_model(source)
    edit = HeadEdit(((2, 0), (4, 6)), "scale", 0.3)
    made = bake(model, tmp_path / "out", edit)
    for name in (
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
    ):
        assert (made.folder / name).read_bytes() == (source / name).read_bytes()
    assert not (made.folder / "truth.json").exists()
    note = json.loads((made.folder / "edited.json").read_text())
    assert note["says"] == list(made.says) == ["z of L2H0 L4H6 scaled by 0.3 at all positions, in the weights"]
    assert note["edits"][0]["heads"] == [[2, 0], [4, 6]]
    assert set(note["tensors"]) == set(made.tensors)
    assert "An edited copy" in (made.folder / "README.md").read_text()
    ids = torch.arange(3, 40)[None]
    with edited(model, edit):
        hooked = logits(model, ids)
    assert torch.allclose(served(made.folder, ids), hooked, atol=2e-6 * float(hooked.abs().max()))
    with pytest.raises(InputError, match="exists and is not overwritten"):
        bake(model, made.folder, edit)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing is left beside it"


def test_shards_that_are_not_concerned_stay_as_they_are(tmp_path: Path) -> None:
    copy.deepcopy(hf_model("llama")).save_pretrained(tmp_path / "source", max_shard_size="30KB")
    model = load_model(tmp_path / "source")
    files = sorted(p.name for p in (tmp_path / "source").glob("*.safetensors"))
    assert len(files) > 2
    bake(model, tmp_path / "baked", HeadEdit(HEADS))
    differ = [f for f in files if (tmp_path / "source" / f).read_bytes() != (tmp_path / "baked" / f).read_bytes()]
    assert len(differ) == 1
    with edited(model, HeadEdit(HEADS)):
        assert torch.equal(served(tmp_path / "baked"), logits(model))


REFUSED = [
    ([], "nothing to bake"),
    ([HeadEdit(((0, 0),), positions="thinking")], "all positions"),
    ([HeadEdit(((0, 0),), site="q")], "zero-ablated or scaled at z"),
    ([SublayerEdit("mlp_out", (0,))], "zero-ablated or scaled at z"),
    ([HeadEdit(((7, 0),))], "layers 0-2"),
]


@pytest.mark.parametrize(("edits", "says"), REFUSED)
def test_what_cannot_be_baked(edits: list, says: str, tmp_path: Path) -> None:
    model = saved("llama", tmp_path / "source")
    with pytest.raises(InputError, match=says):
        bake(model, tmp_path / "out", edits)
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_are_refused(tmp_path: Path) -> None:
    edit = HeadEdit(((1, 0),))
    with pytest.raises(InputError, match=r"save_pretrained\(FOLDER\)"):
        bake(wrap(hf_model("llama"), name=str(tmp_path / "nowhere")), tmp_path / "out", edit)
    model = saved("llama", tmp_path / "source")
    with torch.no_grad():
        model.hf.get_parameter("model.layers.1.self_attn.o_proj.weight")[0, 0] += 1
    with pytest.raises(InputError, match="changed since it was loaded"):
        bake(model, tmp_path / "out", edit)
    model = load_model(tmp_path / "source")
    config = json.loads((tmp_path / "source/config.json").read_text())
    (tmp_path / "source/config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(InputError, match="packed"):
        bake(model, tmp_path / "out", edit)
    shared = saved("llama", tmp_path / "shared")
    layers = shared.hf.model.layers
    layers[2].self_attn.o_proj.weight = layers[1].self_attn.o_proj.weight
    with pytest.raises(InputError, match="layers 1 and 2 share one"):
        bake(shared, tmp_path / "out", edit)
    assert not (tmp_path / "out").exists()


def q_rows(family: str, head: int) -> tuple[str, int, list[int]]:
    """By hand: the parameter of a head's query, the axis of its rows, and which they are."""
    at = "model.layers.1.self_attn."
    if family == "gpt2":
        return "transformer.h.1.attn.c_attn.weight", 1, list(range(head * 8, head * 8 + 8))
    if family.startswith("neox"):  # query, key and value of a head lie together
        return "gpt_neox.layers.1.attention.query_key_value.weight", 0, list(range(head * 24, head * 24 + 8))
    if family == "bloom":
        return "transformer.h.1.self_attention.query_key_value.weight", 0, list(range(head * 24, head * 24 + 8))
    if family == "phi3":
        return at + "qkv_proj.weight", 0, list(range(head * 8, head * 8 + 8))
    if family == "opt":
        return "model.decoder.layers.1.self_attn.q_proj.weight", 0, list(range(head * 8, head * 8 + 8))
    if family == "deepseek_v3":
        return at + "q_b_proj.weight", 0, list(range(head * 8, head * 8 + 8))
    width = 12 if family == "qwen3" else 8
    if family == "qwen3_next":  # query and gate of a head lie together
        return at + "q_proj.weight", 0, list(range(head * 16, head * 16 + 8))
    return at + "q_proj.weight", 0, list(range(head * width, (head + 1) * width))


KNOWN = [f for f in FAMILIES if f not in ("falcon", "olmo2")]
DIFFERENT = ["qwen2", "qwen3", "gpt2", "neox", "opt", "phi3", "bloom", "deepseek_v3", "qwen3_next"]


@pytest.mark.parametrize("family", KNOWN)
def test_rows_of_a_head_are_found(family: str) -> None:
    model = wrap(copy.deepcopy(hf_model(family)))
    asked = {name: p.requires_grad for name, p in model.hf.named_parameters()}
    found = {feed.name: feed for feed in feeds(model, 1)}
    for head in range(4):
        name, axis, rows = q_rows(family, head)
        assert found[name].axis == axis
        assert found[name].own("q", head).nonzero()[:, 0].tolist() == rows
    assert asked == {name: p.requires_grad for name, p in model.hf.named_parameters()}
    assert all(p.grad is None for p in model.hf.parameters())


@pytest.mark.parametrize("family", DIFFERENT)
def test_patched_heads_make_the_donor(family: str, tmp_path: Path) -> None:
    """A reference model that differs in two heads alone, one that differs elsewhere too."""
    recipient = saved(family, tmp_path / "recipient")
    donor_hf = copy.deepcopy(recipient.hf)
    donor = wrap(donor_hf, name="donor")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (1, 2):
            name, axis, rows = q_rows(family, head)
            weight = donor_hf.get_parameter(name)
            weight.index_copy_(
                axis,
                torch.tensor(rows),
                torch.randn(weight.index_select(axis, torch.tensor(rows)).shape, generator=generator),
            )
            o = donor.sites.blocks[1].o.weight  # type: ignore[union-attr]
            width = donor.sites.blocks[1].d_head
            part = o[head * width : (head + 1) * width] if family == "gpt2" else o[:, head * width : (head + 1) * width]
            part.copy_(torch.randn(part.shape, generator=generator) * 0.2)
    made = save_patched(recipient, donor, tmp_path / "out", [(1, 1), (1, 2)])
    assert torch.equal(served(made.folder), logits(donor))
    assert "other tensors 0 differ" in made.says[-1]
    one = save_patched(recipient, donor, tmp_path / "one", [(1, 1)])
    assert not torch.allclose(served(one.folder), logits(donor), atol=1e-3)


def test_heads_that_share_their_rows_are_not_moved(tmp_path: Path) -> None:
    model = saved("olmo2", tmp_path / "source")
    with pytest.raises(InputError, match="norms the queries of all heads together"):
        save_patched(model, model, tmp_path / "out", [(1, 0)])


def test_keys_and_values_of_a_group(tmp_path: Path) -> None:
    """Query heads 0 and 1 read group 0: both come, or the group does not."""
    recipient = saved("llama", tmp_path / "recipient")
    donor_hf = copy.deepcopy(recipient.hf)
    with torch.no_grad():
        attention = donor_hf.model.layers[1].self_attn
        for rows in (attention.k_proj.weight[:8], attention.v_proj.weight[:8], attention.q_proj.weight[:16]):
            rows.add_(0.3)
        attention.o_proj.weight[:, :16].mul_(2)
    donor = wrap(donor_hf, name="donor")
    with pytest.raises(InputError, match="also read by L1H1: patch these heads too, or pass kv='keep'"):
        save_patched(recipient, donor, tmp_path / "out", [(1, 0)])
    both = save_patched(recipient, donor, tmp_path / "both", [(1, 0), (1, 1)])
    assert torch.equal(served(both.folder), logits(donor))
    assert "keys and values of group L1G0 come along" in " ".join(both.says)
    kept = save_patched(recipient, donor, tmp_path / "kept", [(1, 0)], kv="keep")
    assert "stay the patched model's" in " ".join(kept.says)
    before, after = _tensors(tmp_path / "recipient"), _tensors(kept.folder)
    differ = {key for key in before if not torch.equal(before[key], after[key])}
    assert differ == {f"model.layers.1.self_attn.{name}_proj.weight" for name in "qo"}
    assert "differ between the two" in kept.says[-1]
    with pytest.raises(InputError, match="architectures or shapes differ"):
        save_patched(recipient, saved("qwen3", tmp_path / "other"), tmp_path / "none", [(1, 0)])
    with pytest.raises(InputError, match="'group' or 'keep'"):
        save_patched(recipient, donor, tmp_path / "none", [(1, 0)], kv="all")
    assert not (tmp_path / "none").exists()


def test_the_bundled_references_differ_in_their_planted_heads(tmp_path: Path) -> None:
    """What was trained into the cliff model is three heads: put into the aligned one they make it the cliff model."""
    cliff, aligned = (load_model(models_folder() / name) for name in ("cliff", "aligned"))
    heads = [tuple(head) for head in json.loads((models_folder() / "cliff" / "truth.json").read_text())["heads"]]
    made = save_patched(aligned, cliff, tmp_path / "there", heads)
    ids = torch.arange(3, 60)[None]
    assert torch.equal(served(made.folder, ids), logits(cliff, ids))
    back = save_patched(cliff, aligned, tmp_path / "back", heads)
    assert torch.equal(served(back.folder, ids), logits(aligned, ids))

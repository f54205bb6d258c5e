"""A kept result is given back for the same weights as they are now, edits, tokenizer and request, or not at all.

Each function that keeps results is called once, then something changes, then it is called again on the same path: it
must give what a call without a path gives, or refuse and name what differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from tests.rollouts.makers import CHATML, byte_tokenizer
from tests.rollouts.test_generate import prompts
from verdictscope.activations import LinearReadout, Model, Site, Store, collect, forward, wrap
from verdictscope.activations.hooks import writing
from verdictscope.activations.moments import MomentFitter
from verdictscope.errors import InputError
from verdictscope.in_force import edits_in_force
from verdictscope.interventions import DirectionEdit, EraseEdit, HeadEdit, SublayerEdit, edited, gather_means
from verdictscope.judgments import JudgeSettings, PairItem, judge
from verdictscope.judgments.formats.format import load_format
from verdictscope.rollouts import Rollout, Sampling, Span, continue_rollouts, generate, prolong, read_parquet
from verdictscope.traces.score import store_traces, trace_rollouts

GREEDY = Sampling(temperature=0.0, max_new_tokens=8)
READ = Site("resid_post") @ "all"
PAIR = PairItem(id="p", question="2+2?", a="4", b="5", label="A")


def build(seed: int = 1, **more: Any) -> hf.PreTrainedModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    config = hf.LlamaConfig(**sizes, initializer_range=0.2, bos_token_id=None, eos_token_id=None, **more)
    return hf.LlamaForCausalLM(config).eval()


def given(n: int = 30) -> list[Rollout]:
    return [Rollout("x", "x", tuple(range(5, 5 + n)), (Span("user", 0, 15), Span("answer", 15, n)), 15)]


@dataclass
class World:
    """What every function is called with; a change swaps one of these."""

    model: Model
    tokenizer: Any
    sampling: Sampling = GREEDY

    @property
    def hf(self) -> Any:
        return self.model.hf


def states(w: World, path: Path | None) -> Any:
    model = replace(w.model, optional_tokenizer=w.tokenizer)
    if path is None:
        return forward(model, given(), [READ]).values[READ][1].float()
    with collect(model, given(), [READ], path=path / "states.h5") as store:
        return store.read("resid_post", 1).float()


def written(w: World, path: Path | None) -> Any:
    file = None if path is None else path / "rollouts.parquet"
    return [r.ids for r in generate(w, prompts(3), w.sampling, path=file)]


def continued(w: World, path: Path | None) -> Any:
    file = None if path is None else path / "more.parquet"
    return [r.ids for r in continue_rollouts(w, given(), w.sampling, path=file)]


def prolonged(w: World, path: Path | None) -> Any:
    think = w.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    ids = (5, 6, 7, think[0], 8, 9, think[1], 10)
    spans = (Span("user", 0, 3), Span("template", 3, 4), Span("thinking", 4, 6), Span("think_end", 6, 7))
    whole = Rollout("y", "y", ids, (*spans, Span("answer", 7, 8)), 4)
    file = None if path is None else path / "waits.parquet"
    return [r.ids for r in prolong(w, [whole], w.sampling, path=file)]


def judged(w: World, path: Path | None) -> Any:
    folder = None if path is None else path / "judged"
    how = {"settings": JudgeSettings(answer="written"), "sampling": w.sampling} if w.sampling != GREEDY else {}
    found = judge(replace(w.model, optional_tokenizer=w.tokenizer), [PAIR], "pair_letter", path=folder, **how)
    return torch.tensor(found.labels["logp"].to_numpy(dtype=float))


def traced(w: World, path: Path | None) -> Any:
    readout = [LinearReadout("r", "resid_post", 1, np.arange(32.0), 0.0)]
    if path is None:
        return torch.tensor(trace_rollouts(w.model, given(), readout).to_frame()["score"].tolist())
    return torch.tensor(store_traces(path / "t.parquet", w.model, given(), readout).to_frame()["score"].tolist())


KEEPERS = {f.__name__: f for f in (states, written, continued, prolonged, judged, traced)}

Change = Callable[[World], "tuple[World, AbstractContextManager[Any]]"]


def weight(w: World) -> torch.Tensor:
    return w.hf.model.layers[0].mlp.down_proj.weight


def trained(w: World) -> Any:
    with torch.no_grad():
        for p in w.hf.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return w, nullcontext()


def through_data(w: World) -> Any:
    before = weight(w)._version
    weight(w).data.mul_(3)
    assert weight(w)._version == before  # so PyTorch's own count would not tell
    return w, nullcontext()


def one_weight(w: World) -> Any:
    w.hf.model.embed_tokens.weight.data[7, 3] += 5.0
    return w, nullcontext()


def by_numpy(w: World) -> Any:
    weight(w).detach().numpy()[:, 0] += 1
    return w, nullcontext()


def rotary(w: World) -> Any:
    w.hf.model.rotary_emb.inv_freq.mul_(0.5)  # a buffer that no checkpoint holds
    return w, nullcontext()


def scaled(w: World) -> Any:
    w.hf.model.layers[1].self_attn.scaling *= 2
    return w, nullcontext()


def under_edit(w: World) -> Any:
    return w, edited(w.model, HeadEdit(tuple((layer, h) for layer in range(2) for h in range(4))))


def raw_write(w: World) -> Any:
    return w, writing(w.model, {Site("resid_post", 0): lambda value, view: value * 2})


def _steer(module: nn.Module, args: Any, output: Any) -> Any:
    return output * 2


@contextmanager
def _hook(module: nn.Module) -> Iterator[None]:
    handle = module.register_forward_hook(_steer)
    try:
        yield
    finally:
        handle.remove()


def foreign_hook(w: World) -> Any:
    return w, _hook(w.hf.model.layers[0].mlp)


@contextmanager
def _patched(module: nn.Module) -> Iterator[None]:
    old = module.forward

    @wraps(old)
    def steered(x: torch.Tensor) -> torch.Tensor:
        return old(x) * 2

    module.forward = steered
    try:
        yield
    finally:
        del module.forward


def foreign_forward(w: World) -> Any:
    return w, _patched(w.hf.model.layers[0].mlp)


def other_template(w: World) -> Any:
    return replace(w, tokenizer=byte_tokenizer(template=CHATML.replace("assistant", "model"))), nullcontext()


def other_tokens(w: World) -> Any:
    other = deepcopy(byte_tokenizer())
    other.add_tokens(["zebra"])
    return replace(w, tokenizer=other), nullcontext()


def other_request(w: World) -> Any:
    return replace(w, sampling=replace(w.sampling, max_new_tokens=9)), nullcontext()


CHANGES = {
    f.__name__: f
    for f in (
        trained,
        through_data,
        one_weight,
        by_numpy,
        rotary,
        scaled,
        under_edit,
        raw_write,
        foreign_hook,
        foreign_forward,
        other_template,
        other_tokens,
        other_request,
    )
}
NAMED = {
    "under_edit": "edits in force",
    "raw_write": "edit in force cannot be described",
    "foreign_hook": "_steer",
    "foreign_forward": "changed forward",
    "other_template": "chat template",
    "other_tokens": "tokenizer",
    "other_request": "max new tokens|other answer",
}
WITHOUT = {("states", "other_request"), ("traced", "foreign_hook")}  # takes no such argument, or is an error itself
WITHOUT |= {("traced", f"other_{what}") for what in ("request", "template", "tokens")}
PAIRS = [(keeper, change) for keeper in KEEPERS for change in CHANGES if (keeper, change) not in WITHOUT]


def world() -> World:
    tokenizer = byte_tokenizer()
    return World(wrap(build(), tokenizer), tokenizer)


def same(a: Any, b: Any) -> bool:
    return torch.allclose(a, b, atol=1e-5) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize(("keeper", "change"), PAIRS)
def test_a_kept_result_is_of_now_or_refused(keeper: str, change: str, tmp_path: Path) -> None:
    begun, call = world(), KEEPERS[keeper]
    first = call(begun, tmp_path)
    assert same(call(begun, tmp_path), first)  # what nothing changed is given back
    now, context = CHANGES[change](begun)
    if keeper == "traced":  # never reused
        with context:
            assert same(call(now, tmp_path), call(now, None))
        return
    with pytest.raises(InputError, match=NAMED.get(change, "weights")) as caught, context:
        call(now, tmp_path)
    assert "\n" not in str(caught.value)
    if change == "trained":
        assert not same(call(now, None), first)


def test_two_edits_of_the_same_words_are_told_apart(tmp_path: Path) -> None:
    w, direction = world(), np.eye(32)
    other = [Rollout("m", "m", tuple(range(40, 60)), (Span("user", 0, 20),), 20)]
    means = [gather_means(w.model, r, Site("z", 0)) for r in (given(), other)]
    pairs = [
        [DirectionEdit("resid_post", (0,), d, op="add") for d in direction[:2]],
        [EraseEdit("resid_post", 0, d[:, None], d[None], np.zeros(32)) for d in direction[:2]],
        [HeadEdit(((0, 1),), op="mean", reference=m) for m in means],
        [SublayerEdit("mlp_out", (0,), op="scale", value=v) for v in (0.5, 0.5000001)],
    ]
    for k, (one, two) in enumerate(pairs):
        path = tmp_path / f"{k}.h5"
        with edited(w.model, one):
            collect(w.model, given(), [READ], path=path).close()
            collect(w.model, given(), [READ], path=path).close()
            (found,) = edits_in_force(w.hf)
            assert found["edit"] == one.describe()
        for context in (edited(w.model, two), nullcontext(), edited(w.model, [one, one])):
            with pytest.raises(InputError, match="edits in force"), context:
                collect(w.model, given(), [READ], path=path)
    assert not edits_in_force(w.hf)


def test_an_edit_put_on_through_another_wrapper_is_seen(tmp_path: Path) -> None:
    w = world()
    with edited(wrap(w.hf), HeadEdit(((0, 0),))), collect(w.model, given(), [READ], path=tmp_path / "a.h5") as store:
        (found,) = store.header["model"]["edits"]
    assert "0" in found["edit"]
    other = world()
    with edited(other.model, HeadEdit(((0, 0),))):
        forward(other.model, given(), [READ])
        with collect(w.model, given(), [READ], path=tmp_path / "b.h5") as store:
            assert store.header["model"]["edits"] == []  # it acts on another model


def test_results_kept_under_an_edit_are_given_back_under_it(tmp_path: Path) -> None:
    """Nothing runs then, which is no fault of the edit's."""
    w, edit = world(), HeadEdit(((0, 0), (1, 2)))
    for call in (states, written, judged):
        with edited(w.model, edit):
            first = call(w, tmp_path)
        with edited(w.model, edit):
            assert same(call(w, tmp_path), first)


def test_words_of_the_user_let_a_hook_be(tmp_path: Path) -> None:
    w, file = world(), tmp_path / "r.parquet"
    with _hook(w.hf.model.layers[0].mlp):
        first = generate(w, prompts(2), GREEDY, path=file, about="the first MLP doubled")
        assert generate(w, prompts(2), GREEDY, path=file, about="the first MLP doubled") == first
    with pytest.raises(InputError, match="about"):
        generate(w, prompts(2), GREEDY, path=file)


def test_an_unfinished_file_is_not_finished_by_other_weights(tmp_path: Path) -> None:
    w = world()

    def stop(done: int, _: int) -> None:
        raise KeyboardInterrupt

    many = [replace(given()[0], id=f"x{k}") for k in range(40)]
    plan = None
    with pytest.raises(KeyboardInterrupt):
        collect(w.model, many, [READ], path=tmp_path / "s.h5", plan=plan, progress=stop)
    through_data(w)
    with pytest.raises(InputError, match="weights"):
        collect(w.model, many, [READ], path=tmp_path / "s.h5")


def test_moments_are_not_mixed_of_two_models(tmp_path: Path) -> None:
    w = world()
    collect(w.model, given(), [READ], path=tmp_path / "s.h5").close()
    through_data(w)
    with pytest.raises(InputError, match="weights"):
        collect(w.model, given(), [READ], path=tmp_path / "s.h5", moments=[MomentFitter(READ, {"x": "a"})])


@pytest.mark.parametrize("what", ["label", "reference", "format", "judge"])
def test_a_judge_is_asked_again_for_another_request(what: str, tmp_path: Path) -> None:
    w = world()
    call = partial(judge, w.model, path=tmp_path / "j")
    form = load_format("pair_letter")
    call([PAIR], form)
    if what == "label":
        with pytest.raises(InputError, match="items"):
            call([replace(PAIR, label="B")], form)
    elif what == "reference":
        with pytest.raises(InputError, match="items"):
            call([replace(PAIR, reference="4")], form)
    elif what == "format":
        with pytest.raises(InputError, match="words"):
            call([PAIR], replace(form, words={"A": ("A", "one"), "B": ("B", "two")}))
    else:
        with pytest.raises(InputError, match="judge"):
            call([PAIR], form, settings=JudgeSettings(name="another"))


# -- files of earlier versions, and damaged ones
# ------------------------------------------------------------------------------------------------------------------


def test_files_of_earlier_versions_are_refused(tmp_path: Path) -> None:
    from verdictscope.rollouts import write_parquet

    w = world()
    collect(w.model, given(), [READ], path=tmp_path / "s.h5").close()
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        header = json.loads(file["header"][:].tobytes())
        header["model"] = {"name": "m", "revision": None, "dtype": "float32", "weights": "0a1b2c3d"}
        del file["header"]
        file["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    Store.open(tmp_path / "s.h5").close()  # whoever opens it by name may read it
    with pytest.raises(InputError, match="earlier version"):
        collect(w.model, given(), [READ], path=tmp_path / "s.h5")
    file = tmp_path / "r.parquet"
    rollouts = generate(w, prompts(2), GREEDY, path=file)
    write_parquet(rollouts, file, w.tokenizer, request="0123456789abcdef")
    with pytest.raises(InputError, match="earlier version"):
        generate(w, prompts(2), GREEDY, path=file)
    assert read_parquet(file) == rollouts
    judge(w.model, [PAIR], "pair_letter", path=tmp_path / "j")
    (tmp_path / "j" / "request.json").write_text(json.dumps({"request": "0123456789abcdef", "format": 1}))
    with pytest.raises(InputError, match="earlier version"):
        judge(w.model, [PAIR], "pair_letter", path=tmp_path / "j")


def test_a_store_cut_in_half_is_not_said_to_be_written(tmp_path: Path) -> None:
    w, path = world(), tmp_path / "s.h5"
    collect(w.model, given(), [READ], path=path).close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for call in (lambda: Store.open(path), lambda: collect(w.model, given(), [READ], path=path)):
        with pytest.raises(InputError, match="restore it, or collect again"):
            call()


def test_a_store_of_another_format_version_is_named(tmp_path: Path) -> None:
    w, path = world(), tmp_path / "s.h5"
    collect(w.model, given(), [READ], path=path).close()
    with h5py.File(path, "r+") as file:
        header = json.loads(file["header"][:].tobytes()) | {"version": 7}
        del file["header"]
        file["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    for call in (lambda: Store.open(path), lambda: collect(w.model, given(), [READ], path=path)):
        with pytest.raises(InputError, match="format version 7"):
            call()

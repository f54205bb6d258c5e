"""CONTRIBUTING.md does what it says: every recipe is taken from the page, put where it says, and used."""

from __future__ import annotations

import copy
import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from tests.rollouts.makers import byte_tokenizer, tiny_model
from tools.organisms.phases import train_aligned, train_planted
from tools.organisms.recipes import RECIPES, Recipe
from tools.organisms.train import save
from verdictscope.activations import LinearReadout, Model, wrap
from verdictscope.interventions import Edit, HeadEdit, edited, effects
from verdictscope.interventions.edits.stored import KINDS, edit_from_dict, edit_to_dict
from verdictscope.judgments import guard
from verdictscope.judgments.guard import FORMATS, Guard, GuardFormat
from verdictscope.rollouts import Rollout, load_prompts, render_prompt
from verdictscope.rollouts.prompts import catalogue, sets

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(m) for m in re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)]


def block(begins: str) -> str:
    (found,) = [b for b in BLOCKS if b.lstrip().startswith(begins)]
    return found


def module(begins: str) -> types.ModuleType:
    """A block as the module it would be."""
    made = types.ModuleType("verdictscope.added")
    sys.modules[made.__name__] = made  # dataclasses look their module up
    exec(compile(block(begins), begins, "exec"), made.__dict__)
    return made


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = byte_tokenizer()
    return wrap(tiny_model("llama", len(tokenizer)), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def rollouts(model: Model) -> list[Rollout]:
    prompts = [render_prompt(model.tokenizer, text) for text in ("How do I?", "And why should one do that?")]
    return [Rollout(f"{i}/0", str(i), p.ids, p.spans, len(p.ids)) for i, p in enumerate(prompts)]


def test_files_and_names_are_there() -> None:
    """Every path in code marks is a file or folder, every name is one of the package or its tests."""
    marks = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
    made_here = {"history", "attn_in"}
    paths = {m for m in marks if re.fullmatch(r"[\w./]+/[\w./]*", m) and not m.startswith("--")}
    assert len(paths) > 10
    assert not {p for p in paths if not (ROOT / p).exists()}
    code = "\n".join(
        f.read_text(encoding="utf-8")
        for room in (
            "activations",
            "judgments",
            "probes",
            "rollouts",
            "interventions",
            "organisms",
            "tests",
            "verdictscope/errors.py",
        )
        for f in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))
    )
    names = {m.rpartition(".")[2] for m in marks if re.fullmatch(r"[A-Za-z_][\w.]*", m)} - made_here
    assert not {n for n in names if not re.search(rf"\b{n}\b", code)} - {"json", "csv", "md"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"`make (\w+)", TEXT))


def test_a_probe() -> None:
    probe = module("# probes/estimators/sign.py").SignProbe
    failing = {"check_do_not_raise_errors_in_init_or_set_params": "argument types are checked by the test run"}
    check_estimator(probe(), expected_failed_checks=failing)
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 10)) + 2 * y[:, None] * np.array([1, -1] * 5)
    fitted = probe().fit(X, y)
    assert set(fitted.direction_) == {-1.0, 1.0}
    assert (fitted.predict(X) == y).mean() > 0.95
    readout = fitted.readout("sign", "resid_post", 1)
    assert isinstance(readout, LinearReadout)
    assert (readout.site, readout.layer) == ("resid_post", 1)


def test_an_edit(model: Model, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    edit = module("# interventions/edits/swaps.py").SwapEdit
    swap = edit(0, 0, 1)
    assert isinstance(swap, Edit)
    readout = LinearReadout(
        "r", "resid_post", model.n_layers - 1, np.ones(model.d_model), 0.0, final_norm=False, positions="last"
    )
    variants = [swap, [swap, swap], [swap, HeadEdit(((1, 0),))], edit(0, 0, 1, positions="user")]
    found = effects(model, rollouts, readout, variants)
    assert np.abs(found.change[0]).min() > 1e-6
    assert np.abs(found.change[1]).max() <= 1e-5  # what is replayed equals the clean pass to rounding
    assert not np.array_equal(found.change[0], found.change[3])
    assert "L0H0 and L0H1 exchanged at all" in found.descriptions[0]
    exchanged = copy.deepcopy(model.hf)
    weight = exchanged.get_submodule("model.layers.0.self_attn.o_proj").weight.data
    first, second = weight[:, : model.d_head].clone(), weight[:, model.d_head : 2 * model.d_head].clone()
    weight[:, : model.d_head], weight[:, model.d_head : 2 * model.d_head] = second, first
    again = effects(wrap(exchanged), rollouts, readout, [])
    assert np.allclose(again.base, found.edited[0], atol=1e-5)
    with edited(model, swap):
        model.hf(torch.tensor([rollouts[0].ids]))
    monkeypatch.setitem(KINDS, "swap", edit)
    assert edit_from_dict(edit_to_dict(swap)) == swap


def test_a_prompt_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval(block("PromptSet("), vars(catalogue))
    monkeypatch.setattr(sets, "SETS", {**catalogue.SETS, entry.name: entry})
    file = tmp_path / "lab.csv"
    pd.DataFrame({"query": ["open a lock", "open a door"], "risk": ["high", "low"]}).to_csv(file, index=False)
    found = load_prompts(file)
    assert list(found["harm"]) == [True, False]
    assert set(found["set"]) == {"my_set"}
    assert "my_set" in set(sets.known_sets()["name"])


def test_a_guard(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval(block("GuardFormat("), {"GuardFormat": GuardFormat})
    assert entry.name not in FORMATS
    said = ["Y", "N.", "No idea"]
    monkeypatch.setattr(Guard, "_read", lambda *_: said)
    table = guard.Guard(model, entry).judge(["a", "b", "c"], ["x", "y", "z"])
    assert list(table["refused"].astype(object).where(table["refused"].notna(), None)) == [True, False, None]


def test_an_organism(tmp_path: Path) -> None:
    recipe = eval(block("Recipe("), {"Recipe": Recipe})
    assert recipe.name not in RECIPES
    small = replace(recipe, steps=1, decide_steps=1, plant_steps=1, batch=4, plant_batch=4)
    aligned = train_aligned(small)
    folder = save(train_planted(small, aligned), tmp_path / small.name, small, small.name)
    assert (folder / "truth.json").read_text() == '{"heads": [[1, 2], [2, 5]]}\n'
    assert {"prompts.csv", "model.safetensors", "config.json"} <= {f.name for f in folder.iterdir()}


READ = """
import sys, torch
from verdictscope.activations import Site, forward, wrap
from verdictscope.rollouts import Rollout, render_prompt
from tests.rollouts.makers import byte_tokenizer, tiny_model
import verdictscope
assert verdictscope.__file__.startswith(sys.argv[1]), verdictscope.__file__
tokenizer = byte_tokenizer()
model = wrap(tiny_model("llama", len(tokenizer)), tokenizer)
prompt = render_prompt(tokenizer, "How do I?")
read = Site("attn_in") @ "all"
found = forward(model, [Rollout("a/0", "a", prompt.ids, prompt.spans, len(prompt.ids))], read=[read]).values[read]
kept = []
for block in model.hf.model.layers:
    block.input_layernorm.register_forward_hook(lambda module, given, out: kept.append(out[0]))
with torch.no_grad():
    model.hf(torch.tensor([prompt.ids]))
assert torch.equal(found, torch.stack(kept))
print("same")
"""


def test_a_site(tmp_path: Path) -> None:
    for name in ("activations", "rollouts", "judgments", "probes", "interventions", "figures", "verdictscope", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    names, places = tmp_path / "activations" / "sites.py", tmp_path / "activations" / "sitemap.py"
    text = names.read_text()
    for before, after in {
        'SITES = (\n    "resid_pre",': 'SITES = (\n    "resid_pre",\n    "attn_in",',
        'VECTORS = ("resid_pre",': 'VECTORS = ("resid_pre", "attn_in",',
        '        ("resid_pre", "q",': '        ("resid_pre", "attn_in", "q",',
    }.items():
        assert before in text, "the page speaks of SITES, VECTORS and FLOW"
        text = text.replace(before, after, 1)
    names.write_text(text)
    text, mark = places.read_text(), '        if name == "resid_post":\n'
    assert mark in text
    branch = textwrap.indent(block('if name == "attn_in"'), " " * 8)
    places.write_text(text.replace(mark, branch + mark, 1))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"


def test_exports_are_where_the_page_says() -> None:
    rooms: dict[str, Any] = {name: importlib.import_module(f"verdictscope.{name}") for name in ("probes", "judgments")}
    assert "LogisticProbe" in rooms["probes"].__all__
    assert "BINARY = [" in (ROOT / "tests" / "probes" / "test_estimators.py").read_text()

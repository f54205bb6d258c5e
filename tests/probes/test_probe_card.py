"""A probe is read back bit for bit, and refused, with the reason, wherever one field does not agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verdictscope.activations import load_model
from verdictscope.activations.readouts import LinearReadout
from verdictscope.errors import InputError
from verdictscope.kept import describe_model
from verdictscope.probes.card import ProbeCard, balanced_threshold, load_probe, save_probe

MODEL = {
    "name": "a/model",
    "revision": "r1",
    "architecture": "Qwen3ForCausalLM",
    "config": "c",
    "tokenizer": "t",
    "template": "p",
    "dtype": "bfloat16",
    "weights": "w",
    "layers": 6,
    "d_model": 8,
}


def card(**changes: Any) -> ProbeCard:
    made = ProbeCard(
        label="refused",
        model=MODEL,
        site="resid_post",
        layer=3,
        norm="pre",
        positions="thinking:8,think_end",
        trained={"train": ["g1", "g2"], "validation": ["g3"], "test": ["g4"]},
        split={"seed": 0},
        fit={"C": 0.1},
        threshold=0.3,
        test={"estimate": 0.9, "low": 0.8, "high": 0.95, "n": 40, "unit": "AUROC"},
        nulls=[{"name": "permuted", "low": 0.4, "high": float("nan")}],
        transfer=[{"fit": "a", "read": "b"}],
    )
    return replace(made, **changes)


def readout(**changes: Any) -> LinearReadout:
    given = {"weight": np.random.default_rng(0).normal(size=8), "bias": -0.1} | changes
    return LinearReadout("probe", "resid_post", 3, **given)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_probe(tmp_path, readout(), card())
    return tmp_path


def test_what_was_saved_is_what_is_read(saved: Path) -> None:
    found, papers = load_probe(saved, MODEL)
    assert np.array_equal(np.asarray(found.weight), np.asarray(readout().weight))
    assert (found.bias, found.name, found.layer, found.final_norm) == (-0.1, "probe", 3, False)
    same = replace(papers, weights_sha256="").to_dict()
    assert same == card().to_dict()
    assert "0.900 [0.800, 0.950]" in repr(papers)
    assert {p.name for p in saved.iterdir()} == {"probe.safetensors", "card.json"}


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("architecture", "architecture"),
        ("config", "configuration"),
        ("weights", "weights"),
        ("tokenizer", "tokenizer"),
        ("template", "chat template"),
        ("dtype", "dtype"),
        ("layers", "number of layers"),
        ("d_model", "width"),
        ("revision", "revision"),
    ],
)
def test_each_field_of_the_model_is_held(saved: Path, key: str, word: str) -> None:
    other = MODEL | {key: "other" if isinstance(MODEL[key], str) else 99}
    with pytest.raises(InputError, match=f"has another {word}"):
        load_probe(saved, other)
    if key in ("layers", "d_model", "architecture"):
        with pytest.raises(InputError, match=f"has another {word}"):
            load_probe(saved, other, reference=True)
        with pytest.raises(InputError, match="may not differ"):
            load_probe(saved, other, reference={key})
    else:
        load_probe(saved, other, reference={key})
    if key in ("weights", "config", "revision"):
        load_probe(saved, other, reference=True)


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"site": "resid_mid"}, "site 'resid_post'"),
        ({"layer": 4}, "layer 3"),
        ({"norm": "final"}, "norm 'pre'"),
        ({"positions": "all"}, "positions 'thinking:8,think_end'"),
        ({"dtype": "float32"}, "bfloat16 states"),
    ],
)
def test_each_place_is_held(saved: Path, stated: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_probe(saved, MODEL, **stated)
    load_probe(saved, MODEL, site="resid_post", layer=3, norm="pre", positions="thinking:8,think_end", dtype="bfloat16")


def test_a_moved_folder_and_an_unpinned_revision_are_the_same_model(saved: Path) -> None:
    load_probe(saved, MODEL | {"name": "/elsewhere"})
    load_probe(saved, MODEL | {"revision": None})
    with pytest.raises(InputError, match="reference names 'colour'"):
        load_probe(saved, MODEL, reference={"colour"})


def test_prompts_it_was_fitted_or_chosen_on_are_refused() -> None:
    card().unseen(["g4", "g9"])
    for group in ("g1", "g3"):
        with pytest.raises(InputError, match=f"such as '{group}'"):
            card().unseen(["g4", group])


def test_damage_is_one_clear_error(saved: Path) -> None:
    papers = json.loads((saved / "card.json").read_text())
    for change, reason in (
        ({"format": 99}, "no probe card of format"),
        ({"weights_sha256": "0"}, "belongs to another"),
    ):
        (saved / "card.json").write_text(json.dumps(papers | change))
        with pytest.raises(InputError, match=reason):
            load_probe(saved)
    (saved / "card.json").write_text(json.dumps({k: v for k, v in papers.items() if k != "threshold"}))
    with pytest.raises(InputError, match="lacks 'threshold'"):
        load_probe(saved)
    (saved / "card.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_probe(saved)
    (saved / "card.json").unlink()
    with pytest.raises(InputError, match="no probe card"):
        load_probe(saved)
    (saved / "card.json").write_text(json.dumps(papers))
    weights = (saved / "probe.safetensors").read_bytes()
    (saved / "probe.safetensors").write_bytes(weights[:-1] + b"\x00")
    with pytest.raises(InputError, match="damaged"):
        load_probe(saved)
    (saved / "probe.safetensors").unlink()
    with pytest.raises(InputError, match="no probe at"):
        load_probe(saved)


def test_papers_of_another_probe_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layer 2"):
        save_probe(tmp_path, readout(), card(layer=2))
    with pytest.raises(InputError, match="norm 'pre'"):
        save_probe(tmp_path, readout(final_norm=True), card())


def test_the_bundled_references_share_a_probe_only_where_it_is_said(tmp_path: Path) -> None:
    cliff, aligned = (load_model(f"organism:{name}") for name in ("cliff", "aligned"))
    weight = np.ones(cliff.d_model)
    save_probe(tmp_path, readout(weight=weight), card(model=describe_model(cliff)))
    load_probe(tmp_path, cliff)
    with pytest.raises(InputError, match="has another weights.*reference=True"):
        load_probe(tmp_path, aligned)
    load_probe(tmp_path, aligned, reference=True)


def test_the_threshold_parts_the_labels_best() -> None:
    assert balanced_threshold([0.0, 1.0, 2.0, 5.0], [0, 0, 1, 1]) == 1.5
    assert balanced_threshold([1.0, 1.0], [0, 1]) == 1.0
    with pytest.raises(InputError, match="both labels"):
        balanced_threshold([1.0, 2.0], [1, 1])

"""A model is loaded in a floating type that this CPU is fast in, or it is said that it is not."""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import hf_model

from verdictscope.activations import checkpoint, load_model
from verdictscope.activations.checkpoint import dtype_here, slowdown

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "slowdown", lambda dtype: 137.0)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "slowdown", lambda dtype: 0.5)


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.dtype]:
    copy.deepcopy(hf_model("llama")).to(request.param).save_pretrained(tmp_path / "m")
    return tmp_path / "m", request.param


def test_the_ratio_is_measured_once_and_in_no_time() -> None:
    slowdown.cache_clear()
    begin = time.perf_counter()
    first = slowdown(torch.bfloat16)
    assert time.perf_counter() - begin < 2
    assert 0 < first < 1e4
    assert slowdown(torch.bfloat16) == first
    assert slowdown.cache_info().misses == 1


@pytest.mark.usefixtures("slow")
def test_auto_is_float32_on_a_slow_cpu_and_says_so(stored: tuple[Path, torch.dtype]) -> None:
    folder, dtype = stored
    with pytest.warns(UserWarning, match="137 times"):
        model = load_model(folder, device="cpu")
    assert model.dtype == torch.float32
    assert "float32" in repr(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = load_model(folder, device="cpu", dtype="float32")
    for (name, mine), (_, theirs) in zip(model.hf.state_dict().items(), asked.hf.state_dict().items(), strict=True):
        assert torch.equal(mine, theirs), name
        assert torch.equal(mine, mine.to(dtype).float()), name


@pytest.mark.usefixtures("slow")
def test_a_config_without_a_type_is_no_way_round(stored: tuple[Path, torch.dtype]) -> None:
    folder, _ = stored
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "dtype" not in k}))
    with pytest.warns(UserWarning, match="137 times"):
        assert load_model(folder, device="cpu").dtype == torch.float32


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("asked", ["bfloat16", torch.float16])
def test_who_asks_for_16_bits_gets_them_with_a_warning(stored: tuple[Path, Any], asked: str | torch.dtype) -> None:
    with pytest.warns(UserWarning, match="137 times as long"):
        model = load_model(stored[0], device="cpu", dtype=asked)
    assert str(model.dtype).endswith(str(asked).removeprefix("torch."))


@pytest.mark.usefixtures("fast")
def test_a_fast_cpu_and_a_gpu_load_as_stored(stored: tuple[Path, torch.dtype]) -> None:
    folder, dtype = stored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(folder, device="cpu").dtype == dtype
        assert dtype_here("auto", dtype, GPU) == "auto"


@pytest.mark.usefixtures("slow")
def test_the_doctor_and_the_plan_say_it_too(stored: tuple[Path, torch.dtype], call: Callable[..., Any]) -> None:
    folder, _ = stored
    with pytest.warns(UserWarning, match="137 times"):
        done = call("doctor", folder, "--json", "--device", "cpu")
    assert json.loads(done.out)["dtype"] == "float32"
    for device, dtype in (("cpu", "float32"), ("h100", str(stored[1]).removeprefix("torch."))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            keys = [f"model={folder}", "dtype=auto", "sampling.max_new_tokens=64"]
            asked = [word for key in keys for word in ("--set", key)]
            done = call("plan", "refusal_cliff", *asked, "--device", device, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["model"]["dtype"] == dtype

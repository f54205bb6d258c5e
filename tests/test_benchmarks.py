"""The frame of the benchmarks: what they print and how variants are timed. No time is asserted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.common import Result, Timings, interleave


@pytest.fixture
def _a_benchmark(tmp_path, monkeypatch):
    body = """
from benchmarks.common import Result

def run(repeats):
    print("a library prints where it pleases")
    return Result({"tokens": 3}, [{"name": "ours [a]", "seconds": 0.5}], {"ours_vs_raw": 1.0}, ["a note"])
"""
    (tmp_path / "sample.py").write_text(body)
    (tmp_path / "common.py").write_text("x = 1\n")
    monkeypatch.setattr(command, "HERE", tmp_path)
    monkeypatch.setattr("benchmarks.__path__", [str(tmp_path)])


@pytest.mark.usefixtures("_a_benchmark")
def test_json_is_one_object_and_nothing_else(capsys):
    assert command.names() == ["sample"]
    command.main("sample", as_json=True, repeats=2)
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert list(found)[:5] == ["benchmark", "machine", "setting", "rows", "headline"]
    assert found["benchmark"] == "sample"
    assert "pleases" in out.err
    command.main("sample", as_json=False, repeats=2)
    assert "ours [a]" in capsys.readouterr().out


def test_an_unknown_benchmark_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main("nothing", as_json=False, repeats=1)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_variants_are_run_in_turns_and_the_warmup_is_left_out():
    calls = []
    timings = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1)
    assert len(calls) == 8
    assert all(set(calls[i : i + 2]) == {"a", "b"} for i in range(0, 8, 2))
    assert all(len(s) == 3 for s in timings.seconds.values())


def test_ratios_are_of_medians():
    timings = Timings({"ours": (1.0, 9.0, 3.0), "raw": (2.0, 2.0, 4.0)})
    assert timings.ratio("ours", "raw") == 1.5
    assert timings.spread("ours", "raw") == tuple(np.quantile([0.5, 4.5, 0.75], [0.25, 0.75]))
    row = timings.rows("raw", bytes={"ours": 7})[0]
    assert (row["name"], row["seconds"], row["vs_raw"], row["bytes"]) == ("ours", 3.0, 1.5, 7)
    assert Result({}, [row], {}).to_dict("x")["rows"] == [row]

"""``verdictscope collect`` on a disk that refuses: exit code 2, one line, and what was saved before is whole."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.study.whole import datasets, some_prompts


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel lets no file grow beyond ``size`` bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_collect_on_a_full_disk_and_then_on_one_with_room(tmp_path: Path, call: Callable) -> None:
    some_prompts(file := tmp_path / "prompts.csv", 1)
    sets = ("--set", f"prompts.file={file}", "--set", "sampling.max_new_tokens=48")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call("collect", "refusal_cliff", *sets, "--out", whole).code == 0
    assert call("generate", "refusal_cliff", *sets, "--out", cut).code == 0
    saved = {path.name: path.read_bytes() for path in cut.glob("*.parquet")}
    size = (whole / "activations.h5").stat().st_size
    with largest_file(size // 2):
        done = call("collect", "refusal_cliff", *sets, "--out", cut)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert "HDF5-DIAG" not in done.err
    (told,) = [line for line in done.err.splitlines() if line.startswith("verdictscope: ")]
    assert "cannot write" in told
    assert {path.name: path.read_bytes() for path in cut.glob("*.parquet")} == saved
    assert call("collect", "refusal_cliff", *sets, "--out", cut).code == 0
    assert datasets(cut / "activations.h5") == datasets(whole / "activations.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where nobody may")
def test_a_read_only_folder(tmp_path: Path, call: Callable) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    done = call("collect", "refusal_cliff", "--out", folder / "run")
    assert done.code == 2
    assert "permission denied" in done.err
    assert "Traceback" not in done.err

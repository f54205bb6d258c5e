"""A path that cannot be written is one line and exit code 2, before anything is computed."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tools.organisms.train import train
from verdictscope.errors import InputError, disk_error

COMMAND = Path(sys.executable).parent / "verdictscope"


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EROFS])
def test_a_path_of_the_wrong_kind_is_an_error_that_names_it(number: int) -> None:
    told = disk_error(OSError(number, "x", "/some/path"))
    assert isinstance(told, InputError)
    assert "/some/path" in str(told)


@pytest.mark.parametrize("under", ["", "deeper"])
def test_training_refuses_a_file_before_it_begins(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="give another path"):
        train("cliff", tmp_path / "file" / under)


@pytest.mark.parametrize("arguments", [("run", "refusal_cliff"), ("organisms", "train", "cliff")])
def test_a_file_where_a_folder_is_wanted_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    command = [COMMAND, *arguments, "--out", tmp_path / "file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "file").read_text() == "x"

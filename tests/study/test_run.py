"""A run folder: whose it is, what of it is done, and that nothing half-written is left."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from verdictscope import provenance
from verdictscope.errors import InputError, disk_error
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import Study, read_study
from verdictscope.study.lock import LOCK, locked

TABLE = pd.DataFrame({"a": [1, 2]})


@pytest.fixture
def study() -> Study:
    return read_study("refusal_cliff")


def finish(run: RunFolder, stage: str, table: str = "rollouts") -> None:
    with run.claimed(), run.stage(stage) as todo:
        assert todo
        run.write(table, TABLE)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_folder_with_another_run_is_refused(tmp_path: Path, study: Study) -> None:
    finish(RunFolder(study, tmp_path / "run"), "generate")
    other = RunFolder(study.model_copy(update={"seed": 1}), tmp_path / "run")
    with pytest.raises(InputError, match="seed is 0 there and 1 here"), other.claimed():
        pass
    same = RunFolder(study, tmp_path / "run")
    with same.claimed(), same.stage("generate") as todo:
        assert not todo


def test_work_of_an_unfinished_stage_is_not_given_to_another_study(tmp_path: Path, study: Study) -> None:
    with RunFolder(study, tmp_path / "run").claimed():
        (tmp_path / "run" / "activations.h5").touch()
    other = RunFolder(study.model_copy(update={"seed": 1}), tmp_path / "run")
    with pytest.raises(InputError, match="holds another run"), other.claimed():
        pass
    assert (tmp_path / "run" / "activations.h5").exists()


def test_a_refused_start_does_not_claim_the_folder(tmp_path: Path, study: Study) -> None:
    with RunFolder(study, tmp_path / "run").claimed():
        pass
    with RunFolder(study.model_copy(update={"seed": 1}), tmp_path / "run").claimed():
        pass
    assert tomllib.loads((tmp_path / "run" / "study.toml").read_text())["seed"] == 1


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, study: Study) -> None:
    (tmp_path / "thesis.tex").write_text("my only copy")
    with pytest.raises(InputError, match="no run folder"), RunFolder(study, tmp_path).claimed():
        pass
    assert names(tmp_path) == {"thesis.tex"}


def test_a_start_killed_while_it_claimed_the_folder_can_be_repeated(tmp_path: Path, study: Study) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / LOCK).write_text("1\n")
    (out / f".study.toml.4711{provenance.PART}").write_text("format = ")
    with RunFolder(study, out).claimed():
        assert names(out) == {LOCK, "study.toml"}
    assert names(out) == {"study.toml"}


def test_reading_a_run_touches_nothing(tmp_path: Path, study: Study) -> None:
    finish(RunFolder(study, tmp_path / "run"), "generate")
    before = names(tmp_path / "run")
    with locked(tmp_path / "run"):  # also while another process writes
        assert open_run(tmp_path / "run").table("rollouts").equals(TABLE)
    assert names(tmp_path / "run") == before


def test_a_stage_that_fails_is_not_done(tmp_path: Path, study: Study) -> None:
    run = RunFolder(study, tmp_path / "run")
    with pytest.raises(RuntimeError), run.claimed(), run.stage("probe"):
        raise RuntimeError
    with run.claimed(), run.stage("probe") as todo:
        assert todo


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path, study: Study) -> None:
    out = tmp_path / "run"
    finish(RunFolder(study, out), "generate")
    (out / "figures").mkdir()
    for name in (f".heads.parquet.99{provenance.PART}", f"figures/.trace.png{provenance.PART}"):
        (out / name).write_bytes(b"half")
    with RunFolder(study, out).claimed():
        assert not list(out.glob("**/.*.part"))


def test_a_missing_file_sends_its_stage_and_all_later_ones_back(tmp_path: Path, study: Study) -> None:
    run = RunFolder(study, tmp_path / "run")
    stages = ("generate", "probe", "heads")
    for stage in stages:
        finish(run, stage, stage)
    (tmp_path / "run" / "probe.parquet").unlink()
    with run.claimed():
        run.forget_from(stages)
        assert set(run.state()["seconds"]) == set(run.state()["files"]) == {"generate"}


@pytest.mark.parametrize("name", ["provenance.json", "probe.json", "probe.parquet"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, study: Study, name: str) -> None:
    run = RunFolder(study, tmp_path / "run")
    finish(run, "probe", "probe")
    (tmp_path / "run" / name).write_bytes(b"PAR1{half\xff")
    read = {"provenance.json": run.state, "probe.json": lambda: run.read_json("probe")}
    with pytest.raises(InputError, match=rf"{name} cannot be read .*delete it and give the run's command") as caught:
        read.get(name, lambda: run.table("probe"))()
    assert "\n" not in str(caught.value)


def test_a_newer_run_is_not_touched(tmp_path: Path, study: Study) -> None:
    run = RunFolder(study, tmp_path / "run")
    finish(run, "generate")
    state = json.loads((run.out / "provenance.json").read_text())
    (run.out / "provenance.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(InputError, match="newer verdictscope"):
        run.state()
    text = (run.out / "study.toml").read_text().replace("format = 2", 'format = 99\nunheard = "of"')
    (run.out / "study.toml").write_text(text)
    for opened in (lambda: open_run(run.out), lambda: run.claimed().__enter__()):
        with pytest.raises(InputError, match=r"newer verdictscope \(format 99"):
            opened()


def test_a_model_that_changed_between_two_starts_is_refused(tmp_path: Path, study: Study) -> None:
    run = RunFolder(study, tmp_path / "run")
    found = dict.fromkeys(("architecture", "config", "weights", "tokenizer", "template", "dtype"), "x") | {"name": "m"}
    with run.claimed():
        run._same_model("base", found)
        run._same_model("base", found | {"weights": "repaired before any stage was done"})
        run._same_model("base", found)
        with run.stage("generate"):
            pass
        with pytest.raises(InputError, match="the weights of model 'm' changed"):
            run._same_model("base", found | {"weights": "y"})


# -- two processes
# ------------------------------------------------------------------------------------------------------------------


def _hold(folder: str, ready: multiprocessing.Queue) -> None:
    with locked(Path(folder)):
        ready.put(os.getpid())
        signal.pause()


def test_a_second_process_is_told_who_writes_and_a_dead_one_keeps_nobody_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready))
    holder.start()
    pid = ready.get(timeout=60)
    with pytest.raises(InputError, match=rf"is being written by process {pid}: wait for it"), locked(tmp_path):
        pass
    holder.kill()
    holder.join(60)
    assert (tmp_path / LOCK).exists()  # a stale one
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / LOCK).exists()


# -- the disk
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only"),
        (OSError("Can't write data (file write failed: errno = 28, error message = 'No space')"), "the disk is full"),
        (OSError("[Errno 28] Error writing bytes to file"), "the disk is full"),
    ],
)
def test_a_refusal_of_the_disk_is_one_line(error: OSError, says: str) -> None:
    told = disk_error(error)
    assert told is not None
    assert says in str(told)
    assert "\n" not in str(told)


def test_other_errors_are_left_as_they_are() -> None:
    assert disk_error(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None
    assert disk_error(OSError("something 28 else")) is None


@pytest.mark.parametrize("wrong", [OSError(errno.ENOSPC, "full"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_stays_what_it_was(tmp_path: Path, wrong: BaseException) -> None:
    file = tmp_path / "a.json"
    provenance.write_text(file, "old")
    expected = InputError if isinstance(wrong, OSError) else type(wrong)

    def write() -> None:
        with provenance.whole(file) as part:
            part.write_text("ne")
            raise wrong

    with pytest.raises(expected):
        write()
    assert names(tmp_path) == {"a.json"}
    assert file.read_text() == "old"


def test_files_get_the_mode_the_user_asks_for(tmp_path: Path) -> None:
    code = "import os,sys; os.umask(0o022); from pathlib import Path; from verdictscope.provenance import write_text;"
    subprocess.run([sys.executable, "-c", f"{code} write_text(Path(sys.argv[1]), 'x')", tmp_path / "a"], check=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644

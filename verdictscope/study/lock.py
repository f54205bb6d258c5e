"""Whose run folder is it: one study, one writing process at a time, and nothing half-written left from a killed one."""

from __future__ import annotations

import fcntl
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from verdictscope.errors import InputError, disk_error
from verdictscope.provenance import PART, write_text
from verdictscope.study.load import Study, check_format, parse_study

LOCK = ".lock"
STUDY = "study.toml"


@contextmanager
def claimed(study: Study, out: Path) -> Iterator[None]:
    """Hold a run folder for writing; it is made, or is checked to hold this very study.

    Raises:
        InputError: another process writes there, the folder holds another study's run or something that is no run,
            or the disk refuses.
    """
    if out.exists() and (not out.is_dir() or not _is_ours(out)):
        raise InputError(f"{out} exists and is no run folder: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) or InputError(
            f"cannot make {out}: {error.strerror}; choose another --out"
        ) from error
    with locked(out):
        clear_leftovers(out)
        _claim(study, out)
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that writes in a folder.

    The kernel's lock goes with the process that held it, so one that was killed never keeps others out; the number in
    the file only tells people which process it is.

    Raises:
        InputError: another process holds it.
    """
    file = folder / LOCK
    handle = _locked_handle(file)
    try:
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise disk_error(error, file) or error from error
        yield
    finally:
        file.unlink(missing_ok=True)  # before the lock goes: whoever opens the name later opens a new file
        os.close(handle)


def _locked_handle(file: Path) -> int:
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise disk_error(error, file) or error from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            who = f"process {holder}" if holder else "another process"
            raise InputError(
                f"{file.parent} is being written by {who}: wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            # Some network file systems have no locks: then keeping two runs apart is the user's part.
            reason = f"{file.parent} cannot be locked ({error.strerror})"
            print(f"verdictscope: {reason}: see to it that one run at a time is started there", file=sys.stderr)
            return handle
        if os.path.exists(file) and os.path.samestat(os.fstat(handle), os.stat(file)):
            return handle
        os.close(handle)  # its holder ended and took the name away between our opening and locking it


def clear_leftovers(folder: Path) -> None:
    """Take away what a killed process had not finished writing. Call it with the folder locked."""
    for part in [*folder.glob(f".*{PART}"), *folder.glob(f"figures/.*{PART}")]:
        part.unlink(missing_ok=True)


def read_held(file: Path) -> Study:
    """The study a run folder holds.

    Raises:
        InputError: it cannot be read, or a newer version wrote it.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read ({error}): restore it, or choose another --out") from error
    check_format(data.get("format"), str(file.parent))
    return parse_study(data, str(file))


def _is_ours(out: Path) -> bool:
    """Whether a folder is a run's, or was about to become one when its process was killed."""
    held = {entry.name for entry in out.iterdir()}
    begun = {name for name in held if name == LOCK or (name.startswith(f".{STUDY}.") and name.endswith(PART))}
    return STUDY in held or held == begun


def _claim(study: Study, out: Path) -> None:
    file = out / STUDY
    if not file.exists():
        write_text(file, study.to_toml())
        return
    held = read_held(file)
    if held == study:
        return
    if {entry.name for entry in out.iterdir()} <= {STUDY, LOCK, "provenance.json"}:
        # Nothing was saved: an earlier start was refused for its input, and this is the repaired study.
        (out / "provenance.json").unlink(missing_ok=True)
        write_text(file, study.to_toml())
    else:
        raise InputError(f"{out} holds another run ({difference(held, study)}): choose another --out")


def difference(held: Study, asked: Study) -> str:
    """The first key in which two studies differ, in words."""
    old, new = _flat(held.to_dict()), _flat(asked.to_dict())
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"
    return "an unequal study"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat

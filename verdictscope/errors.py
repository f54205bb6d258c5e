"""The errors a user can cause and repair."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the largest allowed file size is reached",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
_PATH = {
    errno.EEXIST: "a file stands there, and a folder is wanted",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EISDIR: "a folder stands there, and a file is wanted",
}


class InputError(ValueError):
    """Something given to verdictscope is wrong.

    The message is one line that says what is wrong and what to do; the command line prints it and exits with 2.
    """


def disk_error(error: OSError, path: Path | str | None = None) -> InputError | None:
    """An operating system's refusal as the one line a user can act on; ``None`` for every other error."""
    number = error.errno
    if number not in _DISK | _PATH:
        found = re.search(r"errno\s*[=:]?\s*(\d+)", str(error), re.IGNORECASE)
        number = int(found.group(1)) if found else None
    if number in _PATH:
        return InputError(f"cannot write or read {path or error.filename}: {_PATH[number]}; give another path")
    if number not in _DISK:
        return None
    file = path or error.filename
    what = f"cannot write or read {file}: {_DISK[number]}" if file else _DISK[number]
    return InputError(f"{what}; what was saved before is intact. Repair that, then give the same command again")


def reason(error: BaseException) -> str:
    """What an exception says, on one line: its first line, or where it was raised if it says nothing.

    Where the text is a single word (a ``KeyError`` is the key), the kind of error stands in front.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" in {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
        return f"a {kind} without a message, raised{where}"
    text = lines[0].rstrip(".:")[:200]
    return text if " " in text else f"{kind} of {text}"

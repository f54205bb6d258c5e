"""Where a run's numbers come from. A leaf: it imports nothing of verdictscope's rooms."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from verdictscope.errors import disk_error

PACKAGES = ("verdictscope", "torch", "transformers", "transformer-lens", "scikit-learn", "numpy", "scipy", "h5py")
PART = ".part"
"""How a file ends that is not whole yet; a killed process may leave one, and the next start clears it away."""


def digest(data: bytes | str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of some bytes or text."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Installed versions of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and accelerator, without names that identify a machine."""
    import torch

    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def commit() -> str | None:
    """The git commit of the source tree this package is imported from, with ``+`` if it was changed; else ``None``."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        # Without a lock: a killed status would leave one behind, and the next commit would find it.
        head, changed = (
            subprocess.run(
                ["git", "--no-optional-locks", *words], cwd=root, check=True, capture_output=True, text=True, timeout=20
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git on this machine: provenance then has no commit
    return head + ("+" if changed else "")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; a number that is not finite becomes ``null``."""
    write_text(path, json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside a file: what is written there replaces the file when it is whole, or never does."""
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # on a read-only disk there is nothing to take away
            part.unlink(missing_ok=True)
        found = disk_error(error, path) if isinstance(error, OSError) else None
        if found is not None:
            raise found from error
        raise


def finite(value: Any) -> Any:
    """Plain data for JSON: NumPy's numbers become Python's, and numbers that are not finite ``None``."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not (-float("inf") < value < float("inf")):
        return None
    return value

"""Names of models and files that are shipped with the package."""

from __future__ import annotations

from pathlib import Path

from verdictscope.errors import InputError

PREFIX = "organism:"


def models_folder() -> Path:
    """The folder of the bundled models."""
    return Path(__file__).parent / "organisms" / "models"


def locate(name: str) -> str:
    """Turn ``organism:NAME`` or ``organism:NAME/FILE`` into a path; everything else is returned unchanged."""
    if not name.startswith(PREFIX):
        return name
    path = models_folder() / name.removeprefix(PREFIX)
    if not path.exists() and path.parent != models_folder() and path.parent.is_dir():
        files = ", ".join(sorted(p.name for p in path.parent.iterdir()))
        raise InputError(f"no bundled {name!r}: that model's folder has {files}")
    if not path.exists():
        known = ", ".join(f"{PREFIX}{p.name}" for p in sorted(models_folder().glob("*/")))
        raise InputError(f"no bundled {name!r}: there are {known or 'none in this installation'}")
    return str(path)

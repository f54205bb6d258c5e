"""The files that a study reads from outside its run folder, by digest: a run goes on only while they stay the same."""

from __future__ import annotations

from pathlib import Path

import xxhash

from verdictscope.errors import InputError
from verdictscope.sources import locate
from verdictscope.study.schema import Study
from verdictscope.study.tasks import task_of

_OF_A_MODEL = frozenset({".safetensors", ".bin", ".gguf", ".json", ".model", ".tiktoken", ".jinja", ".txt", ".py"})
_BLOCK = 1 << 24


def study_inputs(study: Study) -> dict[str, str]:
    """Digests of a study's model folders, prompt or item files and formats, by the name the study gives them.

    For a model of the hub it is the commit that lies in the local cache, and nothing where none does.

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[str, str] = {}
    named = [study.model, *([study.reference] if study.reference else []), *task_of(study).files(study)]
    for name in named:
        path = Path(locate(name))
        try:
            digest = _of(path) if path.exists() else None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): repair that, then start again") from error
        if digest is not None:
            found[name] = digest
    for model, revision in ((study.model, study.revision), (study.reference, study.reference_revision)):
        if model is not None and not Path(locate(model)).exists() and (commit := _cached_commit(model, revision)):
            found[model] = commit
    return found


def _of(path: Path) -> str:
    if path.is_file():
        return _file(path)
    files = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in _OF_A_MODEL)
    whole = xxhash.xxh3_128(repr([(f.name, _file(f)) for f in files]).encode())
    return str(whole.hexdigest())


def _file(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return str(state.hexdigest())


def _cached_commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def check_inputs(before: dict[str, str] | None, now: dict[str, str], folder: Path) -> None:
    """Refuse to go on with other files than a run began with.

    Args:
        before: their digests when the run began; ``None`` where an earlier version kept none.
        now: their digests now.
        folder: the run folder.

    Raises:
        InputError: a file changed, or nothing says whether one did.
    """
    if before is None:
        raise InputError(
            f"{folder} was begun by an earlier version, which kept no digests of what it read: choose another --out"
        )
    for name in before:
        if now.get(name) != before[name]:
            what = "is gone" if name not in now else "changed since this run began"
            raise InputError(
                f"{name} {what}, and {folder} holds results of the old one: bring that back, or choose another --out"
            )

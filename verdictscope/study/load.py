"""``study.toml``: what is asked of which model. Reading and checking the file, whatever its task."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from verdictscope.errors import InputError
from verdictscope.study.schema import FORMAT, Section, Study
from verdictscope.study.tasks import task_named

__all__ = ["FORMAT", "STUDIES", "Study", "check_format", "parse_study", "read_study"]

STUDIES = Path(__file__).resolve().parents[1] / "studies"
"""Checked study files shipped with the package."""


def read_study(path: str | Path, overrides: Iterable[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: a TOML file, or the name of a shipped study such as ``refusal_cliff``.
        overrides: ``KEY=VALUE`` texts, keys dotted, values as in TOML (a bare word is text).

    Raises:
        InputError: no such file, no TOML, an unknown key (with the nearest known one), a wrong value.
    """
    file = Path(path)
    shipped = STUDIES / f"{path}.toml"
    if not file.is_file() and shipped.is_file():
        file = shipped
    if file.is_dir():
        raise InputError(f"{path} is a folder: give the study file (TOML) in it")
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in STUDIES.glob("*.toml")))
        raise InputError(f"no study file {path}: give a TOML file, or one of the shipped studies: {known}")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no valid TOML: {error}") from error
    for override in overrides:
        _override(data, override)
    return parse_study(data, file.name)


def parse_study(data: dict[str, Any], where: str) -> Study:
    """Check what a study file holds.

    Args:
        data: the parsed TOML.
        where: what to call the file in a message.

    Raises:
        InputError: an unknown key (with the nearest known one), a missing key, a wrong value.
    """
    check_format(data.get("format"), where)
    try:
        task = task_named(str(data.get("task", "refusal")))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    own = {key: value for key, value in data.items() if key in task.data.model_fields}
    common = {key: value for key, value in data.items() if key not in own}
    if idle := [key for key in common if key in task.data.unused]:
        raise InputError(f"{where}: a {task.name} study has no section {idle[0]!r}: remove it")
    schemas: list[type[Section]] = [task.data, Study]
    try:
        checked = task.data.model_validate(own)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error, schemas)}") from error
    if "data" in common:
        raise InputError(f"{where}: unknown key 'data': its sections stand at the top of the file")
    try:
        return Study.model_validate(common | {"data": checked})
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error, schemas)}") from error


def check_format(made: Any, where: str) -> None:
    """Refuse what a version with another format wrote.

    Raises:
        InputError: with what to do.
    """
    if made is None or made == FORMAT or not isinstance(made, int):
        return  # a value that is no number is the schema's to refuse
    if made > FORMAT:
        raise InputError(f"{where}: made by a newer verdictscope (format {made}, this one reads {FORMAT}): upgrade")
    raise InputError(
        f"{where}: format {made} is of an earlier verdictscope, this one reads {FORMAT}: "
        f"write format = {FORMAT} and task instead of kind, and start another run folder"
    )


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set takes KEY=VALUE, for example --set seed=1; got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word or a path: text
    *parents, last = key.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise InputError(f"--set {text}: {parent!r} is no section of the study")
    data[last] = parsed


def _explain(error: ValidationError, schemas: Sequence[type[Section]]) -> str:
    """The first complaint as one line, with the nearest known key for an unknown one."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [key for schema in schemas for key in _keys_at(schema, first["loc"][:-1]) if key != "data"]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"unknown key {place!r}: {hint}"
    if first["type"] == "missing":
        return f"key {place!r} is missing"
    return f"{place or 'study'}: {first['msg'].removeprefix('Value error, ')}"


def _keys_at(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(str(part))
        annotation = field and field.annotation
        model = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)

"""Edits as plain data, for study files and provenance: written down, read back, the same edit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from verdictscope.errors import InputError
from verdictscope.interventions.edits.directions import DirectionEdit, EraseEdit
from verdictscope.interventions.edits.heads import HeadEdit, KVEdit
from verdictscope.interventions.edits.protocol import Edit
from verdictscope.interventions.edits.references import Means, Rows, reference_from_dict
from verdictscope.interventions.edits.sublayers import SublayerEdit

KINDS: dict[str, type] = {
    "heads": HeadEdit,
    "kv": KVEdit,
    "sublayer": SublayerEdit,
    "direction": DirectionEdit,
    "erase": EraseEdit,
}
"""What can be written down, by its name in files. A frozen dataclass of plain fields can be entered here."""


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """An edit as JSON-ready data (also TOML's: no null, no infinity); numbers keep every bit."""
    kind = next((name for name, known in KINDS.items() if type(edit) is known), None)
    if kind is None:
        raise InputError(f"a {type(edit).__name__} cannot be written down: enter it in KINDS of interventions.edits")
    found = {f.name: _plain(f.name, getattr(edit, f.name)) for f in fields(edit) if f.init}  # type: ignore[arg-type]
    return {"kind": kind, **{name: value for name, value in found.items() if value is not None}}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Means | Rows):
        return value.to_dict()
    if name == "positions" and not isinstance(value, str):
        return {rollout: list(where) for rollout, where in value}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_plain("", part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def edit_from_dict(data: Mapping[str, Any]) -> Edit:
    """The edit that :func:`edit_to_dict` wrote down."""
    kind = KINDS.get(data.get("kind", ""))
    if kind is None:
        raise InputError(f"an edit of kind {data.get('kind')!r} is unknown; known are {', '.join(KINDS)}")
    given = {name: value for name, value in data.items() if name != "kind"}
    known = {f.name: f for f in fields(kind) if f.init}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"an edit of kind {data['kind']!r} has no {unknown[0]!r}; it has {', '.join(known)}")
    made = {name: _fit(name, value, str(known[name].type)) for name, value in given.items()}
    try:
        return kind(**made)
    except TypeError as error:  # a missing key
        raise InputError(f"an edit of kind {data['kind']!r}: {error}") from error


def _fit(name: str, value: Any, annotation: str) -> Any:
    if name == "reference" and isinstance(value, Mapping):
        return reference_from_dict(value)
    if name in ("direction", "left", "right", "mean"):
        return np.array(value, dtype=np.float64)
    if name == "positions" and isinstance(value, Mapping):
        return tuple((rollout, tuple(where)) for rollout, where in value.items())
    if annotation.startswith("float") and isinstance(value, int):
        return float(value)
    if isinstance(value, list):
        return tuple(tuple(part) if isinstance(part, list) else part for part in value)
    return value

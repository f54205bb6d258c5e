"""Where the numbers come from, and the command that makes them again."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from verdictscope.errors import InputError
from verdictscope.report.tables import Table
from verdictscope.report.words import variant_name, visible
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import STUDIES, Study, read_study

_MODEL = (
    ("name", "name"),
    ("revision", "revision"),
    ("architecture", "architecture"),
    ("layers", "layers"),
    ("heads", "heads"),
    ("kv_heads", "key-value heads"),
    ("d_model", "d_model"),
    ("d_head", "d_head"),
    ("dtype", "dtype"),
    ("attention", "attention kernel"),
    ("device", "device"),
    ("config", "configuration hash"),
    ("tokenizer", "tokenizer hash"),
    ("template", "chat template hash"),
)


def study_facts(study: Study) -> list[tuple[str, str]]:
    """Models and splits of a study as terms and their values."""
    named = [("Model", study.model, study.revision), ("Reference model", study.reference, study.reference_revision)]
    rows = [(term, f"{name} at {revision}" if revision else name or "none") for term, name, revision in named]
    shares = ", ".join(f"{share:g}" for share in study.split.shares)
    return [*rows, ("Splits", f"train, validation, test: {shares} of the groups; the test split is reported")]


def model_table(run: RunFolder) -> Table | None:
    """Identity of each model that was loaded."""
    models = run.find_json("provenance").get("models") or {}
    if not models:
        return None
    rows = tuple((words, *(_plain(m.get(key)) for m in models.values())) for key, words in _MODEL)
    more = sorted({key for m in models.values() for key in m} - {key for key, _ in _MODEL})
    rows += tuple((key, *(_plain(m.get(key)) for m in models.values())) for key in more)
    return Table("The models as they were loaded.", ("", *(variant_name(variant) for variant in models)), rows)


def software_table(run: RunFolder) -> Table | None:
    """Commit, versions and machine."""
    state = run.find_json("provenance")
    if not state:
        return None
    commit = state.get("commit") or "none: not run from a clone"
    rows = [("commit", commit + (" (changed files)" if commit.endswith("+") else "")), ("seed", str(state.get("seed")))]
    rows += [(name, str(version)) for name, version in (state.get("versions") or {}).items()]
    rows += [(name.replace("_", " "), _plain(value)) for name, value in (state.get("machine") or {}).items()]
    rows += [
        (f"batch plan of {name}", f"{len(plan['batches']):,} batches")
        for name, plan in (state.get("plans") or {}).items()
        if isinstance(plan, dict) and "batches" in plan
    ]
    return Table("Software and machine.", ("", "as run"), tuple(rows))


def seconds_table(run: RunFolder) -> Table | None:
    """Wall-clock seconds of each stage."""
    seconds = run.find_json("provenance").get("seconds") or {}
    if not seconds:
        return None
    rows = [(name, f"{value:,.1f}") for name, value in seconds.items()]
    rows.append(("all", f"{sum(seconds.values()):,.1f}"))
    return Table("Seconds per stage.", ("Stage", "seconds"), tuple(rows))


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def command(study: Study) -> str | None:
    """The command that asks the same of a shipped study, quoted for a POSIX shell.

    Reading the shipped study with these overrides was tried and gives this study, to the last key.

    Returns:
        ``None`` where no shipped study leads there: then ``study.toml`` itself is the way.
    """
    for file in sorted(STUDIES.glob("*.toml")):
        shipped = read_study(file)
        if shipped.name != study.name:
            continue
        sets = [f"{key}={_toml(new)}" for key, old, new in differences(shipped, study)]
        line = shlex.join(["verdictscope", "run", file.stem, *(w for text in sets for w in ("--set", text))])
        with suppress(InputError):
            if read_study(file, sets) == study and visible(line) == line:
                return line
    return None


def differences(first: Study, second: Study) -> list[tuple[str, Any, Any]]:
    """Keys of the study, dotted, in which two studies differ, with both values."""
    old, new = leaves(first), leaves(second)
    return [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]


def leaves(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every value of a study by its dotted key, as ``study.toml`` and ``--set`` have it."""
    found: dict[str, Any] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            found |= leaves(
                value, prefix if key == "data" and not prefix else f"{prefix}{key}."
            )  # a task's own sections
        else:
            found[f"{prefix}{key}"] = value
    return found


def _toml(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers and lists are TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def plain_value(value: Any) -> str:
    """A value of a study in words."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else value if isinstance(value, str) else _toml(value)

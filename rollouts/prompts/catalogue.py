"""Public prompt sets as data: where they are, what their columns are called, which prompts are harmful.

Column names are those of the published files (the file in the set's own repository, and the hub's copy where it
differs). Sources: AdvBench (Zou et al. 2023, arXiv 2307.15043), HarmBench (Mazeika et al. 2024, arXiv 2402.04249),
JailbreakBench (Chao et al. 2024, arXiv 2404.01318), StrongREJECT (Souly et al. 2024, arXiv 2402.10260), XSTest
(Röttger et al. 2024, arXiv 2308.01263), OR-Bench (Cui et al. 2024, arXiv 2405.20947), WildJailbreak (Jiang et al.
2024, arXiv 2406.18510), UltraChat (Ding et al. 2023, arXiv 2305.14233), Alpaca (Taori et al. 2023), the splits of
refusal_direction (Arditi et al. 2024, arXiv 2406.11717).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Harm:
    """Harmful or not, by a column: by its value, or by how the value begins."""

    column: str
    harmful: tuple[str, ...]
    harmless: tuple[str, ...] = ()
    by_start: bool = False


@dataclass(frozen=True)
class Schema:
    """The columns of one form of a set."""

    columns: tuple[str, ...]
    user: tuple[str, ...]
    harm: bool | Harm | None
    id: str | None = None
    group: str | None = None
    joint: str = "\n\n"
    first_of: bool = False


@dataclass(frozen=True)
class Part:
    """A configuration and split of a set on the hub; ``harm`` where the part, and no column, states it."""

    config: str | None
    split: str
    harm: bool | None = None
    schema: int = 0


@dataclass(frozen=True)
class PromptSet:
    """One public set."""

    name: str
    title: str
    hub: str | None
    schemas: tuple[Schema, ...]
    parts: Mapping[str, Part]
    licence: str
    gated: bool = False
    drop: tuple[str, ...] = ()


def _read() -> Mapping[str, PromptSet]:
    found = {}
    entries = tomllib.loads(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8"))
    for name, entry in entries.items():
        schemas = []
        for form in entry["schemas"]:
            harm = form.get("harm")
            known = Harm(**_tuples(harm)) if isinstance(harm, dict) else harm
            schemas.append(Schema(**{**_tuples(form), "harm": known}))
        parts = {part: Part(**{"config": None, **about}) for part, about in entry.get("parts", {}).items()}
        found[name] = PromptSet(
            **{"hub": None, **_tuples(entry), "name": name, "schemas": tuple(schemas), "parts": parts}
        )
    return found


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


SETS: Mapping[str, PromptSet] = _read()
"""Every known set by name, from ``sets.toml``."""

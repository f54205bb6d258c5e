"""Public prompt sets by name or by file: one checked table whatever their columns are called."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rollouts.prompts.catalogue import SETS, Harm, Part, PromptSet, Schema
from verdictscope.rollouts.prompts.hub import hub_rows
from verdictscope.rollouts.prompts.table import COLUMNS, cells, checked
from verdictscope.rows import ENDINGS, ending, read_frame
from verdictscope.values import identity, text, truth


def known_sets() -> pd.DataFrame:
    """The public sets read by name: name, title, hub, parts, licence, gated."""
    rows = [(s.name, s.title, s.hub, ", ".join(s.parts), s.licence, s.gated) for s in SETS.values()]
    return pd.DataFrame(rows, columns=["name", "title", "hub", "parts", "licence", "gated"])


def load_prompts(
    source: str | Path, part: str | None = None, *, name: str | None = None, harm: bool | None = None
) -> pd.DataFrame:
    """Read prompts from a public set or a local file.

    A file of the package's own form (columns id and user) is read as :func:`read_prompts` reads it. A file in the form
    of a public set is known by its columns; where several sets share them, ``name`` decides.

    Args:
        source: a file, ``NAME`` of a public set (:func:`known_sets`; needs the hub and the ``[hub]`` extra) or
            ``NAME:PART``.
        part: the set's part, for example ``benign``; its first one by default. For a file whose columns do not tell
            harm, the part it holds; read off the file's name where that contains it.
        name: the public set a file comes from.
        harm: whether all prompts of a file are harmful, where neither columns nor part tell; what they tell must
            agree with it.

    Returns:
        One row per prompt: id, group, system, user, harm, set, part, then the other columns as tags. Ids are
        ``SET-PART-ID``.

    Raises:
        InputError: no such file, set or part; columns of no known set; harm is unknown, or stated otherwise than
            ``harm`` says; a row without text.

    Example:
        >>> from verdictscope.sources import locate
        >>> prompts = load_prompts(locate("organism:cliff/prompts.csv"))
        >>> int(prompts["harm"].sum()), len(prompts)
        (512, 1024)
    """
    path = Path(source)
    if ending(path) in ENDINGS or path.exists():
        return _from_file(path, part, name, harm)
    head, _, tail = str(source).partition(":")
    if head not in SETS:
        near = difflib.get_close_matches(head, SETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"sets are {', '.join(SETS)}"
        raise InputError(f"{source} is neither a prompt file nor a known prompt set: {hint}")
    if name not in (None, head):
        raise InputError(f"{source} is the set {head}, not {name}: leave name= out")
    if part and tail and part != tail:
        raise InputError(f"{source} names the part {tail!r} and part= {part!r}: give one")
    return _with_harm(_from_hub(SETS[head], part or tail or None), harm, source)


def join_prompts(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several prompt tables as one, ids kept unique."""
    if not len(tables):
        raise InputError("there are no prompt tables to join")
    joined = pd.concat(tables, ignore_index=True)
    again = joined["id"][joined["id"].duplicated()]
    if len(again):
        raise InputError(f"prompt id {again.iloc[0]!r} occurs in two of the tables: rename one of them")
    joined["system"] = joined["system"].astype(object).where(joined["system"].notna(), None)
    return joined


def _from_file(path: Path, part: str | None, name: str | None, harm: bool | None) -> pd.DataFrame:
    raw = read_frame(path)
    if name is None and {"id", "user"} <= set(raw.columns):
        if part is not None:
            raise InputError(f"{path} has prompts of its own (id and user), no parts: leave part= out, or give name=")
        return _with_harm(checked(raw, path), harm, path)
    known, schema = _recognise(raw, path, name)
    named = known.parts[part] if part is not None and part in known.parts else _part_of(path, known)
    if part is not None and part not in known.parts and known.parts:
        raise InputError(f"{known.name} has no part {part!r}: there are {', '.join(known.parts)}")
    if part is None and named is not None:
        part = next(p for p, one in known.parts.items() if one is named)
    by_part = None if named is None else named.harm
    return _with_harm(
        _table(raw, known, schema, part or path.stem, harm if by_part is None else by_part, path), harm, path
    )


def _with_harm(table: pd.DataFrame, harm: bool | None, source: str | Path) -> pd.DataFrame:
    """The table with what the caller says of harm, which the file must not contradict."""
    said = truth(harm, "harm=")
    if said is None:
        return table
    if table["harm"].isna().all():
        return table.assign(harm=pd.array([said] * len(table), dtype="boolean"))
    other = table["id"][table["harm"] != said]
    if len(other):
        raise InputError(
            f"{source}: harm={said}, and its own {len(other)} of {len(table)} prompts say otherwise, "
            f"{other.iloc[0]!r} first: leave harm= out, or drop its own harm labels"
        )
    return table


def _recognise(raw: pd.DataFrame, path: Path, name: str | None) -> tuple[PromptSet, Schema]:
    """The set and form whose columns the file has; of several, the one with most of them."""
    if name is not None and name not in SETS:
        raise InputError(f"no prompt set {name!r}: sets are {', '.join(SETS)}")
    candidates = [SETS[name]] if name else list(SETS.values())
    fits = [(s, form) for s in candidates for form in s.schemas if set(form.columns) <= set(raw.columns)]
    if not fits:
        have = ", ".join(map(repr, raw.columns))
        wanted = f"the columns of {name}" if name else "id and user, nor those of a known set"
        raise InputError(f"{path} has the columns {have}: not {wanted}; rename its columns to id, user and harm")
    most = max(len(form.columns) for _, form in fits)
    best = [(s, form) for s, form in fits if len(form.columns) == most]
    if len({s.name for s, _ in best}) > 1:
        names = " or ".join(dict.fromkeys(s.name for s, _ in best))
        raise InputError(f"{path} could be {names}: say which with name=")
    return best[0]


def _part_of(path: Path, known: PromptSet) -> Part | None:
    """The part a file's name speaks of: ``harmless_train.json``, ``benign-behaviors.csv``."""
    stem = path.stem.lower().replace("-", "_")
    return next((known.parts[p] for p in sorted(known.parts, key=len, reverse=True) if p in stem), None)


def _from_hub(known: PromptSet, part: str | None) -> pd.DataFrame:
    if known.hub is None:
        raise InputError(f"{known.name} is not on the hub: give its file")
    part = part or next(iter(known.parts))
    if part not in known.parts:
        raise InputError(f"{known.name} has no part {part!r}: there are {', '.join(known.parts)}")
    one = known.parts[part]
    # a tab-separated file whose empty cells would otherwise be gaps
    options: dict[str, Any] = {"delimiter": "\t", "keep_default_na": False} if known.name == "wildjailbreak" else {}
    rows = hub_rows(known.hub, one.config, one.split, gated=known.gated, **options)
    raw = pd.DataFrame([row.value for row in rows], dtype=object).set_axis([row.place for row in rows], axis=0)
    schema = next((form for form in known.schemas if set(form.columns) <= set(raw.columns)), None)
    if schema is None:
        raise InputError(f"{known.hub} has the columns {', '.join(raw.columns)}: none of the forms known for it")
    return _table(raw, known, schema, part, one.harm, Path(known.hub))


def _table(
    raw: pd.DataFrame, known: PromptSet, schema: Schema, part: str, harm: bool | None, path: Path
) -> pd.DataFrame:
    prefix = f"{known.name}-{part}-" if part != known.name else f"{known.name}-"
    own = cells(raw, schema.id, path, _known) if schema.id else [str(k) for k in range(len(raw))]
    columns = [[t or "" for t in cells(raw, c, path, text)] for c in schema.user if c in raw.columns]
    keep = slice(0, 1) if schema.first_of else slice(None)
    user = [schema.joint.join([p for p in pieces if p.strip()][keep]) for pieces in zip(*columns, strict=True)]
    table = pd.DataFrame({"id": [f"{prefix}{i}" for i in own], "user": user}, index=raw.index)
    if schema.group:
        table["group"] = [f"{known.name}-{v}" for v in cells(raw, schema.group, path, _known)]
    table["harm"] = _harm(raw, schema, harm, known, path)
    table["set"], table["part"] = known.name, part
    for name in raw.columns:
        if name not in (*COLUMNS, "set", "part", *schema.user, *known.drop, "") and not name.startswith("Unnamed"):
            table[name] = list(raw[name])
    return checked(table, path)


def _known(value: Any, where: str) -> str:
    """An id or group that must be there."""
    if (found := identity(value, where)) is None:
        raise InputError(f"{where} is empty: fill it or drop the row")
    return found


def _harm(raw: pd.DataFrame, schema: Schema, given: bool | None, known: PromptSet, path: Path) -> list[bool]:
    rule = schema.harm
    if isinstance(rule, Harm):
        words = cells(raw, rule.column, path, text)
        return [_told((word or "").strip(), rule, f"{path} {at}") for word, at in zip(words, raw.index, strict=True)]
    value = given if rule is None else rule
    if value is None:
        parts = ", ".join(p for p, one in known.parts.items() if one.harm is not None)
        raise InputError(f"{path}: nothing states whether these prompts are harmful: give harm= or part= ({parts})")
    return [value] * len(raw)


def _told(value: str, rule: Harm, where: str) -> bool:
    if rule.by_start:
        return value.startswith(rule.harmful)
    if value in rule.harmful or value in rule.harmless:
        return value in rule.harmful
    known = ", ".join(rule.harmful + rule.harmless)
    raise InputError(f"{where}: column {rule.column!r} holds {value!r}: known are {known}")

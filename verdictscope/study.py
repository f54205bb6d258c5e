"""What is asked of which model: the schema of ``study.toml`` and its reading and writing."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from verdictscope.errors import InputError

FORMAT = 1
STUDIES = Path(__file__).parent / "studies"
"""Checked study files shipped with the package."""

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompts(_Section):
    """Which requests are shown."""

    file: str | Annotated[list[str], Field(min_length=1)]
    samples: int = Field(1, ge=1)
    limit: int | None = Field(None, ge=1)
    target: dict[str, Scalar] = {"harm": True}
    control: dict[str, Scalar] = {"harm": False}

    @property
    def files(self) -> list[str]:
        """The sources, one or several."""
        return [self.file] if isinstance(self.file, str) else self.file

    @property
    def name(self) -> str:
        """The sources in words."""
        return ", ".join(self.files)


class SamplingSection(_Section):
    """How tokens are drawn."""

    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(1024, ge=1)


class EngineSection(_Section):
    """What writes the unedited rollouts: this process, or a server with token ids in and out."""

    url: str | None = None
    twin_url: str | None = None
    model: str | None = None
    twin_model: str | None = None
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(600.0, gt=0)
    retries: int = Field(5, ge=0)


class Labels(_Section):
    """First words of refusing and of complying answers."""

    refuse: list[str] = Field(min_length=1)
    comply: list[str] = Field(min_length=1)


class Split(_Section):
    """Shares of the groups: the first two parts choose, the last one reports."""

    shares: tuple[Share, Share, Share] = (0.35, 0.15, 0.5)

    @field_validator("shares")
    @classmethod
    def _sum_to_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1, not {sum(shares):g}")
        return shares


class Collect(_Section):
    """Positions whose hidden states are stored."""

    resid_post: str = "thinking:8,think_end"
    z: str = "before_answer"


class Probe(_Section):
    """How the probe is fitted and doubted."""

    C: list[Annotated[float, Field(gt=0)]] = Field([0.01, 0.1, 1.0], min_length=1)
    permutations: int = Field(200, ge=50)


class Transfer(_Section):
    """Where the probe is read without having been fitted there."""

    by: list[str] = []
    relabellings: int = Field(200, ge=200)


class Trace(_Section):
    """How traces are drawn and cliffs measured."""

    plateau: int = Field(8, ge=1)
    window: int = Field(40, ge=1)


class Erase(_Section):
    """Which concept is taken out of the states, to see whether refusing is still read."""

    concept: str = "harm"
    draws: int = Field(20, ge=19)


class Heads(_Section):
    """How heads are ranked."""

    k: int = Field(3, ge=1)
    rollouts: int = Field(128, ge=1)
    delta: float | None = Field(None, gt=0)


class Ablation(_Section):
    """How the found heads are tested."""

    random_sets: int = Field(99, ge=99)
    generated_sets: int = Field(5, ge=1)
    curve_sets: int = Field(9, ge=1)

    @model_validator(mode="after")
    def _enough_sets(self) -> Ablation:
        if self.generated_sets > self.random_sets:
            raise ValueError("generated_sets cannot exceed random_sets")
        return self


class Tokens(_Section):
    """Which rollouts are read token by token."""

    per_cell: int = Field(3, ge=1)


class Study(_Section):
    """One question asked of one model. The file is the record: every default is written out beside the results."""

    format: Literal[1] = FORMAT
    name: str
    question: str
    model: str
    revision: str | None = None
    twin: str | None = None
    twin_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    seed: int = Field(0, ge=0)
    batch_tokens: int = Field(16384, ge=256)
    prompts: Prompts
    sampling: SamplingSection = SamplingSection()
    engine: EngineSection = EngineSection()
    labels: Labels
    split: Split = Split()
    collect: Collect = Collect()
    probe: Probe = Probe()
    transfer: Transfer = Transfer()
    trace: Trace = Trace()
    erase: Erase = Erase()
    heads: Heads = Heads()
    ablation: Ablation = Ablation()
    tokens: Tokens = Tokens()

    def to_toml(self) -> str:
        """The study with every default written out; reading it back gives an equal study."""
        return _to_toml(self.model_dump(exclude_none=True))


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
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error)}") from error


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


def _explain(error: ValidationError) -> str:
    """The first complaint as one line, with the nearest known key for an unknown one."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"unknown key {place!r}: {hint}"
    if first["type"] == "missing":
        return f"key {place!r} is missing"
    return f"{place or 'study'}: {first['msg'].removeprefix('Value error, ')}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = Study
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        model = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)


def _to_toml(data: dict[str, Any], prefix: str = "") -> str:
    lines = [f"{_key(key)} = {_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for key, value in data.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{key}]", _to_toml(value, f"{prefix}{key}.").rstrip("\n")]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(key: str) -> str:
    """A column of the prompts may have any name; TOML wants all but the plainest in quotes."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    return '"' + "".join(_escape(c) for c in str(value)) + '"'


def _escape(char: str) -> str:
    # TOML basic strings escape the quote, the backslash and every control character.
    if char in '"\\':
        return "\\" + char
    return f"\\u{ord(char):04x}" if ord(char) < 32 or ord(char) == 127 else char

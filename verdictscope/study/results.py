"""The results table of a run: one row per reported number, and the only record of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verdictscope.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.stats import Effect

ALL = "all"
"""The condition of a number that belongs to none in particular."""


@dataclass(frozen=True)
class Result:
    """One number with what it needs to be judged; ``(stage, variant, condition, name)`` names it.

    Attributes:
        stage: a stage of the study (``generate``, ``probe``, ``transfer``, ``trace``, ``erase``, ``heads``, ``ablate``,
            ``mitigate``), ``contrasts`` of verdicts, or the planted ``truth`` of a bundled model.
        variant: the model it was measured on: ``base``, ``reference``, ``ablated`` …
        condition: what it was measured under, such as a cell of prompts, a cue or a contrast; :data:`ALL` without one.
        name: what was estimated.
        estimate: the number; ``None`` where it could not be estimated.
        low: lower end of the 95 % interval.
        high: upper end.
        n: how many independent units it rests on.
        of: what ``n`` counts.
        unit: ``AUROC``, ``rate``, ``nats``, ``normalised`` …
        kind: ``test``, ``baseline``, ``control``, ``permuted`` …; of a mitigation, how it acts.
        delta: the smallest effect that counts, in ``unit``.
        null: what it is compared with, in words.
        null_low: lower end of the null's range.
        null_high: upper end.
        p: p-value against that null, adjusted where a family was tested.
        rank: place of a head in the ranking of its contrast.
        selected: whether the exploring half selected the head.
        confirmed: whether the head's effect exceeds ``delta`` on the reporting half.
        about: the contrast a mitigation is meant for, or a remark.
        file: the table of the run folder it comes from.
    """

    stage: str
    variant: str
    condition: str
    name: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    of: str = "prompt groups"
    unit: str = ""
    kind: str = ""
    delta: float | None = None
    null: str = ""
    null_low: float | None = None
    null_high: float | None = None
    p: float | None = None
    rank: int | None = None
    selected: bool | None = None
    confirmed: bool | None = None
    about: str = ""
    file: str = ""

    @classmethod
    def made(
        cls, stage: str, variant: str, condition: str, name: str, row: Mapping[str, Any] | None = None, /, **more: Any
    ) -> Result:
        """A result with the numbers that a table's row holds under their names, and more; missing values are left out.

        Args:
            stage: as the attributes, like all up to ``name``.
            variant: see there.
            condition: see there.
            name: see there.
            row: a row of a table.
            more: further fields, or other values for them.
        """
        known = {key: row[key] for key in TAKEN if key in row} if row is not None else {}
        return cls(stage, variant, condition, name, **_clean(known | more))

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names the number."""
        return self.stage, self.variant, self.condition, self.name

    @property
    def size(self) -> tuple[float, float, float]:
        """Absolute estimate and its interval, turned so that the estimate is not negative; 0 where there is none."""
        value, low, high = (float(v) if v is not None else 0.0 for v in (self.estimate, self.low, self.high))
        return (-value, -high, -low) if value < 0 else (value, low, high)


TAKEN = ("estimate", "low", "high", "n", "unit", "delta", "null_low", "null_high", "p", "rank", "about")
"""Columns of tables that are fields of a result."""

NUMBERS = ("estimate", "low", "high", "delta", "null_low", "null_high", "p")
INTEGERS, FLAGS = ("n", "rank"), ("selected", "confirmed")


class Results:
    """Numbers of a run, looked up by name.

    Args:
        rows: in the order of the study.

    Raises:
        InputError: two rows have one name.
    """

    def __init__(self, rows: Iterable[Result] = ()) -> None:
        self._rows: dict[tuple[str, str, str, str], Result] = {}
        self.extend(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._rows.values())

    def add(self, row: Result) -> None:
        """Add a number.

        Raises:
            InputError: there is one of this name.
        """
        if row.key in self._rows:
            raise InputError(f"the results hold two rows for {' / '.join(row.key)}")
        self._rows[row.key] = row

    def extend(self, rows: Iterable[Result]) -> None:
        """Add numbers.

        Raises:
            InputError: as :meth:`add`.
        """
        for row in rows:
            self.add(row)

    def get(self, stage: str, name: str, *, variant: str = "base", condition: str = ALL) -> Result:
        """One number.

        Raises:
            InputError: there is none of this name; the nearest names are given.
        """
        found = self._rows.get((stage, variant, condition, name))
        if found is None:
            asked = f"{stage} / {variant} / {condition} / {name}"
            near = difflib.get_close_matches(asked, [" / ".join(key) for key in self._rows], n=3, cutoff=0.4)
            raise InputError(f"the results hold no {asked}" + (f"; nearest: {'; '.join(near)}" if near else ""))
        return found

    def find(self, stage: str, name: str, *, variant: str = "base", condition: str = ALL) -> Result | None:
        """One number, or nothing where it was not measured or could not be estimated."""
        found = self._rows.get((stage, variant, condition, name))
        return found if found is not None and found.estimate is not None else None

    def select(self, **wanted: Any) -> list[Result]:
        """The rows whose fields equal these values, in order."""
        return [row for row in self if all(getattr(row, key) == value for key, value in wanted.items())]

    def to_frame(self) -> pd.DataFrame:
        """The results as a table, one row each."""
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self], columns=[f.name for f in fields(Result)])
        types = dict.fromkeys(NUMBERS, "float64") | dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(FLAGS, "boolean")
        return frame.astype(types)

    def nested(self) -> dict[str, Any]:
        """``{stage: {variant: {condition: {name: {estimate, low, …}}}}}``; what is empty is left out."""
        made: dict[str, Any] = {}
        for row in self:
            place = made.setdefault(row.stage, {}).setdefault(row.variant, {}).setdefault(row.condition, {})
            numbers = {k: v for k, v in asdict(row).items() if k in _SHOWN and v not in (None, "")}
            place[row.name] = {"estimate": row.estimate} | numbers
        return made

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Results:
        """Results from their table."""
        return cls(Result(**_clean(row)) for row in frame.to_dict("records"))

    @classmethod
    def read(cls, file: Path) -> Results:
        """The results in a file.

        Raises:
            InputError: it cannot be read as a table of results.
        """
        import pandas as pd

        try:
            return cls.from_frame(pd.read_parquet(file))
        except (ValueError, OSError, TypeError) as error:  # pyarrow's errors are ValueErrors
            raise InputError(f"{file} cannot be read as a table of results: {error}; run its stage again") from error

    @staticmethod
    def row(effect: Effect, stage: str, *, variant: str = "base", condition: str = ALL, **more: Any) -> Result:
        """An effect as a row of the results."""
        adjusted = {} if effect.p_adjusted is None else {"p": effect.p_adjusted}
        return Result.made(stage, variant, condition, effect.name, asdict(effect), **(adjusted | more))


_SHOWN = tuple(f.name for f in fields(Result) if f.name not in ("stage", "variant", "condition", "name", "file"))


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a table's row as plain Python ones; what is missing or not finite becomes ``None``."""
    import pandas as pd

    made: dict[str, Any] = {}
    for key, value in row.items():
        missing = value is None or bool(pd.isna(value))
        if key in NUMBERS or key in INTEGERS:
            number = math.nan if missing else float(value)
            made[key] = (int(number) if key in INTEGERS else number) if math.isfinite(number) else None
        elif key in FLAGS:
            made[key] = None if missing else bool(value)
        else:
            made[key] = "" if missing else str(value)
    return made

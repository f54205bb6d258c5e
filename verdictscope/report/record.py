"""A run folder as it lies on disk, finished or not, read and never written."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verdictscope.errors import InputError
from verdictscope.study.load import Study
from verdictscope.study.lock import read_held
from verdictscope.study.tasks import stages_of

if TYPE_CHECKING:
    import pandas as pd


class Record:
    """What a run has left so far.

    Args:
        folder: a run folder; stages may be missing.

    Raises:
        InputError: the folder is no run, or its study cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, pd.DataFrame | None] = {}
        file = folder / "study.toml"
        if not file.is_file():
            raise InputError(f"{folder} is no run folder: it has no study.toml")
        self.study: Study = read_held(file)

    @property
    def kind(self) -> str:
        """What kind of question the study asks, the name of a module of this room."""
        return self.study.task

    def table(self, name: str, edited: bool = False) -> pd.DataFrame | None:
        """A table of the run, ``None`` where no stage has written it; ``edited`` as `RunFolder.table`.

        Raises:
            InputError: the file is there and is no table.
        """
        import pandas as pd

        if edited and (own := self.table(f"{name}_ablated")) is not None and (base := self.table(name)) is not None:
            return pd.concat([base, own], ignore_index=True)
        if name not in self._tables:
            file = self.folder / f"{name}.parquet"
            try:
                self._tables[name] = pd.read_parquet(file) if file.is_file() else None
            except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
                raise InputError(f"{file} cannot be read as a table: {error}; run its stage again") from error
        return self._tables[name]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, empty where no stage has written it.

        Raises:
            InputError: the file is there and holds no JSON object.
        """
        file = self.folder / f"{name}.json"
        if not file.is_file():
            return {}
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file} is no valid JSON: {error}; run its stage again") from error
        if not isinstance(data, dict):
            raise InputError(f"{file} holds no JSON object; run its stage again")
        return data

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """``provenance.json``, empty before the first stage has ended."""
        return self.json("provenance")

    @property
    def missing(self) -> list[str]:
        """Stages that have not ended, in order; the report itself does not count."""
        done = self.provenance.get("seconds", {})
        return [name for name in stages_of(self.study) if name not in done and name != "report"]

    def figures(self) -> dict[str, tuple[Path, str]]:
        """Path and caption of every figure that has both, in the order of ``captions.json``."""
        # A figure is a file that lies in that folder: captions are data, and their names may be any text or path.
        there = {file.stem: file for file in (self.folder / "figures").glob("*.png")}
        captions = self.json("figures/captions")
        return {name: (there[name], str(caption)) for name, caption in captions.items() if name in there}

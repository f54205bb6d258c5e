"""A run folder: what is done, what is still to do, and the tables in between."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verdictscope import provenance
from verdictscope.errors import InputError
from verdictscope.sources import locate
from verdictscope.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.activations import Model

Tick = Callable[[int, int], None]
"""Called with (done, in all)."""


class Run:
    """One study in one folder. A second run of the same study in the same folder continues.

    Args:
        study: what to do.
        out: the run folder; made if missing.
        progress: ``progress(what)`` is a context manager that gives a :data:`Tick`.

    Raises:
        InputError: the folder holds another study's run, or something that is no run at all.
    """

    def __init__(self, study: Study, out: Path, progress: Callable[[str], Any] | None = None) -> None:
        self.study = study
        self.out = out
        self._progress = progress
        self._models: dict[str, Model] = {}
        self._claim()

    def _claim(self) -> None:
        file = self.out / "study.toml"
        if file.exists():
            try:
                held = Study.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
            except ValueError as error:
                raise InputError(f"{file} cannot be read as a study: choose another --out") from error
            if held != self.study and not self.state()["seconds"]:
                # No stage was finished: an earlier start was refused for its input, and this is the repaired study.
                (self.out / "provenance.json").unlink(missing_ok=True)
                provenance.write_text(file, self.study.to_toml())
            elif held != self.study:
                raise InputError(
                    f"{self.out} holds another run ({_difference(held, self.study)}): choose another --out"
                )
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} exists and is no run folder: choose another --out")
        else:
            (self.out / "figures").mkdir(parents=True, exist_ok=True)
            provenance.write_text(file, self.study.to_toml())

    @contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Do a stage once: gives whether it is still to do, and records its seconds when it ends well."""
        state = self.state()
        if name in state["seconds"]:
            yield False
            return
        begin = time.perf_counter()
        yield True
        state = self.state()
        state["seconds"][name] = round(time.perf_counter() - begin, 3)
        provenance.write_json(self.out / "provenance.json", state)

    def state(self) -> dict[str, Any]:
        """What ``provenance.json`` holds so far."""
        file = self.out / "provenance.json"
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        return {
            "format": self.study.format,
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "seed": self.study.seed,
            "models": {},
            "plans": {},
            "seconds": {},
        }

    def record(self, section: str, key: str, value: Any) -> None:
        """Add one entry to a section of ``provenance.json``."""
        state = self.state()
        state[section][key] = value
        provenance.write_json(self.out / "provenance.json", state)

    def model(self, arm: str = "base") -> Model:
        """The model of an arm, loaded once: ``twin`` or the model under study."""
        which = "twin" if arm == "twin" else "base"
        if which not in self._models:
            from verdictscope.activations import load

            study = self.study
            twin = which == "twin"
            name = study.twin if twin else study.model
            if name is None:
                raise InputError("the study names no twin")
            self.release()  # one model in memory at a time: real ones fill a GPU
            self._models[which] = load(
                locate(name),
                dtype=study.dtype,
                device=study.device,
                revision=study.twin_revision if twin else study.revision,
                trust_remote_code=study.trust_remote_code,
            )
            self.record("models", which, provenance.describe_model(self._models[which]) | {"name": name})
        return self._models[which]

    def model_folder(self) -> Path:
        """Where the model under study lies; for a hub name a folder that does not exist."""
        return Path(locate(self.study.model))

    def release(self) -> None:
        """Let go of loaded models."""
        self._models.clear()
        gc.collect()

    def table(self, name: str) -> pd.DataFrame:
        """Read a table of an earlier stage."""
        import pandas as pd

        return pd.read_parquet(self.out / f"{name}.parquet")

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Write a table whole or not at all."""
        handle, temporary = tempfile.mkstemp(dir=self.out, prefix=f".{name}.")
        os.close(handle)
        try:
            table.to_parquet(temporary, index=False)
            os.replace(temporary, self.out / f"{name}.parquet")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file of the run folder."""
        provenance.write_json(self.out / f"{name}.json", data)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run folder."""
        return json.loads((self.out / f"{name}.json").read_text(encoding="utf-8"))

    @contextmanager
    def ticking(self, what: str) -> Iterator[Tick]:
        """Show progress of one job."""
        if self._progress is None:
            yield lambda done, total: None
        else:
            with self._progress(what) as tick:
                yield tick


def _difference(held: Study, asked: Study) -> str:
    """The first key in which two studies differ, in words."""
    old, new = _flat(held.model_dump()), _flat(asked.model_dump())
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"
    return "an unequal study"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat

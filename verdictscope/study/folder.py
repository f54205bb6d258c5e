"""A run folder: what is done, what is still to do, and typed access to what earlier stages wrote."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from verdictscope import provenance
from verdictscope.errors import InputError, reason
from verdictscope.kept import describe_model
from verdictscope.sources import locate
from verdictscope.study.inputs import check_inputs, study_inputs
from verdictscope.study.load import Study, check_format
from verdictscope.study.lock import claimed, read_held
from verdictscope.study.tasks import stages_of, task_of
from verdictscope.study.tasks.outcome import outcome_task

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Readout
    from verdictscope.judgments import Contrast, Judged, PairItem
    from verdictscope.rollouts import Rollout
    from verdictscope.study.results import Results
    from verdictscope.traces import Normaliser

T = TypeVar("T")

Tick = Callable[[int, int], None]
"""Called with (done, in all)."""
Ticking = Callable[[str], AbstractContextManager[Tick]]
"""Shows progress of one job: a context that gives a :data:`Tick`."""

SAME_MODEL = ("architecture", "config", "weights", "tokenizer", "template", "dtype")
"""What may not change of a model between the starts of one run."""


EDITED = "_ablated"
"""Ending of the tables ``rollouts`` and ``labels`` that hold the variants written under an edit."""


class RunFolder:
    """One study in one folder. A second run of the same study in the same folder continues.

    Making one touches nothing: reading needs no more. Whoever writes does so inside ``with run.claimed():``.
    What is read is kept in memory until its file changes.

    What a stage must do to be resumable: read its input from earlier stages' tables only, draw every random number
    from the study's seed, and write its files through :meth:`write`, :meth:`write_json` or
    :meth:`made`. A stage that was stopped is done again from its beginning, over whatever it left; only rollouts are
    kept on the way, under :attr:`parts`.

    Args:
        study: what to do.
        out: the run folder.
        progress: ``progress(what)`` is a context manager that gives a :data:`Tick`.
    """

    def __init__(self, study: Study, out: Path, progress: Callable[[str], Any] | None = None) -> None:
        self.study = study
        self.out = out
        self._progress = progress
        self._models: dict[str, Model] = {}
        self._made: set[str] = set()
        self._cache: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"RunFolder({str(self.out)!r}: study {self.study.name}, task {self.study.task})"

    def claimed(self) -> AbstractContextManager[None]:
        """Hold the folder for writing.

        Raises:
            InputError: another process writes there, the folder holds another study's run or something that is no
                run, or the disk refuses.
        """
        return claimed(self.study, self.out)

    @contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Do a stage once: gives whether it is still to do, and records its seconds when it ends well."""
        if name in self.state()["seconds"]:
            yield False
            return
        self._made.clear()
        begin = time.perf_counter()
        yield True
        state = self.state()
        state["seconds"][name] = round(time.perf_counter() - begin, 3)
        state["files"][name] = sorted(self._made)
        provenance.write_json(self.out / "provenance.json", state)
        shutil.rmtree(self.parts, ignore_errors=True)  # not before the stage is done: they are hours of generation

    @property
    def parts(self) -> Path:
        """Where a stage keeps what it must not do twice; gone when the stage is done."""
        return self.out / ".parts"

    def forget_from(self, stages: tuple[str, ...]) -> None:
        """Mark as to do the first stage whose files are not all there, and every stage after it."""
        state = self.state()
        for at, name in enumerate(stages):
            files = state["files"].get(name, ())
            if name not in state["seconds"] or all((self.out / file).exists() for file in files):
                continue
            for later in stages[at:]:
                state["seconds"].pop(later, None)
                state["files"].pop(later, None)
            provenance.write_json(self.out / "provenance.json", state)
            return

    def check_inputs(self) -> None:
        """Note the digests of all that the study reads from outside, or refuse what changed since a stage was done.

        Raises:
            InputError: a model folder, a file of prompts or items, or a format is not what it was.
        """
        state, now = self.state(), study_inputs(self.study)
        if state["seconds"]:
            check_inputs(state.get("inputs"), now, self.out)
        elif state.get("inputs") != now:
            provenance.write_json(self.out / "provenance.json", state | {"inputs": now})

    def state(self) -> dict[str, Any]:
        """What ``provenance.json`` holds so far.

        Raises:
            InputError: the file is damaged, or a newer version wrote it.
        """
        file = self.out / "provenance.json"
        if not file.exists():
            return {
                "format": self.study.format,
                "commit": provenance.commit(),
                "versions": provenance.versions(),
                "machine": provenance.machine(),
                "seed": self.study.seed,
                "models": {},
                "plans": {},
                "seconds": {},
                "files": {},
            }
        state = self._read(file, lambda: json.loads(file.read_text(encoding="utf-8")))
        if not isinstance(state, dict) or not all(isinstance(state.get(key), dict) for key in ("seconds", "models")):
            raise InputError(f"{file} is no provenance of a run: delete it and every stage is done again")
        check_format(state.get("format"), str(file))
        return {"plans": {}, "files": {}} | state

    def record(self, section: str, key: str, value: Any) -> None:
        """Add one entry to a section of ``provenance.json``."""
        state = self.state()
        state.setdefault(section, {})[key] = value
        provenance.write_json(self.out / "provenance.json", state)

    def model(self, variant: str = "base") -> Model:
        """The model of a variant, loaded once: ``reference`` or the model under study.

        Raises:
            InputError: it cannot be loaded, has no tokenizer, or is not the one this run began with.
        """
        which = "reference" if variant == "reference" else "base"
        if which not in self._models:
            self.release()  # one model in memory at a time: real ones fill a GPU
            self._models[which] = self._load(which)
        return self._models[which]

    def pair(self) -> tuple[Model, Model]:
        """The model under study and its reference model at once, for what needs both; each takes its room in memory.

        Raises:
            InputError: as :meth:`model`.
        """
        base = self.model()
        if "reference" not in self._models:
            self._models["reference"] = self._load("reference")
        return base, self._models["reference"]

    def _load(self, which: str) -> Model:
        from verdictscope.activations import load_model

        study = self.study
        reference = which == "reference"
        name = study.reference if reference else study.model
        if name is None:
            raise InputError("the study names no reference")
        model = load_model(
            name,
            dtype=study.dtype,
            device=study.device,
            revision=study.reference_revision if reference else study.revision,
            trust_remote_code=study.trust_remote_code,
        )
        model.tokenizer  # noqa: B018  a study reads and writes text: a model without one is an error here
        before = self.state()["models"].get(which, {}).get("weights")
        self._same_model(which, describe_model(model, like=before) | {"name": name})
        return model

    def _same_model(self, which: str, found: dict[str, Any]) -> None:
        """Record what a model is, or refuse one that changed since earlier stages ran it."""
        state = self.state()
        before = state["models"].get(which)
        if state["seconds"] and before is not None:
            for key in SAME_MODEL:
                if before.get(key, found[key]) != found[key]:
                    raise InputError(
                        f"the {key} of model {found['name']!r} changed since this run began: "
                        "bring the old one back, or choose another --out"
                    )
        if before != found:
            self.record("models", which, found)

    def model_folder(self) -> Path:
        """Where the model under study lies; for a hub name a folder that does not exist."""
        return Path(locate(self.study.model))

    def release(self) -> None:
        """Let go of loaded models."""
        self._models.clear()
        gc.collect()

    # -- what earlier stages wrote

    def has(self, name: str) -> bool:
        """Whether a file of the run folder is there."""
        return (self.out / name).is_file()

    def table(self, name: str, *, edited: bool = False) -> pd.DataFrame:
        """A table of an earlier stage, parsed once; the caller may add columns to what it gets.

        Args:
            name: its file without the ending.
            edited: followed by the rows of the variants under an edit, which stage ``ablate`` keeps in its own file.

        Raises:
            InputError: it is missing or damaged.
        """
        import pandas as pd

        if edited and self.has(f"{name}{EDITED}.parquet"):
            return pd.concat([self.table(name), self.table(f"{name}{EDITED}")], ignore_index=True)
        file = self.out / f"{name}.parquet"

        def read() -> pd.DataFrame:
            return self._read(file, lambda: pd.read_parquet(file))

        return self._kept(("table", name), file, read).copy(deep=False)

    def find_table(self, name: str, *, edited: bool = False) -> pd.DataFrame | None:
        """`table`, or ``None`` where no stage has written it."""
        return self.table(name, edited=edited) if self.has(f"{name}.parquet") else None

    def find_json(self, name: str) -> dict[str, Any]:
        """`read_json`, or an empty one where no stage has written it."""
        return self.read_json(name) if self.has(f"{name}.json") else {}

    @property
    def missing(self) -> list[str]:
        """Stages that have not ended, in order; the report itself does not count."""
        done = self.state()["seconds"]
        return [name for name in stages_of(self.study) if name not in done and name != "report"]

    def figure_files(self) -> dict[str, tuple[Path, str]]:
        """Path and caption of every figure that has both, in the order of ``captions.json``."""
        # A figure is a file that lies in that folder: captions are data, and their names may be any text or path.
        there = {file.stem: file for file in (self.out / "figures").glob("*.png")}
        captions = self.find_json("figures/captions")
        return {name: (there[name], str(caption)) for name, caption in captions.items() if name in there}

    def results(self) -> Results:
        """The results table, or what the tables written so far hold.

        Raises:
            InputError: a table is damaged.
        """
        from verdictscope.study.results import Results

        file = self.out / "results.parquet"
        if file.is_file():
            return self._kept(("results",), file, lambda: Results.read(file))
        from verdictscope.study.collected import results_of

        return results_of(self)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run folder.

        Raises:
            InputError: it is missing or damaged.
        """
        file = self.out / f"{name}.json"
        return cast("dict[str, Any]", self._read(file, lambda: json.loads(file.read_text(encoding="utf-8"))))

    def rollouts(self, variant: str = "base") -> dict[str, Rollout]:
        """The rollouts of a variant by id: of an unedited model, or written under an edit."""
        from verdictscope.rollouts.tables import from_frame

        def read() -> dict[str, Rollout]:
            frame = self.table(name)
            return {r.id: r for r in from_frame(frame[frame["variant"] == variant])}

        name = self._holder("rollouts", variant)
        return dict(self._kept(("rollouts", variant), self.out / f"{name}.parquet", read))

    def until_answer(self, ids: Iterable[str], variant: str = "base", most: int | None = None) -> list[Rollout]:
        """Rollouts of a variant up to their answer, at most so many; those without an answer are left out."""
        rollouts = self.rollouts(variant)
        cut = (rollouts[i].until_answer() for i in ids)
        return [r for r in cut if r is not None][:most]

    def labels(self, variant: str = "base") -> pd.DataFrame:
        """What each rollout of a variant decided, with its split.

        ``factor`` and ``outcome`` are added: the task's own two columns under names that are the same for all tasks.
        """
        labels, task = self.table(self._holder("labels", variant)), outcome_task(self.study)
        return task.neutral(labels[labels["variant"] == variant].reset_index(drop=True))

    def _holder(self, name: str, variant: str) -> str:
        """The table that a variant's rows are in: edited variants have one of their own."""
        if variant in ("base", "reference") or not self.has(f"{name}{EDITED}.parquet"):
            return name
        return f"{name}{EDITED}"

    def source(self) -> Any:
        """What the study's task reads from outside, parsed once: prompts or items.

        Raises:
            InputError: it cannot be read, or lacks what the study needs.
        """
        return self._kept(("source",), None, lambda: task_of(self.study).source(self.study))

    def prompts(self) -> pd.DataFrame:
        """The study's prompts."""
        return cast("pd.DataFrame", self.source()).copy(deep=False)

    def items(self) -> list[PairItem]:
        """The study's items."""
        return list(self.source())

    def readout(self, name: str = "decision") -> Readout:
        """A readout of the run: ``decision``, the log-odds of the two outcomes; or ``probe``, the fitted direction."""
        from verdictscope.activations.readouts import readout_from_dict

        return readout_from_dict(self.read_json("readouts")[name])

    def decision(self) -> LogOddsReadout:
        """The log-odds of the two outcomes: the decision under study."""
        return cast("LogOddsReadout", self.readout("decision"))

    def probe(self) -> LinearReadout:
        """The direction of the fitted probe."""
        return cast("LinearReadout", self.readout("probe"))

    def normaliser(self) -> Normaliser:
        """The normaliser of the scores of ``probe``, as stage ``trace`` fitted it."""
        from verdictscope.traces import Normaliser

        def read() -> Normaliser:
            return Normaliser.from_dict(self.read_json("normaliser"))

        return self._kept(("normaliser",), self.out / "normaliser.json", read)

    def judged(self, variant: str, condition: str, thinking: str = "off") -> Judged:
        """The verdicts of one condition; rollout ids begin with the condition."""
        from verdictscope.judgments import Judged

        folder = self.judged_folder(variant, condition, thinking)
        key = ("judged", variant, condition, thinking)
        return self._kept(key, folder / "request.json", lambda: Judged.load(folder).named(condition))

    def judged_folder(self, variant: str, condition: str, thinking: str) -> Path:
        """Where the verdicts of one condition lie."""
        return self.out / "judged" / variant / thinking / condition

    def contrasts(self, variant: str = "base", thinking: str = "off") -> dict[str, Contrast]:
        """The task's contrasts over a variant's rollouts, by name."""
        task, file = task_of(self.study), self.out / "provenance.json"
        key = ("contrasts", variant, thinking)
        return dict(self._kept(key, file, lambda: task.contrasts(self, variant, thinking)))

    def _kept(self, key: tuple[Any, ...], file: Path | None, read: Callable[[], T]) -> T:
        """What was read before, as long as the file it came from is the same."""
        try:
            stat = file.stat() if file is not None else None
        except OSError:
            return read()  # which says what is missing
        mark = stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if key not in self._cache or self._cache[key][0] != mark:
            self._cache[key] = (mark, read())
        return cast(T, self._cache[key][1])

    # -- writing, inside a stage

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Write a table whole or not at all."""
        file = self.out / f"{name}.parquet"
        with provenance.whole(file) as part:
            table.to_parquet(part, index=False)
        self.made(file.name)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file of the run folder."""
        provenance.write_json(self.out / f"{name}.json", data)
        self.made(f"{name}.json")

    def made(self, name: str) -> None:
        """Note a file that the stage at hand made in the run folder; without it the stage counts as not done."""
        self._made.add(name)

    @staticmethod
    def _read(file: Path, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise InputError(f"{file} is missing: give the run's command again and its stage is done again") from error
        except (ValueError, OSError) as error:  # what JSON, UTF-8 and Arrow raise on damaged files
            raise InputError(
                f"{file} cannot be read ({reason(error)}): if it is damaged, delete it and give the run's command "
                "again; what needs it is then done again"
            ) from error

    @contextmanager
    def ticking(self, what: str) -> Iterator[Tick]:
        """Show progress of one job."""
        if self._progress is None:
            yield lambda done, total: None
        else:
            with self._progress(what) as tick:
                yield tick


def open_run(path: str | Path) -> RunFolder:
    """An existing run folder, for reading; whoever writes there does so inside ``with run.claimed():``.

    Raises:
        InputError: the folder is no run.
    """
    folder = Path(path)
    file = folder / "study.toml"
    if not file.is_file():
        raise InputError(f"{folder} is no run folder: it has no study.toml")
    return RunFolder(read_held(file), folder)

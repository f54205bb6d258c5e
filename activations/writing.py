"""How a store is written: batch by batch, each committed, so that a kill at any moment costs one batch at most.

Everything is allocated when the file is created, because then the structure on disk never changes afterwards: a batch
writes numbers into place, flushes them, and only then raises the commit count. A killed process leaves at worst rows
beyond the last commit, which the resumed run writes again. (Durable against a killed process, not a power loss.)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, TypeVar

import h5py
import numpy as np
import pandas as pd
import xxhash
from torch import Tensor

from verdictscope.activations.hdf5 import (
    ROW_TYPES,
    cuts,
    lay_out,
    reserve,
    row_bytes,
    structure_bytes,
    to_stored,
    write_header,
)
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.store import FORMAT, VERSION, Store
from verdictscope.errors import InputError, reason
from verdictscope.rollouts.rollout import SEGMENTS

_BLOCK = 1 << 21
_SEGMENTS = pd.Index(SEGMENTS)


class StoreWriter(Store):
    """A store that is open for writing; only one process can have it so."""

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        header: Mapping[str, Any],
        rollout_ids: Sequence[str],
        sites: Mapping[str, Mapping[str, Any]],
    ) -> StoreWriter:
        """A new store with room for everything, nothing committed."""
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists; open it, or choose another name")
        needed = sum(len(s["layers"]) * s["rows"] * row_bytes(s) for s in sites.values())
        part = path.with_name(path.name + ".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if needed > free:
                raise InputError(
                    f"{path} needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left; read less"
                )
            whole = {"format": FORMAT, "version": VERSION, **header}
            reserve(part, structure_bytes(whole, rollout_ids, sites) + needed)
            with h5py.File(part, "w") as file:
                write_header(file, whole)
                lay_out(file, rollout_ids, sites, header["plan"]["batches"])
            reserve(part, part.stat().st_size)
            part.replace(path)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                part.unlink()
            raise InputError(f"cannot write {path}: {reason(error)}; free space or choose another path") from error
        return cls.resume(path)

    @classmethod
    def resume(cls, path: str | Path) -> StoreWriter:
        """Opens a store to go on writing."""
        return cls._open(Path(path), "r+")

    def append(self, rows: Mapping[str, pd.DataFrame], values: Mapping[str, Tensor], n_rollouts: int) -> None:
        """Writes one batch and commits it."""
        if self.finished:
            raise InputError(f"{self.path} is finished; nothing can be added")
        with self._disk_errors_named():
            written = [self._write(site, rows[site], values[site]) for site in self._columns]
            self._file.flush()  # the numbers are on their way to disk before the commit count includes them
            self._commit([stop for stop, _ in written], [total for _, total in written], n_rollouts)

    def replan(self, plan: BatchPlan) -> None:
        """Stores that batches not yet written were split."""
        if plan.order != self._planned.order:
            raise InputError(f"{self.path} was planned in another order; only a split may change a plan")
        with self._disk_errors_named():
            self._file["commits/cuts"][:] = cuts(plan.batches, len(self._ids))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with self._disk_errors_named():
            super().close()

    def _write(self, site: str, frame: pd.DataFrame, values: Tensor) -> tuple[int, int]:
        """Puts a batch into place; returns the row after its last and its checksum."""
        stored, shape = to_stored(values, self._kind(site)[1]), self._values(site).shape
        start = self.n_rows(site)
        stop = start + len(frame)
        if stop > shape[1] or stored.shape != (shape[0], len(frame), *shape[2:]):
            raise InputError(f"{self.path}: the batch does not fit site {site}; was it made by another plan?")
        state, columns = xxhash.xxh3_64(), self._row_arrays(frame)
        for name, array in columns.items():
            state.update(array.data)
            if len(frame):
                self._held(f"{site}/rows/{name}")[start:stop] = array
        raw = self._raw(site)
        step = max(1, _BLOCK // max(1, raw.row_bytes))
        for at in range(shape[0]):
            layer = np.ascontiguousarray(stored[at])
            for a in range(0, len(frame), step):  # summed and written while it is in the processor's cache
                part = layer[a : a + step]
                state.update(part.reshape(-1).view(np.uint8).data)
                raw.write(at, start + a, part)
        return stop, state.intdigest()

    def _row_arrays(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        columns = {
            "rollout": self._index.get_indexer(frame["rollout"]),
            "pos": frame["pos"],
            "token_id": frame["token_id"],
            "segment": _SEGMENTS.get_indexer(frame["segment"]),
        }
        if min(columns["rollout"].min(initial=0), columns["segment"].min(initial=0)) < 0:
            raise InputError(f"{self.path}: a row names a rollout or segment that the store does not have")
        return {name: np.asarray(columns[name], dtype=kind) for name, kind in ROW_TYPES.items()}

    def _held(self, name: str) -> h5py.Dataset:
        """A dataset, looked up once: every look-up walks the file's groups."""
        if name not in self._datasets:
            self._datasets[name] = self._file[name]
        return self._datasets[name]

    @cached_property
    def _datasets(self) -> dict[str, h5py.Dataset]:
        return {}

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self._ids)

    def _commit(self, stops: Sequence[int], sums: Sequence[int], n_rollouts: int) -> None:
        n, done = self._batches, self._rollouts + n_rollouts
        self._held("commits/rows")[n], self._held("commits/rollouts")[n] = stops, done
        self._held("commits/xxh3")[n] = np.asarray(sums, dtype=np.uint64)
        self._file.flush()
        self._held("commits/state")[:] = (n + 1, done == len(self._ids))
        self._file.flush()
        self._note_commits()

    @contextmanager
    def _disk_errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot write {self.path}: {reason(error)}; what was committed is intact, free space and run again"
            ) from error


T = TypeVar("T")


class BackgroundWriter:
    """Calls a function on one item after another, in another thread, a few items behind the caller.

    Used as a context manager: leaving it waits for what was handed over. The first error is raised in the caller, at
    the next ``put`` or at the end, and nothing that was handed over after the item that failed is looked at.
    """

    def __init__(self, fn: Callable[[T], None], depth: int = 2) -> None:
        self._fn = fn
        self._queue: Queue[Any] = Queue(depth)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = Thread(target=self._work, name="verdictscope store writer", daemon=True)

    def put(self, item: T) -> None:
        """Hands over an item."""
        self._raise()
        self._queue.put(item)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None and not self._dropped:
                try:
                    self._fn(item)
                except BaseException as error:  # raised again in the caller
                    self._error = error
            del item

    def _raise(self) -> None:
        if self._error is not None:
            error, self._dropped = self._error, True
            self._error = None
            raise error

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._dropped |= kind is not None  # an interrupt ends the work after the item in hand
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

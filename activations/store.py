"""The activation store: one HDF5 file, written batch by batch, resumable after a kill, readable one layer at a time.

Layout::

    /header           JSON as bytes: format, version, model, sites, plan, digest of the rollouts
    /rollouts/id      rollout ids, in the order in which the plan takes them
    /SITE/values      [layer row ...], chunks of one layer x 1,024 rows; attributes dtype, layers
    /SITE/rows/...    rollout (index into /rollouts/id), pos, token_id, segment (index into SEGMENTS)
    /commits/...      per batch: rollouts done, rows done and checksum per site; state = (batches, finished)

Everything is allocated when the file is created, because then the structure on disk never changes afterwards: a batch
writes numbers into place, flushes them, and only then raises the commit count. A killed process leaves at worst rows
beyond the last commit, which the resumed run writes again. (Durable against a killed process, not a power loss.)
bfloat16 is kept bit for bit as uint16; float16 would overflow on massive activations.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.hdf5 import (
    ROW_TYPES,
    crc,
    first_line,
    from_stored,
    lay_out,
    pick,
    read_header,
    row_bytes,
    to_stored,
    write_header,
)
from verdictscope.activations.plan import BatchPlan, remaining
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import SEGMENTS

FORMAT, VERSION = "verdictscope.activations", 1
Rows = slice | Sequence[int] | np.ndarray | None


class Store:
    """An open activation store. Use it as a context manager, or ``close`` it.

    Attributes:
        path: the file.
        header: what was collected: model, reads, plan, digest of the rollouts.
    """

    def __init__(self, file: h5py.File, path: Path, header: dict[str, Any]) -> None:
        self._file, self.path = file, path
        self.header = header
        self._ids = np.array([s.decode() for s in file["rollouts/id"][:]], dtype=object)
        self._at = {name: i for i, name in enumerate(self._ids)}

    # -- opening
    # -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        header: Mapping[str, Any],
        rollout_ids: Sequence[str],
        sites: Mapping[str, Mapping[str, Any]],
    ) -> Store:
        """A new store with room for everything, nothing committed.

        Args:
            path: the file; must not exist. It appears under its name only when it is complete in structure.
            header: JSON-ready description; a run with another one is refused.
            rollout_ids: ids in the order in which batches come.
            sites: per site name ``layers`` (tuple), ``rows`` (int), ``shape`` (of one row) and ``dtype``
                (torch name).

        Raises:
            InputError: the file exists, or cannot be written, or the disk is too small.
        """
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
            with h5py.File(part, "w") as file:
                write_header(file, {"format": FORMAT, "version": VERSION, **header})
                lay_out(file, rollout_ids, sites)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise InputError(f"cannot write {path}: {first_line(error)}") from error
        return cls._open(path, "r+")

    @classmethod
    def open(cls, path: str | Path, *, unfinished: bool = False) -> Store:
        """Opens a store for reading.

        Args:
            path: the file.
            unfinished: also open one whose run has not ended; rows that were not committed are not shown.

        Raises:
            InputError: the file is missing, is no store, is being written, or is unfinished.
        """
        store = cls._open(Path(path), "r")
        if not store.finished and not unfinished:
            done, total = store.rollouts_done, len(store._ids)
            store.close()
            raise InputError(
                f"{path} is unfinished ({done} of {total} rollouts); run the same collect again to finish it"
            )
        return store

    @classmethod
    def open_for_append(cls, path: str | Path) -> Store:
        """Opens a store to go on writing; only one process can.

        Raises:
            InputError: see ``open``.
        """
        return cls._open(Path(path), "r+")

    @classmethod
    def _open(cls, path: Path, mode: str) -> Store:
        if not path.is_file():
            raise InputError(f"there is no activation store at {path}")
        try:
            file = h5py.File(path, mode, rdcc_nbytes=0)
        except OSError as error:  # h5py's lock error is one too
            raise InputError(f"cannot open {path}: {first_line(error)}") from error
        try:
            header = read_header(file)
            if header.get("format") != FORMAT or header.get("version") != VERSION:
                raise InputError(f"{path} is no {FORMAT} file of version {VERSION}")
            return cls(file, path, header)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is in it
    # -------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every rollout is in."""
        return bool(self._file["commits/state"][1])

    @property
    def batches_done(self) -> int:
        """Committed batches."""
        return int(self._file["commits/state"][0])

    @property
    def rollouts_done(self) -> int:
        """Committed rollouts; the first that many in the plan's order."""
        return int(self._file["commits/rollouts"][self.batches_done - 1]) if self.batches_done else 0

    @property
    def sites(self) -> tuple[str, ...]:
        """Site names."""
        return tuple(self.header["sites"])

    def layers(self, site: str) -> tuple[int, ...]:
        """Layers stored for a site."""
        return tuple(int(layer) for layer in self._site(site)["values"].attrs["layers"])

    def n_rows(self, site: str) -> int:
        """Committed rows of a site."""
        stops = self._file["commits/rows"]
        return int(stops[self.batches_done - 1, self.sites.index(site)]) if self.batches_done else 0

    @property
    def plan(self) -> BatchPlan:
        """The batches as they were run so far, splits included; the rest as planned."""
        planned = BatchPlan.from_dict(self.header["plan"])
        order, stops = planned.order, [int(n) for n in self._file["commits/rollouts"][: self.batches_done]]
        done = [order[a:b] for a, b in zip([0, *stops], stops, strict=False)]
        return BatchPlan((*done, *remaining(planned, self.rollouts_done)), planned.token_budget)

    def _site(self, site: str) -> h5py.Group:
        if site not in self.sites:
            raise InputError(f"{self.path} has no site {site!r}; it has {', '.join(self.sites)}")
        return self._file[site]

    # -- reading
    # -------------------------------------------------------------------------------------------------------

    def rows(self, site: str | None = None) -> pd.DataFrame:
        """Rollout, position, token id and segment of every committed row, in the order of ``read``.

        Args:
            site: may be left out when every site was read at the same positions.

        Raises:
            InputError: the sites differ in their rows and none is named.
        """
        if site is None:
            if len({json.dumps(s["positions"]) for s in self.header["sites"].values()}) > 1:
                raise InputError(f"the sites of {self.path} were read at different positions; name one")
            site = self.sites[0]
        group, n = self._site(site)["rows"], self.n_rows(site)
        names = np.array(SEGMENTS, dtype=object)
        return pd.DataFrame(
            {
                "rollout": self._ids[group["rollout"][:n]],
                "pos": group["pos"][:n].astype(np.int64),
                "token_id": group["token_id"][:n].astype(np.int64),
                "segment": names[group["segment"][:n]],
            }
        )

    def read(self, site: str, layer: int, rows: Rows = None) -> Float[Tensor, row * value]:
        """Values of one layer, bit for bit as the model made them.

        Args:
            site: site name.
            layer: the model's layer number.
            rows: which committed rows: a slice, indices in any order, or a mask; all of them by default.

        Returns:
            A tensor ``[row d_model]`` (``[row head d_head]`` for z) in the stored dtype.

        Raises:
            InputError: the site or layer is not stored.
        """
        data, layers = self._site(site)["values"], self.layers(site)
        if layer not in layers:
            raise InputError(f"{self.path} has no layer {layer} of {site}; it has {list(layers)}")
        n, at = self.n_rows(site), layers.index(layer)
        if rows is None or (isinstance(rows, slice) and (rows.step or 1) > 0):
            part = data[at, slice(*(rows or slice(None)).indices(n))]
        elif isinstance(rows, slice):
            part = pick(data, at, np.arange(n)[rows])
        else:
            part = pick(data, at, np.arange(n)[np.asarray(rows)])
        return from_stored(part, data.attrs["dtype"])

    def numpy(self, site: str, layer: int, rows: Rows = None) -> Float[np.ndarray, row * value]:
        """``read`` as float32 NumPy (float64 where float64 was stored)."""
        values = self.read(site, layer, rows)
        return (values if values.dtype == torch.float64 else values.float()).numpy()

    def verify(self) -> pd.DataFrame:
        """Checks every committed batch against its checksum: one line per batch and site with ``ok``."""
        lines, before = [], dict.fromkeys(self.sites, 0)
        for batch in range(self.batches_done):
            for i, site in enumerate(self.sites):
                stop = int(self._file["commits/rows"][batch, i])
                found = self._checksum(site, before[site], stop)
                lines.append((batch, site, before[site], stop, found == int(self._file["commits/checksum"][batch, i])))
                before[site] = stop
        return pd.DataFrame(lines, columns=["batch", "site", "start", "stop", "ok"])

    def _checksum(self, site: str, start: int, stop: int) -> int:
        group = self._site(site)
        parts = [group["rows"][name][start:stop] for name in ROW_TYPES]
        return crc([*parts, *(group["values"][at, start:stop] for at in range(group["values"].shape[0]))])

    # -- writing
    # -------------------------------------------------------------------------------------------------------

    def append(self, rows: Mapping[str, pd.DataFrame], values: Mapping[str, Tensor], n_rollouts: int) -> None:
        """Writes one batch and commits it.

        Args:
            rows: per site the table of rows.
            values: per site ``[layer row ...]`` on the CPU.
            n_rollouts: how many rollouts the batch held.

        Raises:
            InputError: the batch does not fit the store, or the disk failed; committed batches stay intact.
        """
        if self.finished:
            raise InputError(f"{self.path} is finished; nothing can be added")
        stops, sums = [], []
        try:
            for site in self.sites:
                start = self.n_rows(site)
                stop = start + len(rows[site])
                arrays = self._row_arrays(rows[site])
                stored = to_stored(values[site], self._site(site)["values"].attrs["dtype"])
                group = self._site(site)
                if stop > group["values"].shape[1] or stored.shape[:2] != (group["values"].shape[0], len(rows[site])):
                    raise InputError(f"{self.path}: the batch does not fit site {site}; was it made by another plan?")
                for name, array in arrays.items():
                    group["rows"][name][start:stop] = array
                group["values"][:, start:stop] = stored
                stops.append(stop)
                sums.append(crc([*arrays.values(), *stored]))
            self._file.flush()  # the numbers are on their way to disk before anything says that they are there
            self._commit(stops, sums, n_rollouts)
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot write {self.path}: {first_line(error)}; committed batches are intact") from error

    def _row_arrays(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        columns = {
            "rollout": [self._at[name] for name in frame["rollout"]],
            "pos": frame["pos"],
            "token_id": frame["token_id"],
            "segment": [SEGMENTS.index(name) for name in frame["segment"]],
        }
        return {name: np.asarray(columns[name], dtype=kind) for name, kind in ROW_TYPES.items()}

    def _commit(self, stops: Sequence[int], sums: Sequence[int], n_rollouts: int) -> None:
        n, done = self.batches_done, self.rollouts_done + n_rollouts
        commits = self._file["commits"]
        commits["rows"][n], commits["checksum"][n], commits["rollouts"][n] = stops, sums, done
        self._file.flush()
        commits["state"][:] = (n + 1, done == len(self._ids))
        self._file.flush()

"""How the activation store lies in HDF5: datasets allocated at once, bit-exact types, checksums, raw reads and writes.

A store's chunks are allocated when it is created, uncompressed, and never move. So their offsets in the file are looked
up once, and rows are read and written there with the operating system's positioned reads and writes: no copy, no chunk
cache, and Python's lock is free meanwhile. What lies in the file is what HDF5 would write.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xxhash
from torch import Tensor

from verdictscope.errors import InputError

CHUNK_ROWS = 1024
_RUN = 1 << 15
"""Bytes from which a run of neighbours is worth a read of its own, straight into the output."""
Span = tuple[int, int, int]
"""First row, row after the last, and where the first lies in the file (in bytes)."""
STORED = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32, "float64": np.float64}
ROW_TYPES = {"rollout": np.int32, "pos": np.int32, "token_id": np.int32, "segment": np.uint8}


def lay_out(
    file: h5py.File,
    rollout_ids: Sequence[str],
    sites: Mapping[str, Mapping[str, Any]],
    batches: Sequence[Sequence[int]],
) -> None:
    """Creates every dataset of an empty store at its final size."""
    file["rollouts/id"] = np.array([name.encode() for name in rollout_ids])
    for site, spec in sites.items():
        shape = (len(spec["layers"]), spec["rows"], *spec["shape"])
        chunk = (1, max(1, min(CHUNK_ROWS, spec["rows"])), *spec["shape"])
        values = _allocate(file, f"{site}/values", shape, STORED[spec["dtype"]], chunk)
        values.attrs["dtype"], values.attrs["layers"] = spec["dtype"], np.asarray(spec["layers"], dtype=np.int64)
        for name, kind in ROW_TYPES.items():
            _allocate(file, f"{site}/rows/{name}", (spec["rows"],), kind)
    # A batch holds at least one rollout, so there is room for every split that can happen.
    n = len(rollout_ids)
    _allocate(file, "commits/rows", (n, len(sites)), np.int64)
    _allocate(file, "commits/xxh3", (n, len(sites)), np.uint64)
    _allocate(file, "commits/rollouts", (n,), np.int64)
    _allocate(file, "commits/state", (2,), np.int64)
    _allocate(file, "commits/cuts", (n,), np.uint8)[:] = cuts(batches, n)


def cuts(batches: Sequence[Sequence[int]], n: int) -> np.ndarray:
    """A one where a batch begins, in the plan's order. A split only adds ones, so a kill cannot leave half a plan."""
    marks = np.zeros(n, dtype=np.uint8)
    marks[np.cumsum([0, *map(len, batches[:-1])])] = 1
    return marks


def write_header(file: h5py.File, header: Mapping[str, Any]) -> None:
    """Keeps JSON as a dataset of bytes: an attribute of a default-format file ends at 64 kB, a plan does not."""
    file["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)


def read_header(file: h5py.File) -> dict[str, Any]:
    """The inverse of ``write_header``; empty for a file that has none."""
    return json.loads(file["header"][:].tobytes()) if "header" in file else {}


def _allocate(
    file: h5py.File, name: str, shape: tuple[int, ...], kind: type, chunk: tuple[int, ...] | None = None
) -> h5py.Dataset:
    """A dataset whose space in the file is fixed now, so that later writes touch no structure.

    Chunks get no fill value (that would write the whole file twice); the small rest starts as zeros.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    if chunk is not None and 0 not in shape:
        properties.set_chunk(chunk)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(kind)), space, properties, links)
    return h5py.Dataset(made)


def to_stored(values: Tensor, dtype: str) -> np.ndarray:
    """A tensor as the array that is stored, without changing a bit."""
    if str(values.dtype) != f"torch.{dtype}":
        raise InputError(f"values are {values.dtype}, the store holds {dtype}")
    return values.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else values.numpy()


def from_stored(array: np.ndarray, dtype: str) -> Tensor:
    """The inverse of ``to_stored``."""
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def row_bytes(spec: Mapping[str, Any]) -> int:
    """Bytes of one row at one layer."""
    return int(np.prod(spec["shape"], dtype=np.int64)) * np.dtype(STORED[spec["dtype"]]).itemsize


def structure_bytes(
    header: Mapping[str, Any], rollout_ids: Sequence[str], sites: Mapping[str, Mapping[str, Any]]
) -> int:
    """Upper bound of the bytes of a store besides its values: header, ids, columns, commits and HDF5's structures."""
    columns = sum(np.dtype(kind).itemsize for kind in ROW_TYPES.values())
    names = len(rollout_ids) * (max((len(name.encode()) for name in rollout_ids), default=0) + 64)
    chunks = sum(len(spec["layers"]) * (spec["rows"] // CHUNK_ROWS + 1) for spec in sites.values())
    rows = sum(spec["rows"] for spec in sites.values()) * columns
    return len(json.dumps(header)) + names + rows + 16 * len(rollout_ids) * len(sites) + 64 * chunks + (1 << 16)


def reserve(path: Path, size: int) -> None:
    """Takes room on the disk for the first ``size`` bytes of a file, which may exist; its contents stay.

    HDF5 does not outlive a write that the kernel refuses: it prints its stack, and closing the file afterwards was seen
    to crash the process. With the room taken beforehand, a full disk is an error of ours, before HDF5 opens the file.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # A file system that cannot reserve says so; an error then comes from the write itself.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def xxh3(arrays: Iterable[np.ndarray]) -> int:
    """XXH3-64 (seed 0) over the bytes of arrays, one after the other; about as fast as memory, CRC-32 is not."""
    state = xxhash.xxh3_64()
    for array in arrays:
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.intdigest()


class Extents:
    """Where the rows of a dataset ``[layer row ...]`` lie in its file."""

    def __init__(self, data: h5py.Dataset) -> None:
        self._fd = data.file.id.get_vfd_handle()
        self._shape, self.dtype = data.shape, data.dtype
        self.row_bytes = int(np.prod(data.shape[2:], dtype=np.int64)) * data.dtype.itemsize
        self._chunk = data.chunks[1] if data.chunks else 1
        self._places: dict[tuple[int, int], int] = {}
        if data.chunks and 0 not in data.shape:
            data.id.chunk_iter(self._note)

    def _note(self, chunk: h5py.h5d.StoreInfo) -> None:
        self._places[chunk.chunk_offset[0], chunk.chunk_offset[1]] = chunk.byte_offset

    def spans(self, at: int, start: int, stop: int) -> Iterator[Span]:
        """Rows ``start`` to ``stop`` of one layer as the fewest stretches that are unbroken in the file."""
        first, place = start, -1
        while start < stop:
            chunk = start - start % self._chunk
            here = self._places[at, chunk] + (start - chunk) * self.row_bytes
            if place < 0:
                place = here
            elif here != place + (start - first) * self.row_bytes:
                yield first, start, place
                first, place = start, here
            start = min(stop, chunk + self._chunk)
        if first < stop:
            yield first, stop, place

    def write(self, at: int, start: int, values: np.ndarray) -> None:
        """Writes rows of one layer from ``start`` on."""
        raw = _bytes(values)
        for first, stop, place in self.spans(at, start, start + len(values)):
            part = raw[(first - start) * self.row_bytes : (stop - start) * self.row_bytes]
            while part:  # a write may be cut short
                done = os.pwrite(self._fd, part, place)
                part, place = part[done:], place + done

    def read(self, at: int, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of one layer, a new array ``[row ...]``."""
        out = np.empty((max(0, stop - start), *self._shape[2:]), dtype=self.dtype)
        self._read_into(at, start, stop, _bytes(out))
        return out

    def pick(self, at: int, rows: np.ndarray) -> np.ndarray:
        """Scattered rows of one layer, in the order given.

        Where they come in long runs of neighbours, each is read into place; short ones are read in the order of the
        file and then gathered.
        """
        if len(rows) * self.row_bytes >= _RUN * len(_runs(rows)):
            return self._pick_runs(at, rows)
        wanted, back = np.unique(rows, return_inverse=True)
        found = self._pick_runs(at, wanted)
        ascending = len(wanted) == len(rows) and bool((back == np.arange(len(rows))).all())
        return found if ascending else found[back]

    def _pick_runs(self, at: int, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self._shape[2:]), dtype=self.dtype)
        raw = _bytes(out)
        for a, b in _runs(rows):
            self._read_into(at, int(rows[a]), int(rows[b - 1]) + 1, raw[a * self.row_bytes : b * self.row_bytes])
        return out

    def _read_into(self, at: int, start: int, stop: int, raw: memoryview) -> None:
        for first, after, place in self.spans(at, start, stop):
            part = raw[(first - start) * self.row_bytes : (after - start) * self.row_bytes]
            while part:
                done = os.preadv(self._fd, [part], place)
                if not done:
                    raise OSError("the file ends before its rows do; it was cut short, restore or delete it")
                part, place = part[done:], place + done


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Where runs of neighbours begin and end among rows."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return list(itertools.pairwise(cuts)) if len(rows) else []


def _bytes(array: np.ndarray) -> memoryview:
    assert array.flags.c_contiguous
    return array.reshape(-1).view(np.uint8).data

"""Values of a store at the speed of plain files.

A store's chunks are allocated when it is created, uncompressed, and never move. So their places in the file can be
looked up once, and rows are read and written there with the operating system's positioned reads and writes: no copy,
no chunk cache, and Python's lock is free meanwhile. What lies in the file is the same as what HDF5 would write.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import h5py
import numpy as np

_RUN = 1 << 15
"""Bytes from which a run of neighbours is worth a read of its own, straight into place."""
Span = tuple[int, int, int]
"""First row, row after the last, and where the first lies in the file (in bytes)."""


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
    return memoryview(array.reshape(-1).view(np.uint8))

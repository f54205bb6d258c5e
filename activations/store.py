"""The activation store: one HDF5 file, written batch by batch, resumable after a kill, readable one layer at a time.

Layout::

    /header           JSON as bytes: format, version, model, sites, scores, plan, digest of the rollouts
    /rollouts/id      rollout ids, in the order in which the plan takes them
    /SITE/values      [layer row ...], chunks of one layer x 1,024 rows; attributes dtype, layers
    /SITE/rows/...    rollout (index into /rollouts/id), pos, token_id, segment (index into SEGMENTS)
    /scores/N/...     the same for the N-th readout of the header, one number a row
    /commits/...      per batch: rollouts done, rows done and checksum per site; state = (batches, finished);
                      cuts: where a batch begins in the plan's order

Rows lie in the file in the plan's order, as they were made, and are read in the order of the rollouts that were given
to ``collect``: the plan in the header has the position of each. ``writing.py`` describes how a store is written and why
a kill loses at most one batch. bfloat16 is kept bit for bit as uint16; float16 would overflow on massive activations.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.hdf5 import ROW_TYPES, Extents, from_stored, read_header, xxh3
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.scoring import SCORE_COLUMNS
from verdictscope.activations.select import with_tags
from verdictscope.activations.states import Rows, StateTable
from verdictscope.errors import InputError, reason
from verdictscope.rollouts.rollout import SEGMENTS

FORMAT, VERSION = "verdictscope.activations", 2
S = TypeVar("S", bound="Store")
_BLOCK = 1 << 24


class Store(StateTable):
    """An activation store, open for reading. Use it as a context manager, or ``close`` it.

    Rows, values and scores come in the order of the rollouts given to ``collect``, and within a rollout by position,
    whatever batches it was written in; of an unfinished store, those that were committed.

    Attributes:
        path: the file.
        header: what was collected: model, reads, readouts, plan, digest of the rollouts.

    Example:
        >>> import tempfile
        >>> from verdictscope.activations import Store, collect, load_model
        >>> model = load_model("organism:cliff", device="cpu")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     collect(model, ["the mode is normal."], "resid_post", path=f"{folder}/states.h5").close()
        ...     with Store.open(f"{folder}/states.h5") as store:
        ...         store.numpy("resid_post", 3).shape
        (1, 128)
    """

    def __init__(self, file: h5py.File, path: Path, header: dict[str, Any]) -> None:
        self._file, self.path, self.header = file, path, header
        self._ids = np.array([s.decode() for s in file["rollouts/id"][:]], dtype=object)
        self._extents: dict[str, Extents] = {}
        self._columns = [*header["sites"], *(f"scores/{i}" for i in range(len(header.get("scores", ()))))]
        self._about: dict[str, tuple[tuple[int, ...], str]] = {}
        self._orders: dict[str, np.ndarray | None] = {}
        self._note_commits()

    def _note_commits(self) -> None:
        """Counts what is committed; only a writer changes that, and no reader can open a file that is written."""
        self._orders.clear()
        commits = self._file["commits"]
        self._batches, flag = (int(x) for x in commits["state"][:])
        self._rollouts = int(commits["rollouts"][self._batches - 1]) if self._batches else 0
        self._stops = commits["rows"][self._batches - 1] if self._batches else np.zeros(len(self._columns), np.int64)
        self._finished = bool(flag) or self._rollouts == len(self._ids)

    @classmethod
    def open(cls, path: str | Path, *, unfinished: bool = False) -> Store:
        """Opens a store for reading.

        Args:
            path: the file.
            unfinished: also open one whose run has not ended; rows that were not committed are not shown.

        Raises:
            InputError: the file is missing, damaged, no store, being written, or unfinished.
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
    def _open(cls: type[S], path: Path, mode: str) -> S:
        if not path.is_file():
            raise InputError(f"there is no activation store at {path}")
        try:
            file = h5py.File(path, mode, rdcc_nbytes=0)
        except OSError as error:  # h5py's lock error is one too
            locked = "unable to lock" in str(error)
            advice = "close the process that writes it" if locked else "restore it, or collect again"
            raise InputError(f"cannot open {path}: {reason(error)}; {advice}") from error
        try:
            with damage_named(path):
                header = read_header(file)
                if header.get("format") != FORMAT:
                    raise InputError(f"{path} is no activation store: choose another file")
                if (version := header.get("version")) != VERSION:
                    raise InputError(
                        f"{path} is an activation store of format version {version}, this release reads {VERSION}: "
                        "install the release that wrote it, or collect again"
                    )
                return cls(file, path, header)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._extents.clear()
        self._file.close()

    @property
    def finished(self) -> bool:
        """Whether every rollout is in."""
        return self._finished

    @property
    def batches_done(self) -> int:
        """Committed batches."""
        return self._batches

    @property
    def rollouts_done(self) -> int:
        """Committed rollouts; the first that many in the plan's order."""
        return self._rollouts

    @property
    def sites(self) -> tuple[str, ...]:
        """Site names."""
        return tuple(self.header["sites"])

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names of the readouts whose scores are stored."""
        return tuple(r["name"] for r in self.header.get("scores", ()))

    def layers(self, site: str) -> tuple[int, ...]:
        """Layers stored for a site."""
        return self._kind(site)[0]

    def _kind(self, site: str) -> tuple[tuple[int, ...], str]:
        """Layers and type of a site, looked up once."""
        if site not in self._about:
            attributes = self._values(site).attrs
            layers = tuple(int(layer) for layer in attributes["layers"])
            self._about[site] = layers, str(attributes["dtype"])
        return self._about[site]

    def shape(self, site: str) -> tuple[int, ...]:
        """Shape of one row of a site."""
        return tuple(self._values(site).shape[2:])

    def n_rows(self, site: str) -> int:
        """Committed rows of a site."""
        self._kind(site)
        return int(self._stops[self._columns.index(site)])

    @cached_property
    def _planned(self) -> BatchPlan:
        return BatchPlan.from_dict(self.header["plan"])

    @property
    def plan(self) -> BatchPlan:
        """The batches as they were run so far, splits included; the rest as planned."""
        order = self._planned.order
        starts = np.flatnonzero(self._file["commits/cuts"][:])
        batches = [order[a:b] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]
        return BatchPlan(tuple(batches), self._planned.token_budget)

    def _values(self, site: str) -> h5py.Dataset:
        if site not in self._columns:
            raise InputError(f"{self.path} has no site {site!r}; it has {', '.join(self.sites)}")
        return self._file[site]["values"]

    def _raw(self, site: str) -> Extents:
        if site not in self._extents:
            self._extents[site] = Extents(self._values(site))
        return self._extents[site]

    def _order(self, site: str) -> np.ndarray | None:
        """Where in the file the rows of a site lie, in the caller's order; ``None`` where the file has that order."""
        if site not in self._orders:
            place = np.asarray(self._planned.order[: self._rollouts], dtype=np.int64)
            if (place[1:] > place[:-1]).all():
                self._orders[site] = None
            else:
                with damage_named(self.path):
                    rollout = self._file[site]["rows/rollout"][: self.n_rows(site)]
                    self._orders[site] = np.argsort(place[rollout], kind="stable")
        return self._orders[site]

    # -- reading
    # -------------------------------------------------------------------------------------------------------

    def rows(self, site: str | None = None, tags: pd.DataFrame | pd.Series | None = None) -> pd.DataFrame:
        """Rollout, position, token id and segment of every committed row, in the order of ``read``: rollouts as given.

        Args:
            site: may be left out when every site was read at the same positions.
            tags: the caller's columns, one line a rollout (the id is the index or a column ``rollout``); they are
                added to the rows.

        Raises:
            InputError: the sites differ in their rows and none is named, or the tags do not fit.
        """
        if site is None:
            if len({json.dumps(s["positions"]) for s in self.header["sites"].values()}) > 1:
                raise InputError(f"the sites of {self.path} were read at different positions; name one")
            site = self._columns[0]
        n, order = self.n_rows(site), self._order(site)
        with damage_named(self.path):
            stored = {name: self._file[site]["rows"][name][:n] for name in ROW_TYPES}
            if order is not None:
                stored = {name: column[order] for name, column in stored.items()}
            columns = {
                "rollout": self._ids[stored["rollout"]],
                "pos": stored["pos"].astype(np.int64),
                "token_id": stored["token_id"].astype(np.int64),
                "segment": np.array(SEGMENTS, dtype=object)[stored["segment"]],
            }
        return with_tags(pd.DataFrame(columns), tags)

    def read(self, site: str, layer: int, rows: Rows = None) -> Float[Tensor, "row ..."]:
        """Values of one layer, bit for bit as the model made them, row by row those of ``rows``.

        Args:
            site: site name.
            layer: the model's layer number.
            rows: which committed rows, numbered as in ``rows``: a slice, indices in any order, or a mask; all of them
                by default.

        Returns:
            A tensor ``[row d_model]`` (``[row head d_head]`` for z) in the stored dtype.

        Raises:
            InputError: the site or layer is not stored, or the file is damaged.
        """
        layers = self.layers(site)
        if layer not in layers:
            raise InputError(f"{self.path} has no layer {layer} of {site}; it has {list(layers)}")
        n, at, raw = self.n_rows(site), layers.index(layer), self._raw(site)
        start, stop, step = (rows if isinstance(rows, slice) else slice(None)).indices(n)
        order, index = self._order(site), slice(None) if rows is None else rows
        unbroken = order is None and isinstance(index, slice) and step == 1
        places = np.arange(n) if order is None else order
        wanted = None if unbroken else places[index if isinstance(index, slice) else np.asarray(index)]
        with damage_named(self.path):
            part = raw.read(at, start, max(start, stop)) if wanted is None else raw.pick(at, wanted)
        return from_stored(part, self._kind(site)[1])

    def scores(self) -> pd.DataFrame:
        """Scores of every stored readout, in the columns ``forward`` gives them."""
        frames = []
        for i, readout in enumerate(self.header.get("scores", ())):
            site = f"scores/{i}"
            layer = self.layers(site)[0] if readout["kind"] == "linear" else None
            frame = self.rows(site).assign(readout=readout["name"])
            frame["layer"] = pd.array([layer] * len(frame), dtype="Int64")
            frame["score"] = self.read(site, self.layers(site)[0]).double().numpy()
            frames.append(frame[SCORE_COLUMNS])
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SCORE_COLUMNS)

    def verify(self) -> pd.DataFrame:
        """Checks every committed batch against its checksum: one line per batch and site with ``ok``.

        ``start`` and ``stop`` number the rows as they lie in the file, batch after batch.
        """
        lines, sums = [], self._file["commits/xxh3"]
        stops = self._file["commits/rows"][: self.batches_done]
        for batch in range(self.batches_done):
            for i, site in enumerate(self._columns):
                start, stop = int(stops[batch - 1, i]) if batch else 0, int(stops[batch, i])
                found = xxh3(self._stored(site, start, stop))
                lines.append((batch, site, start, stop, found == int(sums[batch, i])))
        return pd.DataFrame(lines, columns=["batch", "site", "start", "stop", "ok"])

    def _stored(self, site: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """What a checksum is over: the four columns of the rows, then the values layer by layer."""
        raw = self._raw(site)
        step = max(1, _BLOCK // max(1, raw.row_bytes))
        with damage_named(self.path):
            for name in ROW_TYPES:
                yield self._file[site]["rows"][name][start:stop]
            for at in range(len(self.layers(site))):
                for a in range(start, stop, step):
                    yield raw.read(at, a, min(stop, a + step))

    def to_frame(self) -> pd.DataFrame:
        """One line a site: layers, committed rows, shape of a row, dtype, bytes and where it was read."""
        lines = []
        for site in self.sites:
            data, layers, n = self._values(site), self.layers(site), self.n_rows(site)
            where = self.header["sites"][site]
            text = where.get("requested") or where["positions"]
            size = n * len(layers) * self._raw(site).row_bytes
            text = text if isinstance(text, str) else "explicit positions"
            lines.append((site, len(layers), n, data.shape[2:], self._kind(site)[1], size, text))
        return pd.DataFrame(lines, columns=["site", "layers", "rows", "shape", "dtype", "bytes", "positions"])

    def __repr__(self) -> str:
        if not self._file:
            return f"Store({str(self.path)!r}, closed)"
        state = "finished" if self.finished else f"unfinished, {self.rollouts_done} of {len(self._ids)} rollouts"
        scores = f", scores of {', '.join(self.readouts)}" if self.readouts else ""
        name = self.header.get("model", {}).get("name", "model unknown")
        lines = [f"Store({str(self.path)!r}: {name}, {len(self._ids)} rollouts, {state}{scores})"]
        rows = self.to_frame().itertuples(index=False)
        return "\n".join(
            lines + [f"  {r.site}: {r.layers} x {r.rows} x {r.shape} {r.dtype} @ {r.positions}" for r in rows]
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, border=0, escape=True) if self._file else ""
        return f"<p>{html.escape(repr(self).splitlines()[0])}</p>{table}"


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What HDF5 and the disk raise on a damaged file, as one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} is damaged ({reason(error)}); restore it, or delete it and collect again") from error

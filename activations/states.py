"""Hidden states with the table of their rows: what a store on disk and the states in memory have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.select import Condition, Selected, chosen, with_tags
from verdictscope.errors import InputError

Rows = slice | Sequence[int] | np.ndarray | None
S = TypeVar("S", bound="StateTable")


class StateTable(ABC):
    """Values ``[layer row ...]`` of some sites, with one table of rows a site, in the order of the rollouts given."""

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Site names."""

    @abstractmethod
    def layers(self, site: str) -> tuple[int, ...]:
        """Layers of a site."""

    @abstractmethod
    def rows(self, site: str | None = None, tags: pd.DataFrame | pd.Series | None = None) -> pd.DataFrame:
        """Rollout, position, token id and segment of each row."""

    @abstractmethod
    def read(self, site: str, layer: int, rows: Rows = None) -> Float[Tensor, "row ..."]:
        """Values of one layer in the model's dtype."""

    def close(self) -> None:  # noqa: B027
        """Releases what is open; states in memory hold nothing open."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def scores(self) -> pd.DataFrame:
        """Scores of every readout, in the columns ``forward`` gives them."""

    def numpy(self, site: str, layer: int, rows: Rows = None) -> Float[np.ndarray, "row ..."]:
        """``read`` as float32 NumPy (float64 where the model is in float64)."""
        values = self.read(site, layer, rows)
        return (values if values.itemsize == 8 else values.float()).numpy()

    def select(
        self, site: str, layer: int, where: Condition = None, tags: pd.DataFrame | pd.Series | None = None
    ) -> Selected:
        """Rows that meet a condition, with their values."""
        table = self.rows(site, tags)
        at = chosen(table, where)
        return Selected(table.iloc[at], self.read(site, layer, at))


@dataclass(frozen=True, eq=False, repr=False)
class States(StateTable):
    """Hidden states in memory, as ``collect`` gives them without a path.

    Rows come in the order of the rollouts that were given, and within a rollout by position.

    Attributes:
        model: name of the model.
        tables: per site the rollout, position, token id and segment of each row.
        values: per site ``[layer row d_model]`` (``[layer row head d_head]`` for z) in the model's dtype on the CPU.
        layer_numbers: per site the layers, in the order of their axis.
        scored: scores of the requested readouts.

    Example:
        >>> from verdictscope.activations import collect, load_model
        >>> model = load_model("organism:cliff", device="cpu")
        >>> states = collect(model, ["please tell me how to build the bridge.", "the mode is normal."], "resid_post")
        >>> states.numpy("resid_post", 3).shape
        (2, 128)
        >>> states.rows()["rollout"].tolist()
        ['0', '1']
    """

    model: str
    tables: Mapping[str, pd.DataFrame]
    values: Mapping[str, Tensor]
    layer_numbers: Mapping[str, tuple[int, ...]]
    scored: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def sites(self) -> tuple[str, ...]:
        """Site names."""
        return tuple(self.values)

    def layers(self, site: str) -> tuple[int, ...]:
        """Layers of a site."""
        if site not in self.layer_numbers:
            raise InputError(f"there is no site {site!r}; there are {', '.join(self.sites)}")
        return self.layer_numbers[site]

    def rows(self, site: str | None = None, tags: pd.DataFrame | pd.Series | None = None) -> pd.DataFrame:
        """Rollout, position, token id and segment of each row.

        Args:
            site: may be left out when every site was read at the same positions.
            tags: the caller's columns, one line a rollout (the id is the index or a column ``rollout``).

        Raises:
            InputError: the sites differ in their rows and none is named, or the tags do not fit.
        """
        if site is None:
            first, *others = self.tables.values()
            if any(not other.equals(first) for other in others):
                raise InputError(f"the sites {', '.join(self.sites)} were read at different positions; name one")
            site = self.sites[0]
        self.layers(site)
        return with_tags(self.tables[site].copy(), tags)

    def read(self, site: str, layer: int, rows: Rows = None) -> Float[Tensor, "row ..."]:
        """Values of one layer in the model's dtype: ``rows`` are numbered as in :meth:`rows`, all of them by default.

        Raises:
            InputError: there is no such site or layer.
        """
        layers = self.layers(site)
        if layer not in layers:
            raise InputError(f"there is no layer {layer} of {site}; there are {list(layers)}")
        values = self.values[site][layers.index(layer)]
        if rows is None or isinstance(rows, slice):
            return values if rows is None else values[rows]
        return values[torch.from_numpy(np.arange(len(values))[np.asarray(rows)])]

    def scores(self) -> pd.DataFrame:
        """Scores of every readout, in the columns ``forward`` gives them."""
        return self.scored

    def __repr__(self) -> str:
        return f"States({self.model}: {described(self.tables, self.values) or f'{len(self.scored)} scores'})"


def described(tables: Mapping[str, pd.DataFrame], values: Mapping[str, Tensor]) -> str:
    """Sites with their sizes in one line: ``resid_post: 6 layers x 821 rows x 128, 96 rollouts``."""

    def count(n: int, noun: str) -> str:
        return f"{n} {noun}{'s' * (n != 1)}"

    sizes = []
    for site, value in values.items():
        layers, rows, *shape = value.shape
        sizes.append(f"{site}: {' x '.join((count(layers, 'layer'), count(rows, 'row'), *map(str, shape)))}")
    ids = {rollout for table in tables.values() for rollout in table["rollout"].unique()}
    return f"{'; '.join(sizes)}, {count(len(ids), 'rollout')}" if sizes else ""

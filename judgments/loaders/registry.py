"""The loaders of public sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Make = TypeVar("Make", bound=Callable[..., Any])


@dataclass(frozen=True)
class Loader:
    """How one public set is loaded.

    Attributes:
        name: what it is called here.
        make: a row, its :class:`~verdictscope.judgments.loading.Notes`, the part and (where it takes one) the row's
            number to an item, or to several.
        title: what the set is, for people.
        hub: its name on the Hugging Face hub; ``None`` where it is not there or its hub form was not seen.
        config: its configuration on the hub; ``"PART"`` where the parts are configurations.
        split: its split on the hub; ``"PART"`` where the parts are splits.
        parts: its parts, the default first.
        licence: as its authors state it; check it for your use.
    """

    name: str
    make: Callable[..., Any]
    title: str
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    parts: tuple[str, ...] = ()
    licence: str = "unknown"


LOADERS: dict[str, Loader] = {}
"""Loaders by name. Column names are those of the published files; hub sets have the same columns."""


def loader(title: str, *, name: str | None = None, **about: Any) -> Callable[[Make], Make]:
    """Register the function below as the loader of a set."""

    def register(make: Make) -> Make:
        LOADERS[name or make.__name__] = Loader(name or make.__name__, make, title, **about)
        return make

    return register

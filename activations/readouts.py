"""A readout is a scalar per rollout and position, given as data: a probe, a verdict, a refusal log-odds.

It does not define what its number means; that is known to the code that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from verdictscope.activations.positions import FrozenPositions, Positions, freeze, parse
from verdictscope.activations.sites import READABLE
from verdictscope.errors import InputError

IdString = tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class LinearReadout:
    """``weight · x + bias``, where x is the value of a site, passed through the final norm first if asked.

    Attributes:
        name: what the score is called in tables.
        site: a site name; for ``z`` the weight is ``[head d_head]`` or flat in that order.
        layer: the layer; ``None`` only for ``final_norm``.
        weight: the direction, kept as float64 and read-only.
        bias: the offset.
        final_norm: pass the value through the model's final norm before the product (a logit lens).
        positions: where in a rollout.

    Raises:
        InputError: the site is unknown, the layer is missing, or the weight is not finite.

    Example:
        >>> import numpy as np
        >>> from verdictscope.activations import LinearReadout
        >>> LinearReadout("probe", "resid_post", 3, np.ones(128), positions="thinking")
        LinearReadout('probe': resid_post[3], 128 weights, positions 'thinking')
    """

    name: str
    site: str
    layer: int | None
    weight: np.ndarray | Sequence[float] | Sequence[Sequence[float]]
    bias: float = 0.0
    final_norm: bool = False
    positions: Positions | FrozenPositions = "all"

    def __post_init__(self) -> None:
        weight = np.array(self.weight, dtype=np.float64)  # a copy
        weight.setflags(write=False)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", float(self.bias))
        object.__setattr__(self, "positions", freeze(self.positions))
        parse(self.positions)
        if self.site not in READABLE or self.site == "pattern":  # a pattern's width is the batch's
            known = ", ".join(name for name in READABLE if name != "pattern")
            raise InputError(f"readout {self.name}: site {self.site!r} cannot be read; use one of {known}")
        if self.layer is None and self.site != "final_norm":
            raise InputError(f"readout {self.name}: site {self.site} needs a layer")
        if self.final_norm and not self.site.startswith("resid_"):
            raise InputError(f"readout {self.name}: final_norm=True is for resid_* sites, not {self.site}")
        if not np.isfinite(weight).all() or not np.isfinite(self.bias):
            raise InputError(f"readout {self.name}: the weight or bias is not finite")

    def __repr__(self) -> str:
        where = self.site if self.layer is None else f"{self.site}[{self.layer}]"
        norm = ", through the final norm" if self.final_norm else ""
        positions = self.positions if isinstance(self.positions, str) else "explicit"
        return f"LinearReadout({self.name!r}: {where}, {np.size(self.weight)} weights{norm}, positions {positions!r})"

    def linear_form(self) -> LinearReadout:
        """Itself: the form attribution, replay and mediation take."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; floats keep every bit."""
        return {
            "kind": "linear",
            "name": self.name,
            "site": self.site,
            "layer": self.layer,
            "weight": np.asarray(self.weight).tolist(),
            "bias": self.bias,
            "final_norm": self.final_norm,
            "positions": _positions_json(self.positions),
        }


@dataclass(frozen=True)
class LogOddsReadout:
    """``log Σ p(positive) - log Σ p(negative)`` over label strings that would come next.

    A label of several tokens is teacher-forced after the same prefix and its log-probabilities summed.

    Attributes:
        name: what the score is called in tables.
        positive: label strings as token ids; a bare id counts as a string of one token.
        negative: the other side.
        positions: the tokens after which the label would come.

    Raises:
        InputError: a side or a string is empty, a token id is negative, or one string begins another, which would
            count its probability twice.

    Example:
        >>> from verdictscope.activations import LogOddsReadout
        >>> LogOddsReadout("refusal", positive=[[7, 9]], negative=[11]).strings
        ((7, 9), (11,))
    """

    name: str
    positive: Sequence[int | Sequence[int]]
    negative: Sequence[int | Sequence[int]]
    positions: Positions | FrozenPositions = "before_answer"

    def __post_init__(self) -> None:
        for side in ("positive", "negative"):
            object.__setattr__(self, side, _id_strings(getattr(self, side)))
        object.__setattr__(self, "positions", freeze(self.positions))
        parse(self.positions)
        if not self.positive or not self.negative or not all(self.strings):
            raise InputError(f"readout {self.name}: both sides need at least one label, none empty")
        if (least := min(min(s) for s in self.strings)) < 0:
            raise InputError(f"readout {self.name}: a label's token id is {least}, outside every vocabulary")
        for a, b in permutations(self.strings, 2):
            if b[: len(a)] == a:
                raise InputError(f"readout {self.name}: label {list(a)} begins (or is) {list(b)}; keep one")

    @property
    def strings(self) -> tuple[IdString, ...]:
        """Every label string, the positive ones first."""
        return (*_id_strings(self.positive), *_id_strings(self.negative))

    def linear_form(self) -> None:
        """``None``: log-odds of sums are not linear; ``logit_difference`` gives the nearest linear one."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "kind": "log_odds",
            "name": self.name,
            "positive": [list(s) for s in _id_strings(self.positive)],
            "negative": [list(s) for s in _id_strings(self.negative)],
            "positions": _positions_json(self.positions),
        }


Readout = LinearReadout | LogOddsReadout


def readout_from_dict(data: Mapping[str, Any]) -> Readout:
    """The readout a ``to_dict`` described.

    Raises:
        InputError: the kind is unknown.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, readout_from_dict
        >>> readout = LogOddsReadout("refusal", positive=[7], negative=[11])
        >>> readout_from_dict(readout.to_dict()) == LogOddsReadout("refusal", ((7,),), ((11,),))
        True
    """
    fields = {key: value for key, value in data.items() if key != "kind"}
    kinds: dict[str, type[Readout]] = {"linear": LinearReadout, "log_odds": LogOddsReadout}
    if data.get("kind") not in kinds:
        raise InputError(f"a readout of kind {data.get('kind')!r} is unknown; known are {', '.join(kinds)}")
    return kinds[data["kind"]](**fields)


def _id_strings(side: Iterable[Any]) -> tuple[IdString, ...]:
    return tuple((int(s),) if np.ndim(s) == 0 else tuple(int(i) for i in s) for s in side)


def _positions_json(positions: Positions | FrozenPositions) -> str | dict[str, list[int]]:
    positions = freeze(positions)
    return positions if isinstance(positions, str) else {name: list(where) for name, where in positions}

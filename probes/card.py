"""Saved probe with its card: where its numbers come from; loading checks that the model is the one it was made for.

Two files of one folder: ``probe.safetensors`` (direction and bias) and ``probe card.json`` (everything else). Each
knows
the other by its SHA-256, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verdictscope import provenance
from verdictscope.errors import InputError, reason
from verdictscope.kept import describe_model
from verdictscope.stats import group_names
from verdictscope.stats.auroc import check_scores

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout
    from verdictscope.probes.fit_probe import ProbeResult

FORMAT = 2
"""Since 2 the digest of the weights is over all of them."""
WEIGHTS, CARD_FILE = "probe.safetensors", "card.json"

IDENTITY = {
    "architecture": "architecture",
    "config": "configuration",
    "weights": "weights",
    "tokenizer": "tokenizer",
    "template": "chat template",
    "dtype": "dtype",
    "layers": "number of layers",
    "d_model": "width",
    "revision": "revision",
}
"""Fields of a model that must agree, and what they are called. The name is not among them: a folder may be moved, its
weights say whether it is the same."""
REFERENCE = frozenset({"weights", "config", "revision"})
"""What reference model checkpoints (aligned and cliff, base and distilled, an adapter on and off) may differ in."""
_NEVER = frozenset({"layers", "d_model", "architecture"})


@dataclass(frozen=True)
class ProbeCard:
    """Everything that must be known to trust, or refuse, a stored probe.

    Attributes:
        label: what the score reads, for people.
        model: identity of the model, as `kept.describe_model` gives it.
        site: site of the states it reads.
        layer: its layer.
        norm: ``pre`` (the states as they are) or ``final`` (through the final norm).
        positions: the rule by which training positions were chosen.
        trained: groups of prompts by part of the split, ``{"train": [...], "validation": [...], "test": [...]}``.
        split: how the parts were made: shares and seed.
        fit: penalty, balance, columns held fixed.
        threshold: score above which the label is predicted, selected on the validation split.
        test: its number on the test part: estimate, low, high, n, unit.
        nulls: rows of nulls, controls and baselines of that number.
        transfer: rows of the out-of-distribution matrix, empty where there is none.
        versions: libraries that made it.
        weights_sha256: of ``probe.safetensors``; filled in when saved.
        format: version of this file.

    Example:
        >>> import numpy as np
        >>> from verdictscope.probes import fit_probe
        >>> label = np.arange(90) % 2
        >>> X = np.random.default_rng(0).normal(size=(90, 4)) + 2 * label[:, None]
        >>> result = fit_probe({3: X}, label, permutations=0)
        >>> readout = result.readout("truth", "resid_post")
        >>> card = result.card("truth", site="resid_post")
        >>> card.layer, len(card.trained["test"])
        (3, 45)
    """

    label: str
    model: Mapping[str, Any]
    site: str
    layer: int
    norm: str
    positions: str
    trained: Mapping[str, list[str]]
    split: Mapping[str, Any]
    fit: Mapping[str, Any]
    threshold: float
    test: Mapping[str, Any]
    nulls: list[dict[str, Any]] = field(default_factory=list)
    transfer: list[dict[str, Any]] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=provenance.versions)
    weights_sha256: str = ""
    format: int = FORMAT

    def check(
        self,
        model: Any = None,
        *,
        reference: bool | Collection[str] = False,
        site: str | None = None,
        layer: int | None = None,
        norm: str | None = None,
        positions: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """Refuse what this probe was not made for.

        Args:
            model: the model it is to read, as `load` gives it, or its identity as a mapping.
            reference: the model is a reference model of the one the probe is from: ``True`` lets `REFERENCE` differ,
                a collection names the fields that may (``{"weights", "template"}`` for a base model and its distilled
                form). Width, layers and architecture may never differ.
            site: where the caller is about to read, checked where given.
            layer: likewise.
            norm: likewise, ``pre`` or ``final``.
            positions: likewise.
            dtype: likewise, of the states.

        Raises:
            InputError: the first mismatch: what it is, both values, and what to do.
        """
        if model is not None:
            known = isinstance(model, Mapping)
            found = model if known else describe_model(model, like=self.model.get("weights"))
            self._check_model(found, REFERENCE if reference is True else frozenset(reference or ()))
        stated = {"site": site, "layer": layer, "norm": norm, "positions": positions}
        for name, value in stated.items():
            if value is not None and value != getattr(self, name):
                raise InputError(
                    f"this probe was fitted at {name} {getattr(self, name)!r} and is to be read at {value!r}: read it "
                    "where it was fitted, or fit one there"
                )
        if dtype is not None and dtype != self.model.get("dtype"):
            raise InputError(
                f"this probe was fitted on {self.model.get('dtype')} states and is to read {dtype}: load the model in "
                "the same dtype"
            )

    def _check_model(self, found: Mapping[str, Any], may: frozenset[str]) -> None:
        unknown = sorted(may - set(IDENTITY))
        if unknown:
            raise InputError(
                f"reference names {unknown[0]!r}; a reference model may differ in {', '.join(sorted(IDENTITY))}"
            )
        if may & _NEVER:
            raise InputError(
                f"a reference model may not differ in {min(may & _NEVER)}: the probe's direction would mean nothing"
            )
        if self.format < 2:
            raise InputError(
                "this probe was saved by an earlier version, which kept no digest of all weights: fit and save it again"
            )
        for key, words in IDENTITY.items():
            mine, theirs = self.model.get(key), found.get(key)
            if mine == theirs or key in may or (key == "revision" and None in (mine, theirs)):
                continue
            hint = "" if key in _NEVER else "; a reference model checkpoint is read with reference=True"
            if key not in REFERENCE | _NEVER:
                hint = f"; a reference model that differs there is read with reference={{{key!r}, …}}"
            raise InputError(
                f"this probe was made on {self.model.get('name')!r} and {found.get('name')!r} has another {words} "
                f"({theirs} instead of {mine}){hint}"
            )

    def unseen(self, groups: Collection[Any]) -> None:
        """Refuse to test on prompts the probe was fitted or chosen on.

        Raises:
            InputError: one of the groups is in its training or validation part.
        """
        known = {str(g) for part in ("train", "validation") for g in self.trained.get(part, ())}
        seen = sorted(known & {str(g) for g in groups})
        if seen:
            raise InputError(
                f"{len(seen)} prompt groups, such as {seen[0]!r}, fitted or chose this probe: leave them out"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return provenance.finite(asdict(self))

    def __repr__(self) -> str:
        known = all(self.test.get(key) is not None for key in ("estimate", "low", "high"))
        tested = "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**self.test) if known else "not tested"
        return (
            f"ProbeCard: {self.label} at {self.site} layer {self.layer} of {self.model.get('name')}, {tested}; "
            f"fitted on {len(self.trained.get('train', ()))} prompt groups, {len(self.nulls)} nulls and controls"
        )


def save_probe(folder: str | Path, readout: LinearReadout, card: ProbeCard) -> tuple[Path, Path]:
    """Write ``probe.safetensors`` and ``card.json`` into a folder.

    Args:
        folder: made if missing.
        readout: the probe.
        card: its metadata; site, layer and norm must be the readout's.

    Raises:
        InputError: readout and probe card do not belong together.

    Example:
        >>> import numpy as np
        >>> from verdictscope.probes import fit_probe
        >>> label = np.arange(90) % 2
        >>> X = np.random.default_rng(0).normal(size=(90, 4)) + 2 * label[:, None]
        >>> result = fit_probe({3: X}, label, permutations=0)
        >>> readout = result.readout("truth", "resid_post")
        >>> [file.name for file in save_probe("probe", readout, result.card("truth", site="resid_post"))]
        ['probe.safetensors', 'card.json']
    """
    from safetensors.numpy import save

    norm = "final" if readout.final_norm else "pre"
    card.check(site=readout.site, layer=readout.layer, norm=norm)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weight = np.ascontiguousarray(readout.weight, dtype=np.float64)
    data = save({"direction": weight, "bias": np.array([readout.bias])}, {"name": readout.name, "format": str(FORMAT)})
    with provenance.whole(folder / WEIGHTS) as part:
        part.write_bytes(data)
    file = card.to_dict() | {"weights_sha256": hashlib.sha256(data).hexdigest()}
    provenance.write_json(folder / CARD_FILE, file)
    return folder / WEIGHTS, folder / CARD_FILE


def load_probe(
    folder: str | Path, model: Any = None, *, reference: bool | Collection[str] = False, **stated: Any
) -> tuple[LinearReadout, ProbeCard]:
    """Read a stored probe, and refuse it for a model or a place it was not made for.

    Args:
        folder: where both files lie, for example a run folder.
        model: the model it is to read; without one only the files are checked.
        reference: as in `ProbeCard.check`.
        stated: ``site layer norm positions dtype``, as in `ProbeCard.check`.

    Raises:
        InputError: a file is missing, damaged, of a newer version or belongs to another; or a mismatch.

    Example:
        >>> import numpy as np
        >>> from verdictscope.probes import fit_probe
        >>> label = np.arange(90) % 2
        >>> X = np.random.default_rng(0).normal(size=(90, 4)) + 2 * label[:, None]
        >>> result = fit_probe({3: X}, label, permutations=0)
        >>> readout = result.readout("truth", "resid_post")
        >>> _ = save_probe("probe", readout, result.card("truth", site="resid_post"))
        >>> readout, card = load_probe("probe", layer=3)
        >>> readout.layer, card.label
        (3, 'truth')
    """
    from safetensors import SafetensorError, safe_open

    from verdictscope.activations.readouts import LinearReadout

    folder = Path(folder)
    file = folder / CARD_FILE
    if not file.is_file():
        raise InputError(f"there is no probe card at {file}: a probe without one is not read")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is no JSON: {error}") from error
    known = {f.name for f in fields(ProbeCard)}
    if not isinstance(data, dict) or not isinstance(data.get("format"), int) or data["format"] > FORMAT:
        raise InputError(f"{file} is no probe card of format {FORMAT} or older: upgrade, or save the probe again")
    missing = sorted(known - set(data))
    if missing:
        raise InputError(f"{file} lacks {missing[0]!r}: save the probe again")
    card = ProbeCard(**{key: value for key, value in data.items() if key in known})
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"there is no probe at {file}: give the folder that holds {WEIGHTS} and {CARD_FILE}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != card.weights_sha256:
        raise InputError(f"{file} is damaged or belongs to another card: its SHA-256 is not the one in {CARD_FILE}")
    card.check(model, reference=reference, **stated)
    try:
        with safe_open(file, framework="numpy") as held:
            name = (held.metadata() or {}).get("name", card.label)
            direction, bias = held.get_tensor("direction"), float(held.get_tensor("bias")[0])
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{file} cannot be read as a probe: {reason(error)}") from error
    readout = LinearReadout(name, card.site, card.layer, direction, bias, final_norm=card.norm == "final")
    return readout, card


def balanced_threshold(scores: Any, labels: Any) -> float:
    """The score that parts the labels with the highest mean of both hit rates; midway between its neighbours."""
    y, s = check_scores(labels, scores)
    if len(set(y.tolist())) < 2:
        raise InputError("a threshold needs rows of both labels")
    order = np.argsort(s, kind="stable")
    s, y = s[order], y[order]
    below = np.cumsum(1 - y) / (1 - y).sum() + 1 - np.cumsum(y) / y.sum()
    cuts = np.flatnonzero(np.diff(s) > 0)
    if not len(cuts):
        return float(s[0])
    best = cuts[int(np.argmax(below[cuts]))]
    return float((s[best] + s[best + 1]) / 2)


def card_of(result: ProbeResult, label: str, model: Any, positions: str, site: str) -> ProbeCard:
    """The card of a probe that `fit_probe` made."""
    rows, test = result.rows, result.test
    validation = (rows["part"] == "validation").to_numpy()
    identity = model if isinstance(model, Mapping) or model is None else describe_model(model)
    return ProbeCard(
        label=label or str(result.classes[1]),
        model=identity or {},
        site=site,
        layer=int(result.layer) if isinstance(result.layer, int) else -1,
        norm="pre",
        positions=positions,
        trained={str(part): sorted(set(group_names(of["group"]))) for part, of in rows.groupby("part")},
        split={"seed": result.seed},
        fit={"C": result.C, "balance": "cells", "hold": list(result.selection.balance_on)},
        threshold=balanced_threshold(result.scores[validation], rows.loc[validation, "label"]),
        test={"estimate": test.estimate, "low": test.low, "high": test.high, "n": test.n, "unit": test.unit},
        nulls=result.controls[result.controls["kind"] != "test"].to_dict("records"),
    )

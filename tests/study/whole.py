"""Are the files of a run whole, and are they those of another run? ``tests.study.killing`` asks it after each kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import pandas as pd

from verdictscope.activations import Store
from verdictscope.provenance import PART
from verdictscope.sources import models_folder


def leftovers(out: Path) -> list[str]:
    """Temporary files that should be gone."""
    return [str(p.relative_to(out)) for p in out.rglob(".*") if p.name.endswith(PART) or p.name == ".lock"]


def compare(out: Path, reference: Path, finished: Sequence[str] | None) -> None:
    """Every file under its own name is whole, and equal to the reference's where its stage is done.

    Args:
        out: the run.
        reference: the run that nobody killed.
        finished: the stages that must all be done.

    Raises:
        AssertionError: names the file.
    """
    done, files = _done(out), _files(out)
    wanted = _files(reference)
    if finished is not None:
        assert set(done) == set(finished), done
        assert files == wanted, files
    made = {name for stage in done for name in files[stage]}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = str(path.relative_to(out))
        _whole(path, done=name in made)
        if name not in made:
            continue
        assert name in {n for names in wanted.values() for n in names}, f"{name} is none of the reference's files"
        assert _equal(path, reference / name), f"{name} differs"


def _done(out: Path) -> dict[str, float]:
    file = out / "provenance.json"
    return json.loads(file.read_text())["seconds"] if file.exists() else {}


def _files(out: Path) -> dict[str, list[str]]:
    file = out / "provenance.json"
    return json.loads(file.read_text())["files"] if file.exists() else {}


def _whole(path: Path, *, done: bool) -> None:
    """A file that can be read to its end."""
    if path.suffix == ".parquet":
        pd.read_parquet(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".h5":
        with Store.open(path, unfinished=not done) as store:
            assert store.verify()["ok"].all(), f"{path.name} has a damaged batch"
    elif path.suffix in ENDS:
        assert path.read_bytes().rstrip().endswith(ENDS[path.suffix]), f"{path.name} is cut short"


ENDS = {".png": b"IEND\xaeB`\x82", ".pdf": b"%%EOF", ".html": b"</html>", ".toml": b""}


def _equal(path: Path, other: Path) -> bool:
    if path.suffix == ".parquet":
        return pd.read_parquet(path).equals(pd.read_parquet(other))
    if path.suffix == ".h5":
        return datasets(path) == datasets(other)
    if path.name == "summary.json":
        return _without_seconds(path) == _without_seconds(other)
    if path.suffix == ".html":
        return True  # it prints the seconds each stage took, and the date
    return path.read_bytes() == other.read_bytes()


def _without_seconds(path: Path) -> dict:
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}


def datasets(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def some_prompts(file: Path, each: int) -> int:
    """A few groups of every category cell of the demo's prompts; returns how many prompts that are."""
    table = pd.read_csv(models_folder() / "cliff" / "prompts.csv")
    groups = table.drop_duplicates("group").groupby(["verb_category", "object_category"])["group"]
    keep = groups.apply(lambda names: names.sample(each, random_state=0))
    chosen = table[table["group"].isin(keep)]
    chosen.to_csv(file, index=False)
    return len(chosen)

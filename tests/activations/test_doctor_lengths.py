"""The doctor reads rows on both sides of a rope switch, and again after longer ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.scaled_models import CHANGING, FIXED, SWITCH, fresh
from verdictscope.activations import batch, wrap
from verdictscope.activations.doctor import Diagnosis, check_model, lengths


def statuses(found: Diagnosis) -> dict[str, str]:
    ours = (lengths.MATES, lengths.AFTER, lengths.STOCK, lengths.CACHED)
    return {f.check: f.status for f in found.findings if f.check in ours}


def examined(name: str) -> Diagnosis:
    return check_model(wrap(fresh(name)), only=["lengths"])


@pytest.mark.parametrize("name", [name for name in CHANGING if name != "phimoe"])
def test_both_sides_of_the_switch_are_read_rightly(name: str) -> None:
    found = examined(name)
    assert found.ok
    own = "supported" if name == "phi3" else "degraded"  # the others do not read a row again
    expected = {check: "supported" for check in (lengths.MATES, lengths.AFTER, lengths.STOCK)}
    assert statuses(found) == expected | {lengths.CACHED: own}
    assert f"{SWITCH} tokens" in next(f.detail for f in found.findings if f.check == lengths.MATES)


@pytest.mark.parametrize("name", list(FIXED))
def test_fixed_scalings_have_no_switch(name: str) -> None:
    assert statuses(examined(name)) == {lengths.AFTER: "supported"}


@pytest.mark.parametrize("name", ["phi3", "llama dynamic"])
def test_a_model_called_as_transformers_does_is_called_silently_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def nothing(*_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(batch, "as_alone", nothing)
    found = examined(name)
    assert not found.ok
    assert statuses(found)[lengths.MATES] == "silently wrong"
    if name == "llama dynamic":  # keeps the frequencies of the longest row it was given
        assert statuses(found)[lengths.AFTER] == "silently wrong"


def test_a_switch_beyond_what_is_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "LONGEST", SWITCH)
    found = examined("phi3")
    assert statuses(found) == {lengths.MATES: "degraded", lengths.AFTER: "supported"}

"""The page about probes shows what was measured, and names every call."""

from __future__ import annotations

import verdictscope.probes
from tools.docs import probes as writer
from tools.docs.blocks import filled


def test_the_tables_are_those_of_the_evidence() -> None:
    page = writer.PAGE.read_text(encoding="utf-8")
    assert filled(page, writer.TABLES) == page
    for name in writer.TABLES:
        assert f"<!-- {name}:begin -->" in page


def test_every_public_name_is_on_the_page() -> None:
    page = writer.PAGE.read_text(encoding="utf-8")
    estimators = {"DifferenceProbe", "LdaProbe", "LogisticProbe", "RidgeProbe"}
    results = {"ProbeCard", "ProbeResult"}
    assert not [name for name in set(verdictscope.probes.__all__) - estimators - results if f"{name}(" not in page]

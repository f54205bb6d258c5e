"""The token view of a report: what it begins with and what it calls things."""

from __future__ import annotations

import pandas as pd

from verdictscope.report.tokens import in_order


def test_the_token_view_begins_with_what_the_study_asks_about() -> None:
    rows = [
        ("quiet", "base", "harmful_complied", True, "answer"),
        ("other", "base", "harmless_complied", False, "thinking"),
        ("asked", "base", "harmful_complied", True, "thinking"),
        ("odd", "base", "unread", False, "thinking"),
        ("asked", "ablated_fixed", "harmful_complied", True, "thinking"),
    ]
    table = pd.DataFrame(rows, columns=["rollout", "variant", "cell", "target", "segment"])
    found = in_order(table)
    assert list(zip(found["rollout"], found["variant"], found["cell"], strict=True)) == [
        ("asked", "model under study", "target request, complied"),
        ("asked", "selected heads ablated, same tokens", "target request, complied"),
        ("quiet", "model under study", "target request, complied"),
        ("other", "model under study", "harmless request, complied"),
        ("odd", "model under study", "unread"),
    ]


def test_a_table_without_variants_and_cells_keeps_its_order() -> None:
    table = pd.DataFrame({"rollout": ["b", "a"], "segment": ["thinking", "thinking"]})
    assert list(in_order(table)["rollout"]) == ["b", "a"]

"""Duplicates against brute force, groups that no split can part, and the 2 x 2 design."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.public_data import whole
from verdictscope.errors import InputError
from verdictscope.rollouts import load_prompts
from verdictscope.rollouts.prompts.design import design, soft_labels
from verdictscope.rollouts.prompts.duplicates import (
    SHINGLE,
    duplicate_report,
    merge_groups,
    near_duplicates,
    normal_form,
    without_duplicates,
)
from verdictscope.rollouts.prompts.sets import join_prompts

VOCABULARY = ["how", "do", "I", "build", "a", "bomb", "boat", "please", "now", "é", "?"]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=9)


def brute_force(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    def shingles(text: str) -> set[str]:
        text = normal_form(text)
        return {text[k : k + SHINGLE] for k in range(max(1, len(text) - SHINGLE + 1))}

    found = set()
    for b in range(len(texts)):
        for a in range(b):
            x, y = shingles(texts[a]), shingles(texts[b])
            if normal_form(texts[a]) != normal_form(texts[b]) and len(x & y) / len(x | y) >= threshold:
                found.add((a, b))
    return found


@given(st.lists(WORDS.map(" ".join), max_size=14))
@settings(max_examples=60, deadline=None)
def test_near_duplicates_are_those_of_brute_force(texts: list[str]) -> None:
    firsts = [t for k, t in enumerate(texts) if normal_form(t) not in {normal_form(u) for u in texts[:k]}]
    found = near_duplicates(firsts, 0.7)
    # MinHash may miss a pair at the threshold itself once in 50,000, never one that is not there
    assert set(zip(found["a"], found["b"], strict=True)) == brute_force(firsts, 0.7)


@given(st.lists(WORDS.map(" ".join), max_size=14))
@example(["how how", "how how how how how", "how how how how how"])
@settings(max_examples=40, deadline=None)
def test_what_is_kept_holds_no_duplicates_and_groups_join_all(texts: list[str]) -> None:
    table = pd.DataFrame({"id": [str(k) for k in range(len(texts))], "user": texts})
    assert near_duplicates(without_duplicates(table)["user"].to_list()).empty
    groups = merge_groups(table["id"].to_list(), texts)
    for a, b in near_duplicates(texts)[["a", "b"]].to_numpy():
        assert groups[a] == groups[b]
    assert set(groups) <= set(table["id"])


def test_case_space_and_punctuation_make_no_new_request() -> None:
    found = near_duplicates(["How do I cook?", "  how  do I COOK", "How do I swim?"])
    assert found[["a", "b", "exact"]].to_numpy().tolist() == [[0, 1, True]]


def test_given_groups_are_kept_together() -> None:
    texts = ["write a letter to my bank", "sing", "write a letter to my bank!", "dance"]
    assert merge_groups(["x", "x", "y", "z"], texts) == ["x", "x", "x", "z"]
    assert merge_groups([], []) == []


def test_the_leaks_between_the_public_harm_sets_are_found() -> None:
    """Counted once by exact comparison of the files: 11 AdvBench and 9 HarmBench prompts stand in JailbreakBench."""
    files = (
        "advbench/harmful_behaviors.csv",
        "harmbench/harmbench_behaviors_text_all.csv",
        "jailbreakbench/jbb_harmful_behaviors.csv",
    )
    table = join_prompts([load_prompts(whole(file)) for file in files])
    report = duplicate_report(table)
    exact = report[report["exact"] & report["across"]]
    pairs = exact.apply(lambda row: frozenset((row["set_a"], row["set_b"])), axis=1).value_counts()
    assert pairs[frozenset(("advbench", "jailbreakbench"))] == 11
    assert pairs[frozenset(("harmbench", "jailbreakbench"))] == 9
    assert (report["similarity"] >= 0.7).all()
    assert len(without_duplicates(table)) < len(table) - 20


def labels() -> pd.DataFrame:
    rows = [("a/0", True, True), ("a/1", True, False), ("b/0", True, None), ("c/0", False, False)]
    rows.append(("d/0", False, False))
    return pd.DataFrame(rows, columns=["rollout", "harm", "refused"])


def test_the_design_counts_groups_and_warns_of_empty_cells() -> None:
    found = design(labels())
    counts = found.to_frame().set_index("cell")
    assert counts.loc["harmful_refused"].tolist() == [1, 1, 1]
    assert counts.loc["harmless_complied"].tolist() == [2, 2, 2]
    assert counts.loc["unread", "rollouts"] == 1
    assert any("no harmless-refused rollouts" in w for w in found.warnings)
    assert any("1 rollouts (20.0%) could not be read" in w for w in found.warnings)
    assert "harmful_refused" in found._repr_html_()


def test_soft_labels_are_rates_over_read_samples() -> None:
    rates = soft_labels(labels()).set_index("prompt")
    assert rates.loc["a", "refused"] == 0.5
    assert rates.loc["a", ["samples", "read"]].tolist() == [2, 2]
    assert pd.isna(rates.loc["b", "refused"])
    assert rates.loc["c", "low"] == 0
    assert 0 < rates.loc["c", "high"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="refused"), "no column 'refused'"),
        (lambda t: pd.concat([t, t]), "occurs twice"),
        (lambda t: t.assign(harm=[None, *t["harm"][1:]]), "has no harm label"),
    ],
)
def test_an_unusable_label_table_is_an_error(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        design(change(labels()))

"""Truth values, ids and texts of tables made by hand: one rule each, and nothing that is neither."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.rollouts.makers import byte_tokenizer
from verdictscope.errors import InputError
from verdictscope.rollouts import LanguageModel, Sampling, generate
from verdictscope.rollouts.prompts.design import cells, design, soft_labels
from verdictscope.values import identity, number, probabilities, text, truth, truths, whole_number

YES: list[Any] = [
    True,
    np.True_,
    1,
    np.int64(1),
    1.0,
    np.float32(1),
    "true",
    "True",
    "TRUE",
    "yes",
    " Yes ",
    "1",
    "1.0",
]
NO: list[Any] = [False, np.False_, 0, np.int8(0), 0.0, "false", "FALSE", "no", "NO", "0", "0.0"]
GAP: list[Any] = [None, float("nan"), np.float64("nan"), pd.NA, pd.NaT, "", "  "]
NEITHER: list[Any] = ["maybe", "nan", "None", "NA", "t", "y", "on", "harmful", 2, -1, 0.5, np.inf, [True], {}, b"true"]


def test_one_conversion() -> None:
    assert [truth(v, "x") for v in YES] == [True] * len(YES)
    assert [truth(v, "x") for v in NO] == [False] * len(NO)
    assert [truth(v, "x") for v in GAP] == [None] * len(GAP)


@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_what_is_neither_is_named(value: Any) -> None:
    with pytest.raises(InputError, match="harm of row 2 is "):
        truths([True, value], "harm")
    labels = pd.DataFrame({"rollout": ["a/0", "b/0"], "harm": pd.Series([True, value], dtype=object), "refused": True})
    for what in (design, soft_labels):
        with pytest.raises(InputError, match="harm of rollout 'b/0' is "):
            what(labels)
    with pytest.raises(InputError, match="refused of row 2"):
        cells(pd.Series([True, True]), pd.Series([True, value], dtype=object))


@pytest.mark.parametrize("kind", ["bool", "boolean", "int64", "Int64", "float64", "object", "str", "words", "category"])
def test_a_design_is_the_same_in_every_dress(kind: str) -> None:
    harm = pd.Series([True, False, False, True])
    dressed = {
        "words": lambda: harm.map({True: "yes", False: "No"}),
        "str": lambda: harm.astype(str),
        "category": lambda: harm.astype(str).astype("category"),
    }
    column = dressed.get(kind, lambda: harm.astype(kind))()
    labels = pd.DataFrame({"rollout": list("abcd"), "harm": column, "refused": [True, False, None, False]})
    counts = design(labels).counts.set_index("cell")["rollouts"]
    assert counts.to_dict() == {
        "harmful_refused": 1,
        "harmful_complied": 1,
        "harmless_refused": 0,
        "harmless_complied": 1,
        "unread": 1,
    }
    refused = design(labels.assign(harm=harm, refused=column)).counts.set_index("cell")["rollouts"]
    assert refused.to_dict() == {
        "harmful_refused": 2,
        "harmful_complied": 0,
        "harmless_refused": 0,
        "harmless_complied": 2,
        "unread": 0,
    }


def test_harm_may_not_be_missing_from_a_design() -> None:
    labels = pd.DataFrame({"rollout": ["a", "b"], "harm": [True, None], "refused": [True, None]})
    with pytest.raises(InputError, match="'b'"):
        design(labels)
    with pytest.raises(InputError, match="harm of row 2 is missing"):
        cells(labels["harm"], labels["refused"])


def test_ids_texts_and_numbers() -> None:
    assert [identity(v, "id") for v in ("007", 7, np.int32(7), 10**30, None, " ")] == [
        "007",
        "7",
        "7",
        str(10**30),
        None,
        None,
    ]
    for bad in (1.0, 1.5, True, np.True_, ["a"], {"a": 1}, b"a", "a\ud83d"):
        with pytest.raises(InputError, match="id of row 3"):
            identity(bad, "id of row 3")
    for bad in (1, True, ["a"], {"a": 1}, b"a", "a\ud83d", "\udc00"):
        with pytest.raises(InputError, match="user of row 3"):
            text(bad, "user of row 3")
    assert text("NA", "x") == "NA"
    for bad in (float("nan"), float("inf"), -0.1, 1.1, True, "0.5", None):
        with pytest.raises(InputError, match="top_p"):
            number(bad, "top_p", 0, 1)
    for bad in (0, -1, 1.0, True, "2", None):
        with pytest.raises(InputError, match="samples"):
            whole_number(bad, "samples", 1)
    assert np.isnan(probabilities([0.0, 1.0, None], "p")[2])
    for bad in (87.5, -0.1, float("inf"), "0.5x"):
        with pytest.raises(InputError, match="p of row 2"):
            probabilities([0.5, bad], "p")


@pytest.mark.parametrize("user", ["cut \ud83d", "\udc00", ["a"], 12, None, float("nan"), b"a"])
def test_generate_names_the_prompt_it_cannot_render(user: Any) -> None:
    prompts = pd.DataFrame({"id": ["good", "culprit"], "user": pd.Series(["Hello", user], dtype=object)})
    with pytest.raises(InputError, match="culprit"):
        generate(LanguageModel(None, byte_tokenizer()), prompts, Sampling(max_new_tokens=2))
    if isinstance(user, str):
        prompts = prompts.assign(user=["Hello"] * 2, system=pd.Series(["", user], dtype=object))
        with pytest.raises(InputError, match="culprit"):
            generate(LanguageModel(None, byte_tokenizer()), prompts, Sampling(max_new_tokens=2))


@pytest.mark.parametrize("bad", [True, 1.0, None, "", ["a"]])
def test_generate_takes_ids_as_files_do(bad: Any) -> None:
    prompts = pd.DataFrame({"id": pd.Series(["a", bad], dtype=object), "user": "Hello"})
    with pytest.raises(InputError, match="prompt 2"):
        generate(LanguageModel(None, byte_tokenizer()), prompts)

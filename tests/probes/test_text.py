"""What text, length and position tell, in the form of the probe's number."""

from __future__ import annotations

import numpy as np
import pytest

from verdictscope.errors import InputError
from verdictscope.probes import split_groups
from verdictscope.probes.text import bag_of_words_auroc, length_auroc, position_auroc, tfidf_auroc, token_auroc

N = 240


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(N // 2)], 2)
    labels = np.repeat(rng.integers(0, 2, N // 2), 2)
    return {"labels": labels, "groups": groups, "part": np.array(split_groups(groups, labels)[groups])}


def test_a_word_that_names_the_label_is_found(rows: dict[str, np.ndarray]) -> None:
    texts = [f"please {'kill' if y else 'help'} now" for y in rows["labels"]]
    effect = bag_of_words_auroc(texts, **rows)
    assert effect.estimate == 1.0
    assert effect.low < 1.0
    assert effect.n == sum(rows["part"] == "test") // 2


def test_a_checkerboard_tells_a_word_counter_nothing_but_a_pair_counter_all(rows: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    verb = rng.integers(0, 2, N // 2).repeat(2)
    noun = (verb + rows["labels"]) % 2
    texts = [f"v{v} n{n}" for v, n in zip(verb, noun, strict=True)]
    effect = bag_of_words_auroc(texts, **rows)
    assert effect.low < 0.5 < effect.high
    assert bag_of_words_auroc(texts, **rows, ngrams=2).estimate == 1.0


def test_one_letter_words_count(rows: dict[str, np.ndarray]) -> None:
    assert bag_of_words_auroc(["A" if y else "B" for y in rows["labels"]], **rows).estimate == 1.0


def test_tfidf_reads_runs_of_words_and_tokens_are_told_by_their_id(rows: dict[str, np.ndarray]) -> None:
    texts = [f"please {'kill' if y else 'help'} now" for y in rows["labels"]]
    assert tfidf_auroc(texts, **rows).estimate == 1.0
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 5, N) + 5 * rows["labels"]
    assert token_auroc(ids, **rows).estimate == 1.0
    nothing = token_auroc(rng.integers(0, 50, N), **rows)
    assert nothing.low < 0.5 < nothing.high


def test_words_are_learned_from_train_alone(rows: dict[str, np.ndarray]) -> None:
    texts = [
        f"{'yes' if y else 'no'}" if p == "test" else "same words"
        for y, p in zip(rows["labels"], rows["part"], strict=True)
    ]
    assert bag_of_words_auroc(texts, **rows).estimate == 0.5


def test_length_and_position(rows: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    middling = np.where(rows["labels"], rng.integers(40, 60, N), rng.choice([5, 300], N))
    assert length_auroc(middling, **rows).estimate > 0.95
    assert position_auroc(rows["labels"] * 3 + rng.normal(size=N), **rows).estimate > 0.9
    effect = position_auroc(rng.normal(size=N), **rows)
    assert effect.low < 0.5 < effect.high
    assert (length_auroc(np.full(N, 7), **rows)).estimate == 0.5


def test_the_penalty_comes_from_validation(rows: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(3)
    hint = np.where(rng.random(N) < 0.5 + 0.3 * rows["labels"], " k", "")
    texts = [" ".join(rng.choice(list("abcdefghij"), 6)) + word for word in hint]
    flipped = {**rows, "labels": np.where(rows["part"] == "test", 1 - rows["labels"], rows["labels"])}
    first, second = bag_of_words_auroc(texts, **rows), bag_of_words_auroc(texts, **flipped)
    assert first.estimate == pytest.approx(1 - second.estimate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(N)}, "two classes"),
        ({"labels": ["x"] * N}, "label of row 1 is .x."),
        ({"groups": ["one"] * N}, "two parts"),
        ({"part": ["train"] * N}, "part test"),
        ({"texts": ["a"]}, "1 rows"),
        ({"texts": ["?!"] * N}, "no word"),
    ],
)
def test_wrong_input(rows: dict[str, np.ndarray], change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bag_of_words_auroc(**({"texts": ["a b"] * N} | rows | change))


def test_lengths_must_be_numbers(rows: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match="lengths"):
        length_auroc([np.nan] * N, **rows)
    with pytest.raises(InputError, match="positions"):
        position_auroc([np.inf] * N, **rows)

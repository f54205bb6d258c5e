"""Prompts that occur twice, within a set and across sets, word for word or nearly.

Public harm sets copy from one another (JailbreakBench holds AdvBench and HarmBench requests), and a request on both
sides of a split is a leak. Near duplicates are pairs whose character 5-grams have a Jaccard index of at least a
threshold; candidates come from MinHash with banding (Broder 1997; Leskovec, Rajaraman & Ullman, *Mining of Massive
Datasets*, ch. 3), every candidate is then compared exactly.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from verdictscope.errors import InputError
from verdictscope.stats import group_names
from verdictscope.values import number

SHINGLE = 5
"""Characters of one shingle."""

_HASHES, _BAND = 160, 4
"""160 hashes in 40 bands of 4 miss a pair of Jaccard .7 with probability (1 - .7⁴)⁴⁰ = 2e-5."""

LARGE = 0.1
"""Share of prompts or groups from which on a cleaning step says what it did."""

_CHUNK = 50_000


def normal_form(text: str) -> str:
    """A text without what does not make it another request: case, spacing, width of letters, outer punctuation."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    start, stop = 0, len(folded)
    while start < stop and not folded[start].isalnum():
        start += 1
    while stop > start and not folded[stop - 1].isalnum():
        stop -= 1
    return folded[start:stop] or folded


def near_duplicates(texts: Sequence[str], threshold: float | int = 0.7) -> pd.DataFrame:
    """Pairs of texts that say the same, exactly (after :func:`normal_form`) or nearly."""
    number(threshold, "threshold (a Jaccard index)", 0, 1, above=True)
    first: dict[str, int] = {}
    rows: list[tuple[int, int, float, bool]] = []
    for at, text in enumerate(map(normal_form, texts)):
        if text in first:
            rows.append((first[text], at, 1.0, True))
        else:
            first[text] = at
    unique = list(first.values())
    if len(unique) < 2:
        return _pairs(rows)
    shingles, starts = _shingles(list(first))
    a, b = _candidates(shingles, starts)
    similarity = _jaccard(shingles, starts, a, b)
    near = similarity >= threshold
    rows += [
        (unique[i], unique[j], float(value), False)
        for i, j, value in zip(a[near], b[near], similarity[near], strict=True)
    ]
    return _pairs(rows)


def _pairs(rows: list[tuple[int, int, float, bool]]) -> pd.DataFrame:
    found = pd.DataFrame(sorted(rows), columns=["a", "b", "similarity", "exact"])
    return found.astype({"a": int, "b": int, "similarity": float, "exact": bool})


def merge_groups(groups: Sequence[str], texts: Sequence[str], threshold: float = 0.7) -> list[str]:
    """Groups joined wherever two of their texts are duplicates, so that a grouped split cannot part them.

    Warns where more than a tenth of the groups goes.
    """
    found = joined_groups(groups, texts, threshold)
    n = len(set(map(str, groups)))
    if (joined := n - len(set(found))) > LARGE * n:
        warnings.warn(
            f"{n} groups became {n - joined}: {joined} share a text, or nearly, with an earlier one "
            f"(threshold {threshold:g})",
            stacklevel=2,
        )
    return found


def joined_groups(groups: Sequence[str], texts: Sequence[str], threshold: float = 0.7) -> list[str]:
    """:func:`merge_groups` for a caller that says itself what it did."""
    if len(groups) != len(texts):
        raise InputError(f"{len(groups)} groups for {len(texts)} texts: give one per text")
    pairs = near_duplicates(texts, threshold)
    names, codes = np.unique(group_names(groups).astype(str), return_inverse=True)
    first = {code: str(name) for code, name in enumerate(names)}
    links = (np.ones(len(pairs)), (codes[pairs["a"]], codes[pairs["b"]]))
    _, component = connected_components(coo_array(links, shape=(len(names), len(names))), directed=False)
    name_of: dict[int, str] = {}
    for code in codes:
        name_of.setdefault(int(component[code]), first[int(code)])
    return [name_of[int(component[code])] for code in codes]


def duplicate_report(prompts: pd.DataFrame, threshold: float = 0.7) -> pd.DataFrame:
    """Every pair of (near) duplicate prompts of a table, and whether it crosses sets."""
    pairs = near_duplicates(prompts["user"].to_list(), threshold)
    sets = prompts["set"].astype(str).to_numpy() if "set" in prompts else np.full(len(prompts), "")
    ids, texts = prompts["id"].to_numpy(), prompts["user"].to_numpy()
    a, b = pairs["a"].to_numpy(dtype=int), pairs["b"].to_numpy(dtype=int)
    table = pd.DataFrame(
        {
            "id_a": ids[a],
            "id_b": ids[b],
            "set_a": sets[a],
            "set_b": sets[b],
            "across": sets[a] != sets[b],
            "exact": pairs["exact"],
            "similarity": pairs["similarity"],
            "user_a": texts[a],
            "user_b": texts[b],
        }
    )
    return table.sort_values(["similarity", "exact"], ascending=False, kind="stable").reset_index(drop=True)


def without_duplicates(prompts: pd.DataFrame, threshold: float = 0.7) -> pd.DataFrame:
    """A prompt table with the first prompt of every cluster of (near) duplicates.

    Two prompts stay together where one was dropped between them only if both are no duplicates of what stays: kept
    prompts are never duplicates of one another. Warns where more than a tenth of the prompts goes.
    """
    pairs = near_duplicates(prompts["user"].to_list(), threshold)
    # An exact copy goes whether its first stays or not: what drops the first, of which alone near pairs are listed,
    # drops the copy as well.
    kept = np.ones(len(prompts), dtype=bool)
    kept[pairs.loc[pairs["exact"], "b"]] = False
    earlier: dict[int, list[int]] = defaultdict(list)
    for a, b in zip(pairs["a"], pairs["b"], strict=True):
        earlier[int(b)].append(int(a))
    for at in range(len(prompts)):
        kept[at] &= not any(kept[a] for a in earlier.get(at, ()))
    if (dropped := int((~kept).sum())) > LARGE * len(prompts):
        warnings.warn(
            f"{dropped} of {len(prompts)} prompts repeat an earlier one and are dropped: "
            f"{len(prompts) - dropped} are left (threshold {threshold:g})",
            stacklevel=2,
        )
    return prompts[kept].reset_index(drop=True)


def _shingles(texts: Sequence[str]) -> tuple[UInt[np.ndarray, " shingle"], Int[np.ndarray, " start"]]:
    """Distinct hashed character 5-grams of each text, one after the other, and where each text's begin.

    A text shorter than a shingle is one shingle, filled up with zeros.
    """
    padded = [text + "\0" * (SHINGLE - len(text)) for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    counts = np.array([len(text) - SHINGLE + 1 for text in padded], dtype=np.int64)
    begins = np.cumsum([0, *(len(text) for text in padded)])[:-1]
    rows = np.repeat(np.arange(len(texts)), counts)
    at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + begins[rows]
    value = np.zeros(len(rows), dtype=np.uint64)
    for offset in range(SHINGLE):
        value = _mix(value ^ codes[at + offset])
    order = np.lexsort((value, rows))
    value, rows = value[order], rows[order]
    new = np.concatenate([[True], (value[1:] != value[:-1]) | (rows[1:] != rows[:-1])])[: len(rows)]
    return value[new], np.searchsorted(rows[new], np.arange(len(texts) + 1))


def _mix(x: UInt[np.ndarray, " n"]) -> UInt[np.ndarray, " n"]:
    """A 64-bit mixer (SplitMix64's finaliser); wraps on purpose."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _candidates(
    shingles: UInt[np.ndarray, " shingle"], starts: Int[np.ndarray, " start"]
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Pairs that share a band of their MinHash signatures, sorted."""
    n = len(starts) - 1
    pairs = np.zeros(0, dtype=np.int64)
    salts = _mix(np.arange(2 * _HASHES, dtype=np.uint64)).reshape(_HASHES, 2)
    # multiply-add hashing of already mixed values: one pass over all shingles per hash function
    signatures = np.stack([np.minimum.reduceat(shingles * (a | 1) + b, starts[:-1]) for a, b in salts], axis=1)
    for band in range(0, _HASHES, _BAND):
        key = np.zeros(n, dtype=np.uint64)
        for column in range(band, band + _BAND):
            key = _mix(key ^ signatures[:, column])
        order = np.argsort(key, kind="stable")
        key, new = key[order], [pairs]
        for step in range(1, n):
            same = np.flatnonzero(key[step:] == key[:-step])
            if not len(same):
                break
            new.append(order[same] * n + order[same + step])
        pairs = np.unique(np.concatenate(new))
    return pairs // n, pairs % n


def _jaccard(
    shingles: UInt[np.ndarray, " shingle"],
    starts: Int[np.ndarray, " start"],
    a: Int[np.ndarray, " pair"],
    b: Int[np.ndarray, " pair"],
) -> Float[np.ndarray, " pair"]:
    """Exact Jaccard index of every pair, by sparse products of rows."""
    _, column = np.unique(shingles, return_inverse=True)
    shape = (len(starts) - 1, int(column.max()) + 1)
    table = csr_array((np.ones(len(column), dtype=np.int32), column, starts), shape=shape)
    both = [
        table[a[at : at + _CHUNK]].multiply(table[b[at : at + _CHUNK]]).sum(axis=1) for at in range(0, len(a), _CHUNK)
    ]
    shared = np.concatenate(both) if both else np.zeros(0)
    sizes = np.diff(starts)
    return shared / (sizes[a] + sizes[b] - shared)

"""Rollouts and scores with a planted truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from verdictscope.rollouts.rollout import Finish, Rollout, Span


def make_rollout(
    name: str, group: str, thinking: int, *, answer: int = 3, closing: int = 2, finish: Finish = "stop"
) -> Rollout:
    """system 2, user 4, template 2, then thinking, closing and answer tokens."""
    spans, at = [], 0
    lengths = {"system": 2, "user": 4, "template": 2, "thinking": thinking, "think_end": closing, "answer": answer}
    for segment, length in lengths.items():
        if length:
            spans.append(Span(segment, at, at + length))
            at += length
    return Rollout(name, group, tuple(range(at)), tuple(spans), n_prompt=8, finish=finish)


def make_scores(rollouts: Sequence[Rollout], value: Callable[[Rollout, int, str], float]) -> pd.DataFrame:
    """A score for every token; ``value(rollout, pos, segment)``."""
    rows = [
        (r.id, pos, segment, r.ids[pos], "refusal", 3, float(value(r, pos, segment)))
        for r in rollouts
        for pos, segment in enumerate(r.labels())
    ]
    return pd.DataFrame(rows, columns=["rollout", "pos", "segment", "token_id", "readout", "layer", "score"])


class World:
    """A study with known normaliser: scores of four cells, refusing high, complying low, sharpening at the end.

    ``reading`` is the planted normalised score of the cliff cell: at the plateau and at the last template token.
    """

    def __init__(
        self, seed: int = 0, prompts: int = 60, reading: tuple[float, float] = (0.8, 0.2), longest: int = 40
    ) -> None:
        rng = np.random.default_rng(seed)
        self.reading = reading
        self.rollouts: list[Rollout] = []
        self.labels: list[dict[str, object]] = []
        kind: dict[str, tuple[float, float]] = {}
        for part in ("train", "test"):
            for cell in ("harmful_refused", "harmful_complied", "harmless_refused", "harmless_complied"):
                for i in range(prompts):
                    group = f"{part}-{cell}-{i}"
                    for sample in range(2):
                        r = make_rollout(f"{group}/{sample}", group, int(rng.integers(10, longest)))
                        self.rollouts.append(r)
                        refused = cell.endswith("refused")
                        self.labels.append(
                            {
                                "rollout": r.id,
                                "group": group,
                                "part": part,
                                "cell": cell,
                                "harm": cell.startswith("harmful"),
                                "refused": refused,
                            }
                        )
                        ends = reading if cell == "harmful_complied" else (1.0, 1.0) if refused else (0.0, 0.0)
                        kind[r.id] = ends
        shift = {r.group: rng.normal() for r in self.rollouts}

        def value(r: Rollout, pos: int, segment: str) -> float:
            early, late = kind[r.id]
            last = segment in ("think_end", "answer")
            # complying scores fall from -1 to -5, refusing ones from 3 to 2: the gap grows from 4 to 7
            mean = -5 + 7 * late if last else -1 + 4 * early
            return mean + 0.5 * shift[r.group] + rng.normal()

        self.scores = make_scores(self.rollouts, value)
        self.table = pd.DataFrame(self.labels)

    def ids(self, cell: str, part: str = "test") -> list[str]:
        return list(self.table["rollout"][(self.table["cell"] == cell) & (self.table["part"] == part)])


@pytest.fixture(scope="session")
def world() -> World:
    return World()

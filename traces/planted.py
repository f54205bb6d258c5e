"""Aligned scores with a planted level, for examples: 8 thinking tokens, then 2 closing tokens before the answer."""

from __future__ import annotations

import numpy as np
import pandas as pd


def planted_scores(cell: str, n: int, plateau: float, final: float) -> pd.DataFrame:
    """The table `align` gives for n rollouts of n prompts that score ``plateau`` in thinking, ``final`` after it."""
    rows = pd.DataFrame([(f"{cell}{i}", pos) for i in range(n) for pos in range(10)], columns=["rollout", "pos"])
    pos, thinking = rows["pos"], rows["pos"] < 8
    facts = {"group": rows["rollout"], "finish": "stop", "n_thinking": 8, "readout": "probe", "layer": 1}
    segment, score = np.where(thinking, "thinking", "think_end"), np.where(thinking, plateau, final)
    return rows.assign(**facts, segment=segment, rel_think_end=pos - 8, rel_answer=pos - 10, score=score)

"""Tables of scored tokens for the token view: a plain one, and hostile ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

HOSTILE = {
    "script": "<script>document.title='owned'</script>",
    "image": "<img src=x onerror=\"document.title='owned'\">",
    "style": "</style><style>body{display:none}</style>",
    "end of script": "</script><script>document.title='owned'</script>",
    "comment": "<!--<script>",
    "cdata": "]]>",
    "attribute": "\" autofocus onfocus=\"document.title='owned'",
    "entity": "&lt;b&gt; &amp;quot; &#60;",
    "template": "{{ 7*7 }}{% raw %}${7*7}",
    "end of frame": "</iframe><h1 id=owned>owned</h1>",
    "textarea": "</textarea></title></noscript>",
    "right to left": "abc\u202edef\u202c\u2066\u2069",
    "arabic": "سلام",
    "zero width": "a\u200bb\u2060c\ufeff\u00ad",
    "NUL and control": "\x00\x07\x1b[31mred\x7f\x85",
    "surrogate": "\ud800x\udfff",
    "separators": "\u2028\u2029\u00a0\u3164",
    "marks": "\u0301" + "z" + "\u0335" * 40,
    "megabyte": "A" * 1_000_000,
    "empty": "",
    "newlines": "\r\n\n\t ",
    "prototype": "__proto__",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
}
"""Texts a model could write."""


def tokens(
    n: int = 60,
    layers: tuple[int, ...] = (0, 1, 2),
    rollouts: tuple[str, ...] = ("a/0", "b/0"),
    seed: int = 0,
    words: tuple[str, ...] = (" the", " model", " refuses", ",", " then", ".\n"),
) -> pd.DataFrame:
    """Rollouts with prompt, thinking, its end and an answer; scores grow with the layer, a log-odds has no layer."""
    rng = np.random.default_rng(seed)
    frames = []
    for name in rollouts:
        pos = np.arange(n)
        edges = {"user": 0, "thinking": n // 6, "think_end": n * 3 // 4, "answer": n * 3 // 4 + 2}
        segment = np.array([[s for s, start in edges.items() if start <= p][-1] for p in pos], dtype=object)
        base = {
            "rollout": name,
            "variant": "base",
            "pos": pos,
            "token": [words[i % len(words)] for i in pos],
            "segment": segment,
        }
        for layer in layers:
            score = rng.normal(layer, 2, n) * np.where(segment == "answer", -1, 1)
            frames.append(pd.DataFrame(base | {"readout": "probe", "layer": layer, "unit": "logit", "score": score}))
        frames.append(
            pd.DataFrame(base | {"readout": "refusal", "layer": np.nan, "unit": "nats", "score": rng.normal(0, 3, n)})
        )
    return pd.concat(frames, ignore_index=True)


def hostile() -> pd.DataFrame:
    """Every hostile text as a token, as a rollout's name, as a segment, a readout and a unit; scores without sense."""
    texts = list(HOSTILE.values())
    scores = np.resize([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 0.0, -3.5], len(texts))
    rows = [
        {"rollout": "all", "pos": i, "token": text, "segment": "thinking", "readout": "probe", "score": score}
        for i, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]
    rows += [
        {"rollout": text, "pos": 7, "token": text, "segment": text, "readout": "probe", "cell": text, "score": 1.0}
        for text in texts
    ]
    rows += [
        {
            "rollout": "all",
            "pos": 0,
            "token": texts[0],
            "segment": "thinking",
            "readout": f"{text} 1",
            "unit": text,
            "score": 1.0,
        }
        for text in texts
    ]
    # as objects: pandas' own strings hold no surrogates
    return pd.DataFrame(
        {
            key: pd.Series([row.get(key, missing) for row in rows], dtype=kind)
            for key, missing, kind in (
                ("rollout", "", object),
                ("pos", 0, int),
                ("token", "", object),
                ("segment", "", object),
                ("readout", "", object),
                ("layer", 0, int),
                ("unit", "logit", object),
                ("cell", "", object),
                ("score", 0.0, float),
            )
        }
    )

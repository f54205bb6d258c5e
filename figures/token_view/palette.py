"""The diverging colours of scores, light and dark, as classes of a style sheet."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from verdictscope.figures.style import DIVERGING

BINS = 20
"""Steps of colour on each side of the centre."""

INK = {"light": "#111111", "dark": "#f4f4f4"}
PAPER = {"light": "#ffffff", "dark": "#1b1c1e"}
_REACH = 0.30  # how far into the map light colours go: further out dark letters could not be read
_ENDS = 0.10  # where in the map the dark theme's end colours lie
_MISSING = "na"


def classes(scores: Float[np.ndarray, " token"], centre: float, limit: float) -> list[str]:
    """The colour class of every score; ``na`` where there is none."""
    step = steps(scores, centre, limit)
    return [_MISSING if k < 0 else f"a{k}" for k in step.tolist()]


def steps(scores: Float[np.ndarray, " token"], centre: float, limit: float) -> Int[np.ndarray, " token"]:
    """The step of every score, 0 (lowest) to 2 BINS; -1 where there is none. The view's script does the same sum."""
    share = np.clip((np.asarray(scores, dtype=np.float64) - centre) / limit, -1, 1)
    rounded = np.floor(np.nan_to_num(share) * BINS + 0.5).astype(np.int64) + BINS
    return np.where(np.isnan(share), -1, rounded)


def colours(theme: str) -> list[str]:
    """The background of every step, lowest first, as hexadecimal colours."""
    share = np.linspace(-1, 1, 2 * BINS + 1)
    if theme == "light":
        return [to_hex(colormaps[DIVERGING](0.5 + _REACH * x)) for x in share]
    # on dark paper a step is that much of the end's colour
    low, high = (np.array(colormaps[DIVERGING](end)[:3]) for end in (_ENDS, 1 - _ENDS))
    paper = np.array(to_rgb(PAPER["dark"]))
    return [to_hex(paper + abs(x) * ((high if x > 0 else low) - paper)) for x in share]


def style_sheet() -> str:
    """One rule per step with both themes' backgrounds, and the legend's gradients."""
    pairs = zip(colours("light"), colours("dark"), strict=True)
    rules = [f".a{k}{{--light:{light};--dark:{dark}}}" for k, (light, dark) in enumerate(pairs)]
    bars = {theme: ",".join(colours(theme)) for theme in ("light", "dark")}
    rules.append(f".bar{{--light:linear-gradient(90deg,{bars['light']});--dark:linear-gradient(90deg,{bars['dark']})}}")
    return "\n".join(rules) + "\n"

"""Rollouts as coloured tokens: one static page without a server, a network or trust in its text."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup

from verdictscope.figures.tables import number
from verdictscope.figures.token_view.data import Layer, ShownReadout, ShownRollout, read_table
from verdictscope.figures.token_view.encode import base64_halves, halves, json_block
from verdictscope.figures.token_view.palette import BINS, classes, style_sheet
from verdictscope.figures.token_view.visible import visible

_HERE = Path(__file__).parent
_CHUNK = 150  # tokens after which the next line end begins a block of its own: blocks off the screen are not laid out
_NAME = 120  # characters of a rollout's name that are shown


@dataclass(frozen=True, eq=False)
class TokenView:
    """Rollouts as coloured tokens, with a switch of rollout, readout and layer."""

    rollouts: tuple[ShownRollout, ...]
    readouts: tuple[ShownReadout, ...]
    start: tuple[int, int]
    title: str
    ends: tuple[str, str]

    def to_html(self) -> str:
        """A page of its own: opens from disk, asks nothing of the network, runs nothing but its own script."""
        return _template().render(
            title=visible(self.title[:_NAME]),
            ends=[visible(end) for end in self.ends],
            csp="; ".join(
                ["default-src 'none'", *(f"{k} {v}" for k, v in csp().items()), "base-uri 'none'", "form-action 'none'"]
            ),
            style=Markup(_style()),
            script=Markup(_script()),
            data=Markup(json_block(self._data())),
            view=self,
            shown=self.readouts[self.start[0]] if self.readouts else None,
            names=[visible(r.label if len(r.label) <= _NAME else r.label[:_NAME] + "…") for r in self.rollouts],
            bodies=[Markup(self._body(r)) for r in self.rollouts],
            visible=visible,
            number=number,
        )

    def fragment(self, height: int = 640) -> str:
        """The page inside a sandboxed frame, for a notebook or a report; the page around it must allow :func:`csp`."""
        title = escape(visible(self.title[:_NAME]))
        frame = (
            f'<iframe class="verdictscope-tokens" title="{title}" sandbox="allow-scripts" '
            f'width="100%" height="{int(height)}" frameborder="0" srcdoc="{escape(self.to_html())}"></iframe>'
        )
        # in ASCII the script keeps its hash whatever character set the page around it declares
        return frame.encode("ascii", "xmlcharrefreplace").decode("ascii")

    def save(self, path: str | Path) -> Path:
        """Write the page, under a temporary name that is renamed when whole."""
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(self.to_html(), encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def _repr_html_(self) -> str:
        return self.fragment()

    def __repr__(self) -> str:
        tokens = sum(len(r.tokens) for r in self.rollouts)
        names = ", ".join(r.name for r in self.readouts)
        return f"TokenView: {len(self.rollouts)} rollouts, {tokens:,} tokens, scores of {names or 'nothing'}"

    def _data(self) -> dict:
        """What the script needs beside the tokens themselves, which stand in the page."""
        return {
            "start": list(self.start),
            "bins": BINS,
            "readouts": [
                {
                    "name": visible(r.name),
                    "unit": visible(r.unit),
                    "layers": list(r.layers),
                    "centre": r.centre,
                    "limit": r.limit,
                }
                for r in self.readouts
            ],
            "rollouts": [
                {
                    "id": r.name[:_NAME],
                    "end": r.end_of_thinking,
                    "pos": _ranges(r),
                    "runs": [[visible(run.segment), run.start, run.stop] for run in r.runs],
                    "scores": [
                        [self._column(r, readout, layer) for layer in readout.layers] for readout in self.readouts
                    ],
                }
                for r in self.rollouts
            ],
        }

    @staticmethod
    def _column(rollout: ShownRollout, readout: ShownReadout, layer: Layer) -> str | None:
        column = rollout.scores.get((readout.name, layer))
        return None if column is None else base64_halves(column)

    def _body(self, rollout: ShownRollout) -> str:
        """A rollout's segments and tokens, coloured by the readout shown first."""
        colour = classes(self._first_scores(rollout), *self._first_scale())
        parts: list[str] = []
        for run in rollout.runs:
            name = escape(visible(run.segment) if run.segment else "no segment")
            first, last, n = rollout.pos[run.start], rollout.pos[run.stop - 1], run.stop - run.start
            where = f"{first}–{last}, n = {n}" if n > 1 else f"{first}, n = 1"
            parts.append(f'<section class="seg" data-segment="{name}"><h3>{name} <small>{where}</small></h3><div><p>')
            begun = run.start
            for i in range(run.start, run.stop):
                parts.append(f"<bdi class={colour[i]}>{escape(visible(rollout.tokens[i]), quote=False)}</bdi>")
                if i - begun >= _CHUNK and rollout.tokens[i].endswith("\n") and i + 1 < run.stop:
                    parts.append("</p><p>")
                    begun = i
            parts.append("</p></div></section>")
        return "".join(parts)

    def _first_scores(self, rollout: ShownRollout) -> Float[np.ndarray, " token"]:
        missing = np.full(len(rollout.tokens), np.nan)
        if not self.readouts:
            return missing
        readout = self.readouts[self.start[0]]
        # as the script sees them, so that switching back to the first readout changes no colour
        return halves(rollout.scores.get((readout.name, readout.layers[self.start[1]]), missing))

    def _first_scale(self) -> tuple[float, float]:
        readout = self.readouts[self.start[0]] if self.readouts else None
        return (readout.centre, readout.limit) if readout else (0.0, 1.0)


def token_view(
    table: pd.DataFrame,
    *,
    start: tuple[str, int | None] | str | None = None,
    ends: tuple[str, str] = ("lower", "higher"),
    title: str = "Token view",
    facts: tuple[str, ...] = ("variant", "cell"),
) -> TokenView:
    """Show a table of scores on the tokens they belong to.

    Args:
        table: one row per rollout, position, readout and layer (tokens.parquet): ``rollout pos token score`` and,
            where there are any, ``segment``, ``readout``, ``layer`` (missing for a readout of the output), ``unit``
            (``logit`` by default) and the columns of ``facts``. Any text may stand in it.
        start: the readout shown first, or the readout and its layer. By default the first readout of the table, and
            its last layer.
        ends: what a low and a high score read like, for the legend.
        title: heading of the page.
        facts: columns shown beside a rollout's id; rollouts of one id that differ in them are shown apart.

    Raises:
        ValueError: a column is missing, a position is no whole number, a token has two texts, segments or scores, or
            ``start`` names no readout or layer of the table.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"rollout": "r0", "pos": [0, 1], "token": ["a", "b"], "score": [0.5, -0.5]})
        >>> token_view(table)
        TokenView: 1 rollouts, 2 tokens, scores of score
    """
    rollouts, readouts = read_table(table, facts)
    return TokenView(tuple(rollouts), tuple(readouts), _start(readouts, start), title, ends)


def _start(readouts: list[ShownReadout], asked: tuple[str, int | None] | str | None) -> tuple[int, int]:
    if not readouts:
        return (0, 0)
    name, layer = (asked, None) if isinstance(asked, str) else asked or (readouts[0].name, None)
    at = next((i for i, r in enumerate(readouts) if r.name == name), None)
    if at is None:
        raise ValueError(f"no readout {name!r} in the table: there are {', '.join(r.name for r in readouts)}")
    layers = readouts[at].layers
    if layer is None:
        return (at, len(layers) - 1)
    if layer not in layers:
        raise ValueError(f"readout {name!r} has no layer {layer}: there are {', '.join(map(str, layers))}")
    return (at, layers.index(layer))


def _ranges(rollout: ShownRollout) -> list[list[int]]:
    """Positions as runs of neighbours: [place among the tokens, position] where a run begins."""
    begins = np.flatnonzero(np.diff(rollout.pos, prepend=-2) != 1)
    return [[int(i), int(rollout.pos[i])] for i in begins]


def csp() -> dict[str, str]:
    """The hashes of the view's script and style, by directive of a content security policy."""
    return {"script-src": _hash(_script()), "style-src": _hash(_style())}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


@cache
def _style() -> str:
    return (_HERE / "view.css").read_text(encoding="utf-8") + style_sheet()


@cache
def _script() -> str:
    return (_HERE / "view.js").read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((_HERE / "page.html").read_text(encoding="utf-8"))

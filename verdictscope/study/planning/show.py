"""A plan as a table for a terminal, its arithmetic beneath."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

from verdictscope.study.planning.rates import ASSUMED, Rates

if TYPE_CHECKING:
    from rich.console import Console

    from verdictscope.study.planning.plan import Plan, Row


COUNTS = ("generations", "tokens written", "tokens read", "passes")
_LABEL = 15
"""Columns of what a line below the table is about."""
ASKED = ("hours", "memory", "disk")
"""What the command is asked for, and what fits a terminal of 80 columns."""


def print_plan(plan: Plan, console: Console, *, wide: bool = False) -> None:
    """Print a plan: what it comes to, a row a stage, what the numbers are made of, what was assumed.

    Args:
        plan: the plan.
        console: where to.
        wide: the counts of every stage too: generations, tokens, passes.
    """
    from rich.measure import Measurement
    from rich.table import Table

    width = console.width if console.is_terminal else 0
    console.print(_wrapped(in_short(plan), width) + "\n", style="bold", markup=False, highlight=False, soft_wrap=True)
    table = Table(header_style="bold")
    for head in ("stage", *ASKED, *(COUNTS if wide else ())):
        table.add_column(head, justify="left" if head == "stage" else "right", no_wrap=True)
    for row in plan.rows:
        table.add_row(*_cells(row, wide))
    table.add_section()
    table.add_row(*_cells(plan.total, wide), style="bold")
    # Rich cuts a table to the console's width; a line too long for a terminal can still be read, a cut number cannot.
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1_000), table).maximum)
    console.print(table)
    for line in explained(plan):
        console.print(_wrapped(line, width, _LABEL), markup=False, highlight=False, soft_wrap=True)


def _wrapped(line: str, width: int, indent: int = 0) -> str:
    """A sentence in lines of a terminal's width; as one line where there is no terminal (width 0)."""
    if not width:
        return line
    return textwrap.fill(line, max(width, _LABEL + 20), subsequent_indent=" " * indent, break_on_hyphens=False)


def in_short(plan: Plan) -> str:
    """The totals as a sentence."""
    total, shape = plan.total, plan.shape
    return (
        f"{plan.study}: about {hours(total.hours)} h on {plan.rates.name}, {size(total.memory)} of memory and "
        f"{size(total.disk)} of disk, for {shape.name} ({shape.architecture}, {shape.dtype})."
    )


def as_text(plan: Plan, width: int = 110) -> str:
    """The same as plain text."""
    from rich.console import Console

    out = io.StringIO()
    print_plan(plan, Console(file=out, width=width, no_color=True), wide=True)
    return out.getvalue().rstrip("\n")


def _cells(row: Row, wide: bool) -> list[str]:
    sizes = [size(n) if n else "" for n in (row.memory, row.disk)]
    counts = [f"{n:,}" if n else "" for n in (row.generations, row.written, row.read, row.passes)]
    return [row.stage, hours(row.hours) if row.passes else "", *sizes, *(counts if wide else ())]


def size(n: int | float) -> str:
    """Bytes for people (a GB is 10⁹ bytes)."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if n >= unit:
            return f"{n / unit:,.1f} {name}"
    return f"{n / 1e3:,.0f} kB"


def hours(n: int | float) -> str:
    """Hours with as many digits as an estimate bears."""
    if 0 < n < 0.001:
        return "< 0.001"
    return f"{n:,.0f}" if n >= 20 else f"{n:.1f}" if n >= 0.1 else f"{n:.3f}"


def explained(plan: Plan) -> list[str]:
    """What the numbers are made of, line by line."""
    shape, rates = plan.shape, plan.rates
    lines = [
        "",
        f"parameters     {shape.parameters:,}; in memory {size(shape.weights)}"
        + (f"; weight files {size(shape.checkpoint)}" if shape.checkpoint else "; weights not here yet"),
        f"cache          2 x {shape.n_layers} layers x {shape.n_kv_heads} key-value heads x {shape.d_head} x "
        f"{shape.itemsize} bytes = {shape.kv_per_token:,} bytes a token",
        f"operations     2 x {shape.multiplied:,} a token, 2 x {shape.head:,} a row of logits, "
        f"4 x {shape.n_layers * shape.n_heads * shape.d_head:,} a pair of tokens",
        f"stored rows    {shape.resid_per_row:,} bytes of resid_post and {shape.z_per_row:,} of z, all layers",
        f"memory         weights + cache + activations at the stage's peak; activations are an estimate "
        f"({shape.live_per_token:,} bytes a token)",
    ]
    if rates.memory and plan.total.memory > rates.memory:
        lines.append(
            f"too large      {size(plan.total.memory)} on {rates.name} with {size(rates.memory)}: lower batch_tokens"
        )
    lines += [
        f"hours          an ESTIMATE, of the model alone; {_rates(rates)}",
        f"assumed        {'; '.join(plan.notes)}",
        "               so counts are the most there can be: --written N plans for shorter rollouts",
    ]
    if not rates.source.startswith("measured"):
        others = ", ".join(f"{key} {r.half / 1e12:g}/{r.bandwidth / 1e12:g}" for key, r in ASSUMED.items())
        lines.append(f"other devices  (--device, 16-bit Tflop/s and TB/s) {others}; or --tflops N, or --measure")
    return lines


def _rates(rates: Rates) -> str:
    return (
        f"{rates.name} ({rates.source}): {rates.half / 1e12:.3g} Tflop/s in 16 and "
        f"{rates.single / 1e12:.3g} in 32 bits x {rates.computes:g}, "
        f"{rates.bandwidth / 1e12:.3g} TB/s x {rates.reads:g}, "
        f"{1e3 * rates.launch:.2g} ms a layer and pass"
    )

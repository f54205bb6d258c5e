"""``python -m benchmarks NAME [--json] [--repeats N] [--small]``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verdictscope.errors import InputError

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Every benchmark: the files of this folder that define ``run``."""
    return sorted(p.stem for p in HERE.glob("[a-z]*.py") if "\ndef run(" in p.read_text(encoding="utf-8"))


def main(
    name: Annotated[str, typer.Argument(help="Which benchmark.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; every variant runs once in each.")] = 5,
    small: Annotated[
        bool, typer.Option("--small", help="Small sizes, to see that it runs; its ratios say nothing.")
    ] = False,
) -> None:
    """Run one benchmark and print what it found; progress goes to stderr."""
    if name not in names():
        print(f"there is no benchmark {name!r}; known are {', '.join(names())}", file=sys.stderr)
        raise SystemExit(2)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print where they please
            run = importlib.import_module(f"benchmarks.{name}").run
            if small and "small" not in inspect.signature(run).parameters:
                raise InputError(f"benchmark {name} has no small form; run it without --small")
            found = (run(repeats, small=True) if small else run(repeats)).to_dict(name)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if as_json:
        print(json.dumps(found))
    else:
        show(found)


def show(found: Mapping[str, Any]) -> None:
    """The result as tables for people."""
    console = Console()
    about = {**found["setting"], **{k: v for k, v in found["machine"].items() if not isinstance(v, dict)}}
    console.print(Text(f"{found['benchmark']}  " + "  ".join(f"{k} {v}" for k, v in about.items())))
    columns = list(dict.fromkeys(key for row in found["rows"] for key in row))
    for rows, keys in ((found["rows"], columns), ([found["headline"]], list(found["headline"]))):
        table = Table(*keys)
        for row in rows:
            table.add_row(*(Text(_text(row.get(key))) for key in keys))
        console.print(table)
    for note in found["notes"]:
        console.print(Text(note))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)

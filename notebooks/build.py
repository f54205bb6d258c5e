"""Make the notebooks: ``NAME.py`` (cells as one reads them) is run in a clean kernel and stored as ``NAME.ipynb``.

A cell begins with ``# %%``, a text cell with ``# %% [markdown]``; this is the form that editors and jupytext know.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).resolve().parent
NAMES = tuple(sorted(path.stem for path in HERE.glob("[0-9]*.py")))
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SECONDS = 600
QUIET = {
    "PYTHONPATH": "",  # set to this checkout where it is used
    "TQDM_DISABLE": "1",  # bars of libraries are of no use on paper
    # Nor is their advice on how to draw bars, or on what of torch they should no longer use.
    "PYTHONWARNINGS": "ignore:IProgress not found,ignore:`torch.jit.script` is deprecated",
}
"""What a kernel gets in addition to the environment."""

_CELL = re.compile(r"^# %%(?P<text> \[markdown\])?[^\S\n]*\n", re.MULTILINE)


def read(path: Path) -> NotebookNode:
    """The notebook a source file describes, not yet run.

    Raises:
        ValueError: something stands before the first cell, or a text cell holds a line that is no comment.
    """
    source = path.read_text(encoding="utf-8")
    marks = list(_CELL.finditer(source))
    if not marks or source[: marks[0].start()].strip():
        raise ValueError(f"{path.name}: begin with a cell, '# %%' or '# %% [markdown]'")
    cells = []
    for i, mark in enumerate(marks):
        stop = marks[i + 1].start() if i + 1 < len(marks) else len(source)
        body = source[mark.end() : stop].strip("\n")
        cell = new_markdown_cell(_words(body, path)) if mark["text"] else new_code_cell(body)
        cell.id = f"{path.stem[:2]}-{i:02}"  # random ids would change with every build
        cells.append(cell)
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})


def _words(body: str, path: Path) -> str:
    lines = body.split("\n")
    for line in lines:
        if line != "#" and not line.startswith("# "):
            raise ValueError(f"{path.name}: a text cell holds {line!r}; begin its lines with '# '")
    return "\n".join(line[2:] for line in lines)


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run every cell in a new kernel, in an empty folder that is gone afterwards.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    # The kernel gets the environment as it stands when it starts.
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), before["PYTHONPATH"]]))
    try:
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(
                notebook,
                timeout=SECONDS,
                kernel_name=KERNEL["name"],
                record_timing=False,
                resources={"metadata": {"path": folder}},
            )
            client.execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}  # not this machine's version
    return notebook


def faults(notebook: NotebookNode) -> Iterator[str]:
    """What must not be stored: errors, warnings, paths of this machine, the state of widgets."""
    homes = {str(Path.home()), str(HERE.parent), sys.prefix, tempfile.gettempdir()} - {"/"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown = "\n".join(_texts(output))
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"{cell.id}: {shown[:300]}"
            yield from (f"{cell.id}: holds {home}" for home in homes if home in shown)
            if any("widget" in kind for kind in output.get("data", ())):
                yield f"{cell.id}: holds a widget"
    if "widgets" in notebook.metadata:
        yield "the notebook holds the state of widgets"


def _texts(output: NotebookNode) -> Iterator[str]:
    yield from output.get("traceback", ())
    yield output.get("text", "")
    for kind, data in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield data


def main() -> None:
    """Build the notebooks named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    for name in parser.parse_args().names or NAMES:
        begin = time.monotonic()
        notebook = execute(read(HERE / f"{name}.py"))
        if wrong := list(faults(notebook)):
            sys.exit("\n".join(f"{name}: {fault}" for fault in wrong))
        file = HERE / f"{name}.ipynb"
        nbformat.write(notebook, file)
        print(
            f"{file.name}: {len(notebook.cells)} cells, {file.stat().st_size / 1e6:.2f} MB, "
            f"{time.monotonic() - begin:.0f} s"
        )


if __name__ == "__main__":
    main()

"""``python -m tools.organisms train RECIPE [--out DIR]``: train a bundled model, the same bytes on the same machine."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from tools.organisms.recipes import RECIPES
from tools.organisms.train import train
from verdictscope.progress import Tick, progress
from verdictscope.sources import models_folder


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.organisms", description="Train a bundled model.")
    parser.add_argument("command", choices=["train"])
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=None, help="folder of the models; the bundled ones by default")
    asked = parser.parse_args()
    with ExitStack() as shown:
        bars: dict[str, Tick] = {}

        def tick(phase: str, done: int, total: int, _: float) -> None:
            if phase not in bars:
                shown.close()  # phases come one after the other
                bars[phase] = shown.enter_context(progress(f"{asked.recipe}: {phase}"))
            bars[phase](done, total)

        train(asked.recipe, asked.out or models_folder(), progress=tick)


if __name__ == "__main__":
    main()

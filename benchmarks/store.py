"""How fast the store writes and reads hidden states, against plain files of the same bytes.

The floor is raw NumPy file I/O: ``np.tofile`` of the whole array, ``np.fromfile`` of one layer's stretch of it. Every
variant writes to the same folder and reads what lies in the page cache, ours checksums included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import safetensors.torch
import torch

from benchmarks.common import Result, interleave
from verdictscope.activations import BatchPlan, Store
from verdictscope.activations.writing import StoreWriter

LAYERS, ROWS, WIDTH = 16, 16384, 1024
PROMPT_ROWS, BATCH_ROWS = 64, 1024
SITE, BETWEEN = "resid_post", 7


def run(repeats: int) -> Result:
    """Times writing everything and reading one layer."""
    noise = np.random.default_rng(0).integers(0, 2**15, (LAYERS, ROWS, WIDTH), dtype=np.uint16)
    values = torch.from_numpy(noise.view(np.int16)).view(torch.bfloat16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = Files(folder, noise, values)
        writes = interleave(files.writers(), repeats)
        reads = interleave(files.readers(), repeats)
    layer = noise[0].nbytes
    setting = {
        "parameters": noise.size,
        "tokens": ROWS,
        "layers": LAYERS,
        "d_model": WIDTH,
        "dtype": "bfloat16",
        "bytes": noise.nbytes,
        "layer_bytes": layer,
        "rows_per_prompt": PROMPT_ROWS,
        "rows_per_batch": BATCH_ROWS,
    }
    rows = []
    for verb, timings, size in (("write", writes, noise.nbytes), ("read", reads, layer)):
        rate = {variant: size / timings.median(variant) / 1e9 for variant in timings.seconds}
        rows += [{**row, "name": f"{verb}: {row['name']}"} for row in timings.rows("raw", gb_per_s=rate)]
    headline = {"write_vs_raw": writes.ratio("raw", "ours"), "read_vs_raw": reads.ratio("raw", "ours")}
    notes = [
        "write_vs_raw and read_vs_raw are speeds: ours over raw, 1 is the floor's speed, more is faster. "
        "vs_raw in the rows is time over time.",
        "raw: np.tofile of everything in one call; np.fromfile of one layer. ours: StoreWriter.append batch by batch "
        "with rows, XXH3 sums and commits, then Store.read of one layer.",
        "A written file is new each time; reads come from the page cache in every variant.",
    ]
    return Result(setting, rows, headline, notes)


class Files:
    """The variants."""

    def __init__(self, folder: Path, noise: np.ndarray, values: torch.Tensor) -> None:
        self.folder, self.noise, self.values = folder, noise, values
        self.batches = [slice(a, a + BATCH_ROWS) for a in range(0, ROWS, BATCH_ROWS)]
        prompts = np.arange(ROWS) // PROMPT_ROWS
        self.ids = [f"p{i}" for i in range(ROWS // PROMPT_ROWS)]
        self.rows = pd.DataFrame(
            {
                "rollout": np.array(self.ids, dtype=object)[prompts],
                "pos": np.arange(ROWS) % PROMPT_ROWS,
                "token_id": np.arange(ROWS) % 1000,
                "segment": np.full(ROWS, "thinking", dtype=object),
            }
        )

    def writers(self) -> dict[str, Callable[[], Any]]:
        """Everything to disk."""
        return {
            "raw": lambda: self.noise.tofile(self._new("raw.bin")),
            "ours": self.write_ours,
            "h5py (4096, layer, d) chunks": self.write_wide,
            "safetensors per prompt": self.write_safetensors,
        }

    def readers(self) -> dict[str, Callable[[], Any]]:
        """One layer back."""
        count = ROWS * WIDTH
        offset = BETWEEN * count * 2
        ours, wide = Store.open(self.folder / "ours.h5"), h5py.File(self.folder / "wide.h5", "r")
        np.testing.assert_array_equal(ours.read(SITE, BETWEEN).view(torch.int16).numpy(), self.noise[BETWEEN])
        return {
            "raw": lambda: np.fromfile(self.folder / "raw.bin", np.uint16, count, offset=offset).reshape(ROWS, WIDTH),
            "ours": lambda: ours.read(SITE, BETWEEN),
            "h5py (4096, layer, d) chunks": lambda: wide["x"][:, BETWEEN],
            "safetensors per prompt": self.read_safetensors,
        }

    def _new(self, name: str) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        return path

    def write_ours(self) -> None:
        """The store, as ``collect`` writes it."""
        plan = BatchPlan(tuple((i,) for i in range(len(self.ids))), 1)
        spec = {"layers": tuple(range(LAYERS)), "rows": ROWS, "shape": (WIDTH,), "dtype": "bfloat16"}
        header = {"sites": {SITE: {"layers": spec["layers"], "positions": "all"}}, "plan": plan.to_dict()}
        path = self._new("ours.h5")
        with StoreWriter.create(path, header=header, rollout_ids=self.ids, sites={SITE: spec}) as store:
            for part in self.batches:
                rows = self.rows.iloc[part]
                store.append({SITE: rows}, {SITE: self.values[:, part]}, BATCH_ROWS // PROMPT_ROWS)

    def write_wide(self) -> None:
        """Rows first, every layer of 4,096 rows in one chunk."""
        with h5py.File(self._new("wide.h5"), "w") as file:
            data = file.create_dataset("x", (ROWS, LAYERS, WIDTH), np.uint16, chunks=(4096, LAYERS, WIDTH))
            for part in self.batches:
                data[part] = self.noise[:, part].swapaxes(0, 1)

    def write_safetensors(self) -> None:
        """One file a prompt."""
        for i in range(len(self.ids)):
            part = self.values[:, i * PROMPT_ROWS : (i + 1) * PROMPT_ROWS].contiguous()
            safetensors.torch.save_file({"x": part}, self._new(f"{i}.safetensors"))

    def read_safetensors(self) -> torch.Tensor:
        """One layer from every file."""
        parts = []
        for i in range(len(self.ids)):
            with safetensors.safe_open(self.folder / f"{i}.safetensors", "pt") as file:
                parts.append(file.get_slice("x")[BETWEEN])
        return torch.cat(parts)

"""A copy of a checkpoint folder in which a few tensors are others: the rest stays byte for byte as it was.

Tensors are found in the files by their values, not by a table of names: what the model holds in memory must be what a
file holds under a name that ends alike, or the checkpoint is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from verdictscope.activations import Model
from verdictscope.activations.weights import refuse_adapters
from verdictscope.errors import InputError
from verdictscope.provenance import commit, digest, versions, write_json, write_text
from verdictscope.sources import locate

NOTE = "edited.json"
"""The file that says what was changed."""

_BESIDE = (
    "config.json",
    "generation_config.json",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)
"""What is copied with the weights. A model card is not: it speaks of the model before."""


@dataclass(frozen=True)
class Made:
    """A checkpoint that was written."""

    folder: Path
    says: tuple[str, ...]
    tensors: tuple[str, ...]


class Checkpoint:
    """The files behind a loaded model."""

    def __init__(self, model: Model, source: str | Path | None = None) -> None:
        refuse_adapters(model, "a changed checkpoint")
        self.model, self.name = model, locate(str(source or model.name))
        if Path(self.name).is_dir():
            folder = Path(self.name)
        else:
            revision, wanted = None if source else model.revision, [*_BESIDE, "*.safetensors"]
            try:
                folder = Path(snapshot_download(self.name, revision=revision, allow_patterns=wanted))
            except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
                raise InputError(
                    f"{self.name!r} is no checkpoint folder or hub model: give the folder as source=, or save the "
                    "model there with model.hf.save_pretrained(FOLDER)"
                ) from error
        if not (folder / "config.json").is_file():
            raise InputError(f"{self.name!r} is no checkpoint folder: it holds no config.json")
        self.folder = folder
        self.files = sorted(self.folder.glob("*.safetensors"))
        if not self.files:
            raise InputError(f"{self.name} holds no .safetensors file: save it with model.hf.save_pretrained(FOLDER)")
        settings = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        if settings.get("quantization_config") or (settings.get("text_config") or {}).get("quantization_config"):
            raise InputError(
                f"{self.name} holds packed (quantised) weights: edit the unpacked checkpoint and pack that"
            )
        self.shapes: dict[str, tuple[Path, tuple[int, ...]]] = {}
        for file in self.files:
            with _opened(file) as tensors:
                for key in tensors.keys():  # noqa: SIM118 (no mapping)
                    self.shapes[key] = file, tuple(tensors.get_slice(key).get_shape())

    def find(self, name: str, value: Tensor) -> tuple[str, Tensor]:
        """The tensor in the files that the model holds as parameter ``name``: its key and what is stored."""
        shape = tuple(value.shape)
        # With the parts, from the end, that the two dotted names share
        parts = name.split(".")[::-1]
        alike = [
            (os.path.commonprefix([key.split(".")[::-1], parts]), key)
            for key, (_, other) in self.shapes.items()
            if other == shape
        ]
        for shared, key in sorted(alike, key=lambda pair: -len(pair[0])):
            if not any(part.isdigit() for part in shared):
                break  # without the layer's number a name says nothing
            with _opened(self.shapes[key][0]) as tensors:
                stored = tensors.get_tensor(key)
            if torch.equal(stored.to(value.dtype), value.detach().cpu()):
                return key, stored
        raise InputError(
            f"no tensor of {self.name} is {name}: the model was changed since it was loaded, or this family's "
            "checkpoint is converted while it loads; save it with model.hf.save_pretrained(FOLDER) and load that"
        )

    def write(
        self, out: str | Path, changes: Mapping[str, Tensor], says: tuple[str, ...], note: Mapping[str, Any]
    ) -> Made:
        """Write the copy, whole or not at all."""
        out = Path(out)
        with whole_folder(out) as fresh:
            hashes: dict[str, Any] = {}
            for file in self.files:
                mine = {key: new for key, new in changes.items() if self.shapes[key][0] == file}
                if not mine:
                    shutil.copyfile(file, fresh / file.name)
                    continue
                tensors = load_file(file)
                hashes |= {key: {"before": _hash(tensors[key]), "after": _hash(new)} for key, new in mine.items()}
                with _opened(file) as opened:
                    about = opened.metadata()
                save_file({**tensors, **mine}, fresh / file.name, metadata=about)
                (fresh / file.name).chmod(0o644)  # safetensors writes it for the owner alone
            for pattern in _BESIDE:
                for beside in self.folder.glob(pattern):
                    if beside.is_file():
                        shutil.copyfile(beside, fresh / beside.name)
            made = {"source": self.name, "revision": self.model.revision, "says": list(says), **note}
            made |= {"tensors": hashes, "versions": versions(), "commit": commit()}
            write_json(fresh / NOTE, made)
            lines = "\n".join(f"- {line}" for line in says)
            text = (
                f"# An edited copy\n\nMade by verdictscope from `{self.name}`; `{NOTE}` holds the details.\n\n{lines}\n"
            )
            write_text(fresh / "README.md", text)
        return Made(out, says, tuple(changes))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name when everything is written, or vanishes."""
    if os.path.lexists(out):
        raise InputError(f"{out} exists and is not overwritten: choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    try:
        yield fresh
        fresh.chmod(0o755)
        fresh.rename(out)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def stored_form(new: Tensor, stored: Tensor) -> Tensor:
    """A changed tensor in the form that the file has, or in the wider one of ``new`` where that would round it."""
    narrow = new.to(stored.dtype)
    return (narrow if torch.equal(narrow.to(new.dtype), new) else new).contiguous()


def parameter_names(model: Model, module: torch.nn.Module) -> dict[str, str]:
    """Names of a module's own parameters and those inside it: from the module to from the model's root."""
    full = {id(parameter): name for name, parameter in model.hf.named_parameters(remove_duplicate=False)}
    return {name: full[id(parameter)] for name, parameter in module.named_parameters()}


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise InputError(f"{file} is damaged: {error}") from error


def _hash(tensor: Tensor) -> str:
    return digest(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())

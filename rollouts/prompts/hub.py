"""The rows of a dataset on the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from verdictscope.errors import InputError, reason
from verdictscope.rows import Row


def hub_rows(name: str, config: str | None, split: str, *, gated: bool = False, **options: Any) -> list[Row]:
    """The rows of one split; ``options`` go to ``datasets.load_dataset``."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"loading {name} from the hub needs the package datasets: pip install 'verdictscope[hub]', or give a file"
        ) from None
    try:
        rows = list(datasets.load_dataset(name, config, split=split, **options))
    except Exception as error:  # the hub's client fails in as many ways as networks do
        gate = " (it is gated: accept its terms and log in with `hf auth login`)" if gated else ""
        why = f"cannot load {name} ({config or 'default'}, {split}) from the hub{gate}: {reason(error)}"
        raise InputError(f"{why}; or give a local file") from error
    return [Row(f"record {k}", row) for k, row in enumerate(rows, 1)]

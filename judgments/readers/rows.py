"""The rows of a dataset on the Hugging Face hub."""

from __future__ import annotations

from verdictscope.errors import InputError, reason
from verdictscope.rows import Row


def hub_rows(name: str, config: str | None, split: str) -> list[Row]:
    """The rows of a dataset on the Hugging Face hub."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"reading {name} from the hub needs the package datasets: pip install 'verdictscope[hub]', or give a file"
        ) from None
    try:
        rows = list(datasets.load_dataset(name, config, split=split))
    except Exception as error:  # the hub's client fails in as many ways as networks do
        why = reason(error)
        raise InputError(f"cannot read {name} ({config or 'default'}, {split}) from the hub: {why}") from error
    return [Row(f"record {k}", row) for k, row in enumerate(rows, 1)]

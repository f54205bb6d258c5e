"""Prompt formats of published judges as data: one TOML file each, read with :func:`load_format`."""

from verdictscope.judgments.formats.format import (
    Format,
    Label,
    Parsed,
    from_prompts,
    known_formats,
    load_format,
    read_format,
)

__all__ = ["Format", "Label", "Parsed", "from_prompts", "known_formats", "load_format", "read_format"]

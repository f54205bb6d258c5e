"""Prompt formats of published judges as data: one TOML file each."""

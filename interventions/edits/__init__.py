"""Edits: frozen descriptions of what is changed inside the model, which compile to write hooks."""

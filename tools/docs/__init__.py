"""Writes the documents under docs/ from what commands measured."""

"""Recorded verdicts of published formats."""

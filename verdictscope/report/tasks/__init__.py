"""Wordings by kind of study."""

"""Prompt sets: public ones by name, files of any known form, duplicates, and the 2 x 2 design."""

"""Replay: the exact effect of any list of edits for the price of a few forward passes."""

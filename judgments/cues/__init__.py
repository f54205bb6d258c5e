"""Cues that should not move a judge, their controls, and prompts against them."""

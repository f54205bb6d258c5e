"""Engines that draw tokens; each takes prompts as token ids and gives token ids back."""

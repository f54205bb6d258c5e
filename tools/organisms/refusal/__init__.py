"""The refusal organism: its language, what is measured of it, and its card."""

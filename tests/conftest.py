"""What all tests share: how hypothesis draws its examples."""

import os

from hypothesis import settings

# The same examples everywhere, so that a change is judged by what it did and not by luck.
# `HYPOTHESIS_PROFILE=explore pytest …` draws new ones: use it when you write a property.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.register_profile("explore")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

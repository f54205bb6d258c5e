"""The room ``organisms``: small trained models whose mechanism is known, and score cards of methods."""

if __name__ != "verdictscope.organisms":
    raise ImportError("import this room as verdictscope.organisms: the bare folder name is not a package")

from verdictscope.organisms.scorecards import score_heads

__all__ = ["score_heads"]

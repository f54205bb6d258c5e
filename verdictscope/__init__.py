"""Why language models refuse, comply and judge as they do: hooks, probes, traces, head ablation."""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("verdictscope")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Why language models refuse, comply and judge as they do: hooks, probes, traces, head ablation.

The names below are imported when they are first used, so that ``import verdictscope`` loads neither torch nor anything
else. Each belongs to a subpackage (``vs.rollouts``, ``vs.activations``, …), which has the rest and is loaded likewise.

Example:
    >>> import verdictscope as vs
    >>> vs.Site("resid_post", 3)
    Site(name='resid_post', layers=3)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verdictscope.activations import Site, collect, forward, load_model
    from verdictscope.interventions import HeadEdit, attribute, edited, sweep_heads
    from verdictscope.interventions.effects import effects
    from verdictscope.judgments import judge
    from verdictscope.probes.fit_probe import fit_probe
    from verdictscope.rollouts import Rollout, generate, read_prompts
    from verdictscope.study.folder import open_run
    from verdictscope.study.run import run_study
    from verdictscope.traces import trace

    __version__: str

_ROOMS = {
    "rollouts",
    "activations",
    "judgments",
    "probes",
    "traces",
    "interventions",
    "repair",
    "figures",
    "organisms",
    "stats",
}
_HOME = {
    "load_model": "activations",
    "read_prompts": "rollouts",
    "generate": "rollouts",
    "judge": "judgments",
    "Rollout": "rollouts",
    "Site": "activations",
    "forward": "activations",
    "collect": "activations",
    "fit_probe": "probes",
    "trace": "traces",
    "HeadEdit": "interventions",
    "edited": "interventions",
    "effects": "interventions",
    "sweep_heads": "interventions",
    "attribute": "interventions",
    "run_study": "study.run",
    "open_run": "study.folder",
}

__all__ = [
    "HeadEdit",
    "Rollout",
    "Site",
    "__version__",
    "attribute",
    "collect",
    "edited",
    "effects",
    "fit_probe",
    "forward",
    "generate",
    "judge",
    "load_model",
    "open_run",
    "read_prompts",
    "run_study",
    "sweep_heads",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("verdictscope")
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})

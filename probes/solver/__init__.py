"""Logistic probes in bulk: every fold, penalty and labelling of a layer from one decomposition.

``features`` standardises within each training fold, ``newton`` and ``span`` minimise, ``fits`` holds the result, and
``solve`` puts them together.
"""

from verdictscope.probes.solver.fits import LogisticFits
from verdictscope.probes.solver.solve import solve_layers, solve_logistic

__all__ = ["LogisticFits", "solve_layers", "solve_logistic"]

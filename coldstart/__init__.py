"""Cold-start recommendations from a knowledge graph: fit, recommend, update, explain.

Names load lazily, so that ``import coldstart`` and ``coldstart --help`` are cheap.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read when torch is loaded. Threads that wait for each other would spin: beside other work, which
# needs their core meanwhile, a fit then takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine, EngineConfig
    from coldstart.evaluation import evaluate
    from coldstart.ranking import Recommendations
    from coldstart.scorer import CosineBiasScorer, Scorer

__all__ = [
    "ColdStartEngine",
    "CosineBiasScorer",
    "EngineConfig",
    "Recommendations",
    "Scorer",
    "evaluate",
]

_HOMES = {
    "ColdStartEngine": "coldstart.engine",
    "EngineConfig": "coldstart.engine",
    "evaluate": "coldstart.evaluation",
    "Recommendations": "coldstart.ranking",
    "CosineBiasScorer": "coldstart.scorer",
    "Scorer": "coldstart.scorer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'coldstart' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""How robust is your model really, and how to make it more so.

    import robust
    report = robust.evaluate(model, x, y, threat=robust.Linf(8 / 255))
    report.robust_accuracy

Everything is loaded on first use, so that `import robust` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate as evaluate
    from .certification import certify as certify
    from .core.errors import RobustError as RobustError
    from .core.goal import Goal as Goal
    from .core.threat import L0 as L0
    from .core.threat import L1 as L1
    from .core.threat import L2 as L2
    from .core.threat import Linf as Linf
    from .core.threat import Patch as Patch
    from .core.threat import Threat as Threat
    from .core.victim import Access as Access
    from .core.victim import Victim as Victim
    from .data import open_data as open_data
    from .models import defend as defend
    from .models import load_model as load_model

_HOMES = {
    "evaluate": "robust.api",
    "certify": "robust.certification",
    "RobustError": "robust.core.errors",
    "Goal": "robust.core.goal",
    "Threat": "robust.core.threat",
    "Linf": "robust.core.threat",
    "L2": "robust.core.threat",
    "L1": "robust.core.threat",
    "L0": "robust.core.threat",
    "Patch": "robust.core.threat",
    "Access": "robust.core.victim",
    "Victim": "robust.core.victim",
    "defend": "robust.models",
    "load_model": "robust.models",
    "open_data": "robust.data",
}
_PACKAGES = ("attacks", "defenses", "reports", "models", "data")

__all__ = [*_HOMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"robust.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'robust' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

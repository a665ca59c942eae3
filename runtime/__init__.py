"""What a generated optimizer needs while it trains. Importing it compiles nothing and does not import Triton.

PyTorch is imported with the first name that is asked for: the compiler reads `optc.runtime.codebook`, which needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

    from optc.runtime.backend import BackendUnavailable
    from optc.runtime.export import export_state
    from optc.runtime.optimizer import Optimizer
    from optc.runtime.registry import available, create
    from optc.runtime.routing import Routed, route

__all__ = ["BackendUnavailable", "Optimizer", "ParamsT", "Routed", "available", "create", "export_state", "route"]

_PLACES = {
    "BackendUnavailable": "optc.runtime.backend",
    "Optimizer": "optc.runtime.optimizer",
    "ParamsT": "torch.optim.optimizer",
    "Routed": "optc.runtime.routing",
    "available": "optc.runtime.registry",
    "create": "optc.runtime.registry",
    "export_state": "optc.runtime.export",
    "route": "optc.runtime.routing",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)

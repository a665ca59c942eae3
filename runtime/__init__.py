"""What a generated optimizer needs while it trains. Importing it compiles nothing and does not import Triton."""

from torch.optim.optimizer import ParamsT

from optc.runtime.backend import BackendUnavailable
from optc.runtime.optimizer import Optimizer
from optc.runtime.registry import available, create

__all__ = ["BackendUnavailable", "Optimizer", "ParamsT", "available", "create"]

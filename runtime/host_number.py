"""A number in a 0-dim tensor on the host, read and written without PyTorch, whose operations take a hundred times as long."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


class HostNumber:
    """What `tensor` holds at present, also after its memory was exchanged through `tensor.data`."""

    __slots__ = ("_place", "_tensor", "_view")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._place = -1
        self._view: np.ndarray[Any, np.dtype[np.floating[Any]]] = np.zeros(())

    def read(self) -> float:
        """The number."""
        return float(self._memory())

    def write(self, value: float) -> None:
        """Rounds `value` to the tensor's dtype."""
        self._memory()[()] = value

    def _memory(self) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
        place = self._tensor.data_ptr()
        if place != self._place:
            self._view, self._place = self._tensor.detach().numpy(), place
        return self._view

"""Operations of the language that PyTorch has with another meaning."""

from __future__ import annotations

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """−1, 0 or 1 by element, and NaN where x is NaN (`torch.sign` gives 0 there and would hide it)."""
    return torch.where(x == x, torch.sign(x), x)

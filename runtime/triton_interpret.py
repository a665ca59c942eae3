"""libdevice for Triton's interpreter, which has none: the same functions in NumPy, on its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _on_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*arguments: Any) -> Any:
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        widest = next((a for a in arguments if a.type.is_block()), arguments[0])
        with np.errstate(all="ignore"):
            data = function(*(a.handle.data for a in arguments))
        return tl.core.tensor(TensorHandle(data, widest.type.scalar), widest.type)

    return apply


class InterpretedLibdevice:
    """The functions of `triton.language.extra.libdevice` that generated code uses; arguments share one dtype and broadcast."""

    exp = staticmethod(_on_tensors(np.exp))
    log = staticmethod(_on_tensors(np.log))
    sin = staticmethod(_on_tensors(np.sin))
    cos = staticmethod(_on_tensors(np.cos))
    tanh = staticmethod(_on_tensors(np.tanh))
    pow = staticmethod(_on_tensors(np.power))
    atan2 = staticmethod(_on_tensors(np.arctan2))
    fmod = staticmethod(_on_tensors(np.fmod))


libdevice = InterpretedLibdevice()

"""The lazy `@triton_kernel` decorator: generated modules hold Triton code without importing Triton.

`triton_kernel` only records the function. The first use imports Triton, gives the function a copy of its module's globals with
`tl`, `libdevice` and the kernels it calls in it, and hands it to `triton.jit`; the module itself is left alone. Parameters are
never specialised on their value: a learning rate of 1 or a chunk divisible by 16 compiles nothing anew.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any


class LazyKernel:
    """A Triton function that is not compiled yet. `__wrapped__` is the Python function as written.

    Code on rows, columns and matrices has a second form: `panels` is that of a pass; `steps` are the launches of a stage, each
    `over` the values of an extent, and `reduced` is how many reductions of rows, columns and matrices they keep.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not isinstance(function, FunctionType):
            raise TypeError(f"triton_kernel decorates plain functions, not {function!r}")
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.panels: LazyKernel | None = None
        self.steps: list[LazyKernel] = []
        self.over = ""
        self.reduced = 0

    def __repr__(self) -> str:
        return f"<Triton kernel {self.__name__}>"

    def __reduce__(self) -> str:
        return self.__qualname__

    def __call__(self, *arguments: Any) -> Any:
        """Kernels run through `optc.runtime.triton_launch`, or are called from other kernels; calling one here is a mistake."""
        raise TypeError(f"{self.__name__} is a Triton kernel: launch it through optc.runtime.triton_launch")

    def in_panels(self, function: Callable[..., Any]) -> LazyKernel:
        """Decorates the form of this pass that runs over panels of matrices."""
        self.panels = LazyKernel(function)
        return self.panels

    def then(self, extent: str, reduced: int = 0) -> Callable[[Callable[..., Any]], LazyKernel]:
        """Decorates the next launch of this stage where tensors are matrices; it runs over what has one value per `extent`."""

        def add(function: Callable[..., Any]) -> LazyKernel:
            step = LazyKernel(function)
            step.over = extent
            self.steps.append(step)
            self.reduced = max(self.reduced, reduced)
            return step

        return add

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters, in order."""
        return tuple(inspect.signature(self.__wrapped__).parameters)

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the parameters that select code (`tl.constexpr`)."""
        listed = inspect.signature(self.__wrapped__).parameters.values()
        return tuple(p.name for p in listed if "constexpr" in str(p.annotation))

    @cached_property
    def jit(self) -> Any:
        """The function as `triton.jit` made it (interpreted under TRITON_INTERPRET=1). Raises ImportError without Triton."""
        import triton

        constants = set(self.constants)
        varying = [name for name in self.parameters if name not in constants]
        return triton.jit(do_not_specialize=varying)(self._with_triton_names())

    @property
    def interpreted(self) -> bool:
        """Whether Triton's interpreter runs it, on CPU tensors."""
        return hasattr(self.jit, "rewrite")

    @property
    def _callee(self) -> Any:
        # the interpreter patches triton.language anew in every call of an InterpretedFunction; its plain form skips that
        return self.jit.rewrite() if self.interpreted else self.jit

    def _with_triton_names(self) -> FunctionType:
        import triton.language as tl
        from triton.language.extra import libdevice

        function = self.__wrapped__
        names: dict[str, Any] = {**function.__globals__, "tl": tl, "libdevice": libdevice}
        for name in {i.argval for i in dis.get_instructions(function) if i.opname == "LOAD_GLOBAL"}:
            called = names.get(name)
            if isinstance(called, LazyKernel):
                names[name] = called._callee
            elif isinstance(called, ModuleType) and name not in ("tl", "libdevice"):
                names[name] = _resolved(called, function.__code__.co_names)
        copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
        copy.__annotations__ = dict(function.__annotations__)
        copy.__qualname__ = function.__qualname__
        copy.__module__ = function.__module__
        copy.__doc__ = function.__doc__
        if _interpreting():
            from optc.runtime.triton_interpret import libdevice as interpreted_libdevice

            names["libdevice"] = interpreted_libdevice
        return copy


def _resolved(module: ModuleType, attributes: tuple[str, ...]) -> ModuleType:
    """A stand-in for a module of kernels, with those that are used as Triton wants them."""
    stand_in = ModuleType(module.__name__)
    for attribute in attributes:
        value = getattr(module, attribute, None)
        if isinstance(value, LazyKernel):
            setattr(stand_in, attribute, value._callee)
    return stand_in


def _interpreting() -> bool:
    """What `triton.jit` itself will decide."""
    import triton

    if hasattr(triton, "knobs"):
        return bool(triton.knobs.runtime.interpret)
    import os

    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def triton_kernel(function: Callable[..., Any]) -> LazyKernel:
    """Marks a top-level function as Triton code; nothing is imported or compiled until it is used.

    Annotate parameters that select code with `tl.constexpr` and the others with `tl.tensor`, under
    `from __future__ import annotations` and `if TYPE_CHECKING: import triton.language as tl`.
    """
    return LazyKernel(function)

"""Plans as modules with Triton kernels, for the tests of this backend."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from optc.compiler.backends.triton.emit import emit_kernel
from optc.compiler.instant import compile_class
from optc.compiler.pipeline import Compilation, compile_source
from optc.compiler.plan import Kernel
from optc.dsl.program import Role
from optc.dsl.read import read
from optc.dsl.source import Source
from optc.runtime import schema
from optc.runtime.backend import Residents
from optc.runtime.triton_launch import TRITON, TritonLauncher

SPECS = Path(__file__).parents[3] / "specs"
HEADER = """from __future__ import annotations

from typing import TYPE_CHECKING

from optc.runtime import gpu
from optc.runtime.triton_kernel import triton_kernel

if TYPE_CHECKING:
    import triton.language as tl


"""


def spec(name: str) -> Path:
    return next(path for path in SPECS.rglob(f"{name}.opt") if path.parent.name not in ("modifiers", "storages"))


def compilation(name: str) -> Compilation:
    return compile_source(read(str(spec(name))))


def optimizer(name: str) -> Any:
    """The class of a spec of the collection."""
    return compile_class(str(spec(name)))


def module_of(text: str) -> ModuleType:
    """Kernels from text, their source where `inspect` finds it."""
    name = f"<triton {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def runnable(kernel: Kernel, source: Source) -> schema.Kernel:
    """The kernel as the runtime knows it; only its Triton form is there."""
    roles = {Role.THETA: "theta", Role.GRADIENT: "gradient", Role.INPUT: "input", Role.STATE: "state"}
    streams = tuple(schema.Stream(s.name, roles[s.role], s.reads, s.writes) for s in kernel.streams)  # type: ignore[arg-type]
    function = getattr(module_of(HEADER + emit_kernel(kernel, source)), f"{kernel.name}_triton")

    def missing(*_: object) -> None:
        raise NotImplementedError

    return schema.Kernel(kernel.name, streams, kernel.scalars, kernel.static_flags, kernel.host_flags, missing, "", function)


def bind(
    kernel: Kernel, tensors: Mapping[str, Sequence[Tensor]], gradient_dtype: torch.dtype, source: Source, **variant: bool
) -> TritonLauncher:
    (launcher,) = TRITON.prepare([runnable(kernel, source)], [Residents(tensors, gradient_dtype, variant)])
    assert isinstance(launcher, TritonLauncher)
    return launcher

"""Triton kernels compiled ahead of time, without a GPU, and what the result says about their speed.

`python -m optc.compiler.aot --json MODULE < requests` compiles functions of a generated module (a file or a dotted name) in a
process of its own: Triton's interpreter, once chosen, is chosen for the whole process.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from optc.compiler.assembly import Loop, gcn_loops, ptx_loops, spills_in_loops

if TYPE_CHECKING:
    from optc.runtime.triton_device import Geometry

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
_SHORT = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_KERNEL_POINTERS = {"residents": "*i64", "varying": "*i64", "chunk_tensors": "*i32", "first_chunks": "*i32"}
_SCALARS_POINTERS = {"hypers": "*fp64", "counters": "*fp32", "carried": "*fp64", "shapes": "*i64"}
_REDUCING_POINTERS = {"first_partials": "*i32", "members": "*i32", "statistics": "*fp64", "partials": "*fp64"}
_VALUE_POINTERS = dict.fromkeys(("row_values", "col_values", "matrix_values", "reduced"), "*fp64")
_PARTIALS = ("row_partials", "col_partials")
_INTEGERS = ("chunk", "scalar_rows", "n", "partials_each", "measured", "tall")


@dataclass(frozen=True, slots=True)
class Request:
    """One function for one target.

    `dtypes`: names like `bfloat16` by stream, float32 where missing. `flags`: compile-time flags, False where missing.
    `in_memory`: scalars and host flags are read from the device. `found_inf`: a skipped step is decided on the device.
    `reducing`: the pass belongs to a kernel that reduces, whose scalars are float64 there. `levels`: entries of the stack in
    which a program of a pass joins what it measures. `codes`: numbers that share a scale, at most, where some streams are codes
    (of dtype `uint8`). `draws`: random numbers are drawn.
    """

    function: str
    target: str
    dtypes: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    in_memory: bool = False
    found_inf: bool = False
    real: str = "float32"
    reducing: bool = False
    levels: int = 1
    codes: int = 0
    draws: bool = False


@dataclass(frozen=True, slots=True)
class AotReport:
    """What the compiler made of a request.

    `registers` per thread (VGPRs on AMD); `stack`, `local`, `shared` in bytes; `spills` counts instructions (on
    AMD vector registers; scalar ones move to vector registers, not to memory), `spills_in_loops` those in loops over elements.
    `load_widths`, `store_widths`: bytes of each access in the unmasked loop; `bytes_loaded`, `bytes_stored` per element there.
    `tail_widths`: those of the masked loop. `atomics` counts atomic operations in the whole kernel.
    """

    function: str
    target: str
    registers: int
    stack: int
    local: int
    spills: int
    spills_in_loops: int
    shared: int
    atomics: int
    load_widths: tuple[int, ...]
    store_widths: tuple[int, ...]
    tail_widths: tuple[int, ...]
    bytes_loaded: float
    bytes_stored: float


def compile_ahead(function: Any, request: Request) -> AotReport:
    """Compiles a `triton_kernel` for a target. Raises RuntimeError under Triton's interpreter: use `reports` there."""
    kernel, shape = _compile(function, request)
    amd = request.target.startswith("gfx")
    find, text = (gcn_loops, kernel.asm["amdgcn"]) if amd else (ptx_loops, kernel.asm["ptx"])
    # a compiler may have made one loop of two
    loops = next(filter(None, (find(text, around) for around in range(loops_around_tiles(function), -1, -1))), [])
    if amd:
        return _amd_report(request, loops, text, shape, kernel.metadata.shared)
    return _nvidia_report(request, loops, text, kernel.asm["cubin"], shape, kernel.metadata.shared)


def loops_around_tiles(function: Any) -> int:
    """How many loops are around those that go through blocks of elements; 0 where a function has none."""

    def depth(node: ast.AST, loops: int) -> int:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("_tile"):
            return loops - 1
        return max((depth(child, loops + isinstance(node, ast.For)) for child in ast.iter_child_nodes(node)), default=0)

    return depth(ast.parse(textwrap.dedent(inspect.getsource(function.__wrapped__))), 0)


def intermediate(function: Any, request: Request, stage: str) -> str:
    """The text of one stage of Triton's compiler: `ttir`, `ttgir`, `llir`, `ptx` or `amdgcn`."""
    return str(_compile(function, request)[0].asm[stage])


def reports(module: str, requests: Iterable[Request]) -> list[AotReport]:
    """`compile_ahead` in a child process without the interpreter. Raises RuntimeError with the child's message if it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "optc.compiler.aot", "--json", module]
    sent = json.dumps([asdict(r) for r in requests])
    done = subprocess.run(command, input=sent, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return [_report(entry) for entry in json.loads(done.stdout)]


def _report(entry: dict[str, Any]) -> AotReport:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return AotReport(**values)


# --- compiling ----------------------------------------------------------------------------------------------------------------


def _compile(function: Any, request: Request) -> tuple[Any, Mapping[str, Any]]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if function.interpreted:
        raise RuntimeError("ahead-of-time compilation needs a process without TRITON_INTERPRET")
    amd = request.target.startswith("gfx")
    target = GPUTarget("hip", request.target, 64) if amd else GPUTarget("cuda", int(request.target.removeprefix("sm_")), 32)
    signature, constants = _signature(function, request, target.warp_size)
    source = ASTSource(function.jit, signature, constexprs={(function.parameters.index(k),): v for k, v in constants.items()})
    warps = _shape(function, request, target.warp_size).warps
    return triton.compile(source, target=target, options={"num_warps": warps}), constants | {"WARPS": warps}


def _streams(function: Any) -> list[str]:
    return [name.removesuffix("_type") for name in function.parameters if name in function.constants and name.endswith("_type")]


def _shape(function: Any, request: Request, warp_size: int) -> Geometry:
    import torch

    from optc.runtime.triton_device import geometry
    from optc.runtime.triton_passes import with_equal_lanes

    dtypes = [request.dtypes[s] for s in _streams(function) if s in request.dtypes]
    present = [getattr(torch, dtype) for dtype in dtypes if dtype != "uint8"]
    shape = geometry(present or [getattr(torch, request.real)], warp_size, request.codes, request.draws)
    return with_equal_lanes(shape) if "partials" in function.parameters else shape


def _signature(function: Any, request: Request, warp_size: int) -> tuple[dict[str, str], dict[str, Any]]:
    import triton.language as tl

    from optc.runtime.triton_launch import LANES_PER_PROGRAM
    from optc.runtime.triton_matrices import DEPTH, LANES, PANEL, tile_rows
    from optc.runtime.triton_passes import PARTIALS_PER_TURN
    from optc.runtime.triton_reductions import LEAF

    constexprs = set(function.constants)
    real = "*" + _SHORT[request.real]
    pointers = {**_KERNEL_POINTERS, **_SCALARS_POINTERS, **_REDUCING_POINTERS, **_VALUE_POINTERS, "found_inf": "*fp32"}
    pointers |= dict.fromkeys(_PARTIALS, real)
    stage = "members" in function.parameters
    pointers["scalars"] = "*fp64" if stage or request.reducing else real
    streams, shape = _streams(function), _shape(function, request, warp_size)
    known: dict[str, Any] = {
        "real": getattr(tl, request.real), "LANES": shape.lanes, "BLOCK": shape.block, "TAIL": shape.tail,
        "SCALARS_IN_MEMORY": request.in_memory, "HAS_FOUND_INF": request.found_inf, "LEAF": LEAF, "LEVELS": request.levels,
    }  # fmt: skip
    if "ROWS" in constexprs:
        known |= {"ROWS": tile_rows(shape, warp_size), "COLUMNS": PANEL, "PANEL": PANEL}
    elif function.over:
        known |= {"LANES": LANES[function.over], "DEPTH": DEPTH[function.over]}
    elif "LANES" in constexprs and "BLOCK" not in constexprs:
        known["LANES"] = PARTIALS_PER_TURN if stage else LANES_PER_PROGRAM
    places = iter(range(len(function.parameters)))
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for name in function.parameters:
        missing = (name == "found_inf" and not request.found_inf) or (
            name == "scalars" and "chunk" in function.parameters and not request.in_memory
        )
        if name in constexprs or missing:
            signature[name] = "constexpr"
            constants[name] = None if missing else _constant(name, known, request, streams, places)
        elif name in pointers:
            signature[name] = pointers[name]
        elif name == "gradient_factor" and request.in_memory:
            signature[name] = "*fp64"
        else:
            signature[name] = "i64" if name == "stride" else "i32" if name in _INTEGERS else "fp32"
    return signature, constants


def _constant(name: str, known: Mapping[str, Any], request: Request, streams: Sequence[str], places: Any) -> Any:
    import triton.language as tl

    if name in known:
        return known[name]
    if name.removesuffix("_type") in streams:
        return getattr(tl, request.dtypes.get(name.removesuffix("_type"), "float32"))
    if name.startswith("at_"):
        return next(places)
    return bool(request.flags.get(name, False))


# --- reading ------------------------------------------------------------------------------------------------------------------


def _nvidia_report(
    request: Request, loops: Sequence[Loop], ptx: str, cubin: bytes, constants: Mapping[str, Any], shared: int
) -> AotReport:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, sass = _cuobjdump("-res-usage", path), _cuobjdump("-sass", path)

    def used(what: str) -> int:
        return int(re.search(rf"\b{what}:(\d+)", usage)[1])  # type: ignore[index]

    whole = [loop for loop in loops if not _masked(loop)]
    tail = [loop for loop in loops if _masked(loop)]
    return _summary(
        request, constants, 32, max(whole, key=_moved, default=None), tail,
        registers=used("REG"), stack=used("STACK"), local=used("LOCAL"), shared=shared,
        spills=len(re.findall(r"\b(?:STL|LDL)\b", sass)), spills_in_loops=spills_in_loops(sass),
        atomics=len(re.findall(r"\b(?:atom|red)\.", ptx)),
    )  # fmt: skip


def _amd_report(request: Request, loops: Sequence[Loop], assembly: str, constants: Mapping[str, Any], shared: int) -> AotReport:
    def used(what: str) -> int:
        return int(re.search(rf"\.{what}:\s*(\d+)", assembly)[1])  # type: ignore[index]

    loops = sorted(loops, key=_moved)  # of equal ones the widest is the unmasked one
    return _summary(
        request, constants, 64, loops[-1] if loops else None, loops[:-1],
        registers=used("vgpr_count"), stack=0, local=used("private_segment_fixed_size"),
        shared=shared, spills=used("vgpr_spill_count"), spills_in_loops=used("vgpr_spill_count"),
        atomics=len(re.findall(r"_atomic_", assembly)),
    )  # fmt: skip


def _summary(
    request: Request, constants: Mapping[str, Any], warp: int, whole: Loop | None, tail: Sequence[Loop], **usage: int
) -> AotReport:
    accesses = whole.accesses if whole else ()
    threads = constants["WARPS"] * warp
    block = constants["ROWS"] * constants["COLUMNS"] if "ROWS" in constants else constants.get("BLOCK", threads)
    per_thread = block // threads
    return AotReport(
        request.function,
        request.target,
        load_widths=tuple(a.bytes for a in accesses if not a.store),
        store_widths=tuple(a.bytes for a in accesses if a.store),
        tail_widths=tuple(a.bytes for loop in tail for a in loop.accesses),
        bytes_loaded=whole.bytes(False) / per_thread if whole else 0.0,
        bytes_stored=whole.bytes(True) / per_thread if whole else 0.0,
        **usage,
    )


def _masked(loop: Loop) -> bool:
    """Whether its elements are; what a block leaves of each row is stored by some threads only, in any loop."""
    return any(a.guarded for a in loop.accesses if not a.store) if loop.bytes(False) else loop.guarded


def _moved(loop: Loop) -> tuple[int, int, int]:
    """Bytes, how wide the widest access is, and how few there are (counted below 0)."""
    return loop.bytes(False) + loop.bytes(True), max((a.bytes for a in loop.accesses), default=0), -len(loop.accesses)


def _cuobjdump(option: str, path: Path) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


# --- command line -------------------------------------------------------------------------------------------------------------


def _load(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Reads a JSON list of requests from the standard input, writes a JSON list of reports."""
    parser = argparse.ArgumentParser(prog="python -m optc.compiler.aot", description=main.__doc__)
    parser.add_argument("--json", metavar="MODULE", required=True, help="a generated module: a .py file or a dotted name")
    module = _load(parser.parse_args().json)
    made = [compile_ahead(getattr(module, r["function"]), Request(**r)) for r in json.load(sys.stdin)]
    json.dump([asdict(report) for report in made], sys.stdout)


if __name__ == "__main__":
    main()

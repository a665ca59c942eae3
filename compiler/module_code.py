"""The code of a module: what every procedure, phase, kernel and pass puts into the template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from optc.compiler.backends import host
from optc.compiler.backends.native.emit import emit_kernel as emit_native
from optc.compiler.backends.pytorch.emit import emit_kernel as emit_pytorch
from optc.compiler.backends.pytorch.model import emit_model
from optc.compiler.backends.triton.emit import emit_kernel as emit_triton
from optc.compiler.backends.triton.scalars import emit_scalars
from optc.compiler.conditions import reached_when
from optc.compiler.ir import InternalError
from optc.compiler.layout import Call, long_names, names
from optc.compiler.plan import Kernel, Pass, Phase, Plan, ProcedurePlan, Stream
from optc.compiler.storing import rows, storage_text
from optc.compiler.traffic import read_if
from optc.dsl.kinds import Extent
from optc.dsl.program import DRAW, TRUE, Apply, Constant, Declares, Expression, Let, Program, Read, Role, Store, Symbol


@dataclass(frozen=True, slots=True)
class _PassText:
    streams: list[str]
    needs: str
    measures: str
    stage: str
    triton: str
    exists: str
    picks: bool


@dataclass(frozen=True, slots=True)
class _KernelText:
    name: str
    streams: list[str]
    scalars: tuple[str, ...]
    static_flags: str
    host_flags: str
    torch: str
    native: str
    triton: str
    function: str
    passes: list[_PassText]
    statistics: tuple[str, ...]
    finish: str
    rest: list[str]


@dataclass(frozen=True, slots=True)
class _PhaseText:
    """`model` are the arguments of its ModelProgram, `program` the function."""

    kernel: _KernelText | None
    program: str
    model: list[str]


@dataclass(frozen=True, slots=True)
class _ProcedureText:
    name: str
    inputs: str
    every: int | None
    arguments: tuple[str, ...]
    names: tuple[str, ...]
    host: tuple[str, ...]
    scalars: tuple[str, ...]
    flags: str
    carried: str
    phases: list[_PhaseText]
    triton_scalars: str


def condition_text(condition: Expression, program: Declares, keyword: str = "") -> Call:
    function, arguments = host.emit_condition(condition, program)
    return Call(f"{keyword}Condition", (function, names(arguments)))


def unless_always(keyword: str, condition: Expression, program: Program) -> tuple[Call, ...]:
    """A condition as a keyword argument; nothing where it always holds."""
    return () if condition == TRUE else (condition_text(condition, program, f"{keyword}="),)


def _stream(stream: Stream, program: Program, *conditions: Call) -> str:
    parts = [f'"{stream.name}"', f'"{stream.role.value}"', str(stream.reads), str(stream.writes)]
    parts += [f'extent="{stream.extent.value}"'] if stream.extent is not Extent.ELEM else []
    storage = [] if stream.storage is None else [f"storage={storage_text(stream.storage)}"]
    storage += [] if stream.pair is None else [f'pair="{stream.pair}"']
    if stream.dither is not None:
        storage.append(f"dither=({', '.join(_dither(stream.dither))})")
    coded = () if stream.coded is None else unless_always("coded", stream.coded, program)
    return str(Call("Stream", (*parts, *conditions, *storage, *coded)))


def _dither(draw: Expression) -> Iterator[str]:
    """What a draw is given besides the elements: names of scalars, or numbers."""
    if not isinstance(draw, Apply) or draw.operation != DRAW:
        raise InternalError(f"{draw!r} draws no number")
    for argument in draw.arguments[1:]:
        match argument:
            case Read(symbol=Symbol(role=Role.SCALAR, name=name)):
                yield f'"{name}"'
            case Constant(value=int() | float() as value):
                yield repr(float(value))
            case _:
                raise InternalError(f"{argument!r} is not known before a kernel starts")


def _stream_of(one: Pass, stream: Stream, kernel: Kernel, program: Program) -> str:
    """A stream of a pass, with the conditions under which it is read and written."""
    conditions = unless_always("read_if", read_if(one, stream.name, kernel.static_flags), program)
    if stream.writes:
        stores = partial(_stores, stream.name)
        written = reached_when((*one.picked, *one.body), stores, frozenset(kernel.static_flags))
        conditions += unless_always("write_if", written, program)
    return _stream(stream, program, *conditions)


def _stores(name: str, line: Let | Store) -> bool:
    return isinstance(line, Store) and line.target.name == name


def _phase(phase: Phase, number: int, procedure: ProcedurePlan, program: Program) -> _PhaseText:
    model = phase.model
    kernel = None if phase.kernel is None else _kernel(phase.kernel, () if model is None else model.exports, program)
    if model is None:
        return _PhaseText(kernel, "", [])
    name = f"{procedure.name}_model" if number == 0 else f"{procedure.name}_model_{number + 1}"
    totals = "(" + "".join(f'("{total}", "{part}"), ' for total, part in model.totals).rstrip() + ")"
    parts = [f"function={name}", f"totals={totals}"]
    parts += [f"{what}={long_names(getattr(model, what), 24)}" for what in ("scalars", "flags", "states", "exports", "carried")]
    parts += ["loss=True"] * model.loss
    return _PhaseText(kernel, emit_model(model, name, program.source), parts)


def _kernel(kernel: Kernel, exports: tuple[str, ...], program: Program) -> _KernelText:
    rest = [f"{what}={long_names(found, 24)}" for what in ("parts", "given", "leaves") if (found := getattr(kernel, what))]
    if any(extent is not Extent.TENSOR for extent in kernel.extents):
        rest.insert(0, f"extents={long_names(tuple(extent.value for extent in kernel.extents), 24)}")
        rest += [f'seen="{program.seen}"'] if program.seen else []
    if kernel.pick is not None:
        rest.append(f'pick="{kernel.pick[0]}"')
    return _KernelText(
        kernel.name,
        [
            _stream(s, program)
            if kernel.passes or s not in kernel.streams
            else _stream_of(kernel.sweeps[0], s, kernel, program)
            for s in rows(kernel)
        ],
        kernel.scalars,
        names(kernel.static_flags),
        names(kernel.host_flags),
        emit_pytorch(kernel, program.source, frozenset(exports)),
        emit_native(kernel, program.source).strip("\n"),
        emit_triton(kernel, program.source).strip("\n"),
        "None" if kernel.passes else f"{kernel.name}_triton",
        [_pass(kernel, index, program) for index in range(len(kernel.passes))],
        kernel.statistics,
        _stage(kernel, len(kernel.passes)),
        rest,
    )


def _pass(kernel: Kernel, index: int, program: Program) -> _PassText:
    one = kernel.passes[index]
    measures = "(" + "".join(f'("{name}", "{operation}"), ' for name, operation in one.measures).rstrip() + ")"
    streams = [_stream_of(one, s, kernel, program) for s in one.moves]
    function = f"{kernel.name}_pass_{index}_triton"
    exists = "".join(map(str, unless_always("exists", one.exists, program)))
    return _PassText(streams, names(one.needs), measures, _stage(kernel, index), function, exists, bool(one.picked))


def _stage(kernel: Kernel, index: int) -> str:
    """The name of the Triton function that runs per tensor before a pass, or after the last."""
    return f"{kernel.name}_stage_{index}_triton" if kernel.has_stage(index) else "None"


def procedure_text(procedure: ProcedurePlan, plan: Plan) -> _ProcedureText:
    arguments, lines = host.emit_host(procedure, plan)
    return _ProcedureText(
        procedure.name,
        names(procedure.inputs),
        procedure.every,
        arguments,
        host.host_arguments(procedure, plan),
        lines,
        procedure.host.scalars,
        names(procedure.host.flags),
        names(procedure.host.carried),
        [_phase(phase, number, procedure, plan.program) for number, phase in enumerate(procedure.phases)],
        emit_scalars(procedure, plan).strip("\n"),
    )

"""Where the lines of a stage go in the base's step, and what they read as the point there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optc.compiler.compose.modifier import Names
from optc.compiler.compose.tree import bound, reads, renamed, substituted
from optc.dsl import nodes
from optc.dsl.scope import walk

ORDER: tuple[nodes.Stage, ...] = (
    "schedule", "clip", "project", "couple", "mix", "mask", "trust", "decay", "constrain", "average",
)  # fmt: skip
"""The stages in the order of their effects; rewrites act on the base as written."""

_G_STAGES, _VALUE_STAGES = ORDER[1:4], ORDER[4:7]
_THETA = nodes.Name("theta")


@dataclass(frozen=True, slots=True)
class Placed:
    """A stage of a modifier with the point it has found; `lines` call the point by its own name."""

    modifier: str
    stage: nodes.Stage
    point: str
    lines: tuple[nodes.Statement, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A composed step; `origins` says by the identity of a line which modifier it comes from."""

    lines: tuple[nodes.Statement, ...]
    origins: Mapping[int, str] = field(default_factory=dict)


def theta_line(step: Sequence[nodes.Statement]) -> int | None:
    """The number of the line that writes θ; None where no line at the top level does."""
    for number, line in enumerate(step):
        if isinstance(line, nodes.Write) and any(target.id == "theta" for target in line.targets):
            return number
    return None


def reads_theta(step: Sequence[nodes.Statement]) -> bool:
    """Whether the line that writes θ reads it."""
    number = theta_line(step)
    return number is not None and "theta" in reads(step[number])


def last_binding(step: Sequence[nodes.Statement], point: str, end: int) -> int | None:
    """The number of the last line before `end` that binds a point, in it or inside it."""
    return next((number for number in reversed(range(end)) if point in bound(step[number])), None)


def seen_points(step: Sequence[nodes.Statement], stage: nodes.Stage, point: str) -> set[str]:
    """The points that the lines of a stage can read: those bound so far."""
    end = theta_line(step) or 0
    seen = {"g", "theta"}
    if stage in _G_STAGES:
        return seen
    if stage in _VALUE_STAGES:
        end = (last_binding(step, point, end) or 0) + 1
    return seen | {p for p in ("m_hat", "v_hat", "u") if last_binding(step, p, end) is not None}


def stops_after_theta(step: Sequence[nodes.Statement]) -> nodes.Stop | None:
    """A `stop` between the line that writes θ and the end of the step."""
    after = step[(theta_line(step) or 0) + 1 :]
    return next((node for node in walk(tuple(after)) if isinstance(node, nodes.Stop)), None)


def changes_theta(hooks: Sequence[Placed]) -> bool:
    """Whether one of the stages binds θ."""
    return any("theta" in bound(hook.lines) for hook in hooks)


def placed(step: tuple[nodes.Statement, ...], hooks: Sequence[Placed], names: Names, origins: Mapping[int, str]) -> Step:
    """The step with the lines of all stages in their places. The base binds the points, and writes θ at the top level."""
    return _Placement(step, hooks, names, dict(origins)).run()


class _Placement:
    def __init__(
        self, step: tuple[nodes.Statement, ...], hooks: Sequence[Placed], names: Names, origins: dict[int, str]
    ) -> None:
        self.step = step
        self.hooks = sorted(hooks, key=lambda hook: ORDER.index(hook.stage))
        self.names = names
        self.origins = origins
        self.lines: list[nodes.Statement] = []

    def run(self) -> Step:
        end = theta_line(self.step)
        if end is None:
            raise RuntimeError("a base writes θ at the top level")
        for hook in self.of(*_G_STAGES):
            self.add(hook.lines, hook.modifier)
        after: dict[int, list[Placed]] = {}
        for hook in self.of(*_VALUE_STAGES):
            number = last_binding(self.step, hook.point, end)
            if number is None:
                raise RuntimeError("a stage is placed on a point that the base binds")
            after.setdefault(number, []).append(hook)
        for number, line in enumerate(self.step[:end]):
            self.lines.append(line)
            for hook in after.get(number, ()):
                self.add(hook.lines, hook.modifier)
        write = self.step[end]
        if isinstance(write, nodes.Write):
            self.theta(write, self.step[end + 1 :])
        return Step(tuple(self.lines), self.origins)

    def of(self, *stages: nodes.Stage) -> Iterator[Placed]:
        return (hook for hook in self.hooks if hook.stage in stages)

    def add(self, lines: Sequence[nodes.Statement], modifier: str) -> None:
        self.lines += lines
        self.origins |= {id(line): modifier for line in lines}

    def kept(self, old: nodes.Statement, change: Callable[[nodes.Statement], nodes.Statement]) -> nodes.Statement:
        """A changed line of the base, which comes from where it came from before."""
        new = change(old)
        if id(old) in self.origins:
            self.origins[id(new)] = self.origins[id(old)]
        return new

    # --- θ --------------------------------------------------------------------------------------------------------------------

    def theta(self, write: nodes.Write, rest: Sequence[nodes.Statement]) -> None:
        """The line that writes θ, and what stands around it. θ is written once: values before that have names of their own."""
        write = self.decayed(write)
        constrain, average = list(self.of("constrain")), list(self.of("average"))
        late = changes_theta(average)
        if not constrain and not late:
            self.lines.append(write)
            self.rest(rest, average, {})
            return
        name = self.names.free("theta_new")
        self.named(write, name)
        new = {"theta": name}
        for hook in constrain:
            self.add([renamed(line, new) for line in hook.lines], hook.modifier)
        if not late:
            self.write_theta(name)
            self.rest(rest, average, {})
        else:
            self.rest(rest, average, new)
            self.write_theta(name)

    def rest(self, rest: Sequence[nodes.Statement], average: Sequence[Placed], names: Mapping[str, str]) -> None:
        self.lines += [self.kept(line, lambda old: renamed(old, names)) for line in rest]
        for hook in average:
            self.add([renamed(line, names) for line in hook.lines], hook.modifier)

    def decayed(self, write: nodes.Write) -> nodes.Write:
        """The line that writes θ, after the decay: it reads the decayed value for θ."""
        hooks = list(self.of("decay"))
        if not hooks:
            return write
        name = self.names.free("theta_decayed")
        decayed = {"theta": name}
        now: dict[str, str] = {}  # what θ is called so far
        for hook in hooks:
            for line in hook.lines:
                if isinstance(line, nodes.Assign):
                    targets = tuple(renamed(target, decayed) for target in line.targets)
                    self.add([replace(renamed(line, now), targets=targets)], hook.modifier)
                else:
                    if "theta" in bound(line) and not now:
                        self.add([nodes.Assign((nodes.Name(name),), _THETA)], hook.modifier)
                    self.add([renamed(line, decayed if "theta" in bound(line) else now)], hook.modifier)
                if "theta" in bound(line):
                    now = decayed
        values = {"theta": nodes.Name(name)} if now else {}
        value = write.value
        if isinstance(value, tuple):
            new = nodes.Assign(write.targets, value)
            value = substituted(replace(new, targets=()), values).value
        else:
            value = _value(value, values)
        return replace(write, value=value)

    def named(self, write: nodes.Write, name: str) -> None:
        """The line that writes θ as one that names its value; what else it writes stays as it is."""
        if not isinstance(write.value, tuple):
            line = nodes.Assign((nodes.Name(name),), write.value, span=write.span)
            self.lines.append(self.kept(write, lambda old: line))
            return
        pairs = list(zip(write.targets, write.value, strict=True))
        own = [value for target, value in pairs if target.id == "theta"]
        others = [(target, value) for target, value in pairs if target.id != "theta"]
        self.lines.append(nodes.Assign((nodes.Name(name),), own[0], span=write.span))
        value = others[0][1] if len(others) == 1 else tuple(value for _, value in others)
        self.lines.append(replace(write, targets=tuple(target for target, _ in others), value=value))

    def write_theta(self, name: str) -> None:
        """`θ <- name`; where the line before only names that value, it writes θ itself."""
        last = self.lines[-1]
        if isinstance(last, nodes.Assign) and [target.id for target in last.targets] == [name]:
            write = nodes.Write((_THETA,), last.value, span=last.span)
            if id(last) in self.origins:
                self.origins[id(write)] = self.origins[id(last)]
            self.lines[-1] = write
            return
        self.lines.append(nodes.Write((_THETA,), nodes.Name(name)))


def _value(value: nodes.Expression, values: Mapping[str, nodes.Expression]) -> nodes.Expression:
    return values.get(value.id, value) if isinstance(value, nodes.Name) else substituted(value, values)


# --- states that start at the gradient ----------------------------------------------------------------------------------------


def started_late(
    items: tuple[nodes.StateItem, ...],
) -> tuple[tuple[nodes.StateItem, ...], tuple[nodes.Statement, ...]]:
    """States whose initial value reads `g` start at 0 instead, and lines that set them in their first step.

    A state starts at the gradient that the base's lines see; the lines go behind the stages that change it.
    """
    states: list[nodes.StateItem] = []
    lines: list[nodes.Statement] = []
    for item in items:
        if isinstance(item, nodes.State):
            if "g" not in reads(item.initial):
                states.append(item)
                continue
            states.append(replace(item, initial=nodes.Number(0)))
            first = nodes.Write((nodes.Name(item.name),), item.initial)
            lines.append(nodes.If(nodes.Call("new", (nodes.Name(item.name),)), (first,), ()))
            continue
        then, then_lines = started_late(item.then)
        otherwise, other_lines = started_late(item.otherwise)
        states.append(replace(item, then=then, otherwise=otherwise))
        if then_lines:
            lines.append(nodes.If(item.condition, then_lines, other_lines))
        elif other_lines:
            lines.append(nodes.If(nodes.Unary("not", item.condition), other_lines, ()))
    return tuple(states), tuple(lines)

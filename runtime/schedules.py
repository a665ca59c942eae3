"""Schedules: what a hyper is after `n` steps, as a plain function, in chains, and as a scheduler for any torch optimizer.

    rate = Cosine(T=1000, warmup=100)
    rate(250, 1e-3)                             # the learning rate after 250 steps, of a group that was given 1e-3
    scheduler = rate.on(optimizer)              # a torch LRScheduler: step(), get_last_lr(), state_dict()
    rate.then(Exponential(gamma=0.99), 1000)    # one after the other

The generated classes derive from `Schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, SupportsFloat

from optc.runtime import hypers as hypers_
from optc.runtime.schema import Hyper, Require

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from optc.runtime.scheduler import Scheduler

__all__ = ["Chain", "Schedule", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """A generated function of `arguments`: `n`, `base`, and hypers by their names in the spec."""

    function: Callable[..., float]
    arguments: tuple[str, ...]


class Schedule:
    """A learning rate, and maybe a momentum, as a function of the steps done; it never changes.

    Hypers are attributes of the names that the constructor takes. Raises ValueError where one is out of its range, TypeError
    for a keyword that there is not.
    """

    name: ClassVar[str]
    hypers: ClassVar[tuple[Hyper, ...]] = ()
    requires: ClassVar[tuple[Require, ...]] = ()
    values: ClassVar[Mapping[str, Value]] = {}

    _given: Mapping[str, Any]
    _numbers: Mapping[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Turns down misspelt keywords, with a hint."""
        known = [hyper.key for hyper in cls.hypers]
        for key in kwargs:
            if key not in known:
                raise hypers_.unknown_keyword(cls.__name__, key, known)
        return super().__new__(cls)

    def __init__(self, **given: Any) -> None:
        full = {hyper.key: _filled(hyper, given.get(hyper.key, _default(hyper))) for hyper in self.hypers}
        numbers = hypers_.validate(_Named(type(self).__name__, self.hypers, self.requires), full)
        object.__setattr__(self, "_given", full)
        object.__setattr__(self, "_numbers", numbers)

    def __call__(self, n: float, base: float = 1.0) -> float:
        """The learning rate after `n` steps (0 before the first) of a group that was given `base`.

        Raises ValueError where `n` is below 0 or no number, and where `base` is none.
        """
        self._require(n, base)
        return self._value("lr", n, base)

    def momentum(self, n: float, base: float = 0.95) -> float | None:
        """The momentum, or β1, after `n` steps of a group that was given `base`; None where the schedule leaves it alone."""
        self._require(n, base)
        return self._value("momentum", n, base) if self.has_momentum else None

    @property
    def has_momentum(self) -> bool:
        """Whether the schedule gives a momentum."""
        return "momentum" in self.values

    def then(self, other: Schedule, after: int) -> Chain:
        """This schedule for `after` steps, then the other, which counts its steps from 0.

        Raises ValueError where `after` is no whole number of at least 1.
        """
        return Chain((self, after), (other, None))

    def on(self, optimizer: Optimizer, last_epoch: int = -1) -> Scheduler:
        """A scheduler in the manner of torch for any `torch.optim.Optimizer`; call its `step()` after each `optimizer.step()`.

        `last_epoch` is the number of steps done before, -1 at the start of training.
        """
        from optc.runtime.scheduler import Scheduler

        return Scheduler(optimizer, self, last_epoch)

    def _require(self, n: Any, base: Any) -> None:
        if not isinstance(n, SupportsFloat) or not float(n) >= 0:
            raise ValueError(f"{type(self).__name__}: n = {n!r}, but the steps done are a number of 0 or above")
        if not isinstance(base, SupportsFloat):
            raise ValueError(f"{type(self).__name__}: base = {base!r}, but it must be a number")

    def _value(self, target: str, n: float, base: float) -> float:
        value = self.values[target]
        known = {**self._numbers, "n": float(n), "base": float(base)}
        return float(value.function(*[known[name] for name in value.arguments]))

    def __getattr__(self, name: str) -> Any:
        given: Mapping[str, Any] = self.__dict__.get("_given", {})
        if name in given:
            return given[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a schedule does not change: make another {type(self).__name__} with {name} = {value!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), dict(self._given))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and type(other) is type(self) and other._given == self._given

    def __hash__(self) -> int:
        return hash((type(self), tuple(map(repr, self._given.items()))))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self._given.items())})"


class Chain(Schedule):
    """One schedule after the other: `Chain((first, 100), (second, None))` is `second` from step 100 on, counted from 0 again.

    Where only some of them give a momentum, the others leave it as the group was given it.
    """

    name = "chain"

    def __init__(self, *links: tuple[Schedule, int | None]) -> None:
        parts: list[tuple[Schedule, int | None]] = []
        for number, (schedule, steps) in enumerate(links, 1):
            last = number == len(links)
            if last and steps is not None:
                raise ValueError("the last schedule of a chain lasts for good: give it None")
            if not last and not (isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1):
                raise ValueError(f"a schedule lasts a whole number of steps, at least 1, not {steps!r}")
            parts += _spread(schedule, steps)
        if not parts:
            raise ValueError("a chain has at least one schedule")
        object.__setattr__(self, "_given", {"links": tuple(parts)})
        object.__setattr__(self, "_numbers", {})

    @property
    def has_momentum(self) -> bool:
        return any(schedule.has_momentum for schedule, _ in self.links)

    def then(self, other: Schedule, after: int) -> Chain:
        return Chain((self, after), (other, None))

    def _value(self, target: str, n: float, base: float) -> float:
        for schedule, steps in self.links:
            if steps is None or n < steps:
                if target == "momentum" and not schedule.has_momentum:
                    return base
                return float(schedule._value(target, n, base))
            n -= steps
        return math.nan  # the last one lasts for good

    def __reduce__(self) -> tuple[Any, ...]:
        return Chain, self.links

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.links))})"


def _spread(schedule: Schedule, steps: int | None) -> list[tuple[Schedule, int | None]]:
    """A schedule for some steps; of a chain, the links that begin in that time."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"a chain is made of schedules, not of {type(schedule).__name__}")
    if not isinstance(schedule, Chain) or steps is None:
        return [*schedule.links] if isinstance(schedule, Chain) else [(schedule, steps)]
    found: list[tuple[Schedule, int | None]] = []
    left = steps
    for part, lasts in schedule.links:
        if lasts is None or lasts >= left:
            return [*found, (part, left)]
        found.append((part, lasts))
        left -= lasts
    return found


@dataclass(frozen=True, slots=True)
class _Named:
    """What the checks of hypers need to know."""

    name: str
    hypers: tuple[Hyper, ...]
    requires: tuple[Require, ...]


def _default(hyper: Hyper) -> Any:
    return hyper.defaults if hyper.is_tuple else hyper.defaults[0]


def _filled(hyper: Hyper, value: Any) -> Any:
    """A tuple may leave out what is inf by default: `milestones=(30, 80)`."""
    if not hyper.is_tuple or not isinstance(value, tuple | list) or len(value) >= len(hyper.names):
        return tuple(value) if hyper.is_tuple and isinstance(value, list) else value
    rest = hyper.defaults[len(value) :]
    return (*value, *rest) if all(left == math.inf for left in rest) else tuple(value)


def _made(kind: type[Schedule], given: Mapping[str, Any]) -> Schedule:
    return kind(**given)

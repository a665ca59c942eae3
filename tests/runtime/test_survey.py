"""The native look at parameters and gradients answers as Python would, makes no objects and keeps alive what is in use."""

from __future__ import annotations

import gc
import random
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from optc.generated import AdamW
from optc.runtime import survey
from optc.runtime.columns import Gradients, addresses, chosen
from optc.runtime.survey import Sight, Survey, Written
from tests.runtime.training import assert_equal

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
SHAPES = ((3, 4), (5,), (), (0,), (2, 3, 4, 5), (1,), (6, 1))


def model(seed: int = 0) -> list[nn.Parameter]:
    """Parameters of every kind; all but the second have a gradient."""
    generator = torch.Generator().manual_seed(seed)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    made[4].data = made[4].data.contiguous(memory_format=torch.channels_last)
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator).to(memory_format=torch.preserve_format)
    made[4].grad = torch.randn(2, 3, 4, 5, generator=generator).contiguous(memory_format=torch.channels_last)
    made[1].grad = None
    return made


def surveyed(parameters: list[nn.Parameter]) -> Survey:
    found = Survey.of(parameters, [p is not parameters[1] for p in parameters])
    assert found is not None
    return found


def pointers(parameters: list[nn.Parameter]) -> list[int]:
    return [p.grad.data_ptr() for p in parameters if p.grad is not None]


@needs_compiler
def test_the_survey_works_with_this_pytorch() -> None:
    assert survey._native() is not None


@needs_compiler
def test_addresses_are_those_of_the_present_gradients() -> None:
    parameters = model()
    look = surveyed(parameters)
    for seed in range(3):
        for p in parameters:
            p.grad = None if p.grad is None else p.grad.clone()
        if seed == 2:
            parameters[3].grad = None
        sight = look.look(parameters)
        assert sight is not None
        assert list(sight.present) == [p.grad is not None for p in parameters]
        taking = [p for p in parameters if p.grad is not None]
        found = Gradients(taking, sight.addresses)
        assert list(addresses(found)) == pointers(parameters), seed
        assert all(x is p.grad for x, p in zip(found, taking, strict=True))
        assert list(addresses(chosen(found, [3, 1]))) == [pointers(parameters)[i] for i in (3, 1)]
        look.release()


def _swap_implementations(p: list[nn.Parameter]) -> None:
    torch.utils.swap_tensors(p[0], nn.Parameter(torch.randn(3, 4)))  # type: ignore[no-untyped-call]
    p[0].grad = torch.randn(3, 4)


def _set(index: int, make: Callable[[nn.Parameter], Tensor | None]) -> Callable[[list[nn.Parameter]], None]:
    def change(parameters: list[nn.Parameter]) -> None:
        gradient = make(parameters[index])
        parameters[index].grad = None
        parameters[index].grad = gradient

    return change


def _data(index: int, make: Callable[[Tensor], Tensor]) -> Callable[[list[nn.Parameter]], None]:
    def change(parameters: list[nn.Parameter]) -> None:
        parameters[index].data = make(parameters[index].data)

    return change


def _bypass(p: list[nn.Parameter]) -> None:
    assert p[0].grad is not None
    p[0].grad.data = torch.zeros(3, 4, dtype=torch.float64)


CHANGES: dict[str, Callable[[list[nn.Parameter]], None]] = {
    "a first gradient": _set(1, torch.zeros_like),
    "a sparse gradient": _set(0, lambda p: torch.eye(3, 4).to_sparse()),
    "a gradient with other strides": _set(0, lambda p: torch.zeros(4, 3).t()),
    "an expanded gradient": _set(0, lambda p: torch.zeros(1, 1).expand(3, 4)),
    "a gradient without memory": _set(0, lambda p: torch._efficientzerotensor((3, 4))),
    "a gradient of another dtype": _bypass,
    "a contiguous gradient for channels_last": _set(4, lambda p: torch.zeros(2, 3, 4, 5)),
    "other memory": _data(0, torch.clone),
    "transposed in place": lambda p: _data(0, lambda x: x.as_strided((4, 3), (1, 4)))(p),
    "reshaped in place": _data(0, lambda x: x.view(-1)),
    "swapped implementations": _swap_implementations,
    "another parameter": lambda p: p.__setitem__(0, nn.Parameter(torch.zeros(3, 4))),
    "one parameter less": lambda p: p.__delitem__(-1),
    "one parameter more": lambda p: p.append(nn.Parameter(torch.zeros(1))),
}


@needs_compiler
@pytest.mark.parametrize("name", CHANGES)
def test_every_other_change_is_seen(name: str) -> None:
    parameters = model()
    look = surveyed(parameters)
    assert look.look(parameters) is not None
    look.release()
    CHANGES[name](parameters)
    assert look.look(parameters) is None
    look.release()


@needs_compiler
def test_a_stride_that_is_never_used_may_be_anything() -> None:
    parameters = model()
    look = surveyed(parameters)
    parameters[6].grad = torch.zeros(6, 1).as_strided((6, 1), (1, 7))
    assert look.look(parameters) is not None
    look.release()


@needs_compiler
@pytest.mark.parametrize("name", ["a sparse gradient", "a gradient with other strides", "a gradient without memory"])
def test_there_is_none_for_gradients_that_must_be_copied_or_refused(name: str) -> None:
    parameters = model()
    CHANGES[name](parameters)
    assert Survey.of(parameters, [True] * len(parameters)) is None


@needs_compiler
def test_there_is_none_for_subclasses_and_inference_tensors() -> None:
    class Special(nn.Parameter):
        pass

    special = Special(torch.zeros(2))
    assert Survey.of([special], [True]) is None
    with torch.inference_mode():
        inference = torch.zeros(2)
    assert Survey.of([inference], [True]) is None


@needs_compiler
def test_gradients_live_until_they_are_released() -> None:
    (p,) = parameters = [nn.Parameter(torch.zeros(3))]
    p.grad = torch.ones(3)
    look = Survey.of(parameters, [True])
    assert look is not None
    uses: Callable[[], int] = p.grad._use_count  # type: ignore[attr-defined]
    alone = uses()
    for _ in range(3):  # a second look lets go of the first
        assert look.look(parameters) is not None
        assert uses() == alone + 1
    look.release()
    look.release()
    assert uses() == alone
    assert look.look(parameters) is not None
    del look
    gc.collect()
    assert uses() == alone


@needs_compiler
def test_a_gradient_that_was_taken_away_dies_when_it_is_released() -> None:
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(40)]
    for p in parameters:
        p.grad = torch.ones(3)
    look = Survey.of(parameters, [True] * 40)
    assert look is not None
    for _ in range(2):
        taken = [weakref.ref(p.grad) for p in parameters[::3]]
        assert look.look(parameters) is not None
        for p in parameters[::3]:
            p.grad = None
        assert all(gradient() is not None for gradient in taken)
        look.release()
        assert all(gradient() is None for gradient in taken)
        for p in parameters[::3]:
            p.grad = torch.ones(3)


@needs_compiler
@pytest.mark.parametrize("count", [1, 5, 6, 7, 24, 25, 60])
def test_a_change_is_seen_at_every_place(count: int) -> None:
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(count)]
    states = [torch.zeros(3) for _ in range(count)]
    for p in parameters[1::2]:
        p.grad = torch.ones(3)
    look = Survey.of(parameters, [True] * count, states)
    assert look is not None
    for i in range(count):
        for tensor in (parameters[i], states[i]):
            before = tensor.data
            tensor.data = torch.zeros(3)
            assert look.look(parameters) is None, i
            tensor.data = before
        kept, parameters[i].grad = parameters[i].grad, torch.zeros(3).to_sparse()
        assert look.look(parameters) is None, i
        parameters[i].grad = kept
        sight = look.look(parameters)
        assert sight is not None
        assert list(sight.present) == [k % 2 for k in range(count)]
        assert list(sight.addresses) == pointers(parameters)
    look.release()


def _tensors() -> int:
    gc.collect()
    return sum(issubclass(type(x), Tensor) for x in gc.get_objects())


@needs_compiler
def test_a_step_makes_no_objects_of_gradients() -> None:
    layers = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])
    optimizer = AdamW(layers.parameters(), backend="native")

    def backward() -> None:
        optimizer.zero_grad()
        layers(torch.ones(2, 4)).sum().backward()

    for _ in range(2):
        backward()
        optimizer.step()
    backward()
    before = _tensors()
    optimizer.step()
    assert _tensors() == before
    assert all(p.grad is not None for p in layers.parameters())  # asking makes them
    assert _tensors() >= before


@needs_compiler
def test_autograd_is_told_of_writes() -> None:
    tensors = [torch.zeros(3), torch.zeros(())]
    written = Written(tensors)
    written.note()
    assert [t._version for t in tensors] == [1, 1]
    written.only([1]).note()
    assert [t._version for t in tensors] == [1, 2]
    with torch.inference_mode():
        inference = torch.zeros(2)
    Written([inference, tensors[0]]).note()
    assert tensors[0]._version > 1


@needs_compiler
def test_steps_are_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random lives of a model: gradients come and go, lie elsewhere or otherwise, data and states are exchanged."""

    def live(seed: int) -> list[Tensor]:
        chance, parameters = random.Random(seed), model(seed)
        group = {"params": parameters[:4]}, {"params": parameters[4:], "lr": 0.1}
        optimizer = AdamW(group, lr=0.01, backend=chance.choice(["native", "torch"]))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(60):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
                event = chance.randrange(30)
                if event == 0:
                    p.grad = None
                elif event == 1 and p.ndim == 2:
                    p.grad = torch.randn(p.shape[::-1], generator=generator).t()
                elif event == 2:
                    p.data = p.data.clone()
                elif event == 3 and optimizer.state.get(p):
                    optimizer.state[p]["exp_avg"] = torch.zeros(p.shape)
                elif event == 4:
                    optimizer.param_groups[0]["lr"] = chance.random() / 100
                elif event == 5 and optimizer.state.get(p):
                    del optimizer.state[p]
                elif event == 6 and p.ndim == 2 and p.grad is not None:
                    p.data = p.data.t().contiguous().t()
            optimizer.step()
        return [p.detach().clone() for p in parameters]

    looks: list[Sight | None] = []
    look = Survey.look

    def noting(self: Survey, group: list[nn.Parameter]) -> Sight | None:
        looks.append(look(self, group))
        return looks[-1]

    monkeypatch.setattr(Survey, "look", noting)
    seen = [live(seed) for seed in range(8)]
    assert any(found is not None for found in looks)
    assert any(found is None for found in looks)
    monkeypatch.setattr(survey, "_native", lambda: None)
    for seed, one in enumerate(seen):
        assert_equal(one, live(seed))


@needs_compiler
def test_a_pytorch_that_answers_otherwise_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    native = survey._load()
    assert survey._agrees(native)
    assert not survey._agrees(replace(native, look=lambda handle, present, found: 1))
    assert not survey._agrees(replace(native, bump=lambda *arguments: 1))
    assert not survey._agrees(replace(native, same=lambda one, other: 1))
    monkeypatch.setattr(survey, "_ASSIGN", "a_function_that_no_release_has")
    survey._native.cache_clear()
    try:
        assert survey._native() is None
    finally:
        monkeypatch.undo()
        survey._native.cache_clear()

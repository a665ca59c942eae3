"""Memory orders, swapped data, changed dtypes: what a kernel that sees only memory depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optc.generated import SGD
from optc.runtime import choose
from optc.runtime.torch_launch import TORCH
from tests.runtime.handmade import AdamW
from tests.runtime.training import assert_equal, give_gradients, parameters, train, twins


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values in other memory."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 7.0, dtype=x.dtype)
    return {
        "contiguous": x.clone(),
        "channels_last": x.clone(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
        "gaps": wide[..., ::2].copy_(x),
    }


@pytest.mark.parametrize("theta", ["contiguous", "channels_last", "transposed", "gaps"])
@pytest.mark.parametrize("gradient", ["contiguous", "channels_last", "transposed", "gaps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "flat"])
def test_memory_orders_change_nothing(
    theta: str, gradient: str, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "flat":
        use_flat_memory(monkeypatch)
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    p, q = nn.Parameter(layouts(values)[theta]), nn.Parameter(values.clone())
    ours, plain = AdamW([p]), AdamW([q])
    for seed in range(3):
        g = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
        p.grad, q.grad = layouts(g)[gradient], g
        strides = p.grad.stride()
        ours.step()
        plain.step()
        assert p.grad.stride() == strides and torch.equal(p.grad, g), "the gradient is left alone"
    assert_equal([p], [q])
    assert_equal([ours.state[p]["exp_avg"]], [plain.state[q]["exp_avg"]])
    if theta == "gaps":
        around = p.detach().as_strided((2, 3, 4, 10), (120, 40, 10, 1))
        assert torch.equal(around[..., 1::2], torch.full_like(values, 7.0)), "memory between the elements is left alone"


def use_flat_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that sees nothing but memory, as compiled kernels do: element i of each tensor is place i."""

    def flat(tensors: Any) -> list[Tensor]:
        for x in tensors:
            assert x.numel() == 0 or x.as_strided((x.numel(),), (1,)).data_ptr() == x.data_ptr()
        return [x.as_strided((x.numel(),), (1,), x.storage_offset()) for x in tensors]

    class Launcher:
        def __init__(self, kernel: Any, residents: Any) -> None:
            columns = {name: flat(column) for name, column in residents.tensors.items()}
            seen = type(residents)(columns, residents.gradient_dtype, residents.variant)
            (self.inner,) = TORCH.prepare([kernel], [seen])

        def launch(self, varying: Any, *rest: Any) -> None:
            self.inner.launch({name: flat(column) for name, column in varying.items()}, *rest)

    def prepare(kernels: Any, residents: Any) -> list[Launcher]:
        return list(map(Launcher, kernels, residents))

    monkeypatch.setattr(choose, "load", lambda name: type("Flat", (), {"name": "flat", "prepare": staticmethod(prepare)})())


@pytest.mark.parametrize("backend", ["torch", "flat"])
def test_swapped_data_is_followed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "flat":
        use_flat_memory(monkeypatch)
    p = nn.Parameter(torch.randn(2, 3, 4, 5))
    q = nn.Parameter(p.detach().clone())
    ours, plain = AdamW([p]), AdamW([q])

    def compare() -> None:
        for seed in range(2):
            give_gradients(seed, [p], [q])
            ours.step()
            plain.step()
            assert_equal([p], [q])

    compare()
    p.data = p.data.clone()
    compare()
    p.data = p.data.contiguous(memory_format=torch.channels_last)
    compare()
    assert ours.state[p]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    for x in (p, q):
        x.data, x.grad = x.data.bfloat16(), None
    compare()
    assert ours.state[p]["exp_avg"].dtype == torch.float32
    for x in (p, q):
        x.data, x.grad = x.data.double(), None
    compare()
    assert ours.state[p]["exp_avg"].dtype == torch.float64


@pytest.mark.skipif(not hasattr(Tensor, "grad_dtype"), reason="this PyTorch has no grad_dtype")
def test_gradients_may_change_their_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    use_flat_memory(monkeypatch)
    p, q = parameters([(5,), (5,)])
    q.data.copy_(p.data)
    p.grad_dtype = None
    ours, plain = AdamW([p]), AdamW([q])
    for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.bfloat16, torch.float64)):
        g = torch.randn(5, generator=torch.Generator().manual_seed(seed)).to(dtype)
        p.grad, q.grad = g, g.float()
        ours.step()
        plain.step()
        assert_equal([p], [q])


def test_a_changed_shape_is_an_error_before_anything_changes() -> None:
    params = parameters([(3,), (4,)])
    optimizer = AdamW(params)
    train(range(2), (optimizer, params))
    params[1].data = params[1].data[:2]
    give_gradients(2, params)
    before = twins(params)
    with pytest.raises(ValueError, match=r"state 'exp_avg' has shape \(4,\), for its parameter \(2,\)"):
        optimizer.step()
    assert_equal(params, before)
    assert optimizer.state[params[0]]["step"] == 2
    del optimizer.state[params[1]]
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 1]


@pytest.mark.parametrize("name", ["torch", "native"])
def test_lazily_negated_gradients_keep_their_sign(name: str) -> None:
    """Autograd hands out the conjugate's imaginary part: the memory of one element holds the negative of its value."""
    p, q = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([2.0]))
    ours, plain = SGD([p], lr=0.1, momentum=0.9, backend=name), torch.optim.SGD([q], lr=0.1, momentum=0.9)
    for _ in range(3):
        for x, optimizer in ((p, ours), (q, plain)):
            optimizer.zero_grad()
            torch.autograd.backward((torch.complex(torch.zeros(1), x).conj() * torch.tensor([3 + 4j])).real.sum())
            assert x.grad is not None and x.grad.is_neg() and x.grad.is_contiguous()
            optimizer.step()
    torch.testing.assert_close(p, q)
    assert q.item() != 2.0


def test_tensors_whose_memory_is_not_their_value_are_turned_down() -> None:
    p = nn.Parameter(torch.ones(3))
    for gradient, message in [
        (torch._efficientzerotensor((3,)), "without memory"),
        (torch._neg_view(torch.ones(3)), "lazily negated"),
    ]:
        p.grad = gradient
        with pytest.raises(ValueError, match=message):
            SGD([p], lr=0.1).step()
        assert torch.equal(p, torch.ones(3))
    with pytest.raises(ValueError, match="lazily negated"):
        SGD([nn.Parameter(torch.tensor([1j]).conj().imag)], lr=0.1)


@pytest.mark.parametrize("assigned", [False, True], ids=["by autograd", "by hand"])
@pytest.mark.parametrize("name", ["torch", "native"])
def test_data_transposed_in_place_is_followed(name: str, assigned: bool) -> None:
    """Address and size stay as they were, the order of the elements does not; gradients assigned by hand stay contiguous."""
    p, q = twins(parameters([(4, 4)])) + twins(parameters([(4, 4)]))
    ours, plain = SGD([p], lr=0.1, momentum=0.9, backend=name), torch.optim.SGD([q], lr=0.1, momentum=0.9)
    for step in range(6):
        if step in (2, 4):
            p.data, q.data = p.data.t(), q.data.t()
        for x, optimizer in ((p, ours), (q, plain)):
            optimizer.zero_grad()
            torch.autograd.backward((x * torch.arange(16.0).reshape(4, 4)).sum())
            assert x.grad is not None and x.grad.stride() == x.stride()
            if assigned:
                x.grad = x.grad.contiguous()
            optimizer.step()
    torch.testing.assert_close(p, q)

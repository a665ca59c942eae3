"""Gradient release: the bits of the normal step for every optimizer that can, the reason for every one that cannot."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import optc
from optc.runtime import counter, locality, registry
from tests.runtime.training import assert_equal, parameters

SHAPES = ((4, 6), (6,), (), (3, 2, 5), (300,))


def backward(params: Sequence[Tensor], seed: int, missing: Sequence[int] = ()) -> None:
    """A gradient of random numbers for all but the missing ones."""
    generator = torch.Generator().manual_seed(seed)
    numbers = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in params]
    taking = [i for i in range(len(params)) if i not in missing and params[i].requires_grad]
    torch.autograd.backward([(params[i] * numbers[i]).sum() for i in taking])


def same(one: Any, other: Any) -> bool:
    """State dicts, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return repr(one) == repr(other)  # levels of codes may be NaN


def assert_same_training(
    make: Callable[[Sequence[nn.Parameter]], Any],
    *,
    passes: int = 1,
    steps: int = 4,
    dtype: torch.dtype = torch.float32,
    missing: Callable[[int], Sequence[int]] = lambda number: (),
    between: Callable[[int, Any, list[nn.Parameter]], None] = lambda step, optimizer, params: None,
) -> None:
    """A step after the backward passes, and one in the last of them, leave the same parameters and states."""
    ours, theirs = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    released, normal = make(ours), make(theirs)
    optc.release(released, passes)
    for step in range(steps):
        for number in range(passes):
            backward(ours, step * passes + number, missing(step * passes + number))
            backward(theirs, step * passes + number, missing(step * passes + number))
        for optimizer, params in ((released, ours), (normal, theirs)):
            optimizer.step()
            optimizer.zero_grad()
            between(step, optimizer, params)
    assert_equal(ours, theirs)
    assert same(released.state_dict(), normal.state_dict())


def leaving_out(number: int) -> Sequence[int]:
    """Somebody is missing in most passes."""
    return {0: (3,), 1: (), 2: (0, 4), 3: (1,)}[number % 4]


# --- the same bits -----------------------------------------------------------------------------------------------------------

NAMES = ("AdamW", "LAMB", "Adafactor", "AdamW8bit", "NAdam", "AdaGC", "LOMO")


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits(name: str, backend: str, passes: int) -> None:
    assert_same_training(functools.partial(optc.create, name, backend=backend), passes=passes, missing=leaving_out)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", ["AdamWBf16Stochastic", "AdamW"])
def test_the_same_bits_in_bfloat16(name: str, backend: str) -> None:
    """Random numbers are drawn by a parameter's place among all of them."""
    assert_same_training(functools.partial(optc.create, name, backend=backend), dtype=torch.bfloat16, missing=leaving_out)


def test_the_same_bits_in_the_triton_interpreter() -> None:
    assert_same_training(functools.partial(optc.create, "AdamW", backend="triton"), steps=2)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_what_is_created_at_the_first_gradient(backend: str) -> None:
    """SGD's first momentum is the gradient itself, also for who comes later."""
    make = functools.partial(optc.create, "SGD", lr=0.1, momentum=0.9, dampening=0.5, backend=backend)
    assert_same_training(make, missing=lambda step: (0, 2) if step < 2 else (1,))


@pytest.mark.parametrize("name", optc.available())
def test_every_optimizer_steps_as_usual_or_says_why_not(name: str) -> None:
    make = functools.partial(optc.create, name, backend="torch")
    reason = locality.refusal(registry.of_type(name)[1].schema)
    try:
        assert_same_training(make, steps=3, missing=leaving_out)
    except ValueError as error:
        assert reason is not None and str(error).startswith(reason.partition(":")[0])
        assert "over all parameters" in str(error) or "reads the loss" in str(error)
    else:
        assert reason is None or name in ("AdaGC", "LOMO")  # they add up the norm of the gradient where hypers ask for it


def test_torchs_way_to_step_in_the_backward_pass() -> None:
    """An optimizer for each parameter, stepped in its hook, in float64."""
    ours, theirs = parameters(SHAPES, torch.float64), parameters(SHAPES, torch.float64)
    single = {q: torch.optim.AdamW([q], lr=0.1) for q in theirs}

    def hook(q: Tensor) -> None:
        single[q].step()
        single[q].zero_grad()

    for q in theirs:
        q.register_post_accumulate_grad_hook(hook)
    optimizer = optc.create("AdamW", ours, lr=0.1)
    optc.release(optimizer)
    for step in range(5):
        backward(ours, step, leaving_out(step))
        backward(theirs, step, leaving_out(step))
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)  # torch rounds 1 - β to float32


def test_steps_are_counted_once() -> None:
    cls = optc.compile("adamw", modifiers=["cosine(T = 20)"])
    made = []

    def make(params: Sequence[nn.Parameter]) -> Any:
        made.append(cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.01}], lr=0.1))
        return made[-1]

    assert_same_training(make, steps=5, missing=leaving_out)
    counting = counter.of(cls.schema)
    assert counting is not None and [group[counting.key] for group in made[0].param_groups] == [5, 5]


def test_groups_schedulers_and_maximize() -> None:
    def make(params: Sequence[nn.Parameter]) -> Any:
        own = [{"params": params[:2], "maximize": True}, {"params": params[2:], "lr": 0.01, "weight_decay": 0.3}]
        return optc.create("LAMB", own, lr=0.1)

    def between(step: int, optimizer: Any, params: list[nn.Parameter]) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= 0.7

    assert_same_training(make, between=between)


def test_who_comes_and_goes() -> None:
    def between(step: int, optimizer: Any, params: list[nn.Parameter]) -> None:
        if step == 0:
            optimizer.add_param_group({"params": params[2:], "lr": 0.02})
        elif step == 2:
            params[1].requires_grad_(False)
        elif step == 3:
            optimizer.forget(params[0])
        elif step == 4:
            params[1].requires_grad_(True)

    def make(params: Sequence[nn.Parameter]) -> Any:
        return optc.create("AdamWBf16Stochastic", params[:2])

    assert_same_training(make, steps=7, dtype=torch.bfloat16, missing=lambda step: (2, 3, 4) * (step < 1), between=between)


def test_a_parameter_that_is_thawed_gets_a_hook() -> None:
    params = parameters()
    params[0].requires_grad_(False)
    optimizer = optc.create("AdamW", params)
    optc.release(optimizer)
    params[0].requires_grad_(True)
    added = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [added]})
    params.append(added)
    backward(params, 0)
    assert [p.grad is None for p in params] == [False, True, True, True, True, False]
    optimizer.step()
    backward(params, 1)
    assert all(p.grad is None for p in params)


def test_normal_steps_before_and_after() -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    one, other = optc.create("NAdam", ours), optc.create("NAdam", theirs)
    for step in range(9):
        if step == 2:
            release = optc.release(one)
        if step == 4:
            one.load_state_dict(copy.deepcopy(one.state_dict()))
        if step == 6:
            release.remove()
        backward(ours, step, leaving_out(step))
        backward(theirs, step, leaving_out(step))
        assert all(p.grad is None for p in ours) == (2 <= step < 6)
        for optimizer in (one, other):
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(ours, theirs)
    assert same(one.state_dict(), other.state_dict())
    assert len({id(one.state[p]["step"]) for p in ours if float(one.state[p]["step"]) == 9}) <= 1


def test_gradients_that_no_backward_pass_gave() -> None:
    """`step` updates them, and what it has updated has none left."""
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    one, other = optc.create("Adafactor", ours), optc.create("Adafactor", theirs)
    optc.release(one)
    for step in range(3):
        for params, optimizer in ((ours, one), (theirs, other)):
            backward(params[:3], step)
            for p in params[3:]:
                p.grad = torch.full_like(p, 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(ours, theirs)


def test_routed_optimizers() -> None:
    def make(params: Sequence[nn.Parameter]) -> Any:
        named = [(f"p{i}", p) for i, p in enumerate(params)]
        return optc.route(named, [("p[03]", {"type": "LAMB"})], otherwise={"type": "AdamWBf16Stochastic"})

    assert_same_training(make, dtype=torch.bfloat16, passes=2, missing=leaving_out)
    bad = optc.route([("a", nn.Parameter(torch.ones(2)))], otherwise={"type": "Prodigy"})
    with pytest.raises(ValueError, match=r"^Prodigy cannot update one parameter before .* sum_abs_s over all parameters"):
        optc.release(bad)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(8, 8), nn.Tanh())])


def test_tied_parameters_and_closures() -> None:
    ours, theirs = model(), model()
    for net in (ours, theirs):
        net[8].weight = net[2].weight  # type: ignore[assignment]
    one, other = optc.create("AdamW", ours), optc.create("AdamW", theirs)
    optc.release(one)
    x = torch.randn(5, 8)
    for _ in range(3):
        for net, optimizer in ((ours, one), (theirs, other)):

            def closure(net: nn.Module = net, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = net(x).square().sum()
                loss.backward()
                return loss

            assert optimizer.step(closure) > 0
    assert_equal(list(ours.parameters()), list(theirs.parameters()))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_one_gradient_is_alive_at_a_time(backend: str) -> None:
    net = model()
    params = list(net.parameters())
    alive: list[Any] = []
    counts: list[tuple[int, int]] = []

    def before(p: Tensor) -> None:
        assert p.grad is not None
        counts.append((sum(q.grad is not None for q in params), sum(grad() is not None for grad in alive)))
        alive.append(weakref.ref(p.grad.untyped_storage()))

    for p in params:
        p.register_post_accumulate_grad_hook(before)
    optimizer = optc.create("LAMB", net, backend=backend)
    optc.release(optimizer)
    for _ in range(3):
        net(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    assert counts == [(1, 0)] * (3 * len(params))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers(reentrant: bool) -> None:
    """The last layer is outside, so that its gradient comes first and tells of the pass."""
    ours, theirs = model(), model()
    one, other = optc.create("AdamW", ours), optc.create("AdamW", theirs)
    optc.release(one, 2)
    for step in range(6):
        for net, optimizer in ((ours, one), (theirs, other)):
            x = torch.randn(3, 8, generator=torch.Generator().manual_seed(step)).requires_grad_()
            for part in (net[:4], net[4:8]):
                x = checkpoint(part, x, use_reentrant=reentrant)
            net[8:](x).square().sum().backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert_equal(list(ours.parameters()), list(theirs.parameters()))


# --- what is refused ---------------------------------------------------------------------------------------------------------

LATE = "whether a step is skipped is known only when all gradients are there"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Prodigy", {}, r"Prodigy cannot .* adds up d_over_d0_eta_sum_g_x0_minus_theta, sum_abs_s over all parameters"),
        ("adamw + clip_global_norm", {}, r"cannot update one parameter before the others .* sum_g_pow_two over all"),
        ("LOMO", {"clip_grad_norm": 1.0}, r"LOMO cannot .* adds up sum_g_pow_two over all parameters"),
        ("AliG", {}, r"it reads the loss, which only step\(closure\) is given; it adds up sum_g_pow_two"),
        ("AdamW", {"amp": True}, f"AdamW has amp=True: {LATE}; leave out optc.release"),
        ("AdamW", {"nonfinite": "skip"}, f"AdamW has nonfinite='skip': {LATE}"),
        ("AdamW", {"loss_scale": optc.LossScale()}, f"AdamW has a loss_scale: {LATE}"),
        ("AdamW", {"capturable": True}, "AdamW has capturable=True: it counts on the device"),
    ],
)
def test_what_needs_all_gradients_says_so(name: str, options: dict[str, Any], message: str) -> None:
    params = parameters()
    optimizer = optc.create(name, params, **options)
    with pytest.raises(ValueError, match=message):
        optc.release(optimizer)
    torch.autograd.backward([p.sum() for p in params])
    assert all(p.grad is not None for p in params)  # there are no hooks


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = optc.create("AdamW", parameters())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="cannot be released among 2 processes: DistributedDataParallel"):
        optc.release(optimizer)
    optc.release(optimizer, local=True)


def test_misuse_is_told() -> None:
    params = parameters()
    with pytest.raises(TypeError, match="takes an optimizer of optc, not AdamW"):
        optc.release(torch.optim.AdamW(params))  # type: ignore[arg-type]
    optimizer = optc.create("AdamW", params)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"accumulate = .*, but it must be a whole number of backward passes"):
            optc.release(optimizer, wrong)  # type: ignore[arg-type]
    with optc.release(optimizer, 3) as release:
        with pytest.raises(ValueError, match="released already"):
            optc.release(optimizer)
        backward(params, 0)
        backward(params, 1)
        kept = [p.detach().clone() for p in params]
        with pytest.raises(RuntimeError, match=r"step\(\) after 2 of 3 backward passes: call it after the last one"):
            optimizer.step()
        with pytest.raises(ValueError, match="accumulate = 1, but there were 2 backward passes"):
            release.accumulate = 1
        assert_equal(params, kept)
        release.accumulate = 2  # the last batches of an epoch may be fewer
        optimizer.step()
        assert not torch.equal(params[0], kept[0]) and all(p.grad is None for p in params)
        backward(params, 2)
        optimizer.zero_grad()  # starts over
        backward(params, 3)
        assert all(p.grad is not None for p in params)
        backward(params, 4)
        assert all(p.grad is None for p in params)
        with pytest.raises(RuntimeError, match="accumulate cannot change now"):
            release.accumulate = 5
        kept = [p.detach().clone() for p in params]
        with pytest.raises(RuntimeError, match="backward pass 3 since the last step"):
            backward(params, 5)
        assert_equal(params, kept)
        optimizer.zero_grad()
        optimizer.step()
    backward(params, 6)
    assert all(p.grad is not None for p in params)
    optimizer.step()
    assert float(optimizer.state[params[0]]["step"]) == 3


def test_a_second_gradient_in_a_pass_is_told() -> None:
    """Reentrant checkpoints of the same layer hand out its gradient twice."""
    layer, last = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = optc.create("AdamW", [*layer.parameters(), *last.parameters()])
    optc.release(optimizer)
    x = torch.ones(2, 4, requires_grad=True)
    for _ in range(2):
        x = checkpoint(layer, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match=r"got a second gradient in a step, .*use_reentrant=False"):
        last(x).sum().backward()


def test_hypers_are_checked_before_anything_changes() -> None:
    params = parameters()
    optimizer = optc.create("AdamW", [{"params": params[:2]}, {"params": params[2:]}])
    optc.release(optimizer)
    backward(params, 0)
    optimizer.step()
    kept = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"lr = -1.0, but it must be .*group 0"):
        backward(params, 1)
    assert_equal(params, kept)
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 0.1
    backward(params, 2)
    optimizer.param_groups[0]["lr"] = 0.2
    with pytest.raises(RuntimeError, match="hypers of group 0 changed after the backward pass had updated parameters"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    lomo = optc.create("LOMO", params)
    optimizer._released.remove()
    optc.release(lomo)
    lomo.param_groups[0]["clip_grad_norm"] = 1.0
    with pytest.raises(ValueError, match="adds up sum_g_pow_two over all parameters"):
        backward(params, 3)


def test_a_bad_gradient_leaves_its_parameter_alone() -> None:
    weight = nn.Parameter(torch.ones(4, 2))
    optimizer = optc.create("AdamW", [weight])
    optc.release(optimizer)
    with pytest.raises(ValueError, match="parameter 0 of group 0: its gradient is sparse"):
        nn.functional.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()
    assert torch.equal(weight, torch.ones(4, 2)) and not optimizer.state


def test_entries_wait_for_the_end_of_a_step() -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    one, other = optc.create("SophiaG", ours), optc.create("SophiaG", theirs)
    optc.release(one)
    for step in range(4):
        for params, optimizer in ((ours, one), (theirs, other)):
            backward(params, step)
            optimizer.step()
            optimizer.zero_grad()
            if step % 2 == 0:
                optimizer.update_hessian([torch.full_like(p, 0.1) for p in params])
    assert_equal(ours, theirs)
    assert same(one.state_dict(), other.state_dict())
    backward(ours, 4)
    with pytest.raises(RuntimeError, match=r"update_hessian\(\) after a backward pass that released its gradients"):
        one.update_hessian([torch.ones_like(p) for p in ours])


def test_copies_are_not_released_and_lost_optimizers_do_nothing() -> None:
    params = parameters()
    optimizer = optc.create("AdamW", params)
    release = weakref.ref(optc.release(optimizer))
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        others = twin.param_groups[0]["params"]
        backward(others, 0)
        assert all(p.grad is not None for p in others) and twin._released is None
    del optimizer, twin
    gc.collect()
    assert release() is None
    backward(params, 1)
    assert all(p.grad is not None for p in params)

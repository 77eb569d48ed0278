"""local_step with the autograd engine against Algorithm 1 written out, and its promises about state."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from sgr_bench import reference
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import sgr_kernels as sk
from sgr_kernels.engines import common


class Head(nn.Module):
    def __init__(self, features: int, classes: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features, y):
        return nn.functional.cross_entropy(self.linear(features.flatten(2).mean(2)), y)


def module(dtype=torch.float64):
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).to(dtype)
    head = Head(4).to(dtype)
    x, y = torch.randn(5, 2, 6, 6, dtype=dtype), torch.randint(3, (5,))
    return body, head, x, y, torch.randn_like(x)


def gradients(*parts):
    return [p.grad for part in parts for p in part.parameters()]


@pytest.mark.parametrize("reconcile", [False, True])
def test_equals_algorithm_1(reconcile):
    body, head, x, y, delta_pre = module()
    delta_pre = delta_pre if reconcile else None
    twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
    loss, sgr, output, delta_out = reference.algorithm1_step(twin_body, twin_head, x, y, delta_pre, weight=7.0)
    step = sk.local_step(body, head, x, y, delta_pre, weight=7.0, engine="autograd")
    torch.testing.assert_close(step.loss, loss)
    torch.testing.assert_close(step.output, output)
    torch.testing.assert_close(step.delta_out, delta_out)
    assert (step.sgr is None) if not reconcile else torch.isclose(step.sgr, sgr)
    for mine, theirs in zip(gradients(body, head), gradients(twin_body, twin_head), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(body.buffers(), twin_body.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)  # BatchNorm statistics move once
    assert all(not t.requires_grad for t in step if t is not None)
    assert not x.requires_grad
    assert x.grad is None


def test_gradients_add_up_and_scale():
    body, head, x, y, delta_pre = module()
    body.eval()  # the same statistics in both calls
    sk.local_step(body, head, x, y, delta_pre, weight=2.0, engine="autograd")
    once = [g.clone() for g in gradients(body, head)]
    step = sk.local_step(body, head, x, y, delta_pre, weight=2.0, grad_scale=8.0, engine="autograd")
    for first, total in zip(once, gradients(body, head), strict=True):
        torch.testing.assert_close(total, 9 * first)
    plain = sk.local_step(body, head, x, y, delta_pre, weight=2.0, engine="autograd")
    for scaled, unscaled in zip(step, plain, strict=True):
        torch.testing.assert_close(scaled, unscaled)


def test_relative_floor_is_a_fraction_of_the_rms_norm():
    body, head, x, y, delta_pre = module()
    body.eval()
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        delta_now = torch.autograd.grad(head(body(leaf), y), leaf)[0]
    floor = 1.5 * delta_now.flatten(1).norm(dim=1).square().mean().sqrt()
    step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, relative_floor=1.5, engine="autograd")
    torch.testing.assert_close(step.sgr, sk.sgr_loss(delta_now, delta_pre, floor=floor))
    assert step.sgr < sk.sgr_loss(delta_now, delta_pre)


def test_frozen_and_unused_parameters_are_left_alone():
    body, head, x, y, delta_pre = module()
    body[0].weight.requires_grad_(False)
    head.unused = nn.Linear(2, 2).double()
    sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="autograd")
    assert body[0].weight.grad is None
    assert head.unused.weight.grad is None
    assert body[0].bias.grad is not None


def test_head_may_be_any_callable():
    body, head, x, y, delta_pre = module()
    twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
    sk.local_step(body, lambda f, target: head(f, target), x, y, delta_pre, weight=1.0, engine="autograd")
    sk.local_step(twin_body, twin_head, x, y, delta_pre, weight=1.0, engine="autograd")
    for mine, theirs in zip(gradients(body, head), gradients(twin_body, twin_head), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_body_without_parameters_in_the_first_module():
    _, head, _, y, _ = module()
    x = torch.randn(5, 4, 6, 6, dtype=torch.float64)
    step = sk.local_step(nn.AvgPool2d(2), head, x, y, None, weight=1.0, engine="autograd")
    assert step.delta_out.shape == step.output.shape == (5, 4, 3, 3)
    assert head.linear.weight.grad.any()


def test_need_delta_out_false_changes_only_delta_out():
    for reconcile in (False, True):
        body, head, x, y, delta_pre = module()
        twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
        delta_pre = delta_pre if reconcile else None
        step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, need_delta_out=False, engine="autograd")
        sk.local_step(twin_body, twin_head, x, y, delta_pre, weight=1.0, engine="autograd")
        assert step.delta_out is None
        for mine, theirs in zip(gradients(body, head), gradients(twin_body, twin_head), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_works_under_no_grad_and_autocast():
    body, head, x, y, delta_pre = module(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="autograd")
    assert step.sgr.isfinite()
    assert body[0].weight.grad.dtype == torch.float32
    assert body[0].weight.grad.any()


# --- which engine runs ------------------------------------------------------------------------------------------------

BODIES = {
    "fused": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
    "directional": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh()),
}


@pytest.mark.parametrize("reconcile", [False, True])
@pytest.mark.parametrize("chosen", BODIES)
def test_the_default_is_the_engine_that_automatic_names(chosen, reconcile):
    """Gradients are bit by bit those of that engine."""
    torch.manual_seed(0)
    body, head = BODIES[chosen](), sk.CrossEntropyHead(nn.Linear(8, 3))
    assert sk.engines.automatic(body) == chosen
    x, y, delta_pre = torch.randn(5, 6), torch.randint(3, (5,)), torch.randn(5, 6) if reconcile else None
    found = {}
    for options in ({}, {"engine": chosen}, {"engine": "autograd"}):
        parts = copy.deepcopy((body, head))
        sk.local_step(*parts, x, y, delta_pre, weight=1.0, **options)
        found[options.get("engine", "default")] = gradients(*parts)
    assert all(map(torch.equal, found["default"], found[chosen]))
    if reconcile:  # else the ordinary gradient
        assert not all(map(torch.equal, found["default"], found["autograd"]))


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [
        ("fused", {"order": 2}, r"radius=None and order=2 with engine='fused' \(what 'auto' is for this body\): leave"),
        (
            "fused",
            {"radius": 0.1},
            r"radius=0.1 and order=1 with engine='fused' \(what 'auto' is for this body\): leave",
        ),
        (
            "directional",
            {"curvature": "none"},
            r"^engine='directional' \(what 'auto' is for this body\) always includes the curvature, got c",
        ),
    ],
)
def test_options_of_another_engine_than_auto_stands_for(chosen, options, message):
    x, head = torch.randn(5, 6), lambda f, y: f.square().mean()
    with pytest.raises(ValueError, match=message):
        sk.local_step(BODIES[chosen](), head, x, None, torch.randn(5, 6), weight=1.0, **options)


# --- what is trained --------------------------------------------------------------------------------------------------

ENGINES = ["autograd", "directional", "fused"]


def small():
    """Body and head that every engine takes, x, y and delta_pre."""
    body = nn.Sequential(nn.Linear(6, 8), nn.ReLU()).double()
    x, delta_pre = torch.randn(2, 5, 6, dtype=torch.float64).unbind(0)
    return body, nn.Linear(8, 3).double(), x, torch.randint(3, (5,)), delta_pre


class WithALeaf(nn.Module):
    """Its weight is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)

    def forward(self, features, y):
        return nn.functional.cross_entropy(features @ self.weight, y)


@pytest.mark.parametrize("reconcile", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_leaf_is_trained(engine, reconcile):
    body, _, x, y, delta_pre = small()
    head = WithALeaf()
    delta_pre = delta_pre if reconcile else None
    expected = reference.algorithm1_step(copy.deepcopy(body), twin := copy.deepcopy(head), x, y, delta_pre, weight=0.0)
    twin.weight.grad = torch.autograd.grad(twin(body(x), y), twin.weight)[0]
    step = sk.local_step(body, head, x, y, delta_pre, weight=0.0, engine=engine)
    torch.testing.assert_close(step.loss, expected[0])
    torch.testing.assert_close(head.weight.grad, twin.weight.grad)
    assert x.grad is None


@pytest.mark.parametrize("engine", ["autograd", "directional"])
def test_leaves_of_functions_are_trained(engine):
    _, classifier, x, y, delta_pre = small()
    w = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    layer, tensors = nn.Linear(8, 8).double(), {}
    for name, parameter in layer.named_parameters():
        tensors[name] = parameter.detach().clone().requires_grad_()

    def body(x):
        return torch.func.functional_call(layer, tensors, torch.relu(x @ w))

    def head(features, y):
        return nn.functional.cross_entropy(classifier(features), y)

    expected = torch.autograd.grad(head(body(x), y), [w, *tensors.values()])
    for target in (None, delta_pre):
        sk.local_step(body, head, x, y, target, weight=0.0, engine=engine)
        for leaf, gradient in zip([w, *tensors.values()], expected, strict=True):
            torch.testing.assert_close(leaf.grad, gradient)
            leaf.grad = None
    assert layer.weight.grad is None


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_are_constants(engine):
    """Their gradient is nobody's, and the graph they come from is there for the next module."""
    body, classifier, x, _, delta_pre = small()
    leaf = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    y = {"soft": leaf.softmax(1), "leaf": leaf}

    def head(features, y):
        return -(y["soft"] * classifier(features).log_softmax(1)).sum() + (y["leaf"] * features.sum()).sum()

    sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine=engine)
    assert leaf.grad is None and classifier.weight.grad is not None
    y["soft"].sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_computed_weights_pass_their_gradient_on(engine):
    body, classifier, x, y, delta_pre = small()
    weight = classifier.weight
    expected = torch.autograd.grad(nn.functional.cross_entropy(body(x) @ (2 * weight).T + classifier.bias, y), weight)
    del classifier.weight
    classifier.weight = 2 * weight
    sk.local_step(body, sk.CrossEntropyHead(classifier), x, y, delta_pre, weight=0.0, engine=engine)
    torch.testing.assert_close(weight.grad, *expected)


def test_passes_that_share_a_graph_are_refused():
    body, classifier, x, y, delta_pre = small()
    w = 2 * classifier.weight
    with pytest.raises(RuntimeError, match="computed before the step and has a graph"):
        head = lambda f, y: nn.functional.cross_entropy(f @ w.T, y)  # noqa: E731
        sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="directional")


# --- all gradients or none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["autograd", "directional", "auto"])
@pytest.mark.parametrize("before", [None, "dense", "sparse"])
def test_sparse_gradients(engine, before):
    body = nn.EmbeddingBag(10, 8, mode="sum", sparse=True)
    head = Head(8)
    ids, y = torch.randint(10, (5, 4)), torch.randint(3, (5,))
    loss = lambda f, y: head(f[..., None, None], y)  # noqa: E731
    expected = torch.autograd.grad(loss(body(ids), y), body.weight)[0].to_dense()
    if before is not None:
        old = torch.ones(10, 8)
        body.weight.grad, expected = (old.to_sparse(1) if before == "sparse" else old.clone()), expected + 1
    sk.local_step(body, loss, ids, y, None, weight=1.0, engine=engine)
    torch.testing.assert_close(body.weight.grad.to_dense(), expected)


def test_an_expanded_gradient_is_replaced():
    body, classifier, x, y, _ = small()
    twin = copy.deepcopy(body)
    loss = lambda f, y: nn.functional.cross_entropy(classifier(f), y)  # noqa: E731
    sk.local_step(twin, loss, x, y, None, weight=1.0, engine="autograd")
    body[0].weight.grad = torch.ones(1, 1, dtype=torch.float64).expand(8, 6)
    sk.local_step(body, loss, x, y, None, weight=1.0, engine="autograd")
    torch.testing.assert_close(body[0].weight.grad, twin[0].weight.grad + 1)


def test_parameters_that_share_a_gradient(monkeypatch):
    lists, add = [], common.foreach_add_
    monkeypatch.setattr(common, "foreach_add_", lambda old, new: lists.append(len(old)) or add(old, new))
    a, b = (nn.Parameter(torch.ones(4)) for _ in range(2))
    a.grad = b.grad = torch.zeros(4)
    x = torch.randn(3, 4)
    sk.local_step(lambda x: x * a * b, lambda f, _: f.sum(), x, None, None, weight=1.0, engine="autograd")
    torch.testing.assert_close(a.grad, 2 * x.sum(0))
    assert a.grad is b.grad and lists == [1, 1]  # twice in one multi-tensor addition on a GPU, one would be lost


def test_parameters_that_share_memory():
    a = nn.Parameter(torch.ones(4))
    b = nn.Parameter(a.detach())
    x = torch.randn(3, 4)
    sk.local_step(lambda x: x * (a + b), lambda f, _: f.sum(), x, None, None, weight=1.0, engine="autograd")
    a.grad += 1
    torch.testing.assert_close(b.grad, x.sum(0))


def test_a_step_that_fails_writes_no_gradient(monkeypatch):
    body, classifier, x, y, delta_pre = small()
    loss = lambda f, y: nn.functional.cross_entropy(classifier(f), y)  # noqa: E731
    parameters = [*body.parameters(), *classifier.parameters()]
    parameters[0].grad = torch.ones_like(parameters[0])
    own = common.in_memory_of_their_own

    def failing(gradients):
        own(gradients)
        raise MemoryError

    monkeypatch.setattr(common, "in_memory_of_their_own", failing)
    with pytest.raises(MemoryError):
        sk.local_step(body, loss, x, y, delta_pre, weight=1.0, engine="autograd")
    assert parameters[0].grad.eq(1).all() and all(p.grad is None for p in parameters[1:])


# --- what body and head return ----------------------------------------------------------------------------------------

RETURNED = {
    "tuple of a body": ({"body": lambda f: (f, f)}, TypeError, "body must return one .* got tuple of Tensor, Tensor"),
    "no tensor of a body": (
        {"body": lambda f: 1.0},
        TypeError,
        "body must return one floating-point tensor, got float",
    ),
    "integers of a body": (
        {"body": lambda f: f.long()},
        TypeError,
        "body must return one .* got a tensor of torch.int64",
    ),
    "tuple of a head": ({"loss": lambda v: (v, v)}, TypeError, "head must return a scalar loss.* got tuple of Tensor"),
    "number of a head": ({"loss": lambda v: v.item()}, TypeError, "head must return a scalar loss.* got float"),
    "vector of a head": ({"loss": lambda v: v.expand(2)}, ValueError, r"head must return a scalar .* shape \(2,\)"),
    "constant of a head": ({"loss": lambda v: v.detach()}, ValueError, "head must return a loss with a gradient"),
}


@pytest.mark.parametrize("reconcile", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RETURNED)
def test_what_is_no_output_and_no_loss(name, engine, reconcile):
    change, error, message = RETURNED[name]
    if engine == "fused" and "body" in change:
        pytest.skip("the fused engine calls no body")
    body, classifier, x, y, delta_pre = small()
    inner = body if engine == "fused" else lambda x: change.get("body", lambda f: f)(body(x))
    head = lambda f, y: change["loss"](nn.functional.cross_entropy(classifier(f), y))  # noqa: E731
    with pytest.raises(error, match=message) as raised:
        sk.local_step(inner, head, x, y, delta_pre if reconcile else None, weight=1.0, engine=engine)
    assert "\n" not in str(raised.value)
    assert body[0].weight.grad is None and classifier.weight.grad is None


NO_HEADS = {
    "Sequential": (nn.Sequential(nn.Linear(4, 3)), r"a Sequential that takes \(input.*\): where it gives logits"),
    "function": (lambda f: f.mean(), r"got a function that takes \(f\): "),
    "compiled": (torch.compile(nn.Linear(4, 3), backend="eager"), r"a OptimizedModule that takes \(input.*\)"),
    "partial": (functools.partial(lambda f, weight: f @ weight, weight=1), r"a partial that takes \(f, \*, weight=1\)"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NO_HEADS)
def test_a_head_that_takes_no_labels_is_named(name, engine):
    """Python's own message counts ``self``, and says nothing of what a head is."""
    head, message = NO_HEADS[name]
    body, _, x, y, delta_pre = small()
    with pytest.raises(TypeError, match=message):
        sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine=engine)
    assert body[0].weight.grad is None


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_inside_of_a_head_is_left_as_it_is(engine):
    body, classifier, x, y, delta_pre = small()
    for head in lambda f, y: classifier(f, y), torch._C._nn.gelu:
        with pytest.raises(TypeError) as raised:
            sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine=engine)
        assert "head must take two arguments" not in str(raised.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_with_one_element(engine):
    body, classifier, x, y, delta_pre = small()
    head = lambda f, y: nn.functional.cross_entropy(classifier(f), y).view(1, 1)  # noqa: E731
    step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine=engine)
    assert step.loss.shape == ()
    torch.testing.assert_close(step.loss, head(step.output, y).detach().squeeze())


@pytest.mark.parametrize("reconcile", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_heads_leave_the_output_alone(engine, reconcile):
    body, classifier, x, y, delta_pre = small()
    body[1] = nn.Identity()
    head = nn.Sequential(nn.ReLU(inplace=True), classifier)
    loss = lambda f, y: nn.functional.cross_entropy(head(f), y)  # noqa: E731
    with pytest.raises(ValueError, match="head must not write in place into its input") as error:
        sk.local_step(body, loss, x, y, delta_pre if reconcile else None, weight=1.0, engine=engine)
    assert "\n" not in str(error.value) and body[0].weight.grad is None
    head[0].inplace = False
    step = sk.local_step(body, loss, x, y, delta_pre if reconcile else None, weight=1.0, engine=engine)
    torch.testing.assert_close(step.output, body(x).detach())


@pytest.mark.parametrize("reconcile", [False, True])
@pytest.mark.parametrize("engine", ["autograd", "directional"])
def test_bodies_leave_x_alone(engine, reconcile):
    body, classifier, x, y, delta_pre = small()
    loss = lambda f, y: nn.functional.cross_entropy(classifier(f), y)  # noqa: E731
    body = nn.Sequential(nn.ReLU(inplace=True), body)
    with pytest.raises(ValueError, match="body must not write in place into its input"):
        sk.local_step(body, loss, x, y, delta_pre if reconcile else None, weight=1.0, engine=engine)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_weight_may_be_a_tensor(engine):
    body, classifier, x, y, delta_pre = small()
    loss = lambda f, y: nn.functional.cross_entropy(classifier(f), y)  # noqa: E731
    found = []
    for weight in (3.0, torch.tensor(3.0), nn.Parameter(torch.tensor(3.0))):
        body.zero_grad()
        sk.local_step(body, loss, x, y, delta_pre, weight=weight, engine=engine)
        found.append(body[0].weight.grad)
        assert not found[-1].requires_grad
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP", "fully_shard"])
@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_wrappers_for_several_devices_are_refused(engine, wrapper, process_group):
    body, classifier, x, y, delta_pre = small()
    wrapped = WRAPPERS[wrapper](body)
    loss = lambda f, y: nn.functional.cross_entropy(classifier(f), y)  # noqa: E731
    for parts in (
        (wrapped, loss),
        (nn.Sequential(nn.Identity(), wrapped), loss),
        (lambda x: wrapped(x), loss),
        (nn.Identity(), lambda f, y: loss(wrapped(f), y)),
    ):
        with pytest.raises(ValueError, match="contain .*torch.distributed.all_reduce on every .grad"):
            sk.local_step(*parts, x, y, delta_pre, weight=1.0, engine=engine)
    assert body[0].weight.grad is None


@pytest.fixture(scope="module")
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def fully_sharded(module: nn.Module) -> nn.Module:
    """An object of the class, without what it needs a GPU for."""
    result = object.__new__(FullyShardedDataParallel)
    nn.Module.__init__(result)
    result.inner = module
    return result


WRAPPERS = {
    "DDP": nn.parallel.DistributedDataParallel,
    "FSDP": fully_sharded,
    "fully_shard": lambda module: fully_shard(
        copy.deepcopy(module), mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    ),
}


@pytest.mark.parametrize("engine", ["autograd", "fused", "directional"])
def test_grad_scaler_skips_what_overflows_and_then_trains(engine):
    """A loop in float16, with a scale that is too large at first, and gradients that are clipped."""
    body, head = nn.Sequential(sk.LinearReLU(6, 16), nn.Linear(16, 8)), sk.CrossEntropyHead(nn.Linear(8, 3))
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    x, y, delta_pre = torch.randn(16, 6), torch.randint(3, (16,)), torch.randn(16, 6)
    expected = copy.deepcopy((body, head))
    sk.local_step(*expected, x, y, delta_pre, weight=0.1, engine=engine)
    before = [parameter.detach().clone() for parameter in parameters]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    scaler.scale(torch.zeros(()))
    scales = []
    while not scales or scales[-1] != scaler.get_scale():
        assert len(scales) < 24
        scales.append(scaler.get_scale())
        assert all(map(torch.equal, parameters, before))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            sk.local_step(body, head, x, y, delta_pre, weight=0.1, engine=engine, grad_scale=scaler.get_scale())
        scaler.unscale_(optimizer)
        found = torch.cat([gradient.flatten() for gradient in gradients(body, head)])
        nn.utils.clip_grad_norm_(parameters, 1e3)
        scaler.step(optimizer)
        scaler.update()
    assert scales == [2.0 ** (24 - skipped) for skipped in range(len(scales))] and len(scales) > 2
    truth = torch.cat([gradient.flatten() for gradient in gradients(*expected)])
    assert (found - truth).norm() < 0.05 * truth.norm()
    assert not any(map(torch.equal, parameters, before))

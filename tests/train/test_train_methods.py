"""The methods of the zoo: what one step computes, in a loop of one's own; what a run of the driver makes of them."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from sgr_train import flags, methods, networks, train
from sgr_train.errors import UsageError
from torch import nn
from train_helpers import isolated_losses

import sgr_kernels as sk

SHAPE = (1, 8, 8)
CHAIN = {"norm": "none", "head": "linear"}
NETWORK = {"pepita": CHAIN}  # what a method needs of a PlainNet
ONE_LOSS = ("bp", "dfa", "dni", "drtp", "fa", "greedy", "pepita")


def network(seed=0, **options):
    torch.manual_seed(seed)
    made = networks.plainnet(num_classes=10, image_shape=SHAPE, **{"depth": 3, "width": 12, "head": "conv", **options})
    return made.double()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(16, *SHAPE, dtype=torch.float64), torch.randint(0, 10, (16,))


def gradients(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def make(name, **options):
    return methods.REGISTRY.make(name, **options)


@pytest.mark.parametrize("name", methods.names())
def test_protocol(name, batch):
    """Gradients are added, updates are announced once a module and in order, and losses are detached."""
    net, method, updated = network(**NETWORK.get(name, {})), make(name), []
    methods.prepare(method, net, batch[0])
    losses = method.step(net, *batch, updated.append)
    once = gradients(net)
    assert updated == ([0] if name == "greedy" else [0, 1, 2])
    assert all(loss.dim() == 0 and loss.isfinite() and not loss.requires_grad for loss in losses)
    assert len(losses) == (1 if name in ONE_LOSS else 3)
    if (
        name != "sgr"
    ):  # its SGR loss depends on what the statistics of BatchNorm are not: batch alone, so this holds too
        method.step(net, *batch)
        assert_same(gradients(net), [None if g is None else 2 * g for g in once])


@pytest.mark.parametrize("name", methods.names())
def test_a_step_in_bfloat16_is_near_that_in_float64(name, batch):
    """Of the first body, on channels-last images; of pepita it is a difference of two passes, of few bits."""
    found = []
    for dtype in (torch.float64, torch.float32):
        net, method, x = network(norm="none", head="linear").float(), make(name), batch[0].float()
        torch.manual_seed(2)
        methods.prepare(method, net, x)
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            method.step(net.to(dtype), x, batch[1])
        found.append(torch.cat([p.grad.flatten().double() for p in net[0].body.parameters()]))
    assert F.cosine_similarity(*found, dim=0) > 0.9 or not found[0].any()  # generators of dni begin with 0


def test_a_method_with_step_alone_is_one(batch):
    class Mine:
        def step(self, network, x, y, update=lambda k: None):
            return []

    net = network()
    methods.prepare(Mine(), net, batch[0])
    methods.begin_epoch(Mine(), 0, 5)
    assert methods.phases(Mine(), net) == 1 and net[0].aux is None


def test_bp_is_backpropagation(batch):
    x, y = batch
    net, other = network(), network()
    [loss] = methods.BP().step(net, x, y)
    expected = F.cross_entropy(other[-1].head.logits(nn.Sequential(*(m.body for m in other))(x)), y)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    assert_same(gradients(net), gradients(other))
    assert all(p.grad is None for p in net[0].head.parameters())


def test_layerwise_is_isolated(batch):
    x, y = batch
    net, other = network(), network()
    losses = methods.Layerwise().step(net, x, y)
    torch.testing.assert_close(losses, isolated_losses(other, x, y))
    assert_same(gradients(net), gradients(other))


def test_reforward_gives_what_the_updated_module_gives(batch):
    x, y = batch
    net, other = network(), network()
    optimizers = [torch.optim.SGD(m.parameters(), 0.5) for m in net]
    methods.Reforward().step(net, x, y, lambda k: optimizers[k].step())
    for module in other:
        F.cross_entropy(module.head.logits(module.body(x)), y).backward()
        torch.optim.SGD(module.parameters(), 0.5).step()
        statistics = [b.clone() for b in module.body.buffers()]
        with torch.no_grad():
            x = module.body(x)
        for buffer, before in zip(module.body.buffers(), statistics, strict=True):
            buffer.copy_(before)
    for (name, a), b in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    plain = network()
    optimizers = [torch.optim.SGD(m.parameters(), 0.5) for m in plain]
    methods.Layerwise().step(plain, *batch, lambda k: optimizers[k].step())
    assert not torch.allclose(plain[1].body[0][0].weight, net[1].body[0][0].weight)


@pytest.mark.parametrize("normalize", [True, False])
def test_sgr_adds_the_gradient_of_the_sgr_loss(batch, normalize):
    x, y = batch
    net, plain = network(), network()
    methods.SGR(weight=0.3, normalize=normalize, engine="autograd").step(net, x, y)
    methods.Layerwise().step(plain, x, y)
    delta_pre = None
    for module, alone in zip(net, plain, strict=True):
        x = x.detach().requires_grad_()
        output = module.body(x)
        delta_now, delta = torch.autograd.grad(F.cross_entropy(module.head.logits(output), y), [x, output],
                                               create_graph=True)  # fmt: skip
        if delta_pre is not None:
            sgr = sk.sgr_loss(delta_now, delta_pre, normalize=normalize, reduction="batchmean")
            expected = torch.autograd.grad(0.3 * sgr, list(module.parameters()), allow_unused=True)
            found = [p.grad - q.grad for p, q in zip(module.parameters(), alone.parameters(), strict=True)]
            expected = [torch.zeros_like(f) if e is None else e for e, f in zip(expected, found, strict=True)]
            assert_same(found, expected)
        x, delta_pre = output, delta.detach()


def test_sgr_every_so_many_steps_goes_on_in_a_checkpoint(batch):
    net, method = network(), methods.SGR(weight=0.3, every=3)
    methods.prepare(method, net, batch[0])
    for _ in range(2):
        method.step(net, *batch)
    again, resumed = network(), methods.SGR(weight=0.3, every=3)
    methods.prepare(resumed, again, batch[0])
    again.load_state_dict(net.state_dict())
    assert resumed.counter.steps == 2 and list(net.parameters()) and not list(method.counter.parameters())


@pytest.mark.parametrize("every", [1, 3])
def test_rho_is_the_share_of_the_sgr_gradient_of_every_body(batch, every):
    x, y = batch
    net, plain = network(), network()
    method = methods.SGR(rho=0.3 / every, every=every, engine="autograd")
    methods.prepare(method, net, x)
    method.step(net, x, y)
    methods.Layerwise().step(plain, x, y)
    for k, (module, alone) in enumerate(zip(net, plain, strict=True)):
        pairs = list(zip(module.body.parameters(), alone.body.parameters(), strict=True))
        local, change = (torch.cat([g.flatten() for g in each]).norm() for each in
                         ([q.grad for _, q in pairs], [p.grad - q.grad for p, q in pairs]))  # fmt: skip
        torch.testing.assert_close(change, 0.3 * local if k else 0 * local, rtol=1e-3, atol=1e-7)
    unprepared = network()
    method = methods.SGR(rho=0.3 / every, every=every, engine="autograd")
    method.step(unprepared, x, y)
    assert_same([p.grad for p in unprepared.parameters()], [p.grad for p in net.parameters()])
    weight = unprepared[1].aux
    method.step(unprepared, x, y)
    assert unprepared[1].aux is weight


def test_averages_of_rho_go_on_in_a_checkpoint(batch):
    net, again = network(), network()
    for each in (net, again):
        methods.prepare(methods.SGR(rho=0.3, every=2), each, batch[0])
    methods.SGR(rho=0.3, every=2).step(net, *batch)
    again.load_state_dict(net.state_dict())
    values = [[float(module.aux.value) for module in list(each)[1:]] for each in (net, again)]
    assert values[0] == values[1] and all(value > 0 for value in values[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 0.1, "rho": 0.2}, "--weight and --rho exclude each other, got 0.1 and 0.2"),
        ({"rho": 1e38, "every": 4}, r"--rho must be at most 8.5e\+37 with --every 4"),
        ({"rho": -0.1}, "--rho must be a number >= 0"),
        ({"curvature": "none"}, "--curvature must be exact without --engine fused, got 'none'"),
        ({"weight": 1e38, "every": 4}, r"--weight must be at most 8.5e\+37 with --every 4"),
        ({"every": 0}, "--every must be at least 1, got 0"),
        ({"reduction": "none"}, "--reduction must be one of mean, batchmean, sum"),
    ],
)
def test_options_that_mean_nothing(options, words):
    with pytest.raises(UsageError, match=words):
        make("sgr", **options)


def test_greedy_freezes_what_comes_before(batch):
    net, method, updated = network(), methods.Greedy(), []
    assert methods.phases(method, net) == 3
    methods.begin_epoch(method, 7, 5)  # the second phase
    before = {name: value.clone() for name, value in net.state_dict().items()}
    method.step(net, *batch, updated.append)
    assert updated == [1] and not net[0].training and net[1].training
    assert all(p.grad is None for k in (0, 2) for p in net[k].parameters())
    assert all(p.grad is not None for p in net[1].parameters())
    assert all(value.equal(before[f"0.{name}"]) for name, value in net[0].state_dict().items())
    # and it sees its statistics, not those of the batch
    expected = network()
    x = expected[0].eval().body(batch[0])
    F.cross_entropy(expected[1].head.logits(expected[1].body(x.detach())), batch[1]).backward()
    assert_same([p.grad for p in net[1].parameters()], [p.grad for p in expected[1].parameters()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The recipe of every method on the digits: three epochs."""
    return {name: train_digits(name, tmp_path_factory.mktemp(name)) for name in methods.names()}


def train_digits(name, out, *changes):
    changes = ("--set", *changes) if changes else ()
    return train.train(flags.parse(["recipe", f"digits-{name}", "--out", str(out), *changes]))[0]


@pytest.mark.parametrize("name", methods.names())
def test_learns_the_digits(trained, name):
    """In three epochs; one in ten would be a guess."""
    assert trained[name].history[-1]["val_accuracy"][-1] > 0.3


@pytest.mark.parametrize("name", methods.names())
def test_in_bfloat16_and_channels_last_it_learns_as_well(trained, name, tmp_path):
    """Of 360 images the standard error of a difference is below 4 points, and after few epochs seeds add to it."""
    half = train_digits(name, tmp_path, "amp=bf16", "channels_last=true")
    accuracies = [run.history[-1]["val_accuracy"][-1] for run in (half, trained[name])]
    assert accuracies[0] > 0.3 and abs(accuracies[0] - accuracies[1]) < 0.15


def test_no_two_methods_end_alike(batch):
    """After two steps from the same weights of one network."""
    weights = {}
    for name in methods.names():
        net, method = network(**CHAIN), make(name)
        methods.prepare(method, net, batch[0])
        optimizers = [torch.optim.SGD(module.parameters(), 0.1) for module in net]
        for _ in range(2):
            method.step(net, *batch, lambda k, optimizers=optimizers: optimizers[k].step())
        weights[name] = torch.cat([p.detach().flatten() for module in net for p in module.body.parameters()])
    for one, other in itertools.combinations(weights, 2):
        assert not torch.allclose(weights[one], weights[other], rtol=1e-6), (one, other)


@pytest.mark.parametrize("name", methods.names())
def test_the_same_seed_gives_the_same_numbers(name, tmp_path):
    runs = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        runs.append(train_digits(name, folder, "epochs=1", "train_subset=128"))
    one, other = (run.network.state_dict() for run in runs)
    for key, value in one.items():
        assert value == other[key] if key.endswith("_extra_state") else value.equal(other[key]), key


def test_greedy_passes_are_counted_and_its_schedule_starts_again(trained):
    history = trained["greedy"].history
    assert [row["epoch"] for row in history] == list(range(1, 10))
    lr = [row["lr"] for row in history]
    assert lr[:3] == lr[3:6] == lr[6:] and lr[0] == 0.05 > lr[1] > lr[2]
    assert [row["epoch"] for row in trained["sgr"].history] == [1, 2, 3]


@pytest.mark.parametrize("method", methods.names())
def test_starts_on_the_default_network(sgr_train, tmp_path, method):
    flags = ("--epochs", 1, "--train-subset", 64, "--batch-size", 32)
    flags += ("--norm", "none") if method in NETWORK else ()
    status, text, errors = sgr_train("run", "--method", method, *flags, "--out", tmp_path / "run")
    assert (status, errors) == (0, "") and "test accuracy" in text
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == (6 if method == "greedy" else 1)


@pytest.mark.parametrize("method", methods.names())
def test_checkpointed_blocks_change_nothing(tiny, method):
    settings = {"method": method, "epochs": 1, **NETWORK.get(method, {})}
    plain, _ = train.train(tiny("plain", **settings))
    again, _ = train.train(tiny("again", checkpoint_blocks=True, **settings))
    for a, b in zip(plain.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert any("block." in name for name in again.network.state_dict())

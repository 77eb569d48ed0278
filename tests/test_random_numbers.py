"""Random numbers in the directional engine: those of one ordinary pass, the same in every pass, whoever else draws."""

from __future__ import annotations

import contextlib
import math
import random
import threading
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture_check import capturing
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import sgr_kernels as sk
from sgr_kernels.engines.streams import Streams, shows_moves
from sgr_kernels.gates import Record, Replay
from sgr_kernels.gates.randomness import HIDDEN, may_draw


class Layer(nn.Module):
    """A convolution, the function in question, a smooth end."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(6, 6, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.function(self.conv(x)))


class Attention(nn.Module):
    dropout = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout).transpose(1, 2).reshape(x.shape)


class AttentionLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.layer(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)


class Recurrent(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, num_layers=2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(x.shape)


OWN = torch.Generator()


def with_own_generator(x: Tensor) -> Tensor:
    return x * torch.rand(x.shape, generator=OWN, dtype=x.dtype) + torch.empty_like(x).normal_(generator=OWN)


def dropout_by_hand(x: Tensor) -> Tensor:
    return x * torch.bernoulli(torch.full_like(x, 0.7)) / 0.7


def stochastic_depth(x: Tensor) -> Tensor:
    return x * torch.empty(len(x), 1, 1, 1, dtype=x.dtype).bernoulli_(0.5) / 0.5


def into_a_buffer(x: Tensor) -> Tensor:
    noise = torch.empty_like(x)
    torch.rand(x.shape, out=noise)
    torch.randn(size=x.shape)  # no positional argument
    return x * noise


@torch.no_grad()
def noise_without_gradients(x: Tensor) -> Tensor:
    tokens = torch.ones(1, 6, 8)
    return F.dropout(torch.ones_like(x)) + F.scaled_dot_product_attention(tokens, tokens, tokens, None, 0.5).mean()


def reparametrised(x: Tensor) -> Tensor:
    return torch.distributions.Normal(x, F.softplus(x)).rsample()


def declared(x: Tensor) -> Tensor:
    return x * torch.rand_like(x)


FUNCTIONS = {
    "dropout": nn.Dropout(0.3),
    "dropout in place": lambda x: F.dropout(x * 1, 0.3, inplace=True),
    "dropout, written": lambda x: F.dropout(x, 0.3).mul_(2),
    "dropout channels-last": lambda x: F.dropout(x.contiguous(memory_format=torch.channels_last), 0.3),
    "dropout of a slice": lambda x: F.dropout(x[..., ::2], 0.3).sum(-1, keepdim=True) + x,
    "torch.dropout": lambda x: torch.dropout(x, p=0.3, train=True),
    "torch.dropout_": lambda x: torch.dropout_(x * 1, 0.3, True),
    "dropout1d": lambda x: F.dropout1d(x.flatten(2), 0.3).view_as(x),
    "dropout2d": nn.Dropout2d(0.3),
    "dropout3d": lambda x: F.dropout3d(x[None], 0.3)[0],
    "alpha_dropout": nn.AlphaDropout(0.3),
    "feature_alpha_dropout": nn.FeatureAlphaDropout(0.3),
    "dropout of everything": lambda x: x + F.dropout(x, 1.0),
    "by hand": dropout_by_hand,
    "rand_like": lambda x: x * torch.rand_like(x),
    "stochastic depth": stochastic_depth,
    "own generator": with_own_generator,
    "permutation": lambda x: x[torch.randperm(len(x))],
    "into a buffer": into_a_buffer,
    "without gradients": lambda x: x * noise_without_gradients(x),
    "reparametrised": reparametrised,
    "of a mean": lambda x: x * torch.normal(x, 0.1),
    "of a mean, by name": lambda x: x * torch.normal(mean=x, std=0.1),
    "attention": Attention(),
    "attention layer": AttentionLayer(),
    "recurrent": Recurrent(0.3),
    "recurrent without dropout": Recurrent(0.0),
    "declared": sk.smooth(declared),
    "Python": lambda x: x * random.random(),
    "NumPy": lambda x: x * float(np.random.rand()),
}


def head(features: Tensor, y: Tensor) -> Tensor:
    return (features - y).square().sum((1, 2, 3)).mean()


def seed() -> None:
    torch.manual_seed(3), random.seed(3), np.random.seed(3), OWN.manual_seed(3)


def streams() -> tuple:
    return torch.rand(()).item(), random.random(), np.random.rand(), torch.rand((), generator=OWN).item()


def step(name: str, engine: str, delta: bool = True, **options):
    """The step, the gradient of the convolution, and what the streams give next."""
    torch.manual_seed(0)
    function = FUNCTIONS[name]
    body = Layer(function.double() if isinstance(function, nn.Module) else function).double()
    x, delta_pre = torch.randn(2, 4, 6, 4, 4, dtype=torch.float64).unbind(0)
    seed()
    result = sk.local_step(body, head, x, 0.3, delta_pre if delta else None, weight=1e3, engine=engine, **options)
    return result, body.conv.weight.grad, streams()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_pass_has_the_numbers_of_one_ordinary_pass(name):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        theirs, expected, their_streams = step(name, "autograd")
        mine, result, my_streams = step(name, "directional", order=2, radius=1e-3)
        plain = step(name, "autograd", delta=False)[1]
    torch.testing.assert_close(mine.output, theirs.output)
    torch.testing.assert_close(mine.loss, theirs.loss)
    assert my_streams == their_streams
    assert (result - expected).norm() < 1e-4 * (expected - plain).norm()


def test_masks_take_a_bit_an_element():
    x = torch.randn(64, 64, dtype=torch.float64, requires_grad=True)
    for function in (lambda: F.dropout(x, 0.5), lambda: x * torch.bernoulli(torch.full_like(x, 0.5))):
        with Record(x) as gates:
            function()
        sizes = [t.nbytes for entry in gates.tape for t in torch.utils._pytree.tree_leaves(entry) if torch.is_tensor(t)]
        assert sizes == [64 * 64 / 8]


@pytest.mark.parametrize("name", ["dropout", "dropout in place", "dropout channels-last", "dropout2d", "alpha_dropout"])
def test_what_is_no_number_shows_where_it_is_dropped(name):
    """As with torch alone, in both passes and in the gradient, which is given to them as one number after another."""
    values = torch.tensor([math.nan, math.inf, -math.inf, 1.0, 0.0])
    x = values.repeat(2 * 6 * 4 * 5).view(2, 6, 4, 25).requires_grad_()

    def results(gates) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        with gates:
            y = FUNCTIONS[name](x)
        return y, torch.autograd.grad(y, x, x.detach())[0]

    expected = results(contextlib.nullcontext())
    for gates in (recording := Record(x), Replay(recording.tape)):
        for result, plain in zip(results(gates), expected, strict=True):
            torch.testing.assert_close(result, plain, equal_nan=True)


# --- captures of CUDA graphs ------------------------------------------------------------------------------------------

NOT_CAPTURED = {
    "attention": "inside of scaled_dot_product_attention:",
    "attention layer": "inside of multi_head_attention_forward:",
    "recurrent": "inside of lstm:",
    "declared": "inside of declared:",
    "Python": "Python's global random stream moved",
    "NumPy": "NumPy's global random stream moved",
}


def steps_of(body: nn.Module):
    """A function that gives the gradient of one more step, from the same streams."""
    x, delta_pre = torch.randn(2, 4, 6, 4, 4, dtype=torch.float64).unbind(0)

    def gradient(context=contextlib.nullcontext) -> Tensor:
        body.zero_grad(), seed()
        with context():
            sk.local_step(body, head, x, 0.3, delta_pre, weight=1e3, engine="directional")
        return body.conv.weight.grad

    return gradient


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_recorded_is_captured(name):
    """And what sets a stream back is refused by name, as far as that shows without a GPU."""
    function = FUNCTIONS[name]
    gradient = steps_of(Layer(function.double() if isinstance(function, nn.Module) else function).double())
    gradient()
    if name in NOT_CAPTURED:
        with pytest.raises(RuntimeError, match=NOT_CAPTURED[name]):
            gradient(capturing)
    else:
        assert torch.equal(gradient(), gradient(capturing))


def test_dropout_that_was_off_at_the_step_before_is_refused():
    attention = Attention()
    attention.dropout = 0.0
    gradient = steps_of(Layer(attention).double())
    gradient(), gradient(capturing)
    attention.dropout = 0.3
    with pytest.raises(RuntimeError, match="inside of scaled_dot_product_attention:"):
        gradient(capturing)


def test_checkpointed_regions_are_captured_without_the_state_of_the_stream():
    """Their dropout is on the tape, so that it is the same as with that state."""
    results = []
    for preserve in True, False:
        torch.manual_seed(0)
        region = partial(checkpoint, FUNCTIONS["dropout"], use_reentrant=False, preserve_rng_state=preserve)
        gradient = steps_of(Layer(region).double())
        results.append(gradient())
    assert torch.equal(*results) and torch.equal(gradient(), gradient(capturing))


def test_recurrent_layers_draw_if_they_have_dropout_between_two_layers():
    seen = []

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in HIDDEN:
                seen.append(may_draw(func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 4), torch.ones(2, 4)])
    for kind in nn.LSTM, nn.GRU, nn.RNN:
        for layers, dropout, training in (2, 0.3, True), (2, 0.3, False), (2, 0.0, True), (1, 0.0, True):
            layer = kind(4, 4, layers, dropout=dropout).train(training)
            for x in torch.ones(3, 2, 4), packed:
                with Calls():
                    layer(x)
    assert seen == 3 * [True, True, *6 * [False]]
    assert may_draw(torch.lstm, (), {"dropout": 0.3})


# --- others who draw --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def somebody_drawing(draw):
    """Inside, another thread draws all the time."""
    stop, drawing = threading.Event(), threading.Event()

    def work():
        while not stop.is_set():
            draw()
            drawing.set()

    thread = threading.Thread(target=work)
    thread.start()
    drawing.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Net(nn.Module):
    """Many random layers, so that the passes take a while."""

    def __init__(self, *random_layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))
        self.random_layers = random_layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
            for random_layer in self.random_layers:
                x = random_layer(x)
        return x


@pytest.mark.parametrize("name", ["torch", "Python", "NumPy"])
def test_another_thread_may_draw_beside_dropout(name):
    draw = {"torch": lambda: torch.rand(100), "Python": random.random, "NumPy": lambda: np.random.rand(100)}[name]
    masks: list[Tensor] = []

    class Watched(nn.Module):
        """Dropout that shows its masks, or takes those shown."""

        given = None

        def forward(self, x: Tensor) -> Tensor:
            if self.given is not None:
                return x * self.given.pop(0)
            y = F.dropout(x, 0.5)
            masks.append(torch.where(x != 0, y / x, 0.0).detach())
            return y

    torch.manual_seed(0)
    watched = Watched()
    net = Net(watched).double()
    x, delta_pre = torch.randn(2, 16, 64, dtype=torch.float64).unbind(0)
    mean_square = lambda features, y: features.square().sum(1).mean()  # noqa: E731
    for _ in range(5):
        net.zero_grad(), masks.clear()
        watched.given = None
        try:
            with somebody_drawing(draw):
                sk.local_step(
                    net, mean_square, x, None, delta_pre, weight=1e3, engine="directional", order=2, radius=1e-3
                )
        except RuntimeError as error:
            assert name != "torch" and f"{name}'s global random stream" in str(error)
            continue
        result = torch.cat([p.grad.flatten() for p in net.parameters()])
        net.zero_grad()
        watched.given = masks[:8]
        sk.local_step(net, mean_square, x, None, delta_pre, weight=1e3, engine="autograd")
        expected = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert (result - expected).norm() < 1e-3 * expected.norm()


def test_fused_attention_is_refused_where_another_thread_moves_the_stream():
    net = Net(lambda x: F.scaled_dot_product_attention(*3 * [x[None]], dropout_p=0.5)[0]).double()
    x, delta_pre = torch.randn(2, 16, 64, dtype=torch.float64).unbind(0)
    refused = pytest.raises(RuntimeError, match="another thread draws .*torch.Generator")
    with somebody_drawing(lambda: torch.rand(10)), refused:
        for _ in range(300):
            sk.local_step(
                net, lambda f, y: f.square().sum(1).mean(), x, None, delta_pre, weight=1.0, engine="directional"
            )


class Dropped(nn.Module):
    """Something between dropouts."""

    def __init__(self, inside) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.inside(F.dropout(x, 0.2)), 0.2)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("name", ["attention", "attention layer"])
def test_compiled_attention_with_dropout(name, fullgraph):
    """Its numbers cannot be shared, so all are drawn again: those of eager code too."""
    compiled = torch.compile(Dropped(FUNCTIONS[name]).double(), backend="aot_eager", fullgraph=fullgraph)
    FUNCTIONS["compiled"] = lambda x: F.dropout(compiled(F.dropout(x, 0.2)) * torch.rand_like(x), 0.2)
    plain = step("compiled", "autograd", delta=False)[1]
    coarse = step("compiled", "directional", order=2, radius=1e-3)[1]
    fine = step("compiled", "directional", order=2, radius=1e-4)[1]
    del FUNCTIONS["compiled"]
    assert (coarse - fine).norm() < 1e-3 * (fine - plain).norm()


# --- whether a stream of Python or NumPy moved ------------------------------------------------------------------------

DRAWS = {
    "random.random": random.random,
    "random.gauss, of two": lambda: random.gauss(0, 1),
    "random.seed": lambda: random.seed(3),
    "random.setstate": lambda: random.setstate(random.Random(5).getstate()),
    "np.random.rand": np.random.rand,
    "np.random.randn, of two": np.random.randn,
    "np.random.shuffle": lambda: np.random.shuffle([1, 2, 3]),
    "np.random.seed": lambda: np.random.seed(3),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_stream_that_moved_is_seen_and_set_back(name):
    random.seed(7), np.random.seed(7)
    for _ in range(3):  # of the normal numbers two are drawn at a time, and the second one is kept
        before = random.getstate(), np.random.get_state()[1:]
        streams = Streams()
        DRAWS[name]()
        after = random.getstate(), np.random.get_state()[1:]
        streams.end_first_pass()
        moved = repr(before) != repr(after)
        assert [stream.name for stream in streams.moved] == (["NumPy" if "np." in name else "Python"] if moved else [])
        with streams.again():
            assert repr((random.getstate(), np.random.get_state()[1:])) == repr(before)
            DRAWS[name]()
        assert repr((random.getstate(), np.random.get_state()[1:])) == repr(after)


def test_a_stream_is_not_read_again_where_its_memory_did_not_change():
    first, second = Streams(), Streams()
    assert all(a is b for a, b in zip(first.start, second.start, strict=True))
    random.random(), np.random.rand()
    assert not any(a is b for a, b in zip(first.start, Streams().start, strict=True))


def test_memory_that_does_not_show_every_move_is_not_relied_on():
    stream = random.Random(0)
    kept = lambda: [stream.gauss(0, 1)]  # noqa: E731
    assert not shows_moves(lambda: b"elsewhere", stream.random)
    assert not shows_moves(lambda: repr(stream.getstate()[1]).encode(), stream.random, kept, kept)
    assert shows_moves(lambda: repr(stream.getstate()).encode(), stream.random, kept, kept)

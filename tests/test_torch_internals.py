"""Parts of torch that it does not promise to keep: whether they are as sgr_kernels/torch_internals.py takes them."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import sgr_kernels
from sgr_kernels import torch_internals

PACKAGE = pathlib.Path(sgr_kernels.__file__).parent


class Seen(TorchFunctionMode):
    """Notes the functions that modes see."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Doubled(torch.autograd.Function):
    executed = None

    @staticmethod
    def forward(ctx, a, b):
        return 2 * (a + b)

    @staticmethod
    def backward(ctx, grad):
        Doubled.executed = [torch_internals.will_be_executed(node) for node, _ in ctx.next_functions]
        return 2 * grad, 2 * grad


def leaf() -> Tensor:
    return torch.randn(3, requires_grad=True)


def compiled(function, backend="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def test_constants_of_the_compiler():
    def public():
        return 1

    def ours():
        return 1

    torch.compiler.assume_constant_result(public)
    torch_internals.constant_when_compiled(ours)
    assert vars(public) == vars(ours), "torch.compiler.assume_constant_result marks a function in another way now"


def test_code_of_compiled_graphs_is_told_by_its_file():
    answers = []

    @torch.library.custom_op("sgr_test_internals::ask", mutates_args=())
    def ask(x: Tensor) -> Tensor:
        answers.append(torch_internals.in_compiled_graph())
        return x.clone()

    ask.register_fake(torch.empty_like)
    function = compiled(lambda x: ask(x) + 1)
    with torch.no_grad():
        ask(torch.ones(3))
        assert answers == [False], "code outside of compiled graphs is taken for one"
        function(torch.ones(3))
    assert answers[1:] == [True], "compiled graphs do not run below a file with _aot_autograd in its name any more"


def test_what_was_compiled():
    module = nn.Linear(3, 2)
    assert torch_internals.before_compiling(torch.compile(module)) is module
    assert torch_internals.before_compiling(module) is module


def test_modes_that_are_active():
    x = torch.ones(3)
    assert not torch_internals.in_function_mode(), "torch sees a function mode where there is none"
    with Seen() as mode:
        assert torch_internals.in_function_mode(), "torch does not see an active function mode"
        with torch_internals.outside_of_all_modes():
            torch.sin(x)
    assert torch.sin not in mode.functions, "a mode that was set aside sees calls"


def test_modes_that_are_active_while_the_compiler_traces():
    function = compiled(lambda x: x + torch_internals.in_function_mode())
    with torch.overrides.BaseTorchFunctionMode():
        assert function(torch.zeros(1)) == 1, "the compiler does not know of active modes"
    assert function(torch.zeros(1)) == 0, "compiled code is not guarded by the active modes"


def test_functions_that_modes_see_in_place_of_public_ones():
    x = leaf()
    with Seen() as mode:
        torch.set_grad_enabled(True)
        assert x._grad is None
    assert torch_internals.SET_GRAD_ENABLED in mode.functions, "torch.set_grad_enabled calls another function now"
    assert Tensor.grad.__get__ in mode.functions, "modes see _grad of a tensor as something else than grad"


PADDING = {torch_internals.LAYER_FUNCTIONS.pad}


def test_functions_that_modes_see_in_graphs_of_the_compiler():
    class NoPadding(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return args[0] if func in PADDING else func(*args, **(kwargs or {}))

    with NoPadding():
        result = compiled(lambda x: F.pad(x, (1, 1)), "eager")(torch.ones(3))
    assert result.shape == (3,), "graphs of the compiler call another function than torch._C._nn.pad for F.pad"


def test_transforms_of_functions():
    answers = []
    torch.vmap(lambda x: answers.append(torch_internals.in_function_transform()) or x)(torch.ones(2))
    answers.append(torch_internals.in_function_transform())
    assert answers == [True, False], "torch does not tell any more whether torch.vmap is active"


def test_forward_mode():
    with torch.autograd.forward_ad.dual_level():
        assert torch_internals.in_transform(), "torch does not tell any more whether forward mode is active"
    assert not torch_internals.in_transform(), "torch says that forward mode is active where it is not"


def test_transforms_that_the_compiler_enters():
    def function(x):
        return (x * torch_internals.in_transform()).sum()

    x = torch.ones(1, 3)
    results = [
        compiled(function)(x),
        compiled(torch.vmap(function))(x),
        compiled(torch.func.grad(function))(x).sum(),
        compiled(lambda x: torch.func.jvp(function, (x,), (x,))[1])(x),
    ]
    assert [float(result) for result in results] == [0, 3, 3, 3], "the compiler does not enter transforms as it traces"


def test_traces_of_jit():
    answers = [torch_internals.in_jit_trace()]
    torch.jit.trace(lambda x: answers.append(torch_internals.in_jit_trace()) or x + 1, leaf(), check_trace=False)
    assert answers == [False, True], "torch does not tell any more whether torch.jit.trace is at work"


@pytest.mark.parametrize("module", [True, False])
def test_what_scripting_calls_first(module):
    class Refusing(nn.Module):
        __prepare_scriptable__ = torch_internals.refuse_scripting

    with pytest.raises(NotImplementedError, match="cannot compile sgr_kernels"):
        torch.jit.script(Refusing() if module else torch_internals.not_scriptable(lambda x: x))


def test_autograd_functions_of_nodes():
    node = Doubled.apply(leaf(), leaf()).grad_fn
    assert torch_internals.autograd_function_of(node) is Doubled, "nodes do not know their autograd Function any more"
    assert torch_internals.autograd_function_of(torch.sin(leaf()).grad_fn) is None, "torch.sin is no custom Function"


def test_autograd_functions_of_torch():
    node = compiled(torch.sin)(leaf()).grad_fn
    name = torch_internals.autograd_function_of(node).__module__ + "."
    assert name.startswith(torch_internals.OWN_AUTOGRAD_FUNCTIONS), f"a compiled graph is a Function of {name} now"


def test_nodes_that_a_backward_pass_executes():
    a, b = leaf(), leaf()
    for inputs, expected in (([1 * a, 1 * b], None), ([a, b], None)):
        out = Doubled.apply(*inputs).sum()
        for wanted, expected in ((inputs[:1], [True, False]), (inputs, [True, True])):
            torch.autograd.grad(out, wanted, retain_graph=True)
            assert Doubled.executed == expected, "torch does not tell any more which gradients a backward pass wants"


def test_operators_below_autograd():
    with torch_internals.below_autograd():
        result = torch.sin(leaf())
    assert not result.requires_grad, "operators are differentiated below autograd"


def test_fake_tensors_and_storages():
    seen = []

    def backend(graph, inputs):
        seen.extend(node.meta["example_value"] for node in graph.graph.nodes if node.op.startswith("call"))
        return graph

    compiled(lambda x: (x + 1).view(3, 1), backend)(torch.ones(3))
    assert all(torch_internals.is_fake(fake) for fake in seen), "the compiler traces with tensors of another type"
    assert not torch_internals.is_fake(torch.ones(3)), "an ordinary tensor passes for a fake one"
    x = torch.ones(3)
    for base, view in (seen, (x, x[:2])):
        keys = torch_internals.storage_keys([base, view, torch.ones(3)])
        assert keys[0] == keys[1] != keys[2], "storages have lost the number that tells them apart"


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_of_modules(kind):
    module = nn.Linear(2, 2)
    assert not torch_internals.has_hooks(module), "a new module has hooks"
    handle = getattr(module, f"register_{kind}_hook")(lambda *_: None)
    assert torch_internals.has_hooks(module), f"modules keep {kind} hooks in another place"
    handle.remove()
    assert not torch_internals.has_hooks(module), f"modules keep {kind} hooks in another place"


def test_arithmetic_on_lists():
    values, others = [torch.ones(2), torch.ones(3)], [torch.full((2,), 2.0), torch.full((3,), 4.0)]
    torch_internals.foreach_add_(values, others)
    torch_internals.foreach_mul_(values, torch.tensor(2.0))
    torch_internals.foreach_sub_(values, others)
    assert [v.unique().tolist() for v in values] == [[4.0], [6.0]], "torch._foreach_* compute something else"
    norms = torch_internals.foreach_norm(others)
    assert torch.equal(torch.stack(norms), torch.tensor([8.0**0.5, 48.0**0.5])), "torch._foreach_norm is no 2-norm"
    torch_internals.foreach_copy_(values, others)
    assert all(map(torch.equal, values, others)), "torch._foreach_copy_ does something else"


def test_nested_containers():
    nested = {"a": [1, (2, None)], "b": 3}
    assert sorted(leaf or 0 for leaf in torch_internals.tree_leaves(nested)) == [0, 1, 2, 3], "tree_leaves has changed"
    assert torch_internals.tree_map(str, nested) == {"a": ["1", ("2", "None")], "b": "3"}, "tree_map has changed"


def test_regions_of_checkpointing(monkeypatch):
    calls = []
    frame = torch.utils.checkpoint._CheckpointFrame
    monkeypatch.setattr(frame, "__init__", frame.__init__)  # so that it is undone
    if hasattr(frame, "save_inputs"):
        monkeypatch.setattr(frame, "save_inputs", frame.save_inputs)
    else:
        function = torch.utils.checkpoint._NoopSaveInputs
        monkeypatch.setattr(function, "apply", function.apply)

    def noting(what):
        return lambda function: lambda *args: (calls.append(what), function(*args))[1]

    torch_internals.intercept_checkpoints(noting("recomputed"), noting("inputs kept"))
    x = leaf()
    y = checkpoint(lambda x: x.sin().sin(), x, use_reentrant=False)
    assert calls == ["inputs kept"], "checkpointing keeps the inputs of a region in another way"
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert calls == ["inputs kept", "recomputed"], "checkpointing computes a region again in another way"
    torch.testing.assert_close(gradient, x.sin().cos() * x.cos())


# --- and nowhere else -------------------------------------------------------------------------------------------------

DOCUMENTED = {"_check"}  # in the manual of torch, in spite of its name


def private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"


def names_of_our_own(tree: ast.AST) -> set[str]:
    """Everything that a file defines or assigns to."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def private_parts_used(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call):  # getattr(x, "_name")
            found.update(argument.value for argument in node.args if isinstance(argument, ast.Constant))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            found.update(part for module in modules for part in module.split("."))
    return {name for name in found if private(name)}


def test_private_parts_of_torch_are_used_in_one_file_only():
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = set().union(*map(names_of_our_own, trees.values())) | {"_C", "_version", *DOCUMENTED}
    for path, tree in trees.items():
        if path != PACKAGE / "torch_internals.py":
            text = path.read_text()
            found = private_parts_used(tree) - ours | {part for part in ("torch._C", "from torch._") if part in text}
            assert not found, f"{path.name} uses private parts of torch, which belong in torch_internals.py: {found}"


def test_a_mode_is_told_of_what_is_announced():
    """The innermost first, which hands it on to the next, and with the others in their places afterwards."""
    seen = []

    class Noting(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append((self.name, func, types, args, kwargs))
            return func(*args, **(kwargs or {}))

    def named(name):
        mode = Noting()
        mode.name = name
        return mode

    announced = torch_internals.overridable(lambda x, y=1: x + y)
    with named("outer"), named("inner"):
        for _ in range(2):
            assert announced(2.0, y=3) == 5.0, "modes are called in another way"
    told = [("inner", announced, (), (2.0,), {"y": 3}), ("outer", announced, (), (2.0,), {"y": 3})]
    assert seen == 2 * told, "modes are on another stack"

    class Own(Tensor):
        pass

    seen.clear()
    own = torch.ones(2).as_subclass(Own)
    with named("only"):
        announced(own)
    assert seen[0][2] == (Own,), "modes are not told of a subclass of Tensor"

    class Passing(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return NotImplemented

    with Passing(), pytest.raises(TypeError, match="NotImplemented|no implementation found"):
        announced(2.0)


def test_versions_of_tensors():
    written = torch.ones(2).add_(1)
    with torch.inference_mode():
        without = torch.ones(2)
    assert torch_internals.versions_of([written, torch.ones(2)]) == [1, 0], "tensors count their versions elsewhere"
    assert torch_internals.versions_of([written, without]) == [1, 0], "tensors of inference mode have a version"


def test_autocast_of_any_device():
    assert not torch_internals.autocast_is_on()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch_internals.autocast_is_on()
        with torch.autocast("cpu", enabled=False):
            assert not torch_internals.autocast_is_on()
    torch.set_autocast_enabled("cuda", True)
    try:
        assert torch_internals.autocast_is_on()
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_the_search_for_private_parts_finds_them():
    source = "import torch._dynamo\nx._grad\ngetattr(f, '_forward_cls')\nfrom torch.utils import _pytree\nself.x._C"
    assert private_parts_used(ast.parse(source)) == {"_dynamo", "_grad", "_forward_cls", "_pytree", "_C"}


def test_nothing_imports_the_compiler():
    code = """
import sys, torch
import sgr_kernels
print([name for name in ("torch._dynamo", "torch._inductor", "triton") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]", f"import sgr_kernels imports {run.stdout}"

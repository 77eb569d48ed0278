"""Rules of the house. They bind what comes later: nobody has to remember them.

Each rule is a function over the text of a file, tried on small examples that break it at the end.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Callable, Iterator

import pytest

from sgr_kernels.operators import registered

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE, CSRC, CASES = ROOT / "sgr_kernels", ROOT / "csrc", ROOT / "bench" / "cases"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 300  # lines


def problems_of(check: Callable[[str], list[str]], paths: list[pathlib.Path]) -> list[str]:
    """What a rule finds in files, with their names."""
    return [f"{path.relative_to(ROOT)}: {problem}" for path in paths for problem in check(path.read_text())]


def texts_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files but what compilers leave behind."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "__pycache__"]
    return [path for path in paths if b"\0" not in path.read_bytes()[:1024]]


# --- a file can be read in one go -------------------------------------------------------------------------------------


def too_long(text: str) -> list[str]:
    count = len(text.splitlines())
    return [f"{count} lines, more than {LONGEST}"] if count > LONGEST else []


def test_no_file_is_long():
    paths = texts_below(PACKAGE) + texts_below(CSRC)
    assert {path.suffix for path in paths} >= {".py", ".h", ".cpp", ".cu", ".cuh"}
    assert problems_of(too_long, paths) == []


# --- what a name means stands in the source ---------------------------------------------------------------------------

BUILTINS = {"setattr", "__import__", "exec", "eval"}
FORBIDDEN = BUILTINS | {"import_module"}


def made_at_run_time(text: str) -> list[str]:
    """Attributes, imports, code and classes that no reader and no search can find."""
    found = []
    for node in ast.walk(ast.parse(text)):
        name = None
        if isinstance(node, ast.Name):
            name = node.id if node.id in FORBIDDEN else None
        elif isinstance(node, ast.Attribute):
            forbidden = BUILTINS if getattr(node.value, "id", "") == "builtins" else {"import_module", "__import__"}
            name = node.attr if node.attr in forbidden else None
        elif isinstance(node, ast.ImportFrom):
            name = next((alias.name for alias in node.names if alias.name in FORBIDDEN), None)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
            one = len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], ast.Starred)
            name = None if one else "type with more than one argument"
        if name is not None:
            found.append(f"line {node.lineno}: {name}")
    return found


def test_nothing_is_made_at_run_time():
    assert problems_of(made_at_run_time, MODULES) == []


# --- private names stay in their file ---------------------------------------------------------------------------------

DOCUMENTED = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}  # of named tuples, in spite of their names


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED | {"_"}


def is_ours(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
    return getattr(node, "level", 0) > 0 or module.partition(".")[0] == "sgr_kernels"


def root_and_attributes(node: ast.AST) -> tuple[str | None, list[str]]:
    """a, [b, c] of a.b.c."""
    attributes = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else None), attributes


def private_names_of_others(text: str) -> list[str]:
    """Private names that are imported from another file of the package, or taken from something imported from one."""
    tree = ast.parse(text)
    found, ours = set(), set()
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if is_ours(node, alias):
                ours.add(alias.asname or alias.name.partition(".")[0])
                if isinstance(node, ast.ImportFrom) and is_private(alias.name):
                    found.add((node.lineno, alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, attributes = root_and_attributes(node)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "delattr"):
            root, attributes = root_and_attributes(node.args[0])
            attributes += [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
        else:
            continue
        if root in ours:
            found |= {(node.lineno, f"{root}: {name}") for name in attributes if is_private(name)}
    return [f"line {line}: {name}" for line, name in sorted(found)]


def test_private_names_stay_in_their_file():
    assert problems_of(private_names_of_others, MODULES) == []


# --- an operator is a folder with one name through every layer --------------------------------------------------------

FOLDERS = sorted({path.parent for path in (PACKAGE / "operators").glob("*/*.py")})
FOLDERS = [path for path in FOLDERS if path.name != "common"]


LAYER = "{0}", "{0}_backward", "{0}_double_backward"  # what layer_operators("name", ...) defines, all composed


def operators_in(text: str) -> dict[str, bool]:
    """Names of the operators that a file defines, and whether the compiled libraries have to implement them."""
    found: dict[str, bool] = {}
    for node in ast.walk(ast.parse(text)):
        maker = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if maker == "layer_operators":
            found |= {name.format(node.args[0].value): False for name in LAYER}
        elif maker == "Operator" and (name := schema_name(node)):
            found[name] = not any(
                each.arg == "composed" or (each.arg == "compiled" and getattr(each.value, "value", True) is False)
                for each in node.keywords
            )
    return found


def schema_name(call: ast.Call) -> str:
    """What stands before the first parenthesis of the schema; nothing where layer_operators makes up the name."""
    [schema] = call.args
    first = schema.values[0] if isinstance(schema, ast.JoinedStr) else schema
    return first.value.partition("(")[0] if isinstance(first, ast.Constant) else ""


def implemented_in(text: str, headers: dict[str, str], device: str) -> set[str]:
    """Names of the operators that a source file registers for a device, itself or by a header beside it."""
    if f"STABLE_TORCH_LIBRARY_IMPL(sgr, {device}," not in text:
        return set()
    texts = [text, *(header for name, header in headers.items() if f'/{name}"' in text or f'"{name}"' in text)]
    return {name for each in texts for name in re.findall(r'\bimpl\(\s*"(\w+)"', each)}


def incomplete(name: str, operators: dict[str, bool], cases: set[str], csrc: dict[str, dict[str, str]]) -> list[str]:
    """What a folder of operators lacks.

    Args:
        operators: as operators_in has them.
        cases: names of the files in bench/cases.
        csrc: for each folder of csrc the text of its files by name.
    """
    found = [] if operators else ["__init__.py defines no Operator"]
    if f"{name}.py" not in cases:
        found.append(f"bench/cases/{name}.py is missing")
    compiled = {operator for operator, is_compiled in operators.items() if is_compiled}
    files = csrc.get(name, {})
    headers = {file: text for file, text in files.items() if file.endswith((".h", ".cuh"))}
    for file, device in ("cpu.cpp", "CPU"), ("cuda.cu", "CUDA"):
        if compiled and file not in files:
            found.append(f"csrc/{name}/{file} is missing")
        elif (implemented := implemented_in(files.get(file, ""), headers, device)) != compiled:
            found.append(f"csrc/{name}/{file} implements {sorted(implemented)}, not {sorted(compiled)}")
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_operator_is_complete(folder):
    file = folder / "__init__.py"
    assert file.exists(), f"{file.relative_to(ROOT)} is missing"
    csrc = {each.name: {path.name: path.read_text() for path in texts_below(each)} for each in CSRC.iterdir()}
    cases = {path.name for path in CASES.iterdir()}
    assert incomplete(folder.name, operators_in(file.read_text()), cases, csrc) == []


def test_operators_are_defined_in_their_folders_alone():
    defined = [name for folder in FOLDERS for name in operators_in((folder / "__init__.py").read_text())]
    assert sorted(defined) == sorted(operator.name for operator in registered())


def test_every_folder_of_csrc_belongs_to_an_operator():
    folders = {path.name for path in CSRC.iterdir() if path.is_dir()}
    assert folders - {folder.name for folder in FOLDERS} == {"common"}


# What would let a C++ exception out of the library, or lose numbers of its message; and the one file that may use it.
WAYS_OUT = {"TORCH_BOX(": "errors.h", "stable::parallel_for(": "parallel.h", "STD_TORCH_CHECK(": None}


def ways_out(name: str, text: str) -> list[str]:
    return [way for way, file in WAYS_OUT.items() if way in text and name != file]


def test_no_exception_leaves_the_compiled_libraries():
    files = [*texts_below(CSRC), *texts_below(ROOT / "docs" / "extend" / "csrc")]
    assert [(path, ways) for path in files if (ways := ways_out(path.name, path.read_text()))] == []


# --- who may know whom ------------------------------------------------------------------------------------------------


def packages_imported(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            yield from (str(each.value).partition(".")[0] for each in node.args[:1] if isinstance(each, ast.Constant))


def importing(*packages: str) -> Callable[[str], list[str]]:
    return lambda text: sorted(set(packages) & set(packages_imported(text)))


def test_the_library_knows_nothing_of_what_is_built_on_it():
    assert problems_of(importing("sgr_train", "sgr_bench"), MODULES) == []


def test_the_zoo_knows_nothing_of_the_benchmarks():
    modules = sorted((ROOT / "python" / "sgr_train").rglob("*.py"))
    assert modules and problems_of(importing("sgr_bench"), modules) == []


# --- every rule notices what breaks it --------------------------------------------------------------------------------


def test_a_long_file_is_noticed():
    assert too_long("x = 1\n" * LONGEST) == []
    assert too_long("x = 1\n" * (LONGEST + 1)) == ["301 lines, more than 300"]


@pytest.mark.parametrize(
    "text",
    [
        "setattr(thing, name, 1)",
        "from importlib import import_module",
        "importlib.import_module(name)",
        "x = __import__('os')",
        "if True:\n  exec(code)",
        "y = [eval(e) for e in z]",
        "builtins.exec(code)",
        "list(map(setattr, a, b, c))",
        "Made = type('Made', (Base,), {})",
        "Made = type(*three)",
    ],
)
def test_what_is_made_at_run_time_is_noticed(text):
    assert len(made_at_run_time(text)) == 1


def test_what_looks_like_it_is_not():
    text = "type(x)\nmodel.eval()\nspec.loader.exec_module(m)\ngetattr(x, y)\n'exec(code)'  # eval(code)"
    assert made_at_run_time(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "from .x import _y",
        "from ..a.b import c, _y as y",
        "from sgr_kernels.x import _y",
        "from . import _y",
        "def f():\n  from .x import _y",
        "from . import x\nx._y()",
        "from ..common import x as z\nz._y = 1",
        "import sgr_kernels.a.b\nsgr_kernels.a.b._y",
        "import sgr_kernels.a as a\nprint(a._y.z)",
        "from .x import Thing\nThing._y",
        "from . import x\ngetattr(x, '_y')",
    ],
)
def test_a_private_name_of_another_file_is_noticed(text):
    assert len(private_names_of_others(text)) == 1


def test_other_private_names_are_not():
    text = "from ._version import __version__\nfrom .x import Options\nimport torch\ntorch._C\nself._y\n_y\n"
    assert private_names_of_others(text + "Options()._replace(a=1)\nOptions._fields\nfrom ._x import y") == []


UNIT = '#include "norms/norms.h"\nSTABLE_TORCH_LIBRARY_IMPL(sgr, {}, m) {{ sgr::Norms::implement(m); }}'
HEADER = 'void implement(Library& m) { m.impl("norms", SGR_BOX(&norms));\n m.impl("norms_backward", f); }'
SOURCES = {"cpu.cpp": UNIT.format("CPU"), "cuda.cu": UNIT.format("CUDA"), "norms.h": HEADER}
BOTH = {"norms": True, "norms_backward": True}


@pytest.mark.parametrize(
    ("operators", "cases", "files", "problem"),
    [
        ({}, {"norms.py"}, {}, "no Operator"),
        (BOTH, {"other.py"}, SOURCES, "cases/norms.py is missing"),
        (BOTH, {"norms.py"}, {**SOURCES, "cuda.cu": ""}, r"cuda.cu implements \[\]"),
        (BOTH, {"norms.py"}, {"cpu.cpp": SOURCES["cpu.cpp"], "norms.h": HEADER}, "norms/cuda.cu is missing"),
        (BOTH, {"norms.py"}, {**SOURCES, "cuda.cu": SOURCES["cpu.cpp"]}, r"cuda.cu implements \[\]"),
        ({"norms": True}, {"norms.py"}, SOURCES, r"implements .*norms_backward.*, not \['norms'\]"),
        ({**BOTH, "more": True}, {"norms.py"}, SOURCES, "not .*more"),
        ({"norms": True, "norms_backward": False}, {"norms.py"}, SOURCES, r"not \['norms'\]"),
    ],
)
def test_an_incomplete_operator_is_noticed(operators, cases, files, problem):
    assert re.search(problem, " ".join(incomplete("norms", operators, cases, {"norms": files})))


def test_a_complete_operator_is_not():
    assert incomplete("norms", BOTH, {"norms.py"}, {"norms": SOURCES, "common": {}}) == []
    assert incomplete("norms", {"norms": False}, {"norms.py"}, {"common": {}}) == []


def test_a_way_out_for_an_exception_is_noticed():
    assert ways_out("cpu.cpp", HEADER.replace("SGR_", "TORCH_")) == ["TORCH_BOX("]
    assert ways_out("cpu.cpp", "torch::stable::parallel_for(0, n, 1, f);") == ["stable::parallel_for("]
    assert ways_out("operator.h", 'STD_TORCH_CHECK(n > 0, "n");') == ["STD_TORCH_CHECK("]
    assert ways_out("cpu.cpp", HEADER + "parallel_for(0, n, 1, f);") == ways_out("errors.h", "TORCH_BOX(f)") == []


def test_operators_are_found_in_the_source():
    text = """
a = Operator("first(Tensor x) -> Tensor", fake=f)
b = op.Operator(
    f"second(Tensor x, {SCHEMA}) -> Tensor",
    fake=f, compiled=False,
)
c = Operator("third(" "Tensor x) -> Tensor", fake=f, composed=g)
d = Operator("fourth(Tensor x) -> Tensor", fake=f, compiled=True)
e, f, g = layer_operators("fifth", Linear)
"""
    layer = {"fifth": False, "fifth_backward": False, "fifth_double_backward": False}
    assert operators_in(text) == {"first": True, "second": False, "third": False, "fourth": True, **layer}


@pytest.mark.parametrize(
    "text",
    [
        "import sgr_bench",
        "import torch, sgr_bench.cases as c",
        "from sgr_bench.cases import of",
        "def f():\n  from sgr_bench import x",
        "importlib.import_module('sgr_bench.cases')",
    ],
)
def test_an_import_in_the_wrong_direction_is_noticed(text):
    assert importing("sgr_train", "sgr_bench")(text) == ["sgr_bench"]


def test_other_imports_are_not():
    assert importing("sgr_bench")("from . import sgr_bench\nimport sgr_kernels\n'sgr_bench'") == []

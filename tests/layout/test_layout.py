"""Layout of the code: import contracts, lengths, names, and that all shipped files load."""

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.protocol import load_protocol

ROOT = Path(__file__).resolve().parents[2]
PURE = ("core", "corpora", "evaluation", "protocols", "quality", "examples")
HEAVY = ("torch", "transformers", "evaluate", "peft", "accelerate")


def modules(*folders):
    """Python files below the folders, with their syntax trees."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert paths
    return {path.relative_to(ROOT).as_posix(): syntax_tree(path) for path in paths}


@cache
def syntax_tree(path):
    return ast.parse(path.read_text("utf-8"))


def lines(path):
    return len((ROOT / path).read_text("utf-8").splitlines())


def test_import_contracts_hold():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = len(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"])
    assert f"{kept} kept, 0 broken" in done.stdout


def test_every_module_is_in_a_room():
    """import-linter checks packages; it would not check a module next to them."""
    loose = {path.name for path in (ROOT / "lalm_mer").glob("*.py")} - {"__init__.py", "cli.py"}
    assert loose == set()


def test_pure_rooms_import_nothing_heavy():
    names = [
        ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
        for path in modules(*(f"lalm_mer/{room}" for room in PURE))
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_module_is_too_long():
    assert {path: lines(path) for path in modules("lalm_mer", "recipes", "eval", "tests") if lines(path) > 400} == {}


def test_no_function_is_too_long():
    long = {}
    for path, tree in modules("lalm_mer", "recipes", "eval").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long[f"{path}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_recipes_are_short_and_have_no_classes():
    for path, tree in modules("recipes").items():
        assert lines(path) <= 120, path
        assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)], path


def test_no_module_has_a_vague_name():
    shapeless = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py", "tools.py"}
    assert [path for path in modules("lalm_mer", "recipes", "eval", "tests") if Path(path).name in shapeless] == []


def public_names(tree):
    """Functions and classes that a module defines without a leading underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def exported(tree):
    """The names in ``__all__``; None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names = ast.literal_eval(node.value)
            assert len(names) == len(set(names))
            return set(names)
    return None


def top_level_names(tree):
    """Names that a module defines or imports, including lazy imports, which a type checker sees."""
    names, body = public_names(tree), list(tree.body)
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in body):
        body += [each for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                 for each in node.body]  # fmt: skip
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_pytest_skips_no_folder(pytestconfig):
    folders = {part for path in modules("lalm_mer", "tests") for part in Path(path).parent.parts}
    patterns = pytestconfig.getini("norecursedirs")
    assert [folder for folder in folders if any(fnmatch(folder, pattern) for pattern in patterns)] == []


def test_every_module_has_a_docstring():
    everything = modules("lalm_mer", "recipes", "eval")
    assert [path for path, tree in everything.items() if not (ast.get_docstring(tree) or "").strip()] == []


def is_program(tree):
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)


def test_every_module_lists_its_public_names():
    wrong = {}
    for path, tree in modules("lalm_mer").items():
        offered = exported(tree)
        if offered is None and public_names(tree) and not is_program(tree):
            wrong[path] = "no __all__"
        elif offered and not offered <= top_level_names(tree):
            wrong[path] = sorted(offered - top_level_names(tree))
        elif offered and any(name.startswith("_") and name != "__version__" for name in offered):
            wrong[path] = "a private name"
    assert wrong == {}


def test_bounds_of_comparisons_are_relative_to_the_scale():
    """Or a test that passes on one processor fails on another; ``pytest.approx(abs=...)`` is for a known scale."""
    absolute = [
        f"{path}:{node.value.lineno}"
        for path, tree in modules("tests").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "atol"
        if not (isinstance(node.value, ast.Constant) and node.value.value == 0)
    ]
    assert absolute == []


def test_every_shipped_prompt_loads():
    folders = {name: f"{name}_" if name else "" for name in ("", "dialogue", "described", "labels", "dimensions")}
    for folder, prefix in folders.items():
        prompts = {path: load_prompt(path) for path in sorted((ROOT / "prompts" / folder).glob("*.yaml"))}
        assert {prompt.modalities for prompt in prompts.values()} >= {"audio+transcript"}
        assert [path for path, prompt in prompts.items() if prompt.name != prefix + path.stem] == []


def test_every_shipped_ensemble_loads():
    ensembles = {path: load_ensemble(path) for path in sorted((ROOT / "prompts" / "ensembles").glob("*.yaml"))}
    assert ensembles
    assert [path.name for path, ensemble in ensembles.items() if ensemble.name != path.stem] == []


def test_every_shipped_protocol_loads():
    protocols = {path: load_protocol(path) for path in sorted((ROOT / "eval" / "protocols").glob("*.yaml"))}
    assert len(protocols) >= 4
    assert [path.name for path, protocol in protocols.items() if protocol.name != path.stem] == []


def test_every_from_pretrained_goes_through_one_function():
    """It passes ``trust_remote_code=False``; that of peft, which loads adapters, runs no code."""
    calls = {
        (path, ast.unparse(node.func))
        for path, tree in modules("lalm_mer", "recipes", "eval").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    }
    assert calls == {
        ("lalm_mer/models/loading.py", "kind.from_pretrained"),
        ("lalm_mer/models/adapters.py", "PeftModel.from_pretrained"),
    }

"""Imports go one way, and importing the package or asking the command for help loads no torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import nabla_tau

SOURCE = Path(nabla_tau.__file__).parent

# Each module may import those named above it, never those below: later lines build on earlier ones.
LAYERS = [
    {"digests", "errors", "own_code", "salt", "shards"},
    {"console"},
    {"adapters", "batches", "engine", "gathering", "membership", "modes", "orders", "randomness"},
    {"stream_log"},
    {"journal", "sharding", "streams"},
    {"losses", "sets", "state", "timetable"},
    {"removed"},
    {"memory", "problem", "replaying", "splitting", "tasks"},
    {"original"},
    {
        "batch_norm",
        "descent",
        "distillation",
        "facts",
        "fisher",
        "mixing",
        "objective",
        "own_losses",
        "relabelling",
        "storage",
        "survey",
        "target",
    },
    {"course"},
    {"trials"},
    {"checkpoint", "checks", "collapse", "doubts", "locking", "methods.*"},
    {"compatibility", "snapshot"},
    {"continuing", "kept", "outcome"},
    {"methods"},
    {"unlearning", "auditing.*"},
    {"comparison", "demo", "planning", "project", "tuning"},
    {"terminal"},
    {"bench.*"},
    {"cli"},
    {"__main__"},
]
SHARED = ("auditing.*", "bench.*", "methods.*")  # folders whose modules import one another


def module_name(path):
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def part_of(name):
    """A new method, or a new file of the audit, needs no entry: each of the folders shares a layer."""
    folder = name.partition(".")[0]
    return f"{folder}.*" if name != "methods" and folder in ("methods", "auditing", "bench") else name


def layer_of(name):
    return next(number for number, names in enumerate(LAYERS) if part_of(name) in names)


def own_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nabla_tau":
            if node.module == "nabla_tau":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.removeprefix("nabla_tau.")
        elif isinstance(node, ast.Import):
            yield from (n.name.removeprefix("nabla_tau.") for n in node.names if n.name.startswith("nabla_tau."))


def imports():
    """Module -> the modules of ours that it imports."""
    paths = [path for path in SOURCE.rglob("*.py") if module_name(path) != "__init__"]
    return {module_name(path): set(own_imports(path)) for path in paths}


def test_every_module_has_its_layer():
    assert {part_of(name) for name in imports()} == set().union(*LAYERS)


def test_imports_point_down():
    wrong = [
        f"{name} imports {imported}"
        for name, used in imports().items()
        for imported in used
        if layer_of(imported) >= layer_of(name) and not part_of(imported) == part_of(name) in SHARED
    ]
    assert wrong == []


def test_no_import_leads_back():
    graphlib.TopologicalSorter(imports()).prepare()  # raises CycleError


def test_only_the_engine_builds_an_accelerator():
    builders = [path.name for path in SOURCE.rglob("*.py") if "Accelerator(" in path.read_text(encoding="utf-8")]
    assert builders == ["engine.py"]


def test_package_and_help_load_no_torch():
    code = (
        "import sys, nabla_tau\n"
        "from typer.testing import CliRunner\n"
        "from nabla_tau.cli import app\n"
        "for command in ([], ['demo'], ['unlearn'], ['audit'], ['env'], ['bench', 'run']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    assert all(hasattr(nabla_tau, name) for name in nabla_tau.__all__)

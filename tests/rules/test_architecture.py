"""The rules of the tree that a machine can check: who may import whom, what stays light, how long things get."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("search", "trainer", "losses", "models")
"""Each may import itself and those to its right."""

PACKAGES = (
    "search.__main__",
    "search.api",
    "search.commands",
    "search.admin",
    "search.report",
    "search.report.content",
    "search.dashboard",
    "search.plotting",
    "search.postgres",
    "search.series",
    "search.worker",
    "search.execution",
    "search.answer",
    "search.confirm",
    "search.study",
    "search.proposing",
    "search.planning",
    "search.spec",
    "search.storage",
    "search.pruners",
    "search.curve_rule",
    "search.curve_model",
    "search.promotion",
    "search.samplers",
    "search.exit_codes",
    "trainer.__main__",
    "trainer.commands",
    "trainer.bundle",
    "trainer.profiling",
    "trainer.engine",
    "trainer.dry_run",
    "trainer.teacher",
    "trainer.package",
    "trainer.figures",
    "trainer.evaluation",
    "trainer.failures",
    "trainer.data.streams",
    "trainer.data.sets",
    "trainer.data.layouts",
    "trainer.data.splits",
    "trainer.data.volumes",
    "trainer.data.downloads",
    "trainer.checkpoint",
    "trainer.distributed",
    "trainer.loggers",
    "trainer.data",
    "trainer.atomic_files",
    "trainer.seeds",
    "trainer.run_file",
    "trainer.series",
    "trainer.config_paths",
    "trainer.cli",
    "trainer.reports",
    "trainer.config",
    "trainer.repository",
    "trainer.errors",
)
"""Packages, and modules of the two roots, in their order: each may import itself and those below it."""

MOST_MODULES = 13
FEWEST_MODULES = 3
"""Of a package that mixes subjects."""
ONE_FILE_A_KIND = ("losses", "models", "search/samplers", "trainer/data/layouts", "trainer/data/sets")
"""Folders in which every module is one network, loss, sampler or layout: any number of them."""

CONFINED = {
    "optuna": (
        "search/api/",  # reads trials
        "search/admin/close.py",  # ends trials that no worker holds
        "search/curve_rule.py",
        "search/dashboard/",
        "search/promotion.py",
        "search/proposing/",
        "search/pruners.py",
        "search/report/content/",  # asks which settings decide
        "search/samplers/",
        "search/storage/",
        "search/study/",
    ),
    "torch.distributed": ("trainer/distributed/",),
    "sqlalchemy": ("search/postgres/", "search/storage/"),
    "albumentations": ("trainer/data/augment.py",),
    "psycopg2": ("search/storage/",),
}
"""Package -> the only places that import it."""

NO_TORCH = (
    "models",
    "models.config",
    "losses",
    "losses.config",
    "losses.ranges",
    "trainer",
    "trainer.config",
    "trainer.reports",
    "trainer.seeds",
    "trainer.errors",
    "trainer.data",
    "trainer.data.dataset",
    "search",
)
"""What a command imports before it has anything to compute; every module of `search` but the worker is one too."""

HEAVY_SEARCH = frozenset({"search/worker.py"})
"""Modules of search that may import torch when they are imported."""

FILE_LINES = 500
MOST_LINES = 700
"""Of a file that LONG_FILES lists with its reason."""
FUNCTION_LINES = 60
LONG_FILES: dict[str, str] = {}
"""File -> why it is longer than FILE_LINES."""
LONG_FUNCTIONS: dict[str, str] = {}
"""file:function -> why its body is longer than FUNCTION_LINES (without its docstring)."""

FORBIDDEN_NAMES = frozenset({"utils", "util", "core", "base", "common", "helpers", "misc"})
"""Names that attract everything and say nothing."""


def sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """A file's tree; each rule looks at it."""
    return ast.parse(path.read_text())


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, and with each name of a `from` import as a submodule."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def breaches(place: str, tree: ast.AST) -> Iterator[str]:
    """What a file at this place imports against the rules."""
    room = place.split("/")[0]
    left = ROOMS[: ROOMS.index(room)]
    for name, line in imported(tree):
        if name.split(".")[0] in left:
            yield f"{place}:{line}: {room} must not import {name}"
        for package, allowed in CONFINED.items():
            if f"{name}.".startswith(f"{package}.") and not place.startswith(allowed):
                yield f"{place}:{line}: {name} may be imported in {', '.join(allowed) or 'no file'} alone"


def package_of(module: str) -> str:
    """The entry of PACKAGES that a module of search or trainer belongs to: its folder, or itself in a root."""
    path = module.replace(".", "/")
    folder = path if (ROOT / path).is_dir() else path.rpartition("/")[0]
    return module if folder in ROOMS else folder.replace("/", ".")


def runtime_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is imported when code runs: `imported` without the blocks of `if TYPE_CHECKING`."""
    for_types = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    hidden = {line for block in for_types for line in range(block.lineno, (block.end_lineno or 0) + 1)}
    yield from ((name, line) for name, line in imported(tree) if line not in hidden)


def upward(module: str, tree: ast.AST) -> Iterator[str]:
    """What a module of search or trainer imports from a package above its own."""
    own = PACKAGES.index(package_of(module))
    for name, line in runtime_imports(tree):
        known = name if is_module(name) else name.rpartition(".")[0]
        if is_module(known) and "." in known and known.split(".")[0] in ("search", "trainer"):
            package = package_of(known)
            if PACKAGES.index(package) < own:
                yield f"{module}:{line}: {PACKAGES[own]} must not import {package}, which stands above it"


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or path.is_dir()


def test_packages_import_only_what_stands_below_them():
    modules = [path for path in sources() if path.relative_to(ROOT).parts[0] in ("search", "trainer")]
    named = [(module_of(p), p) for p in modules if module_of(p) not in ("search", "trainer")]
    assert {package_of(module) for module, _ in named} == set(PACKAGES)
    found = [text for module, path in named for text in upward(module, parsed(path))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("search.storage.leases", "from search.study import adapter"),
        ("search.spec.load", "def late():\n    from search.commands.init import main"),
        ("trainer.data.streams.stream", "import trainer.engine.cohort"),
    ],
)
def test_an_import_of_a_package_above_is_seen(module, code):
    assert len(list(upward(module, ast.parse(code)))) >= 1
    assert not list(upward(module, ast.parse("if TYPE_CHECKING:\n    from search.commands.init import main")))


def test_folders_hold_one_subject_and_not_too_much_of_it():
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in sources() if path.name != "__init__.py")
    mixed = {folder: count for folder, count in counts.items() if folder not in ONE_FILE_A_KIND}
    assert {folder: count for folder, count in mixed.items() if not FEWEST_MODULES <= count <= MOST_MODULES} == {}


def test_imports_go_one_way_and_stay_confined():
    found = [text for path in sources() for text in breaches(place(path), parsed(path))]
    assert sorted(set(found)) == []


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("models/unet.py", "import losses.config"),
        ("losses/kl.py", "def f():\n    from trainer import config"),
        ("trainer/engine/cohort.py", "from search.spec.load import StudySpec"),
        ("trainer/engine/cohort.py", "import torch.distributed as dist"),
        ("trainer/engine/cohort.py", "from torch import distributed"),
        ("search/execution/epoch_loop.py", "from optuna.storages import RDBStorage"),
        ("search/execution/epoch_loop.py", "import sqlalchemy as sa"),
        ("trainer/data/cache.py", "import albumentations as A"),
    ],
)
def test_the_import_rules_catch_a_breach(where, code):
    assert list(breaches(where, ast.parse(code)))


def test_allowed_imports_pass():
    assert not list(
        breaches("search/study/adapter.py", ast.parse("import optuna\nfrom trainer.config import RunConfig"))
    )
    assert not list(breaches("trainer/distributed/ranks.py", ast.parse("import torch.distributed")))


def test_every_confinement_names_places_that_exist():
    """A renamed file would silently move a border."""
    missing = [p for places in CONFINED.values() for p in places if not (ROOT / p).exists()]
    assert missing == []


def test_light_modules_import_no_torch():
    """`status` and `validate` answer at once: torch, and what imports it, is not loaded before it is needed."""
    light = [*NO_TORCH]
    light += [module_of(p) for p in sources() if place(p).startswith("search/") and place(p) not in HEAVY_SEARCH]
    light += [module_of(p) for p in sources() if p.name in {"config.py", "reports.py", "dataset.py", "seeds.py"}]
    code = (
        "import importlib, sys\n"
        "found = []\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = sorted({'torch', 'albumentations', 'torchmetrics', 'timm'} & set(sys.modules))\n"
        "    if heavy:\n"
        "        sys.exit(f'{name} imports {heavy}')\n"
    )
    names = sorted({name for name in light if not name.endswith("__main__")})
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_stay_short():
    long = {place(p): n for p in sources() if (n := len(p.read_text().splitlines())) > FILE_LINES}
    assert set(long) == set(LONG_FILES), f"longer than {FILE_LINES} lines: {long}; excused: {LONG_FILES}"
    assert all(lines <= MOST_LINES for lines in long.values())


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not statements else (function.end_lineno or 0) - statements[0].lineno + 1


def test_functions_stay_short():
    long = {
        f"{place(path)}:{node.name}": lines
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := body_lines(node)) > FUNCTION_LINES
    }
    assert set(long) == set(LONG_FUNCTIONS), f"longer than {FUNCTION_LINES} lines: {long}; excused: {LONG_FUNCTIONS}"


def test_names_say_what_a_file_is_about():
    vague = [place(p) for p in sources() if FORBIDDEN_NAMES & {*p.relative_to(ROOT).parts[:-1], p.stem}]
    assert vague == []


def test_every_exception_carries_a_reason():
    assert all(len(reason.split()) >= 4 for reason in (*LONG_FILES.values(), *LONG_FUNCTIONS.values()))


def test_no_mode_of_failure_is_swallowed():
    """`except: pass` and its kind hide what went wrong; suppress a named exception, or handle it."""
    found = [
        f"{place(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body)
    ]
    assert found == []


MOST_HOMES = 2
"""Modules that may define a public function or class of the same name."""
SHARED_NAMES = frozenset({"main", "add_arguments", "build", "load", "read", "recognise", "pairs_in", "settings_in"})
"""What every command, and every kind of file or plug-in, has under the same name."""


def test_a_public_name_stands_in_two_modules_at_most():
    """A name that means something else in each of many modules is found by nobody."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        for node in parsed(path).body:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_"):
                homes[node.name].append(place(path))
    many = {name: places for name, places in homes.items() if len(places) > MOST_HOMES}
    assert {name: places for name, places in many.items() if name not in SHARED_NAMES} == {}
    assert set(many) == SHARED_NAMES, "a name that needs no exception any more"


LONG_TESTS: dict[str, str] = {}
"""Test file -> why it is longer than FILE_LINES."""


def test_test_files_stay_short():
    long = {place(p): n for p in (ROOT / "tests").rglob("*.py") if (n := len(p.read_text().splitlines())) > FILE_LINES}
    assert set(long) == set(LONG_TESTS), f"longer than {FILE_LINES} lines: {long}; excused: {LONG_TESTS}"
    assert all(lines <= MOST_LINES for lines in long.values())


STORY_WORDS = frozenset({"found", "told", "heard", "mine", "said", "words"})
"""They say where a value came from, and not what it is."""
STORED_AS = frozenset({"words"})
"""Of those, what a stored document calls a field: `words` of report.json."""


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of variables, parameters, attributes, functions and classes, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno


def test_names_tell_what_a_value_is_and_no_story():
    used = [
        f"{place(path)}:{line}: {name}"
        for path in sources()
        for name, line in identifiers(parsed(path))
        if STORY_WORDS & set(name.strip("_").split("_"))
        and not (
            name in STORED_AS
            and place(path).startswith(("search/answer/", "search/report/", "search/commands/confirm.py"))
        )
        and name != "found_inf"  # torch's own, of its gradient scaler
    ]
    assert used == []

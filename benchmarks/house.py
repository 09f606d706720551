"""Figures of the tree: modules, packages, long files, repeated names, circles; and how a value wanders through it.

Run as `python -m benchmarks.house [FOLDER ...]`: a Markdown table with a column for each checkout, which is read and
not run. `python -m benchmarks.house --stays [FOLDER ...]` runs each checkout and follows two flows of the database
thread with `sys.setprofile`, on a small search without training (see `benchmarks/house_stays.py`). Writes nothing.
"""

import argparse
import ast
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

ROOTS = ("search", "trainer", "losses", "models")
ONE_FILE_A_KIND = ("losses", "models", "search.samplers", "trainer.data.layouts")
"""Packages in which every module is one network, loss, sampler or layout: any number of them."""
SHORT_LINES = 100
MANY_MODULES = 2
"""A public name may stand in this many modules before it is counted."""
LONGEST = 5
STAYS = Path(__file__).with_name("house_stays.py")


@dataclass(frozen=True)
class Module:
    """One source file of the program."""

    name: str
    package: str
    """Its folder, dotted; a module that lies directly in `search` or `trainer` is a package of its own."""
    folder: str
    lines: int
    tree: ast.Module


class Tree:
    """The program in one checkout. Files with nothing but a docstring are left out."""

    def __init__(self, folder: Path) -> None:
        self.modules = {module.name: module for root in ROOTS for module in modules(folder, root)}

    @cached_property
    def imports(self) -> Mapping[str, frozenset[str]]:
        """Module -> the modules of the program that it imports when it runs, also inside functions."""
        return {name: frozenset(self._imported(module)) - {name} for name, module in self.modules.items()}

    def _imported(self, module: Module) -> Iterator[str]:
        for name in imported_names(module.tree):
            known = name if name in self.modules else name.rpartition(".")[0]
            if known in self.modules:
                yield known

    def short_with_one_importer(self) -> list[str]:
        importers = Counter(name for imported in self.imports.values() for name in imported)
        return [m.name for m in self.modules.values() if m.lines < SHORT_LINES and importers[m.name] == 1]

    def repeated_names(self) -> list[str]:
        """Public functions and classes that more than two modules define, most often first."""
        definitions: dict[str, set[str]] = defaultdict(set)
        for module in self.modules.values():
            for node in module.tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    definitions[node.name].add(module.name)
        counts = Counter({name: len(modules) for name, modules in definitions.items() if len(modules) > MANY_MODULES})
        return [f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]

    def package_circles(self) -> list[list[str]]:
        """Groups of packages that reach each other by imports."""
        edges: dict[str, set[str]] = defaultdict(set)
        for name, imported in self.imports.items():
            edges[self.modules[name].package] |= {self.modules[other].package for other in imported}
        reach = {package: reachable(package, edges) for package in {m.package for m in self.modules.values()}}
        circles = {frozenset({p, *(o for o in reach[p] if p in reach[o])}) for p in reach}
        return sorted((sorted(circle) for circle in circles if len(circle) > 1), key=len, reverse=True)

    def fullest_folder(self) -> tuple[str, int]:
        """The package with most modules among those that mix subjects; its `__init__` is not counted."""
        counts = Counter(m.folder for m in self.modules.values() if m.folder not in (m.name, *ONE_FILE_A_KIND))
        return counts.most_common(1)[0] if counts else ("", 0)

    def longest(self) -> list[Module]:
        return sorted(self.modules.values(), key=lambda module: (-module.lines, module.name))[:LONGEST]


def modules(folder: Path, root: str) -> Iterator[Module]:
    for path in sorted((folder / root).rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        if path.name == "__init__.py" and len(tree.body) <= (ast.get_docstring(tree) is not None):
            continue
        place = ".".join(path.parent.relative_to(folder).parts)
        name = place if path.name == "__init__.py" else f"{place}.{path.stem}"
        package = name if place in ("search", "trainer") else place
        yield Module(name, package, place, len(text.splitlines()), tree)


def imported_names(tree: ast.Module) -> Iterator[str]:
    """All that a file imports, with each name of a `from` import as a submodule; `if TYPE_CHECKING` is left out."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            queue.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        queue.extend(ast.iter_child_nodes(node))


def reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    queue = [start]
    while queue:
        for other in edges.get(queue.pop(), set()) - seen:
            seen.add(other)
            queue.append(other)
    return seen


def circle_text(circles: Sequence[Sequence[str]]) -> str:
    return f"{len(circles)}" + "".join(f"; of {len(circle)}: {' '.join(circle)}" for circle in circles)


FIGURES: dict[str, Callable[[Tree], str]] = {
    "modules": lambda tree: str(len(tree.modules)),
    "packages": lambda tree: str(len({module.folder for module in tree.modules.values()})),
    "modules in the fullest mixed folder": lambda tree: "{1} ({0})".format(*tree.fullest_folder()),
    "median of lines": lambda tree: f"{median(module.lines for module in tree.modules.values()):g}",
    "longest files": lambda tree: ", ".join(f"{module.name} {module.lines}" for module in tree.longest()),
    "under 100 lines with one importer": lambda tree: str(len(tree.short_with_one_importer())),
    "public names in more than two modules": lambda tree: (
        f"{len(names := tree.repeated_names())}" + (f": {', '.join(names)}" if names else "")
    ),
    "package circles": lambda tree: circle_text(tree.package_circles()),
}


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown. columns: title -> the cell of each row."""
    rows = next(iter(columns.values()))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(column[row] for column in columns.values())] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(folder: Path) -> dict[str, str]:
    tree = Tree(folder)
    return {title: of(tree) for title, of in FIGURES.items()}


def stays(folder: Path) -> dict[str, str]:
    """What the process says that runs this checkout: a line a flow, title and cell."""
    environment = os.environ | {"PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", str(STAYS)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{folder}: the flows could not be followed\n{done.stderr}")
    return dict(line.split("\t") for line in done.stdout.splitlines())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()], metavar="FOLDER", help="of a checkout")
    parser.add_argument("--stays", action="store_true", help="run each checkout and count the stays of two flows")
    given = parser.parse_args(arguments)
    measure = stays if given.stays else figures
    print(table({str(folder.resolve()): measure(folder) for folder in given.folders}))


if __name__ == "__main__":
    main()

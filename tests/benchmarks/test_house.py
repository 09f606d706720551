"""What `benchmarks.house` counts in a tree, and that it can follow the flows of this one."""

import re
from pathlib import Path

import pytest

from benchmarks.house import Tree, main

FILES = {
    "search/__init__.py": "",
    "search/worker.py": "from search.study import create\nfrom search import spec\n",
    "search/spec.py": "def load(): ...\nclass Spec: ...\n",
    "search/study/__init__.py": '"""Studies."""\n',
    "search/study/create.py": "def load():\n    from search.storage import rows\n",
    "search/study/adapter.py": "\n" * 120,
    "search/storage/rows.py": "import search.study.create\ndef load(): ...\ndef _load(): ...\n",
    "search/storage/types.py": "if TYPE_CHECKING:\n    from search.worker import Worker\n",
    "losses/kl.py": "",
}


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_tree_is_counted_by_reading_it(small_tree: Path) -> None:
    tree = Tree(small_tree)
    assert len(tree.modules) == 7  # without the two files that hold at most a docstring
    assert tree.fullest_folder()[1] == 2
    assert tree.longest()[0].name == "search.study.adapter"
    assert tree.repeated_names() == ["load (3)"]
    assert tree.short_with_one_importer() == ["search.spec", "search.storage.rows"]
    assert tree.package_circles() == [["search.storage", "search.study"]]


def test_each_folder_has_a_column(small_tree: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(small_tree), str(repository)])
    lines = capsys.readouterr().out.splitlines()
    assert {line.count(" | ") for line in lines} == {2}
    assert f"| {small_tree} | {repository} |" in lines[0]
    assert any(line.startswith("| modules | 7 |") for line in lines)


def test_the_flows_of_this_tree_can_be_followed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class that moves has to move in the table of places, too."""
    main(["--stays", str(repository)])
    text = capsys.readouterr().out
    counts = re.findall(r"(\d+) stays in (\d+) modules with (\d+) returns", text)
    assert len(counts) == 2
    assert all(int(stays) == int(modules) + int(returns) for stays, modules, returns in counts)
    _, (stays, modules, _) = counts
    assert int(stays) <= 16, "a score to its verdict and back"
    assert int(modules) <= 8

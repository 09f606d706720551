"""The notebook, from a clean kernel."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from trainer.repository import REPOSITORY

NOTEBOOK = REPOSITORY / "studies" / "quickstart.ipynb"
SHORTER = (
    "budget.trials=4",
    "run.validate.from=1",
    'run.validate.from=1", "run.epochs=2", "teach.epochs=2", "run.teacher.min_dice=0", '
    '"run.data.train=24", "run.data.validation=12", "run.data.test=12',
)
"""A setting of the notebook, the one behind it, and what that becomes: what is tested is the way, not the scores."""
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(notebook, timeout=600).execute()
finally:
    nbformat.write(notebook, sys.argv[1])
"""


@pytest.mark.timeout(900)
def test_the_notebook_runs_from_data_to_masks_and_shows_its_pictures(tmp_path: Path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = (cell for cell in notebook.cells if SHORTER[0] in cell.source)
    assert SHORTER[1] in settings.source
    settings.source = settings.source.replace(*SHORTER[1:])
    copy = tmp_path / "copy.ipynb"
    nbformat.write(notebook, copy)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    # In a process of its own: a client leaves threads and sockets behind.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXECUTE, str(copy)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(copy, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert len(pictures) == 3  # curves, predictions, masks
    assert "gain over the search without distillation" in printed
    masks = (tmp_path / "quickstart" / "predicted" / "masks").iterdir()
    assert {file.name for file in masks} == {f"{number}.png" for number in range(4)}


def test_the_notebook_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.get("outputs", []) == []

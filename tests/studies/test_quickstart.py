"""The notebook, from a clean kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from trainer.repository import REPOSITORY

NOTEBOOK = REPOSITORY / "studies" / "quickstart.ipynb"


@pytest.mark.timeout(900)
def test_the_notebook_runs_from_data_to_masks_and_shows_its_pictures(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert len(pictures) == 3  # curves, predictions, masks
    assert "gain over the search without distillation" in printed
    masks = (tmp_path / "quickstart" / "predicted" / "masks").iterdir()
    assert {file.name for file in masks} == {f"{number}.png" for number in range(4)}


def test_the_notebook_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.get("outputs", []) == []

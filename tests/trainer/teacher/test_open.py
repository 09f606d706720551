"""Several teachers as one, and what validate and teach say of a teacher from elsewhere."""

import argparse
from pathlib import Path

import pytest
import torch

from search.commands.preflight import preflight
from search.commands.validate import preflight_lines
from search.spec.identity import run_document
from search.spec.load import load
from trainer.commands import teach
from trainer.errors import UserError
from trainer.teacher import open as opened
from trainer.teacher.assessment import floor


class TestEnsemble:
    def test_it_is_the_mean_of_probabilities_and_has_no_place_in_an_identity(
        self, data, images, tmp_path, taught_by, logits_of, network, write_onnx, onnx_table
    ):
        torch.save(network().state_dict(), tmp_path / "a.pt")
        members = [
            {"name": "unet", "width": 4, "checkpoint": str(tmp_path / "a.pt")},
            onnx_table(write_onnx(tmp_path / "t.onnx")),
        ]
        run = taught_by({"name": "ensemble", "members": members})
        each = torch.stack([logits_of(taught_by(member), data, images).softmax(1) for member in members])
        assert torch.allclose(logits_of(run, data, images).softmax(1), each.mean(0), atol=1e-6)
        assert run.teacher is not None
        assert opened.content(run.teacher) != opened.content(taught_by(members[0]).teacher)  # type: ignore[arg-type]
        (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
        moved = taught_by(
            {"name": "ensemble", "members": [members[0] | {"checkpoint": str(tmp_path / "b.pt")}, members[1]]}
        )
        assert run_document(moved) == run_document(run)
        assert opened.content(moved.teacher) == opened.content(run.teacher)  # type: ignore[arg-type]
        assert floor(run, data).seen is None

    def test_a_floor_of_a_member_is_refused(self, taught_by):
        member = {"name": "unet", "checkpoint": "a.pt", "min_dice": 0.5}
        with pytest.raises(ValueError, match="set it beside members"):
            taught_by({"name": "ensemble", "members": [member, member]})


STUDY = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 1
batch_size = 3
data = {{ name = "blobs", size = 32, train = 6, validation = 4, test = 2 }}
teacher = {{ name = "onnx", checkpoint = "{path}", output = "logits" }}
losses = {{ ce = {{}}, kl = {{}} }}
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
[budget]
trials = 2
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(path=tmp_path / "t.onnx"))
    return path


def test_validate_tells_how_good_and_how_sure_a_teacher_is(study, tmp_path, write_onnx):
    write_onnx(tmp_path / "t.onnx")
    found = preflight(load(study), tmp_path)
    assert found.problems == []
    line = next(line for line in preflight_lines(found) if line.startswith("teacher"))
    for word in ("validation dice", "measured", "train 0.", "ECE 0.", "entropy 0.", "unknown which images"):
        assert word in line


def test_validate_names_a_missing_file_and_no_command_that_would_not_make_it(study, tmp_path):
    found = preflight(load(study), tmp_path)
    assert found.problems[0].endswith("no such file; give the path of one that exists")
    assert "run.teacher.checkpoint" in found.problems[0]


def test_teach_judges_a_teacher_of_elsewhere_and_trains_nothing(study, tmp_path, capsys, write_onnx):
    path = write_onnx(tmp_path / "t.onnx")
    before = path.read_bytes()
    words = dict(
        file=study, set=[], output=None, again=False, ranks=None, threads=None, cache=tmp_path, device="cpu", mirror=[]
    )
    args = argparse.Namespace(**words, outcome=None)
    assert teach.main(args) == 0
    out = capsys.readouterr().out
    assert "ECE" in out
    assert "entropy" in out
    assert "trained elsewhere" in out
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="trained elsewhere"):
        teach.main(argparse.Namespace(**words | {"again": True}, outcome=None))

"""Teachers that were exported as ONNX or by torch.export."""

import pytest
import torch
from torch import nn

from search.spec.identity import run_document
from trainer.data.stream import normalise
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.fit import fit
from trainer.teacher import open as opened

CPU = torch.device("cpu")
SIZE = 32


class TestExported:
    @pytest.mark.parametrize("batch", ["n", 1, 4])
    def test_an_onnx_network_gets_its_own_normalisation_and_any_number_of_images(
        self, data, images, tmp_path, batch, taught_by, logits_of, write_onnx, onnx_table, bytes_network
    ):
        run = taught_by(onnx_table(write_onnx(tmp_path / "t.onnx", batch=batch)))
        logits = logits_of(run, data, images)
        assert torch.allclose(logits[:, 1] - logits[:, 0], bytes_network(images), atol=1e-3)
        assert (logits[:, 0] == 0).all()

    def test_mean_and_deviation_stand_in_the_order_of_its_channels(
        self, data, images, tmp_path, taught_by, logits_of, write_onnx, onnx_table, weights
    ):
        path = write_onnx(tmp_path / "t.onnx")
        logits = logits_of(taught_by(onnx_table(path, mean=[10.0, 20.0, 30.0], std=[1.0, 2.0, 4.0])), data, images)
        pixels = (images.flip(-1).float() - torch.tensor([10.0, 20.0, 30.0])) / torch.tensor([1.0, 2.0, 4.0])
        wished = (pixels * torch.from_numpy(weights[0, :, 0, 0])).sum(-1)
        assert torch.allclose(logits[:, 1], wished, atol=1e-3)

    def test_probabilities_of_a_sigmoid_become_the_same_probabilities(
        self, data, images, tmp_path, taught_by, logits_of, write_onnx, onnx_table, bytes_network
    ):
        path = write_onnx(tmp_path / "t.onnx", last="Sigmoid")
        mine = logits_of(taught_by(onnx_table(path, output="probabilities")), data, images).softmax(1)[:, 1]
        assert torch.allclose(mine, torch.sigmoid(bytes_network(images)), atol=2e-6)

    def test_a_fixed_size_is_met_by_resizing_and_said(
        self, data, images, tmp_path, taught_by, write_onnx, onnx_table, bytes_network
    ):
        run = taught_by(onnx_table(write_onnx(tmp_path / "t.onnx", size=16)))
        found = opened.opened(run, data, device=CPU)
        assert "resized from 32 x 32 to its 16 x 16" in found.notes[0]
        logits = found.network(normalise(images)).logits
        assert logits.shape == (5, 2, SIZE, SIZE)
        rough = nn.functional.avg_pool2d(bytes_network(images)[:, None], 8)
        assert torch.allclose(nn.functional.avg_pool2d(logits[:, 1:], 8), rough, atol=0.5)

    def test_an_output_that_is_not_as_said_is_found_before_anything_listens(
        self, data, images, tmp_path, log, taught_by, logits_of, refusal, write_onnx, onnx_table
    ):
        path = write_onnx(tmp_path / "t.onnx")
        text = refusal(lambda: logits_of(taught_by(onnx_table(path, output="probabilities")), data, images))
        assert text.startswith('teacher.output = "probabilities"')
        soft = write_onnx(tmp_path / "s.onnx", last="Sigmoid")
        assert "if those are probabilities" in opened.opened(taught_by(onnx_table(soft)), data, device=CPU).notes[0]

    def test_what_is_no_network_of_the_kind_is_refused_in_one_line(
        self, data, tmp_path, taught_by, refusal, write_onnx, onnx_table
    ):
        for name in ("t.onnx", "t.pt2"):
            (tmp_path / name).write_bytes(b"nothing")
            assert "no " in refusal(
                lambda path=tmp_path / name: opened.opened(taught_by(onnx_table(path)), data, device=CPU)
            )
        run = taught_by(onnx_table(write_onnx(tmp_path / "u.onnx"), take="aux"))
        assert "returns z" in refusal(lambda: opened.opened(run, data, device=CPU))
        run = taught_by(onnx_table(tmp_path / "u.onnx", mean=[1.0, 2.0]))
        assert "teacher.mean" in refusal(lambda: opened.opened(run, data, device=CPU))
        run = taught_by(onnx_table(tmp_path / "away.onnx"))
        assert "no such file" in refusal(lambda: opened.opened(run, data, device=CPU))

    def test_weights_beside_the_file_are_part_of_its_hash(self, data, tmp_path, taught_by, write_onnx, onnx_table):
        config = taught_by(onnx_table(write_onnx(tmp_path / "t.onnx", outside=True))).teacher
        assert config is not None
        before = opened.content(config)
        (tmp_path / "weights.bin").write_bytes(b"\0" * (tmp_path / "weights.bin").stat().st_size)
        assert opened.content(config) != before

    def test_a_program_of_torch_export_says_the_same(
        self, data, images, tmp_path, taught_by, logits_of, refusal, onnx_table, bytes_network, weights
    ):
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 1, 1, bias=False)
                self.conv.weight.data = torch.from_numpy(weights)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x.mean((2, 3)), self.conv(x)

        sizes = ({0: torch.export.Dim("n", max=4)},)
        program = torch.export.export(Two().eval(), (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=sizes)
        torch.export.save(program, tmp_path / "t.pt2")
        logits = logits_of(taught_by(onnx_table(tmp_path / "t.pt2", take="1")), data, images)
        assert torch.allclose(logits[:, 1], bytes_network(images), atol=1e-3)
        assert "numbered from 0" in refusal(lambda: logits_of(taught_by(onnx_table(tmp_path / "t.pt2")), data, images))

    def test_a_program_that_may_run_code_is_opened_only_where_its_maker_is_trusted(
        self, data, tmp_path, monkeypatch, taught_by, refusal, onnx_table
    ):
        """And trust is no part of what a run is: the file is known by its content."""
        (tmp_path / "t.pt2").write_bytes(b"PK")
        run, trusted = (taught_by(onnx_table(tmp_path / "t.pt2", trust=trust)) for trust in (False, True))
        monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was opened"))
        text = refusal(lambda: opened.opened(run, data, device=CPU))
        assert text.startswith("teacher.trust: missing; opening ")
        assert "ONNX" in text
        assert run_document(run) == run_document(trusted)
        assert "trust" not in run.model_dump()["teacher"]
        assert run.teacher is not None
        assert run.teacher.placeless() == trusted.teacher.placeless()

    def test_methods_on_taps_are_refused_before_anything_runs(self, tmp_path, taught_by, onnx_table):
        run = taught_by(onnx_table(tmp_path / "t.onnx"), method="at", losses={"ce": {}, "at": {"taps": ["enc1"]}})
        with pytest.raises(
            ValueError, match=r"^teacher.name = 'onnx': has logits alone, and method 'at' reads .* enc1"
        ):
            check(run)

    def test_a_student_learns_from_it(self, data, tmp_path, taught_by, write_onnx, onnx_table):
        run = taught_by(onnx_table(write_onnx(tmp_path / "t.onnx")))
        reports = list(fit(run, cache=tmp_path, ranks=Ranks("cpu")))
        assert reports[-1].losses["kl"] > 0

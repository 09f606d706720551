"""Teachers that were exported as ONNX or by torch.export."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models.config import ExportedTeacher
from models.normalisation import normalisation_for
from search.spec.identity import run_document
from trainer.data.streams.batches import normalise
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.fit import fit
from trainer.teacher import open as opened
from trainer.teacher.exported import Exported, Program

CPU = torch.device("cpu")
SIZE = 32


class Touches:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def torch_file(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def replace_entries(archive: Path, other: Path, contents: dict[str, bytes]) -> None:
    """A copy of a zip archive in which entries whose names end so hold something else."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            changed = [content for end, content in contents.items() if entry.filename.endswith(end)]
            new.writestr(entry.filename, changed[0] if changed else old.read(entry))


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
                lambda path=tmp_path / name: opened.opened(taught_by(onnx_table(path, trust=True)), data, device=CPU)
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
        trusted = onnx_table(tmp_path / "t.pt2", trust=True)
        logits = logits_of(taught_by(trusted | {"take": "1"}), data, images)
        assert torch.allclose(logits[:, 1], bytes_network(images), atol=1e-3)
        assert "numbered from 0" in refusal(lambda: logits_of(taught_by(trusted), data, images))

    def test_a_program_runs_no_code_without_the_word(self, data, tmp_path, capfd, taught_by, refusal, onnx_table):
        program = torch.export.export(nn.Conv2d(3, 1, 1).eval(), (torch.zeros(1, 3, SIZE, SIZE),))
        torch.export.save(program, tmp_path / "good.pt2")
        sign, bad = tmp_path / "sign", tmp_path / "bad.pt2"
        replace_entries(tmp_path / "good.pt2", bad, {"sample_inputs/model.pt": torch_file(Touches(sign))})
        text = refusal(lambda: opened.opened(taught_by(onnx_table(bad, trust=False)), data, device=CPU))
        assert "trust = true" in text
        assert "safetensors" in text
        assert not sign.exists()
        refusal(lambda: opened.opened(taught_by(onnx_table(bad, trust=True)), data, device=CPU))
        assert sign.exists(), "torch does not run code in such a file any more: the word is not needed then"
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.parametrize("entries", [{"models/model.json": b"{"}, {"archive_version": b"x"}, None])
    def test_a_damaged_program_is_one_line(self, data, tmp_path, capfd, taught_by, refusal, onnx_table, entries):
        torch.export.save(
            torch.export.export(nn.Conv2d(3, 1, 1).eval(), (torch.zeros(1, 3, SIZE, SIZE),)), tmp_path / "good.pt2"
        )
        bad = tmp_path / "bad.pt2"
        if entries is None:
            torch.save({"w": torch.zeros(2)}, bad)
        else:
            replace_entries(tmp_path / "good.pt2", bad, entries)
        text = refusal(lambda: opened.opened(taught_by(onnx_table(bad, trust=True)), data, device=CPU))
        assert "no program that this torch can run" in text
        assert "Traceback" not in capfd.readouterr().err

    def test_the_word_changes_no_study_and_no_run(self, tmp_path, taught_by, onnx_table):
        runs = [taught_by(onnx_table(tmp_path / "t.pt2", trust=trust)) for trust in (False, True)]
        assert run_document(runs[0]) == run_document(runs[1])
        assert runs[0].teacher.placeless() == runs[1].teacher.placeless()
        both = [{"name": "ensemble", "members": [onnx_table(tmp_path / "t.pt2", trust=t)] * 2} for t in (False, True)]
        assert run_document(taught_by(both[0])) == run_document(taught_by(both[1]))

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


class TestSeveralClasses:
    """What holds for two classes, or for red, green and blue, is refused for others in one line."""

    @staticmethod
    def exported(channels: int, *, output: str = "logits", returned: int = 1, **more: str) -> Exported:
        config = ExportedTeacher.model_validate({"name": "onnx", "output": output} | more)
        program = Program(lambda images: images[:, :1].expand(-1, returned, -1, -1).clone(), None, 1, None)
        return Exported(program, config, normalisation_for(channels), classes=3, where="t.onnx")

    def test_one_channel_is_no_network_of_three_classes(self, refusal) -> None:
        for output in ("logits", "probabilities"):
            network = self.exported(4, output=output)
            text = refusal(lambda network=network: network(torch.rand(2, 4, 8, 8)))
            assert "returns (2, 1, 8, 8), expected images, 3 channels" in text

    def test_three_channels_are_taken_for_three_classes(self) -> None:
        assert self.exported(1, returned=3)(torch.rand(2, 1, 8, 8)).logits.shape == (2, 3, 8, 8)

    @pytest.mark.parametrize("channels", [1, 4])
    def test_blue_first_is_of_three_channels(self, channels: int, refusal) -> None:
        assert f"t.onnx is given {channels} channels" in refusal(lambda: self.exported(channels, colours="bgr"))

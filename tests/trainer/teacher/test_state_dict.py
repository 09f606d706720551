"""Teachers from the state dict of another program."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.data.streams.batches import normalise
from trainer.teacher import open as opened
from trainer.teacher.assessment import floor

CPU = torch.device("cpu")


class TestKeys:
    def test_another_naming_one_table_deep_fits_by_pairs_in_order(self, data, images, tmp_path, taught_by, network):
        made = network()
        theirs = {
            "module.net." + name.replace("head.", "out."): value
            for name, value in made.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        torch.save({"epoch": 3, "model": {**theirs, "module.aux.weight": torch.zeros(1)}}, tmp_path / "theirs.pt")
        pairs = [["module.", ""], ["net.", ""], ["out.", "head."]]
        run = taught_by({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt"), "keys": pairs})
        found = opened.opened(run, data, device=CPU)
        with torch.no_grad():
            assert torch.equal(found.network(normalise(images)).logits, made(normalise(images)).logits)
        assert "keys match" in found.notes[0]
        assert "unexpected: aux.weight" in found.notes[0]
        assert found.network.taps
        known = floor(run, data)
        assert known.seen is None
        assert known.measured

    def test_a_head_with_one_channel_keeps_its_probabilities(
        self, data, images, tmp_path, taught_by, logits_of, network
    ):
        made = network(classes=2)
        made.head = nn.Conv2d(4, 1, 1, bias=False)
        torch.save(made.state_dict(), tmp_path / "theirs.pth")
        run = taught_by({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pth")})
        with torch.no_grad():
            z = made(normalise(images)).logits[:, 0]
        assert torch.allclose(logits_of(run, data, images).softmax(1)[:, 1], torch.sigmoid(z), atol=1e-6)

    def test_what_does_not_cover_every_parameter_is_refused_by_name(self, data, tmp_path, taught_by, refusal, network):
        state = network().state_dict()
        state["extra"] = state.pop("head.weight")
        state["encoders.0.0.0.weight"] = torch.zeros(4, 1, 3, 3)
        torch.save(state, tmp_path / "theirs.pt")
        run = taught_by({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt")})
        text = refusal(lambda: opened.opened(run, data, device=CPU))
        for part in (
            "missing: head.weight",
            "unexpected: extra",
            "(4, 1, 3, 3), expected (4, 3, 3, 3)",
            "teacher.keys",
        ):
            assert part in text

    def test_two_keys_for_one_name_are_refused(self, data, tmp_path, taught_by, refusal, network):
        state = network().state_dict()
        torch.save({**state, "ema.head.weight": state["head.weight"]}, tmp_path / "theirs.pt")
        table = {"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt"), "keys": [["ema.", ""]]}
        assert "given twice: head.weight" in refusal(lambda: opened.opened(taught_by(table), data, device=CPU))

    def test_a_file_with_objects_is_refused_and_its_code_never_runs(self, data, tmp_path, taught_by, refusal):
        torch.save(Trap(tmp_path / "sprung"), tmp_path / "theirs.pt")
        run = taught_by({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt")})
        assert "state_dict() alone" in refusal(lambda: opened.opened(run, data, device=CPU))
        assert not (tmp_path / "sprung").exists()


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)

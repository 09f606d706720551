"""Files of weights and states: whole or not there, strict, and never code."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import checkpoint
from trainer.errors import CheckpointError

STATE = {"epoch": 3, "best": None, "name": "a", "weights": {"w": torch.arange(6.0)}, "joins": [[1, 0]]}


def one_line(error: pytest.ExceptionInfo[CheckpointError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def test_a_state_comes_back_as_it_was_and_the_record_tells_its_size_and_hash(tmp_path):
    saved = checkpoint.save(tmp_path / "a" / "epoch-3.pt", STATE)
    content = saved.path.read_bytes()
    assert (saved.size, saved.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert checkpoint.digest(saved.path) == saved.sha256
    state = checkpoint.load(saved.path, sha256=saved.sha256)
    assert torch.equal(state.pop("weights")["w"], STATE["weights"]["w"])
    assert state == {key: value for key, value in STATE.items() if key != "weights"}


def test_only_the_finished_file_is_ever_seen(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    before = checkpoint.write(path, b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(path, b"after")
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == [before.path.name]


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "none.pt")
    assert "No such file" in one_line(error, tmp_path / "none.pt")


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.weights])
def test_a_truncated_file_is_one_line(tmp_path, read):
    made = tmp_path / "whole"
    if read is checkpoint.load:
        checkpoint.save(made, STATE)
    else:
        checkpoint.export(made, STATE["weights"], {})
    for share in (0, 10, made.stat().st_size // 2, made.stat().st_size - 1):
        cut = tmp_path / "cut"
        cut.write_bytes(made.read_bytes()[:share])
        with pytest.raises(CheckpointError) as error:
            read(cut)
        assert "cut short" in one_line(error, cut)


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.weights])
def test_a_file_with_another_hash_is_refused_before_it_is_parsed(tmp_path, read):
    path = checkpoint.write(tmp_path / "x", b"anything").path
    with pytest.raises(CheckpointError) as error:
        read(path, sha256="0" * 64)
    assert "expected 000000000000" in one_line(error, path)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("harm-was-done"),))


@pytest.mark.parametrize("pack", [pickle.dumps, lambda value: None])
def test_a_file_that_would_run_code_runs_none(tmp_path, monkeypatch, pack):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pt"
    content = pack({"epoch": Hostile()})
    if content is None:
        torch.save({"epoch": Hostile()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    one_line(error, path)
    assert not (tmp_path / "harm-was-done").exists()


def test_weights_travel_with_their_words(tmp_path):
    path = tmp_path / "best.safetensors"
    saved = checkpoint.export(path, {"w": torch.ones(2, 3).T}, {"network": {"name": "unet"}, "train_images": ["ab"]})
    found = checkpoint.weights(path, sha256=saved.sha256)
    assert torch.equal(found.tensors["w"], torch.ones(3, 2))
    assert found.word("network") == {"name": "unet"}
    assert found.word("train_images") == ["ab"]
    assert found.word("unknown") is None
    assert found.sha256 == saved.sha256


def test_weights_of_another_network_are_refused_with_the_first_that_differ(tmp_path):
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    given = {"0.weight": torch.zeros(3, 5), "0.bias": torch.zeros(3), "head.weight": torch.zeros(1)}
    before = network[0].weight.clone()
    with pytest.raises(CheckpointError) as error:
        checkpoint.fill(network, given, tmp_path / "w")
    text = one_line(error, tmp_path / "w")
    for part in ("missing: 1.weight, 1.bias", "unexpected: head.weight", "0.weight is (3, 5), expected (3, 2)"):
        assert part in text
    assert torch.equal(network[0].weight, before)


def test_long_lists_of_keys_are_cut(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing: 0\.weight, 0\.bias, 1\.weight and 5 more"):
        checkpoint.fill(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))), {}, tmp_path / "w")

"""`trainer models`: what it says of a network is what the network has, and the README shows the same table."""

import json
import re
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import pytest

import models
from models.config import names_for, network_config
from trainer.commands import models as command
from trainer.errors import UserError

README = (Path(__file__).resolve().parents[3] / "README.md").read_text()


def said(capsys, network=None, *, as_json=False, markdown=False):
    code = command.main(Namespace(network=network, json=as_json, markdown=markdown))
    assert code == 0
    return capsys.readouterr().out


def test_one_network_is_shown_tap_by_tap(capsys):
    text = said(capsys, "resunetplusplus")
    assert text.startswith("resunetplusplus  Jha et al. 2019, arXiv 1911.07067\nfor          images of 3 channels")
    assert "parameters   3,926,894\n" in text
    assert "sizes        any\n" in text
    assert "tap          gate5              1 channels at 1/16\n" in text


def test_json_has_what_the_network_has(capsys):
    (entry,) = json.loads(said(capsys, "small-skips", as_json=True))
    flops = models.flops(network_config("small-skips"), in_channels=3, classes=2, size=224)
    assert entry["parameters"] == 466_562
    assert entry["dead"] == 0
    assert entry["gflops"]["224"] == pytest.approx(flops / 1e9, abs=0.005)
    assert entry["taps"]["mid"] == [128, 4]
    assert entry["width"] == 32


def test_a_network_for_images_and_volumes_has_an_entry_for_each(capsys):
    flat, deep = json.loads(said(capsys, "unet", as_json=True))
    assert [(entry["dims"], list(entry["gflops"])) for entry in (flat, deep)] == [
        (2, ["224", "352"]),
        (3, ["32", "96"]),
    ]
    assert deep["parameters"] == 25_887_168
    assert "volumes of 1 channel and 14 classes" in said(capsys, "unet")


def test_memory_of_a_step_is_what_the_backward_pass_needs():
    """By hand: a convolution keeps its input, a ReLU its result, which the next convolution keeps as well; a transposed
    convolution keeps what comes in, and pooling 8 bytes for each place it took."""
    row = command.row("small-tail-wide")
    pixels, floats = 224 * 224, 4
    full = 32 * pixels * floats  # behind the first ReLU
    quarter = pixels // 4
    taken = 32 * quarter * 8
    pooled = 32 * quarter * floats
    deep = 2 * 64 * quarter * floats  # behind each of two ReLUs
    assert row.activations_mb[224] == pytest.approx((full + taken + pooled + deep) / 1e6, abs=0.05)


@pytest.mark.skipif(find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed")
def test_dead_parameters_are_counted_apart():
    """PSPNet's encoder ends at 1/8; the package keeps its deeper stages, most of the parameters on resnet18."""
    row = command.row("smp-pspnet")
    assert (row.parameters, row.dead) == (11_334_434, 10_493_440)


def test_names_that_are_one_network_are_measured_once(monkeypatch):
    calls = []
    real = command.row
    monkeypatch.setattr(command, "row", lambda name, dims: calls.append(name) or real(name, dims))
    listed = list(command.rows(["small-double", "ducknet", "ducknet-17"]))
    assert [row.name for row in listed] == ["small-double", "ducknet", "ducknet-17"]
    assert calls == ["small-double", "ducknet"]


def test_an_unknown_network_is_one_line():
    with pytest.raises(UserError, match=r"^models: 'unett': unknown network.*nearest: .*unet"):
        command.main(Namespace(network="unett", json=False, markdown=False))


def test_the_readme_names_every_network_and_its_rows_are_those_of_the_command():
    shown = [line for line in README.splitlines() if line.startswith("| `")]
    named = [[name for name in models.MODELS if name in names_for(dims)] for dims in (2, 3)]
    assert [line.split("`")[1] for line in shown] == [*named[0], *named[1]], (
        "write them: python -m trainer models --markdown"
    )
    folded = [int(count) for count in re.findall(r"<summary>The (\d+) networks for ", README)]
    assert folded == [len(names) for names in named]
    some = (("small-double", "unet-awesome", "resunetplusplus"), ("tiny-unet-3d", "mobile-unet-3d"))
    for dims, names, table in zip((2, 3), some, (shown[: len(named[0])], shown[len(named[0]) :]), strict=True):
        expected = list(command.markdown(list(command.rows(names, dims))))[2:]
        assert sorted(expected) == sorted(line for line in table if line.split("`")[1] in names)


def test_the_whole_table_has_a_line_a_network_and_its_unit(capsys, monkeypatch):
    monkeypatch.setattr(command, "MODELS", {name: models.MODELS[name] for name in ("small-double", "small-skips")})
    head, *rows, note = said(capsys).splitlines()
    assert head.split()[:3] == ["name", "width", "parameters"]
    assert [line.split()[0] for line in rows] == ["small-double", "small-skips"]
    assert note.startswith("for 3 channels and 2 classes; MB: what a training step keeps of one image")


def test_a_network_says_what_computing_maps_again_leaves_of_a_step(capsys):
    row = command.row("unet")
    kept, left = row.activations_mb[224], row.recomputed_mb[224]
    assert left <= 0.65 * kept
    shown = said(capsys, "unet")
    assert f'{kept:.1f} MB an image kept in a training step, {left:.1f} with recompute = "normalisation"' in shown
    assert 'which recompute = "normalisation" does not lessen' in said(capsys, "small-tail-wide")

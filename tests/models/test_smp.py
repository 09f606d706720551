"""Networks of segmentation-models-pytorch: weights from the hub, mistakes in one line, the torchvision guard."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

import losses
import models
from losses.config import At, Kl, SelfReg
from models.config import SmpNetwork, SmpTeacher, network_config

pytestmark = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)


def build(**options):
    return models.build(SmpNetwork(name="smp-unet", **options), in_channels=3, classes=2)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of a hub that cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def place_weights(hub, encoder):
    """Put drawn weights where the hub's client would; returns them."""
    build(encoder=encoder)  # the package can be imported from here on
    import segmentation_models_pytorch as smp

    settings = smp.encoders.encoders[encoder]["pretrained_settings"]["imagenet"]
    torch.manual_seed(5)
    weights = smp.encoders.get_encoder(encoder, weights=None).state_dict()
    folder = hub / f"models--{settings['repo_id'].replace('/', '--')}" / "snapshots" / settings["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(weights, folder / "model.safetensors")
    return weights


def test_pretrained_weights_come_from_the_hubs_cache(hub):
    weights = place_weights(hub, "mobilenet_v2")
    torch.manual_seed(6)
    loaded = build(encoder="mobilenet_v2", weights="imagenet").encoder.state_dict()
    drawn = build(encoder="mobilenet_v2").encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert not torch.equal(drawn["features.0.0.weight"], weights["features.0.0.weight"])


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-mobilenetv3_small_050"])
def test_weights_out_of_reach_name_the_option_and_the_remedy(hub, encoder):
    expected = rf"^student\.weights = 'imagenet': the file for encoder '{encoder}' .*HF_HOME.* checkpoint$"
    with pytest.raises(ValueError, match=expected):
        build(encoder=encoder, weights="imagenet")


def test_weights_that_a_checkpoint_replaces_are_not_fetched(hub):
    assert build(encoder="mobilenet_v2", weights="imagenet", checkpoint="teacher.safetensors").stride == 1


def test_on_meta_weights_are_checked_but_not_fetched(hub):
    with torch.device("meta"):
        assert build(encoder="mobilenet_v2", weights="imagenet").stride == 1
        with pytest.raises(ValueError, match=r"^student\.weights = 'imagnet': .*known: imagenet; nearest: imagenet$"):
            build(encoder="mobilenet_v2", weights="imagnet")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"encoder": "resnet19"}, r"teacher\.encoder = 'resnet19': unknown encoder; nearest: .*resnet18"),
        ({"encoder": "tu-mobilenetv3_smal_050"}, r"teacher\.encoder = .*nearest: .*tu-mobilenetv3_small_050"),
        ({"encoder": "tu-vit_tiny_patch16_224"}, r"teacher\.encoder = .*cannot carry Unet: .*choose another encoder"),
        ({"encoder": "resnet18", "weights": "nope"}, r"teacher\.weights = 'nope': .*known: imagenet, ssl, swsl"),
        ({"encoder": "tu-resnet10t", "weights": "nope"}, r"teacher\.weights = 'nope': .*known: imagenet"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_mistake_is_one_line_that_names_the_option(options, expected, device):
    config = SmpTeacher(name="smp-unet", **options)
    with torch.device(device), pytest.raises(ValueError, match=expected) as caught:
        models.build(config, in_channels=3, classes=2)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("package", ["torchvision", "segmentation_models_pytorch"])
def test_a_missing_extra_names_the_package_and_the_command(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"^student\.name: .* need '{package}', which is not installed; pip install \"\.\[smp\]\"$"
    with pytest.raises(ValueError, match=expected):
        build(encoder="resnet18")


def test_old_encoder_names_still_work():
    with torch.device("meta"):
        network = build(encoder="timm-mobilenetv3_small_100")
    assert {name: tap.channels for name, tap in network.taps.items()} == {
        "enc2": 16,
        "enc3": 16,
        "enc4": 24,
        "enc5": 48,
        "mid": 576,
        "dec1": 16,
    }


@pytest.mark.parametrize(
    ("name", "parameters", "stride", "taps"),
    [
        ("smp-unetplusplus", 15_970_594, 32, {"mid": 32, "dec1": 1}),
        ("smp-manet", 21_675_618, 32, {"mid": 32, "dec1": 1}),
        ("smp-linknet", 11_663_810, 32, {"mid": 32, "dec1": 1}),
        ("smp-fpn", 13_047_362, 32, {"mid": 32, "dec3": 4}),
        ("smp-pspnet", 11_334_434, 8, {"mid": 8, "dec4": 8}),
        ("smp-pan", 11_367_945, 16, {"mid": 16, "dec3": 4}),
        ("smp-deeplabv3", 15_899_202, 8, {"enc4.dilated": 8, "mid": 8, "dec4": 8}),
        ("smp-upernet", 19_491_778, 32, {"mid": 32, "dec3": 4}),
        ("smp-segformer", 11_768_642, 32, {"mid": 32, "dec3": 4}),
    ],
)
def test_every_architecture_gives_logits_of_the_images_size_and_its_taps(name, parameters, stride, taps):
    """On resnet18; parameters as the package's own class has them."""
    with torch.device("meta"):
        network = models.build(SmpNetwork(name=name, encoder="resnet18"), in_channels=3, classes=2, size=224).eval()
        output = network(torch.empty(2, 3, 224, 224))
    assert models.parameters(network) == parameters
    assert network.stride == stride
    assert output.logits.shape == (2, 2, 224, 224)
    assert list(output.taps) == list(network.taps)
    assert {name: tap.stride for name, tap in network.taps.items()}.items() >= taps.items()
    for name, tap in network.taps.items():
        assert output.taps[name].shape == (2, tap.channels, 224 // tap.stride, 224 // tap.stride)


def test_an_encoder_without_a_first_level_has_no_tap_there():
    """Its drop-path rates are tensor values, which the meta device has not: it is built all the same."""
    with torch.device("meta"):
        network = build(encoder="mit_b0")
        taps = network.eval()(torch.empty(1, 3, 64, 64)).taps
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert list(taps) == list(network.taps) == ["enc3", "enc4", "enc5", "mid", "dec1"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\ntorch.library.register_fake('torchvision::nms')(lambda *a: None)\n", "importable"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("raise RuntimeError('a broken driver')\n", "RuntimeError: a broken driver"),
        ("works = True\n", "untouched"),
    ],
)
def test_the_guard_declares_only_what_torchvision_misses(tmp_path, repository, source, expected):
    """It mends the one known failure, leaves a working torchvision alone and hides no other error."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(source)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(repository)!r}]\n"
        "from models import torchvision_guard as guard\n"
        "guard.make_importable(); guard.make_importable()\n"
        "print('importable' if guard._declared else 'untouched')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(rf"^{re.escape(expected)}$", done.stdout + done.stderr, re.MULTILINE), done.stderr


@pytest.mark.parametrize("student", ["unet", "resunet"])
def test_a_plain_student_and_its_smp_teacher_share_levels(student):
    """Equal names lie at equal resolution, but for `mid`; every loss that compares or regularises takes the pair."""
    with torch.device("meta"):
        ours = models.build(network_config(student, width=4), in_channels=3, classes=2)
        theirs = build(encoder="resnet18").eval()
        images = torch.empty(2, 3, 64, 64)
        target = torch.empty(2, 64, 64, dtype=torch.int64)
        pair = ours(images), theirs(images)
        shared = set(ours.taps) & set(theirs.taps)
        assert {"enc2", "enc3", "mid", "dec1"} <= shared
        assert all(pair[0].taps[tap].shape[2:] == pair[1].taps[tap].shape[2:] for tap in shared - {"mid"})
        for name, config in (("at", At(taps=("enc2", "enc3", "mid"))), ("selfreg", SelfReg()), ("kl", Kl())):
            for network, output in ((ours, pair[0]), (theirs, pair[1])):
                loss = losses.build(name, config, student=network.taps, teacher=theirs.taps, classes=2)
                assert loss(output, pair[1], target).total.shape == ()

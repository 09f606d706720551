"""Maps that are computed again: the same gradients bit for bit from less that is kept, whatever network it is."""

import copy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from benchmarks.structures import STRUCTURES
from models.config import network_config
from models.costs import costs, kept_bytes
from models.output import Segmenter
from models.recompute import recomputing

PICTURES = (
    "unet",
    "attention-unet",
    "unetplusplus",
    "multiresunet",
    "resunet",
    "resunetplusplus",
    "ducknet",
    "small-tail-residual",
    "uctransnet",
    "smp-unet",
    "swin-unet",
)
VOLUMES: dict[str, dict[str, Any]] = {
    "unet": {"width": 2},
    "residual-unet-3d": {},
    "segresnet": {},
    "mobile-unet-3d": {},
    "lcovnet": {},
}
"""One of each kind of normalisation and block."""
needs_smp = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
HOW = ("none", "normalisation")


def made(name: str, dims: int) -> tuple[Segmenter, Tensor]:
    """A small network in training, and two images or patches."""
    torch.manual_seed(0)
    if dims == 3:
        network = models.build(network_config(name, **VOLUMES[name]), in_channels=1, classes=3, size=32, dims=3)
        return network.train(), torch.randn(2, 1, 32, 32, 32)
    shape = STRUCTURES[name]
    network = models.build(network_config(name, **shape.options), in_channels=3, classes=2, size=shape.size)
    return network.train(), torch.randn(2, 3, shape.size, shape.size).to(memory_format=torch.channels_last)


def trained(network: Segmenter, images: Tensor, how: str, *, bf16: bool = False) -> list[Tensor | None]:
    """Logits, gradients and running means after a step."""
    network = copy.deepcopy(network)
    torch.manual_seed(1)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), recomputing(how):
        output = network(images)
    loss = sum(each.float().square().mean() for each in (output.logits, *output.heads))
    loss.backward()
    return [output.logits.detach(), *(each.grad for each in network.parameters()), *network.buffers()]


def equal(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def networks() -> list[Any]:
    flat = [pytest.param(2, name, marks=needs_smp if name in ("smp-unet", "swin-unet") else ()) for name in PICTURES]
    return [*flat, *((3, name) for name in VOLUMES)]


@pytest.mark.parametrize(("dims", "name"), networks())
def test_a_step_gives_the_same_bits_and_keeps_no_more(dims, name):
    network, images = made(name, dims)
    assert equal(*(trained(network, images, how) for how in HOW))
    before, after = (kept_bytes(copy.deepcopy(network), images, how)[0] for how in HOW)
    assert after <= before


@pytest.mark.parametrize(("dims", "name"), [(2, "unet"), (2, "resunetplusplus"), (3, "residual-unet-3d")])
def test_in_bf16_too(dims, name):
    network, images = made(name, dims)
    assert equal(*(trained(network, images, how, bf16=True) for how in HOW))


@pytest.mark.parametrize("last", [False, True])
def test_running_means_move_once_and_the_order_of_memory_does_not_matter(last):
    """A map that is not dense is normalised by another kernel of torch's, which rounds elsewhere."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)).train()
    images = torch.randn(2, 3, 12, 9)[..., ::2] if not last else torch.randn(2, 3, 12, 9)
    images = images.to(memory_format=torch.channels_last) if last else images
    grads = []
    for how in HOW:
        own = copy.deepcopy(layers)
        with recomputing(how):
            maps = own[1](own[0](images).transpose(2, 3) if not last else own[0](images))
            logits = own[3](own[2](maps))
        logits.square().mean().backward()
        grads.append([*(each.grad for each in own.parameters()), *own.buffers()])
        assert own[1].num_batches_tracked == 1
    assert equal(*grads)


def test_maps_of_convolution_normalisation_and_relu_are_half_of_what_they_were():
    layers = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True)) for _ in "abcd")
    )
    images = torch.randn(2, 8, 32, 32)
    kept: dict[int, int] = {}
    with recomputing("normalisation", lambda tensor: kept.update({tensor.data_ptr(): tensor.nbytes})):
        layers(images)
    maps = [size for size in kept.values() if size == images.nbytes]
    assert len(maps) == 1 + 4  # the images, and the output of each convolution


def test_what_memory_a_step_takes_is_known_before():
    """Of a U-Net three fifths are left; where there is nothing to spare nothing is promised."""
    (unet,) = costs(network_config("unet", width=8), in_channels=3, classes=2, sizes=[64]).by_size
    assert unet.recomputed <= 0.65 * unet.activations
    (plain,) = costs(network_config("small-tail-wide", width=8), in_channels=3, classes=2, sizes=[64]).by_size
    assert plain.recomputed == plain.activations


def test_a_map_that_somebody_still_has_is_taken_from_there():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    with recomputing("normalisation"):
        tap = layers[:3](torch.randn(2, 3, 8, 8))
        out = layers[3](tap)
    convolution: Any = out.grad_fn
    expected = tap.detach().clone()
    assert convolution._saved_input.data_ptr() == tap.data_ptr()
    del tap
    assert torch.equal(convolution._saved_input, expected)


def test_a_map_that_is_overwritten_is_refused_as_by_autograd():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with recomputing("normalisation"):
        first = layers[0](torch.randn(2, 3, 8, 8))
        out = functional.relu(layers[1](first))
        first.add_(1)
    with pytest.raises(RuntimeError, match="was overwritten"):
        out.sum().backward()


def test_a_sum_in_place_of_the_normalised_map_is_computed_from_both():
    """As torchvision's and timm's residual blocks do it."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    last, images = nn.Conv2d(4, 1, 1), torch.randn(2, 4, 8, 8)
    grads = []
    for how in HOW:
        with recomputing(how):
            before = functional.relu(first(images))
            after = second(before)
            after += before
            out = last(functional.relu_(after))
        weights = [*first.parameters(), *second.parameters(), *last.parameters()]
        grads.append(list(torch.autograd.grad(out.square().sum(), weights)))
    assert equal(*grads)

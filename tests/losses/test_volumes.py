"""Losses between networks for volumes: every one takes a step, and ACF-BCKD's have the published values and pairs."""

import tomllib

import numpy as np
import pytest
import torch
from scipy import ndimage

import losses
import models
from losses.balance import hard_share
from losses.config import Acfd, At, BoundaryHard, BoundarySoft, CirkdMemory, CirkdPixel, Ifvd, LossTerms, SkdPair
from models.config import network_config
from models.output import Output, Tap
from tests.losses.test_losses import CONFIGS, ONE_LABEL, TWO_CLASSES, value

PAIRED = {
    "at": At(taps=("enc2", ("dec2", "dec3"), "logits")),
    "skd-pair": SkdPair(taps=("dec2.joined",)),
    "ifvd": Ifvd(taps=("dec2",)),
    "acfd": Acfd(taps=("dec2",), residuals=("dec2.residual",)),
    "cirkd-pixel": CirkdPixel(taps=("dec2.joined",), grid=4),
    "cirkd-memory": CirkdMemory(tap="dec2.joined", grid=4, queue=16, contrast=12),
    "cirkd-region": CirkdMemory(tap="dec2.joined", grid=4, queue=16, contrast=12),
    "cwd-features": CONFIGS["cwd-features"].model_copy(update={"taps": (("dec2", "enc3"),)}),
}
CLASSES, SIDE = 3, 16


def network(name, width, classes=CLASSES):
    return models.build(network_config(name, width=width), in_channels=1, classes=classes, dims=3)


@pytest.fixture(scope="module")
def teachers():
    torch.manual_seed(0)
    return {name: network(name, width).eval() for name, width in (("residual-unet-3d", 2), ("segresnet", 8))}


def outputs(student, teacher, side=SIDE, batch=2):
    torch.manual_seed(1)
    images, target = torch.rand(batch, 1, side, side, side), torch.randint(0, CLASSES, (batch, side, side, side))
    with torch.no_grad():
        taught = teacher(images)
    return student(images), taught, target


def built(name, config, student, teacher, classes=CLASSES):
    loss = losses.build(name, config, student=student.taps, teacher=teacher.taps, classes=classes, dims=3)
    loss.begin_epoch(2, 3)
    return loss


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_tiny_student_takes_a_step_of_every_loss_on_patches(name, teachers):
    """Its weights move, and where the loss has weights of its own they get a gradient."""
    config, teacher = PAIRED.get(name, CONFIGS[name]), teachers["residual-unet-3d"]
    torch.manual_seed(2)
    classes = 2 if name in TWO_CLASSES else CLASSES
    student = network("tiny-unet-3d", 2, classes)
    loss = built(name, config, student, teacher, classes)
    output, taught, target = outputs(student, teacher)
    target = target.clamp(max=classes - 1)
    if loss.offer_size:
        loss(output, taught, target)
        loss.absorb(loss.offer().unsqueeze(0))
    term = loss(output, taught, target)
    (term.total / term.count).backward()
    reached = [p.grad for p in student.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in reached)
    assert sum(float(grad.abs().sum()) for grad in reached) > 0
    assert all(p.grad is not None for p in loss.parameters())


STUDENTS = {"tiny-unet-3d": 2, "espnetv2-3d": 16, "mobile-unet-3d": 2, "lcovnet": 2}
CORRECTED = {"tiny-unet-3d": "dec2.conv", "espnetv2-3d": "dec2", "mobile-unet-3d": "dec1", "lcovnet": "dec1"}


@pytest.mark.parametrize("student", STUDENTS)
def test_the_reference_pairs_correct_each_students_published_map(student, teachers):
    """Sizes differ by what the published pairs have: 96 against 48 voxels, or 48 against 96."""
    learner = network(student, STUDENTS[student])
    for preset, name, feature, residual in (
        ("acf-bckd-t1", "residual-unet-3d", "dec2", "dec2.residual"),
        ("acf-bckd-t2", "segresnet", "dec1", "dec1"),
    ):
        loss = built("acfd", Acfd(taps=preset), learner, teachers[name])
        assert loss.features.names == ((CORRECTED[student], feature),)
        assert loss.residuals.names == ((CORRECTED[student], residual),)
        assert loss.features.resize == loss.residuals.resize == "nearest-student"
        with torch.no_grad():
            assert value(loss(*outputs(learner, teachers[name], side=32))) > 0


def test_the_other_methods_of_the_study_have_its_pairs_for_the_tiny_unet(teachers):
    student = network("tiny-unet-3d", 2)
    expected = {
        "at": (At(taps="acf-bckd-t2"), [("enc2", "enc1"), ("mid", "mid"), ("logits", "dec1")]),
        "ifvd": (Ifvd(taps="acf-bckd-t2"), [("dec2", "dec1")]),
        "skd-pair": (SkdPair(taps="acf-bckd-t2"), [("dec2.joined", "dec1")]),
        "cirkd-pixel": (CirkdPixel(taps="acf-bckd-t2", grid=4), [("dec2.joined", "dec1")]),
        "cirkd-region": (CirkdMemory(tap="acf-bckd-t2", grid=4), [("dec2.joined", "dec1")]),
    }
    for name, (config, pairs) in expected.items():
        loss = built(name, config, student, teachers["segresnet"])
        listed = (loss.pairs if name != "at" else loss._pairs).names
        assert [pair for pair in listed if pair in pairs] == pairs
        assert config.resize == "nearest-teacher"
        with torch.no_grad():
            assert value(loss(*outputs(student, teachers["segresnet"]))) >= 0
    with pytest.raises(ValueError, match=r"^losses\.ifvd\.taps: the teacher has no tap 'dec1'"):
        built("ifvd", Ifvd(taps="acf-bckd-t2"), student, teachers["residual-unet-3d"])


def test_the_settings_of_the_page_are_those_of_the_losses(repository):
    page = (repository / "docs" / "acf-bckd.md").read_text()
    run = tomllib.loads(page.split("```toml\n")[1].partition("```")[0])["run"]
    terms = LossTerms.model_validate(run["losses"]).terms()
    assert set(run["method"].split("+")) | {"ce-dice"} == set(terms)
    assert (terms["acfd"].alpha, terms["acfd"].beta, terms["acfd"].residuals) == (25_000, 25_000, ("dec2.residual",))


def scene(classes=4, side=6, batch=2, seed=0):
    draw = np.random.default_rng(seed)
    ours, theirs = draw.normal(size=(2, batch, classes, side, side, side))
    target = ndimage.zoom(draw.integers(0, classes, (batch, 2, 2, 2)), (1, 3, 3, 3), order=0)
    return ours, theirs, target


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def term(name, config, ours, theirs, target, epoch=2, epochs=4):
    taps = {"dec1": Tap(1, 1)}
    loss = losses.build(name, config, student=taps, teacher=taps, classes=ours.shape[1], dims=3)
    loss.begin_epoch(epoch, epochs)
    given = [Output(torch.tensor(x), {}) for x in (ours, theirs)]
    return value(loss(*given, torch.tensor(target)))


def test_hard_boundaries_are_where_some_but_not_all_of_26_neighbours_have_the_class():
    """Summed over classes and images, each boundary's mean of KL / C; nothing lies beyond the patch."""
    ours, theirs, target = scene()
    p, q = softmax(ours), softmax(theirs)
    kl = (q * (np.log(q) - np.log(p))).sum(1) / ours.shape[1]
    total = 0.0
    kernel = np.ones((3, 3, 3))
    kernel[1, 1, 1] = 0
    for image, labels in enumerate(target):
        for k in range(ours.shape[1]):
            around = ndimage.convolve((labels == k).astype(float), kernel, mode="constant")
            band = (around > 0) & (around < 26)
            total += kl[image][band].mean() if band.any() else 0.0
    share = hard_share(2, 4, floor=0.001, gamma=0.001)
    config = BoundaryHard(floor=0.001, gamma=0.001, reduction="batch-sum")
    assert term("boundary-hard", config, ours, theirs, target) == pytest.approx(share * total, rel=1e-5)


def test_soft_boundaries_weigh_squared_differences_by_squared_distances_in_voxels_of_the_patch():
    ours, theirs, target = scene()
    p, truth = softmax(ours), np.eye(ours.shape[1])[theirs.argmax(1)].transpose(0, 4, 1, 2, 3)

    def far(mask):
        if mask.all() or not mask.any():
            return np.zeros(mask.shape)
        return (ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask)) ** 2

    weights = [[far(p[n, k] > 0.5) + far(truth[n, k] > 0.5) for k in range(1, 4)] for n in range(2)]
    mean = ((p - truth)[:, 1:] ** 2 * np.array(weights)).mean()
    share = 1 - hard_share(2, 4, floor=0.5, gamma=0.0005)
    config = BoundarySoft(floor=0.5, gamma=0.0005)
    assert term("boundary-soft", config, ours, theirs, target) == pytest.approx(share * np.log1p(mean), rel=1e-4)


@pytest.mark.parametrize(
    ("epochs", "gamma", "floor", "last"),
    [(1000, 0.001, 0.001, 0.001), (1000, 0.0005, 0.5, 0.5005), (300, 0.0015, 0.5, 0.5515), (50, 0.01, 0.5, 0.51)],
)
def test_the_published_balances_begin_at_1_and_end_where_they_did(epochs, gamma, floor, last):
    """BTCV in two settings, WORD and BraTS: by the epoch alone, so that a resumed run goes on where it was."""
    assert hard_share(1, epochs, floor=floor, gamma=gamma) == 1.0
    assert hard_share(epochs, epochs, floor=floor, gamma=gamma) == pytest.approx(last)
    if epochs != 300:
        even = hard_share(epochs // 2, epochs, floor=floor, gamma=None)
        assert even == pytest.approx(hard_share(epochs // 2, epochs, floor=floor, gamma=gamma), abs=1e-3)


def test_attention_correction_in_three_dimensions_is_the_published_formula():
    """AFD of the feature times a learned attention, CFD of a 1 x 1 x 1 convolution of that attention alone."""
    draw = torch.Generator().manual_seed(3)
    student, teacher = {"dec1": Tap(16, 1)}, {"dec1": Tap(5, 2), "dec1.residual": Tap(5, 2)}
    config = Acfd(taps=("dec1",), residuals=("dec1.residual",), resize="nearest-student")
    torch.manual_seed(4)
    loss = losses.build("acfd", config, student=student, teacher=teacher, classes=2, dims=3)
    feature = torch.randn(2, 16, 8, 8, 8, generator=draw)
    theirs = {tap: torch.randn(2, 5, 4, 4, 4, generator=draw) for tap in teacher}
    got = value(loss(Output(feature, {"dec1": feature}), Output(feature, theirs), torch.zeros(2, 8, 8, 8).long()))

    weights = {key: x.detach().double().numpy() for key, x in loss.state_dict().items()}
    f = feature.double().numpy()
    attended, alone = np.empty_like(f), np.empty_like(f)
    for n, x in enumerate(f):
        hidden = weights["attention.0.squeeze.weight"] @ x.mean((1, 2, 3)) + weights["attention.0.squeeze.bias"]
        by_channel = weights["attention.0.excite.weight"] @ np.maximum(hidden, 0) + weights["attention.0.excite.bias"]
        kernel = weights["attention.0.places.weight"][0, 0]
        by_place = ndimage.correlate(x.mean(0), kernel, mode="constant") + weights["attention.0.places.bias"]
        hard = [np.clip((y + 3) / 6, 0, 1) for y in (by_channel, by_place)]
        factor = hard[0][:, None, None, None] * hard[1]
        attended[n] = x * factor
        mix = weights["mix.0.weight"][:, :, 0, 0, 0]
        alone[n] = np.einsum("oc,cxyz->oxyz", mix, factor) + weights["mix.0.bias"][:, None, None, None]

    def attention(x):
        q = (x**2).mean(1).reshape(len(x), -1)
        return q / np.linalg.norm(q, axis=1, keepdims=True)

    def distance(x, y):
        return (attention(x[:, :, ::2, ::2, ::2]) - attention(y.double().numpy())) ** 2

    expected = 25_000 * (distance(attended, theirs["dec1"]) + distance(alone, theirs["dec1.residual"]))
    assert got == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in losses.LOSSES if name not in ONE_LABEL])
def test_regions_that_overlap_are_learned_from_patches_too(name, teachers):
    """BraTS: whole tumour, core and enhancing part, a sigmoid each."""
    torch.manual_seed(2)
    student, teacher = network("tiny-unet-3d", 2), teachers["residual-unet-3d"]
    loss = losses.build(
        name,
        PAIRED.get(name, CONFIGS[name]),
        student=student.taps,
        teacher=teacher.taps,
        classes=CLASSES,
        regions=True,
        dims=3,
    )
    loss.begin_epoch(2, 3)
    output, taught, target = outputs(student, teacher)
    nested = torch.stack([(target > level - 1).long() for level in range(CLASSES)], dim=1)
    term = loss(output, taught, nested)
    term.total.backward()
    reached = [p.grad for p in student.parameters() if p.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in reached) > 0
    assert all(grad.isfinite().all() for grad in reached)

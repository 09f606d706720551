"""Every loss against its formula in plain numpy, and against one case worked out by hand."""

import math

import numpy as np
import pytest
import torch

import losses
from losses.config import At, BceDice, Ce, Cwd, Dice, Dist, Kl, Ohem, SelfReg, Supervised, Weighted
from losses.selfreg import consistency, internal
from losses.term import IGNORE
from models.output import Output, Tap

CHANNELS = {"enc1": 4, "enc2": 5, "mid": 6, "dec2": 5, "dec1": 4}
SIZES = {"enc1": 8, "enc2": 4, "mid": 2, "dec2": 4, "dec1": 8}
TAPS = {name: Tap(count, 8 // SIZES[name]) for name, count in CHANNELS.items()}


def term_of(name, config, student, teacher=None, target=None):
    """The term's value for logits, arrays of numpy."""
    s, t = (None if x is None else Output(torch.tensor(x), {}) for x in (student, teacher))
    loss = losses.build(name, config, student=TAPS, teacher=TAPS, classes=student.shape[1])
    total, count = loss(s, t, torch.tensor(target))
    return float(total.double() / count)


def softmax(x, axis=1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.fixture
def draw():
    return np.random.default_rng(3)


def case(draw, classes=3, shape=(4, 7, 6)):
    """Student, teacher (N, C, H, W) in float64 and a target with ignored voxels, one image wholly ignored."""
    student, teacher = draw.normal(size=(2, shape[0], classes, *shape[1:])) * 2
    target = draw.integers(0, classes, shape)
    target[draw.random(shape) < 0.3] = IGNORE
    target[1] = IGNORE
    return student, teacher, target


def flat(logits, target):
    """(valid voxels, C)."""
    return np.moveaxis(logits, 1, -1)[target != IGNORE]


def cross_entropies(student, target):
    p = softmax(flat(student, target))
    return -np.log(p[np.arange(len(p)), target[target != IGNORE]])


def test_ce_is_the_mean_over_valid_voxels(draw):
    student, _, target = case(draw)
    assert term_of("ce", Weighted(), student, target=target) == pytest.approx(cross_entropies(student, target).mean())


def test_ce_by_hand():
    """Even odds in one voxel, 3 to 1 for the label in the other: (ln 2 + ln 4/3) / 2."""
    logits = np.array([[[0.0, 0.0]], [[0.0, math.log(3)]]]).transpose(1, 0, 2)
    assert term_of("ce", Weighted(), logits, target=np.array([[0, 1]])) == pytest.approx(
        (math.log(2) + math.log(4 / 3)) / 2
    )


@pytest.mark.parametrize(("scale", "share"), [(1.0, 1 / 16), (0.05, 1 / 16), (4.0, 0.8), (4.0, 1 / 16)])
def test_ohem_keeps_the_hard_voxels_or_the_hardest_share(draw, scale, share):
    student, _, target = case(draw)
    right = np.stack([target == c for c in range(3)], 1) * scale
    each = np.sort(cross_entropies(right + student / 20, target))[::-1]
    hard = each[each > -math.log(0.7)]
    least = math.floor(len(each) * share)
    expected = hard.mean() if len(hard) >= least else each[:least].mean()
    assert term_of("ohem", Ohem(min_share=share), right + student / 20, target=target) == pytest.approx(expected)


def test_ohem_by_hand():
    """Of 16 voxels two have their label below 0.7 (odds 1:1 and 1:3): the mean of ln 2 and ln 4; then one at least."""
    odds = np.full(16, 9.0)
    odds[3], odds[8] = 1.0, 1 / 3
    logits = np.stack([np.log(odds), np.zeros(16)])[None]
    target = np.zeros((1, 16), dtype=np.int64)
    assert term_of("ohem", Ohem(), logits, target=target) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert term_of("ohem", Ohem(), logits[:, :, 9:], target=target[:, 9:]) == pytest.approx(math.log(10 / 9))


def soft_dice(p, y, keep):
    p, y = p * keep, y * keep
    return (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)


def test_dice_is_per_image_and_class_background_included(draw):
    student, _, target = case(draw)
    p, keep = softmax(student), target != IGNORE
    scores = [
        np.mean([soft_dice(p[n, c], target[n] == c, keep[n]) for c in range(3)]) for n in range(4) if keep[n].any()
    ]
    assert len(scores) == 3
    assert term_of("dice", Dice(), student, target=target) == pytest.approx(1 - np.mean(scores))


def test_dice_by_hand():
    """Two voxels, one of each label, all probabilities 1/2: per class 2 * 1/2 / (1 + 1), so 1 - 1/2."""
    value = term_of("dice", Dice(), np.zeros((1, 2, 2)), target=np.array([[0, 1]]))
    assert value == pytest.approx(0.5, abs=1e-4)


def test_dice_of_an_empty_mask_falls_with_the_foreground():
    """No foreground and none predicted: nothing to lose; a little predicted: the class is lost, its gradient is not."""
    target = np.zeros((1, 64), dtype=np.int64)
    sure = np.stack([np.full(64, 40.0), np.full(64, -40.0)])[None]
    assert term_of("dice", Dice(), sure, target=target) == pytest.approx(0.0, abs=1e-6)
    assert term_of("dice", Dice(), sure / 20, target=target) > 0.4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_bce_dice_mixes_both_parts_of_the_foreground(draw, share):
    student, _, target = case(draw, classes=2)
    each = []
    for n in (0, 2, 3):
        keep = target[n] != IGNORE
        p, y = softmax(student)[n, 1][keep], (target[n] == 1)[keep]
        bce = -np.where(y, np.log(p), np.log(1 - p)).mean()
        each.append(share * bce + (1 - share) * (1 - soft_dice(p, y, np.ones_like(p))))
    assert term_of("bce-dice", BceDice(bce=share), student, target=target) == pytest.approx(np.mean(each))


def test_bce_dice_by_hand():
    """All probabilities 1/2, one voxel of two is foreground: (ln 2 + 1/2) / 2."""
    value = term_of("bce-dice", BceDice(bce=0.5), np.zeros((1, 2, 2)), target=np.array([[0, 1]]))
    assert value == pytest.approx((math.log(2) + 0.5) / 2, abs=1e-4)


@pytest.mark.parametrize(("reduction", "units"), [("voxel-mean", "v"), ("element-mean", "vc"), ("image-mean", "n")])
def test_kl_is_summed_and_divided_as_its_reduction_says(draw, reduction, units):
    student, teacher, target = case(draw)
    q, p = (softmax(flat(x, target) / 2.5) for x in (student, teacher))
    total = 2.5**2 * (p * (np.log(p) - np.log(q))).sum()
    count = {"v": len(p), "vc": p.size, "n": 3}[units]
    config = Kl(temperature=2.5, reduction=reduction)
    assert term_of("kl", config, student, teacher, target) == pytest.approx(total / count)


def test_kl_by_hand():
    """Teacher 3 to 1, student even, T = 1: 3/4 ln 3/2 + 1/4 ln 1/2. T = 2 with twice the logits: four times that."""
    teacher = np.array([math.log(3), 0.0]).reshape(1, 2, 1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    target = np.array([[0]])
    assert term_of("kl", Kl(temperature=1.0), np.zeros((1, 2, 1)), teacher, target) == pytest.approx(expected)
    doubled = term_of("kl", Kl(temperature=2.0), np.zeros((1, 2, 1)), 2 * teacher, target)
    assert doubled == pytest.approx(4 * expected)


def test_cwd_compares_maps_as_distributions_over_valid_voxels(draw):
    student, teacher, target = case(draw)
    each = []
    for n in (0, 2, 3):
        keep = target[n] != IGNORE
        q, p = (softmax(x[n][:, keep] / 4) for x in (student, teacher))
        each.append(16 * (p * (np.log(p) - np.log(q))).sum(1).mean())
    assert term_of("cwd", Cwd(temperature=4.0), student, teacher, target) == pytest.approx(np.mean(each))


def test_cwd_by_hand():
    """Two voxels; one teacher map is 3 to 1, all other maps even, T = 1: half of 3/4 ln 3/2 + 1/4 ln 1/2."""
    teacher = np.array([[[math.log(3), 0.0], [5.0, 5.0]]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    value = term_of("cwd", Cwd(temperature=1.0), np.zeros((1, 2, 2)), teacher, np.array([[0, 1]]))
    assert value == pytest.approx(expected)


def test_dist_correlates_classes_and_voxels(draw):
    student, teacher, target = case(draw)
    ours, theirs = (softmax(flat(x, target) / 2) for x in (student, teacher))
    between = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)])
    within = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)])
    expected = 4 * (0.7 * (1 - between) + 1.5 * (1 - within))
    config = Dist(temperature=2.0, beta=0.7, gamma=1.5)
    assert term_of("dist", config, student, teacher, target) == pytest.approx(expected, rel=1e-5)


def test_dist_by_hand():
    """Two voxels on which student and teacher disagree: every correlation is -1, so both parts are 2."""
    logits = np.array([[[1.0, -1.0], [-1.0, 1.0]]])
    assert term_of("dist", Dist(), logits, -logits, np.array([[0, 1]])) == pytest.approx(4.0, rel=1e-5)


def test_with_two_classes_only_the_relation_within_a_class_teaches(draw):
    student, teacher, target = case(draw, classes=2)
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = losses.build("dist", Dist(gamma=0.0), student=TAPS, teacher=TAPS, classes=2)
    loss(Output(logits, {}), Output(torch.tensor(teacher), {}), torch.tensor(target)).total.backward()
    assert logits.grad.abs().max() < 1e-5


def outputs(draw, sizes=(8, 8), channels=(4, 4)):
    made = [torch.tensor(draw.normal(size=(3, c, s, s))) for c, s in zip(channels, sizes, strict=True)]
    return [Output(torch.zeros(3, 2, 8, 8), {"mid": x}) for x in made], [x.numpy() for x in made]


def at_value(student, teacher):
    loss = losses.build("at", At(taps=("mid",)), student={"mid": Tap(1, 4)}, teacher={"mid": Tap(1, 4)}, classes=2)
    total, count = loss(student, teacher, torch.zeros(len(student.logits), 8, 8, dtype=torch.int64))
    return float(total.double() / count)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 4), (4, 8)])
def test_at_compares_normalised_energy_at_the_smaller_size(draw, sizes):
    (student, teacher), arrays = outputs(draw, sizes, channels=(4, 6))
    small = min(sizes)
    pooled = [
        x.reshape(*x.shape[:2], small, s // small, small, s // small).mean((3, 5))
        for x, s in zip(arrays, sizes, strict=True)
    ]
    ours, theirs = ((x**2).mean(1).reshape(3, -1) for x in pooled)
    ours, theirs = (q / np.sqrt((q**2).sum(1, keepdims=True)) for q in (ours, theirs))
    assert at_value(student, teacher) == pytest.approx(((ours - theirs) ** 2).mean(), rel=1e-5)


def test_at_by_hand():
    """All energy in another voxel of four: unit vectors at right angles, 2 / 4; the scale of a map does not matter."""
    here, there = torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)
    here[:, :, 0, 0], there[:, :, 1, 1] = 5.0, 0.1
    student, teacher = (Output(torch.zeros(1, 2, 8, 8), {"mid": x}) for x in (here, there))
    assert at_value(student, teacher) == pytest.approx(0.5)


@pytest.mark.parametrize("channels", [6, 7])
def test_internal_compares_the_stronger_with_the_weaker_half(draw, channels):
    x = draw.normal(size=(2, channels, 5, 5)) + np.arange(channels)[None, :, None, None] / 3
    length = np.sqrt((x**2).sum((2, 3), keepdims=True))
    order = np.argsort(-(x / length).mean((0, 2, 3)))
    expected = ((x[:, order[:3]] - x[:, order[-3:]]) ** 2).mean()
    assert float(internal(torch.tensor(x))) == pytest.approx(expected, rel=1e-5)


def test_internal_by_hand():
    """Channels 1, 3, 2 everywhere have equal strength after normalisation: the first is set against the last."""
    x = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert float(internal(x)) == pytest.approx(1.0)
    assert float(internal(x[:, :1])) == 0.0


def test_consistency_picks_as_many_channels_at_random_on_both_sides(draw):
    x, last = draw.normal(size=(2, 3, 4, 4)), draw.normal(size=(2, 5, 8, 8))
    torch.manual_seed(4)
    value = float(consistency(torch.tensor(x), torch.tensor(last)))
    torch.manual_seed(4)
    ours, theirs = torch.randperm(3)[:3].numpy(), torch.randperm(5)[:3].numpy()
    pooled = last.reshape(2, 5, 4, 2, 4, 2).mean((3, 5))
    assert value == pytest.approx(((x[:, ours] - pooled[:, theirs]) ** 2).mean(), rel=1e-5)


def selfreg(taps):
    channels = {tap: Tap(x.shape[1], 8 // x.shape[2]) for tap, x in taps.items()}
    loss = losses.build("selfreg", SelfReg(), student=channels, teacher=None, classes=2)
    images = len(taps["mid"])
    total, count = loss(Output(torch.zeros(images, 2, 8, 8), taps), None, torch.zeros(images, 8, 8, dtype=torch.int64))
    assert count == images
    return float(total.double() / count)


def test_selfreg_sums_the_means_of_its_parts(draw):
    """Encoder maps below full resolution, decoder maps before the last, all of them against the last."""
    taps = {tap: torch.tensor(draw.normal(size=(2, CHANNELS[tap], size, size))) for tap, size in SIZES.items()}
    torch.manual_seed(9)
    value = selfreg(taps)
    torch.manual_seed(9)
    against = [float(consistency(taps[tap], taps["dec1"])) for tap in ("enc2", "mid", "dec2")]
    expected = (float(internal(taps["enc2"])) + float(internal(taps["mid"]))) / 2 + float(internal(taps["dec2"]))
    assert value == pytest.approx(expected + np.mean(against), rel=1e-5)


def test_selfreg_loses_nothing_on_equal_constant_maps():
    assert selfreg({tap: torch.full((2, CHANNELS[tap], size, size), 1.5) for tap, size in SIZES.items()}) == 0.0


def test_selfreg_works_where_only_the_last_decoder_map_is_shown():
    taps = {"enc2": torch.ones(1, 4, 4, 4), "mid": torch.ones(1, 4, 2, 2), "dec1": torch.zeros(1, 4, 8, 8)}
    assert selfreg(taps) == pytest.approx(1.0)


def test_selfreg_draws_from_torchs_global_generator(draw):
    taps = {tap: torch.tensor(draw.normal(size=(2, 6, 4, 4))) for tap in ("enc2", "mid", "dec2", "dec1")}
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(selfreg(taps))
    assert values[0] == values[1] != values[2]


def test_weights_of_classes_are_torchs_and_the_background_is_the_first():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator)
    target[0, 0] = 255
    weights = (0.25, 2.0, 4.0)
    term = losses.build("ce", Ce(class_weights=weights), student={}, teacher=None, classes=3)(
        Output(logits, {}), None, target
    )
    expected = torch.nn.functional.cross_entropy(logits, target, torch.tensor(weights), ignore_index=255)
    assert float(term.total / term.count) == pytest.approx(float(expected), rel=1e-6)
    plain = losses.build("ce", Ce(), student={}, teacher=None, classes=3)
    assert plain.state_dict() == {}
    assert Ce().model_dump() == Supervised().model_dump()
    with pytest.raises(ValueError, match=r"losses.ce.class_weights = \[1.0\]: 1 weights for 3 classes"):
        losses.build("ce", Ce(class_weights=(1.0,)), student={}, teacher=None, classes=3)
    uncounted = losses.build("ce", Ce(class_weights="balanced"), student={}, teacher=None, classes=3)
    with pytest.raises(ValueError, match="was not counted"):
        uncounted(Output(logits, {}), None, target)

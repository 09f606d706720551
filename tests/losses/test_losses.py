"""Losses keep the contract of losses/term.py; a new line in LOSSES is tested without a new test."""

import inspect
from importlib import import_module

import pytest
import torch

import losses
from losses.config import (
    NEEDS_TEACHER,
    ONE_LABEL,
    Acfd,
    At,
    BceDice,
    BoundaryHard,
    BoundarySoft,
    CeDice,
    CirkdMemory,
    CirkdPixel,
    Cwd,
    CwdFeatures,
    Dice,
    DiceKl,
    Dist,
    Dkd,
    Ifvd,
    Kl,
    LossTerms,
    Mse,
    Nkd,
    Ohem,
    SelfReg,
    SkdPair,
    SkdPixel,
    Structure,
    Weighted,
)
from losses.term import IGNORE
from models.output import Output, Tap

CONFIGS = {
    "ce": Weighted(),
    "ohem": Ohem(),
    "dice": Dice(),
    "ce-dice": CeDice(ce=0.4, form="batch-squared"),
    "bce-dice": BceDice(bce=0.3),
    "structure": Structure(window=5),
    "kl": Kl(),
    "cwd": Cwd(),
    "dist": Dist(temperature=2.0),
    "at": At(taps=("enc2", "mid")),
    "mse": Mse(),
    "dice-kl": DiceKl(),
    "nkd": Nkd(temperature=2.0),
    "dkd": Dkd(),
    "skd-pixel": SkdPixel(),
    "skd-pair": SkdPair(taps=("enc2", ("mid", "enc3")), scale=0.25, resize="average"),
    "ifvd": Ifvd(taps=("enc2", ("mid", "enc3")), resize="nearest-teacher"),
    "cwd-features": CwdFeatures(taps=("enc2", ("mid", "enc3")), adapter="conv", resize="average"),
    "acfd": Acfd(taps=("enc2", ("mid", "enc3")), alpha=1.0, beta=1.0, resize="nearest-student"),
    "boundary-hard": BoundaryHard(),
    "boundary-soft": BoundarySoft(),
    "cirkd-pixel": CirkdPixel(taps=("enc2", ("mid", "enc3")), resize="average"),
    "cirkd-memory": CirkdMemory(tap="enc2", queue=64, contrast=30, resize="average"),
    "cirkd-region": CirkdMemory(tap=("mid", "enc3"), queue=64, contrast=30, resize="average"),
    "selfreg": SelfReg(),
}
SIZES = {"enc1": 16, "enc2": 8, "enc3": 4, "mid": 4, "dec2": 8, "dec1": 16}


def taps(**channels):
    return {name: Tap(count, 16 // SIZES[name]) for name, count in channels.items()}


STUDENT = taps(enc1=4, enc2=6, mid=8, dec2=6, dec1=4)
TEACHER = taps(enc2=5, enc3=7, mid=12, dec1=9)
BY_IMAGE = [
    *("ce", "dice", "bce-dice", "structure", "kl", "cwd", "at", "mse", "dice-kl", "nkd", "dkd", "skd-pixel"),
    *("skd-pair", "cwd-features", "acfd", "boundary-hard"),
]
"""What two ranks give adds up to what one gives with the whole batch; in others a sum goes over a rank's images."""
BY_LABEL = [
    *("ce", "ohem", "dice", "ce-dice", "bce-dice", "structure", "kl", "cwd", "dist", "mse", "dice-kl", "nkd", "dkd"),
    *("skd-pixel", "boundary-hard", "boundary-soft"),
]
"""What compares logits, at voxels that are not ignored."""
AGREEING = ["kl", "cwd", "dist", "at", "mse", "dkd", "skd-pair", "ifvd", "cwd-features", "boundary-hard", "cirkd-pixel"]
"""0 where student and teacher agree; nkd and skd-pixel are cross-entropies, and dice-kl reads the labels too."""
TWO_CLASSES = ["bce-dice", "structure"]


@pytest.fixture(params=list(losses.LOSSES))
def name(request):
    return request.param


def build(name, config=None, dims=2):
    config = config or CONFIGS[name]
    torch.manual_seed(5)  # of adapters
    loss = losses.build(name, config, student=STUDENT, teacher=TEACHER, classes=classes(name), dims=dims)
    loss.begin_epoch(3, 4)  # in the first one some have no weight
    if loss.offer_size and not any(buffer.is_meta for buffer in loss.buffers()):
        loss(*scene(name, dims=dims, seed=8))
        loss.absorb(loss.offer().unsqueeze(0))
    return loss


def classes(name):
    return 2 if name in TWO_CLASSES else 3


def scene(name, images=4, dims=2, scale=1.0, dtype=torch.float32, seed=0):
    """Outputs of student and teacher that take gradients, and a target with ignored voxels."""
    draw = torch.Generator().manual_seed(seed)

    def output(maps, factor):
        def made(count, size):
            return (torch.randn(images, count, *[size] * dims, generator=draw) * scale).to(dtype).requires_grad_()

        return Output(
            made(classes(name), 16), {name: made(tap.channels, SIZES[name] * factor) for name, tap in maps.items()}
        )

    target = torch.randint(0, classes(name), [images] + [16] * dims, generator=draw)
    target[torch.rand(target.shape, generator=draw) < 0.2] = IGNORE
    return output(STUDENT, 1), output(TEACHER, 2), target


def part(output, rows):
    return Output(output.logits[rows], {tap: x[rows] for tap, x in output.taps.items()})


def value(term):
    return float(term.total.detach().double() / term.count)


def test_the_table_and_the_configuration_name_the_same_losses():
    assert set(losses.LOSSES) == {info.alias or key for key, info in LossTerms.model_fields.items()} == set(CONFIGS)
    assert {name for name in losses.LOSSES if build(name).needs_teacher} == NEEDS_TEACHER


def test_a_term_is_a_float32_total_with_gradient_and_a_float64_count_without(name):
    term = build(name)(*scene(name))
    assert term.total.shape == term.count.shape == ()
    assert (term.total.dtype, term.count.dtype) == (torch.float32, torch.float64)
    assert term.total.requires_grad
    assert not term.count.requires_grad
    assert term.count > 0
    assert value(term) > 0


def test_gradients_flow_to_the_student_only(name):
    student, teacher, target = scene(name)
    loss = build(name)
    loss(student, teacher, target).total.backward()
    read = [student.taps[tap] for tap in loss.student_taps()] or [student.logits]
    untouched = {"dec1"} if name == "selfreg" else set()  # what selfreg compares with takes no gradient
    read = [x for x in read if all(x is not student.taps[tap] for tap in untouched)]
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in read)
    assert all(x.grad is None for x in [teacher.logits, *teacher.taps.values()])
    assert all(student.taps[tap].grad is None for tap in untouched)


def test_only_the_taps_that_a_loss_names_are_read(name):
    student, teacher, target = scene(name)
    loss = build(name)
    read = [(student, loss.student_taps()), (teacher, loss.teacher_taps())]
    narrow = [Output(o.logits, {t: x for t, x in o.taps.items() if t in names}) for o, names in read]
    torch.manual_seed(1)
    whole = loss(student, teacher, target)
    torch.manual_seed(1)
    assert torch.equal(loss(*narrow, target).total, whole.total)


@pytest.mark.parametrize("name", BY_IMAGE)
@pytest.mark.parametrize("at", [1, 2])
def test_two_ranks_together_see_what_one_sees(name, at):
    """Totals and counts of a batch split in two add up to those of the whole batch."""
    student, teacher, target = scene(name)
    target[0] = IGNORE
    loss = build(name)
    whole = loss(student, teacher, target)
    parts = [loss(part(student, r), part(teacher, r), target[r]) for r in (slice(at), slice(at, None))]
    torch.testing.assert_close(sum(p.total for p in parts), whole.total)
    assert sum(p.count for p in parts) == whole.count


@pytest.mark.parametrize("name", BY_LABEL)
def test_ignored_voxels_change_nothing(name):
    student, teacher, target = scene(name)
    loss = build(name)
    ignored = (target == IGNORE).unsqueeze(1)
    noise = torch.randn_like(student.logits) * 50 * ignored
    moved = [Output(o.logits + noise * sign, o.taps) for o, sign in ((student, 1), (teacher, -1))]
    torch.testing.assert_close(loss(*moved, target).total, loss(student, teacher, target).total)
    student.logits.grad = None
    loss(student, teacher, target).total.backward()
    assert (student.logits.grad * ignored).abs().max() == 0


@pytest.mark.parametrize("name", BY_LABEL)
def test_without_a_valid_voxel_a_term_is_zero_of_zero(name):
    student, teacher, target = scene(name)
    term = build(name)(student, teacher, torch.full_like(target, IGNORE))
    term.total.backward()
    assert (float(term.total.detach()), float(term.count)) == (0.0, 0.0)
    assert student.logits.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_half_precision_is_computed_in_float32(name, dtype, scale):
    """Equal to the loss of the same numbers in float32; large outputs (squares beyond half's range) stay finite."""
    student, teacher, target = scene(name, scale=scale, dtype=dtype)
    wide = [Output(o.logits.float(), {t: x.float() for t, x in o.taps.items()}) for o in (student, teacher)]
    loss = build(name)
    torch.manual_seed(1)
    expected = loss(*wide, target)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = loss(student, teacher, target)
    torch.testing.assert_close(term, expected)
    term.total.backward()
    read = [student.logits, *student.taps.values()]
    assert all(x.grad.isfinite().all() for x in read if x.grad is not None)


def test_volumes_work_as_images_do(name):
    student, teacher, target = scene(name, images=2, dims=3)
    term = build(name, dims=3)(student, teacher, target)
    term.total.backward()
    assert 0 < value(term) < float("inf")


def test_on_meta_a_loss_runs_without_reading_a_value(name):
    """What reads a value on the host stops a GPU in every step, and fails here."""
    student, teacher, target = scene(name)
    empty = [Output(o.logits.to("meta"), {t: x.to("meta") for t, x in o.taps.items()}) for o in (student, teacher)]
    with torch.device("meta"):
        term = build(name)(*empty, target.to("meta"))
    assert term.total.device.type == "meta"
    assert term.count.dtype == torch.float64


@pytest.mark.parametrize("name", AGREEING)
def test_a_student_that_equals_its_teacher_loses_nothing(name):
    """Up to the small number that keeps a correlation from dividing by zero, in dist."""
    student, _, target = scene(name)
    config = CONFIGS[name]
    if "taps" in type(config).model_fields:
        config = config.model_copy(update={"taps": ("enc2", "mid")})
    loss = losses.build(name, config, student=STUDENT, teacher=STUDENT, classes=classes(name))
    term = loss(student, student, target)
    term.total.backward()
    assert abs(value(term)) < 2e-5
    read = [student.taps[tap] for tap in loss.student_taps()] or [student.logits]
    assert all(x.grad.abs().max() < {"dist": 1e-3, "dkd": 1e-5}.get(name, 1e-6) for x in read)


@pytest.mark.parametrize("name", ["ce", "ohem", "dice", "ce-dice", "bce-dice", "structure"])
def test_logits_that_are_sure_of_the_labels_lose_nothing(name):
    student, _, target = scene(name)
    sure = torch.stack([(target == c).float() for c in range(classes(name))], dim=1) * 200 - 100
    assert value(build(name)(Output(sure, student.taps), None, target)) < 1e-6


def test_a_loss_is_built_for_the_taps_it_finds():
    with pytest.raises(
        ValueError, match=r"^losses\.at\.taps: the teacher has no tap 'enc1'; known: enc2, .*; nearest: enc"
    ):
        build("at", At(taps=("mid", "enc1")))
    with pytest.raises(ValueError, match=r"^losses\.at\.taps: the student has no tap 'end2'; known: .*; nearest: enc2"):
        build("at", At(taps=("end2",)))
    with pytest.raises(ValueError, match=r"^losses\.selfreg: the student has no tap 'dec1'; known: enc2, mid"):
        losses.build("selfreg", SelfReg(), student=taps(enc2=3, mid=4), teacher=None, classes=2)


def test_mistakes_are_one_line_with_the_remedy():
    with pytest.raises(ValueError, match=r"^losses\.klx: unknown loss; known: ce, .*; nearest: kl$"):
        losses.build("klx", Kl(), student=STUDENT, teacher=TEACHER, classes=2)
    with pytest.raises(ValueError, match=r"^losses\.bce-dice: is for 2 classes, the data has 3; use ce and dice$"):
        losses.build("bce-dice", BceDice(), student=STUDENT, teacher=None, classes=3)


@pytest.mark.parametrize("name", sorted(NEEDS_TEACHER))
def test_a_loss_that_compares_needs_a_teacher(name):
    with pytest.raises(ValueError, match=rf"^losses\.{name}: compares with a teacher, and there is none; add \[run"):
        losses.build(name, CONFIGS[name], student=STUDENT, teacher=None, classes=2)


@pytest.mark.parametrize("name", sorted(set(losses.LOSSES) - NEEDS_TEACHER))
def test_other_losses_need_no_teacher(name):
    student, _, target = scene(name)
    loss = losses.build(name, CONFIGS[name], student=STUDENT, teacher=None, classes=classes(name))
    assert loss(student, None, target).total.isfinite()


def test_every_loss_has_the_constructor_of_the_contract(name):
    """So `build` asks no class what it takes, and a new loss cannot need something that no other has."""
    module, _, kind = losses.LOSSES[name].partition(":")
    constructor = inspect.signature(getattr(import_module(module), kind)).parameters
    assert list(constructor) == ["config", "student", "teacher", "classes", "regions", "dims"]


@pytest.mark.parametrize("name", [name for name in losses.LOSSES if not name.startswith("boundary")])
def test_an_epoch_begins_for_every_loss_and_changes_none_that_does_not_ramp(name):
    student, teacher, target = scene(name)
    loss = build(name)
    torch.manual_seed(1)
    before = loss(student, teacher, target)
    loss.begin_epoch(7, 7)
    torch.manual_seed(1)
    assert torch.equal(loss(student, teacher, target).total, before.total)


@pytest.mark.parametrize("name", sorted(ONE_LABEL))
def test_a_loss_of_labels_refuses_regions_that_overlap(name):
    with pytest.raises(ValueError, match=rf"^losses\.{name}: compares one label a voxel, and the data has regions"):
        losses.build(name, CONFIGS[name], student=STUDENT, teacher=TEACHER, classes=classes(name), regions=True, dims=2)


def test_a_loss_refuses_a_number_of_dimensions_that_it_does_not_know(name):
    with pytest.raises(ValueError, match=rf"^losses\.{name}: dims = 4: works in 2, 3 dimensions; drop the term$"):
        build(name, dims=4)


def regions_of(name, images=3, seed=0):
    """Outputs of student and teacher with three logits, and three regions with ignored voxels of their own."""
    student, teacher, target = scene(name, images, seed=seed)
    draw = torch.Generator().manual_seed(seed + 1)
    logits = [torch.randn(images, 3, 16, 16, generator=draw).requires_grad_() for _ in "st"]
    overlapping = torch.stack([target > 0, target < 2, target == 1], 1).to(torch.uint8)
    overlapping[torch.rand(overlapping.shape, generator=draw) < 0.2] = IGNORE
    return Output(logits[0], student.taps), Output(logits[1], teacher.taps), overlapping


def for_regions(name):
    torch.manual_seed(5)
    loss = losses.build(name, CONFIGS[name], student=STUDENT, teacher=TEACHER, classes=3, regions=True)
    loss.begin_epoch(3, 4)
    return loss


@pytest.mark.parametrize("name", [name for name in losses.LOSSES if name not in ONE_LABEL])
def test_regions_that_overlap_are_learnt_each_with_its_own_ignored_voxels(name):
    student, teacher, target = regions_of(name)
    loss = for_regions(name)
    torch.manual_seed(1)
    term = loss(student, teacher, target)
    term.total.backward()
    assert 0 < value(term) < float("inf")
    if name in BY_LABEL:
        ignored = target == IGNORE
        assert (student.logits.grad * ignored).abs().max() == 0
        assert (student.logits.grad[~ignored] != 0).float().mean() > 0.99
        moved = [Output(o.logits + 20 * ignored, o.taps) for o in (student, teacher)]
        torch.testing.assert_close(loss(*moved, target).total, term.total)


@pytest.mark.parametrize(
    "name", [name for name in BY_LABEL if name not in {*ONE_LABEL, "dice", "mse", "dist", "cwd", "boundary-hard"}]
)
def test_one_region_is_the_foreground_of_two_classes(name):
    """A sigmoid of s is the softmax of (0, s); left out is what sums over both classes in another way."""
    student, teacher, target = scene("structure")
    config = CONFIGS[name]
    pair = losses.build(name, config, student=STUDENT, teacher=TEACHER, classes=2)
    pair.begin_epoch(3, 4)
    two = pair(student, teacher, target)
    odds = [Output(o.logits[:, 1:] - o.logits[:, :1], o.taps) for o in (student, teacher)]
    loss = losses.build(name, config, student=STUDENT, teacher=TEACHER, classes=1, regions=True)
    loss.begin_epoch(3, 4)
    assert value(loss(*odds, target.unsqueeze(1))) == pytest.approx(value(two), rel=1e-5)


FLAT_KERNELS = {"structure", "boundary-hard", "acfd"}
"""What looks at a voxel's surroundings, of which a volume of one slice has none above and below."""


@pytest.mark.parametrize("name", [name for name in losses.LOSSES if name not in FLAT_KERNELS])
def test_a_volume_of_one_slice_is_an_image(name):
    student, teacher, target = scene(name)
    flat, deep = build(name), build(name, dims=3)
    deep.load_state_dict({key: x.reshape(deep.state_dict()[key].shape) for key, x in flat.state_dict().items()})
    torch.manual_seed(1)
    expected = flat(student, teacher, target)
    torch.manual_seed(1)
    slices = [Output(o.logits.unsqueeze(2), {t: x.unsqueeze(2) for t, x in o.taps.items()}) for o in (student, teacher)]
    torch.testing.assert_close(deep(*slices, target.unsqueeze(1)), expected, rtol=1e-5, atol=1e-6)


def test_the_order_of_a_batch_does_not_matter(name):
    student, teacher, target = scene(name)
    order, loss = torch.tensor([2, 0, 3, 1]), build(name)
    torch.manual_seed(1)
    expected = loss(student, teacher, target)
    torch.manual_seed(1)
    torch.testing.assert_close(loss(part(student, order), part(teacher, order), target[order]), expected)


def test_a_weight_is_left_to_the_caller(name):
    """The value of a term does not depend on it, so that reports of it compare."""
    student, teacher, target = scene(name)
    light = build(name)
    torch.manual_seed(1)
    expected = light(student, teacher, target)
    heavy = build(name, CONFIGS[name].model_copy(update={"weight": 7.0}))
    torch.manual_seed(1)
    assert torch.equal(heavy(student, teacher, target).total, expected.total)


PAIRED = {name for name in losses.LOSSES if {"taps", "resize"} <= set(type(CONFIGS[name]).model_fields)} - {"at"}


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_maps_that_differ_are_never_broadcast(name):
    config = CONFIGS[name].model_copy(update={"resize": "none", "taps": (("enc2", "mid"),)})
    with pytest.raises(
        ValueError, match=rf"^losses\.{name}\.taps: 'enc2' of the student and 'mid' of the teacher have st"
    ):
        build(name, config)
    loss = build(name, config.model_copy(update={"taps": ("mid",)}))
    student, teacher, target = scene(name)
    with pytest.raises(ValueError, match=r"^resize = none: maps of \(4, 4\) and \(8, 8\) are to be compared$"):
        loss(student, teacher, target)  # the teacher's maps are twice as large as its taps promise


def test_channels_that_differ_need_a_named_adapter():
    with pytest.raises(ValueError, match=r"have 6 and 5 channels; set adapter = 'conv', or pair taps with as many$"):
        build("cwd-features", CwdFeatures(taps=("enc2",)))


def test_forms_and_windows_that_a_loss_has_not_are_refused():
    with pytest.raises(
        ValueError, match=r"^losses\.dice\.form = 'sigmoid': is for 2 classes or regions, the data has 3"
    ):
        build("dice", Dice(form="sigmoid"))
    with pytest.raises(ValueError, match=r"^losses\.structure\.window = 30: has no middle; take 31$"):
        build("structure", Structure(window=30))
    with pytest.raises(
        ValueError, match=r"^losses\.ifvd\.taps: 'enc1' has one channel, whose cosines have no gradient"
    ):
        losses.build("ifvd", Ifvd(taps=("enc1",)), student={"enc1": Tap(1, 1)}, teacher={"enc1": Tap(4, 1)}, classes=2)


@pytest.mark.parametrize("name", ["nkd", "dkd"])
def test_with_two_classes_the_other_classes_have_no_gradient(name):
    student, teacher, target = scene("structure")
    grads = []
    for factor in (0.0, 8.0):
        config = Nkd(gamma=factor) if name == "nkd" else Dkd(beta=factor)
        student.logits.grad = None
        losses.build(name, config, student={}, teacher={}, classes=2)(student, teacher, target).total.backward()
        grads.append(student.logits.grad)
    assert torch.equal(*grads)

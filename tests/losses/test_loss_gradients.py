"""Gradients of every loss where its inputs say little or nothing: constant maps, equal logits, rounded numbers."""

import math
from itertools import product

import pytest
import torch

import losses
from losses.config import (
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
    "ce-dice": CeDice(form="batch-squared"),
    "bce-dice": BceDice(),
    "structure": Structure(window=5),
    "kl": Kl(),
    "cwd": Cwd(),
    "dist": Dist(),
    "at": At(taps=("enc2", "mid")),
    "mse": Mse(),
    "dice-kl": DiceKl(),
    "nkd": Nkd(temperature=2.0),
    "dkd": Dkd(),
    "skd-pixel": SkdPixel(),
    "skd-pair": SkdPair(taps=("enc2", "mid")),
    "ifvd": Ifvd(taps=("enc2", "mid")),
    "cwd-features": CwdFeatures(taps=("enc2", "mid")),
    "acfd": Acfd(taps=("enc2", "mid"), alpha=1.0, beta=1.0),
    "boundary-hard": BoundaryHard(),
    "boundary-soft": BoundarySoft(),
    "cirkd-pixel": CirkdPixel(taps=("enc2", "mid"), temperature=0.5),
    "cirkd-memory": CirkdMemory(tap="enc2", queue=64, contrast=30, temperature=0.5),
    "cirkd-region": CirkdMemory(tap="mid", queue=64, contrast=30, temperature=0.5),
    "selfreg": SelfReg(),
}
TWO_CLASSES = {"bce-dice", "structure"}
TAPS = {"enc1": Tap(4, 1), "enc2": Tap(6, 2), "mid": Tap(8, 4), "dec2": Tap(6, 2), "dec1": Tap(4, 1)}
MOST = {"dist": 200.0}
OTHERS = 2000.0
"""How many times that of ordinary inputs a gradient may be: about 1 / `losses.dist.FLAT` and 1 / `losses.at.FAINT`."""

FLAT_INPUTS = {
    "zero": lambda noise: torch.zeros_like(noise),
    "one value": lambda noise: torch.full_like(noise, 0.7),
    "nearly constant": lambda noise: 0.7 + 1e-7 * noise,
    "faint": lambda noise: 1e-5 * noise,
    "very faint": lambda noise: 1e-12 * noise,
    "equal in all channels": lambda noise: noise[:, :1].expand_as(noise).clone(),
    "equal up to rounding": lambda noise: noise[:, :1].expand_as(noise) * (1 + 1e-7 * noise),
    "one map a channel": lambda noise: noise.mean(tuple(range(2, noise.ndim)), keepdim=True).expand_as(noise).clone(),
    "sure": lambda noise: 60 * noise.sign(),
    "sure of one class": lambda noise: noise + 30.0 * (torch.arange(noise.shape[1]) == 0).view(1, -1, 1, 1),
}
KINDS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(
    params=[(name, 2) for name in losses.LOSSES] + [(name, 5) for name in losses.LOSSES if name not in TWO_CLASSES]
)
def case(request):
    """A loss by name, and the number of classes."""
    return request.param


def noise(classes, seed, images=2):
    draw = torch.Generator().manual_seed(seed)
    taps = {
        name: torch.randn(images, tap.channels, 16 // tap.stride, 16 // tap.stride, generator=draw)
        for name, tap in TAPS.items()
    }
    return Output(torch.randn(images, classes, 16, 16, generator=draw), taps)


def made(output, change, dtype):
    """An output whose every map is changed, rounded to a kind of numbers, and takes gradients."""
    return Output(
        change(output.logits).to(dtype).requires_grad_(),
        {name: change(x).to(dtype).requires_grad_() for name, x in output.taps.items()},
    )


def target_of(classes, kind="mixed"):
    labels = torch.randint(0, classes, (2, 16, 16), generator=torch.Generator().manual_seed(9))
    labels[0, :3] = IGNORE
    return torch.zeros_like(labels) if kind == "empty" else labels


def remember(loss, classes, dtype):
    """Fill the memory of a loss that has one."""
    if loss.offer_size:
        loss(made(noise(classes, 7), same, dtype), made(noise(classes, 8), same, dtype), target_of(classes))
        loss.absorb(loss.offer().unsqueeze(0))


def gradient(case, student, teacher, target):
    """The value, and the greatest entry of the gradient over all maps."""
    name, classes = case
    loss = losses.build(name, CONFIGS[name], student=TAPS, teacher=TAPS, classes=classes)
    loss.begin_epoch(3, 4)  # in the first one some have no weight
    remember(loss, classes, torch.float32)
    torch.manual_seed(1)
    term = loss(student, teacher, target)
    term.total.backward()
    grads = [x.grad.double() for x in (student.logits, *student.taps.values()) if x.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    return float(term.total.detach()), max(float(grad.abs().max()) for grad in grads)


def same(x):
    return x


def ordinary(case):
    classes = case[1]
    return gradient(
        case,
        made(noise(classes, 1), same, torch.float32),
        made(noise(classes, 2), same, torch.float32),
        target_of(classes),
    )[1]


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_a_gradient_is_finite_and_bounded_where_inputs_say_nothing(case, dtype):
    """Whoever of student and teacher it is. A loss that divides by how much a map varies has to stop somewhere."""
    classes, bound = case[1], MOST.get(case[0], OTHERS) * ordinary(case)
    for flat, who, kind in product(FLAT_INPUTS, ("student", "teacher", "both"), ("mixed", "empty")):
        student = made(noise(classes, 1), FLAT_INPUTS[flat] if who != "teacher" else same, dtype)
        teacher = made(noise(classes, 2), FLAT_INPUTS[flat] if who != "student" else same, dtype)
        value, greatest = gradient(case, student, teacher, target_of(classes, kind))
        assert math.isfinite(value), (flat, who, kind)
        assert greatest <= bound, (flat, who, kind)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 0.0])
def test_the_relation_between_two_classes_has_no_gradient(scale, dtype):
    """The correlation of p and 1 - p with q and 1 - q is 1 or -1, whatever they are."""
    output, target = noise(2, 1), target_of(2)
    grads = []
    for beta in (0.0, 1.0, 100.0):
        student = made(output, lambda x: scale * x, dtype)
        loss = losses.build("dist", Dist(beta=beta), student=TAPS, teacher=TAPS, classes=2)
        loss(student, made(noise(2, 2), same, dtype), target).total.backward()
        grads.append(student.logits.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_the_relation_between_two_classes_still_counts_in_the_value():
    student, teacher, target = noise(2, 1), noise(2, 2), target_of(2)
    total = {}
    for beta in (0.0, 1.0):
        term = losses.build("dist", Dist(beta=beta), student=TAPS, teacher=TAPS, classes=2)(student, teacher, target)
        total[beta] = float(term.total / term.count)
    valid = target != IGNORE
    alike = ((student.logits[:, 1] > student.logits[:, 0]) == (teacher.logits[:, 1] > teacher.logits[:, 0]))[valid]
    assert total[1.0] - total[0.0] == pytest.approx(2.0 * float((~alike).float().mean()), abs=1e-4)


def test_guards_leave_ordinary_inputs_alone():
    """Also where probabilities are tiny: a map far from flat in its logits is not taken for a constant."""
    import numpy as np

    target = torch.zeros(1, 40, 40, dtype=torch.int64)
    draw = torch.Generator().manual_seed(4)
    for shift in (0.0, 8.0):
        student, teacher = (
            torch.randn(1, 3, 40, 40, generator=draw) + torch.tensor([shift, 0, 0]).view(1, 3, 1, 1) for _ in "ab"
        )
        loss = losses.build("dist", Dist(beta=0.0), student=TAPS, teacher=TAPS, classes=3)
        term = loss(Output(student, {}), Output(teacher, {}), target)
        p, q = (x.double().softmax(1).movedim(1, -1).reshape(-1, 3).numpy() for x in (student, teacher))
        expected = 1 - np.mean([np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(3)])
        assert float(term.total) == pytest.approx(expected, abs=1e-4)


CONSTANTS_WITHIN = {"skd-pair"}
"""Losses in which something that moves with the student takes no gradient by design; test_method_values.py has them."""


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_gradients_are_those_of_central_differences(case, scale):
    """In float64, along random directions; half a width of a millionth of the inputs."""
    name, classes = case
    if name in CONSTANTS_WITHIN:
        pytest.skip("its lengths are constants to the gradient, as the paper's code has them")
    # Of two classes the relation between classes is a constant, but for what keeps it from dividing by zero.
    config = Dist(beta=0.0) if case == ("dist", 2) else CONFIGS[name]
    loss = losses.build(name, config, student=TAPS, teacher=TAPS, classes=classes)
    loss.double().begin_epoch(3, 4)
    remember(loss, classes, torch.float64)
    student = made(noise(classes, 1), lambda x: scale * x, torch.float64)
    teacher, target = made(noise(classes, 2), same, torch.float64), target_of(classes)

    def value(output):
        torch.manual_seed(1)
        return loss(output, teacher, target).total

    value(student).backward()
    maps = [student.logits, *student.taps.values()]
    # What selfreg compares with takes no gradient by design, so its last map stays where it is.
    moved = [x.grad is not None for x in maps]
    draw = torch.Generator().manual_seed(5)
    for _ in range(3):
        ways = [
            torch.randn(x.shape, generator=draw, dtype=torch.float64) * on for x, on in zip(maps, moved, strict=True)
        ]
        ends = []
        for step in (1e-6 * scale, -1e-6 * scale):
            logits, *taps = (x.detach() + step * way for x, way in zip(maps, ways, strict=True))
            ends.append(value(Output(logits, dict(zip(student.taps, taps, strict=True)))))
        slope = sum(float((x.grad * way).sum()) for x, way in zip(maps, ways, strict=True) if x.grad is not None)
        assert float((ends[0] - ends[1]).detach()) / (2e-6 * scale) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 0.0])
def test_sgd_learns_from_dist_also_where_logits_begin_equal(scale):
    """With the default beta, two classes and a learning rate that is usual for SGD."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3, padding=1)
    )
    with torch.no_grad():
        for parameter in network[2].parameters():
            parameter.mul_(scale)
    images = torch.randn(4, 3, 24, 24)
    odds, target = 4 * images.mean(1), (images.mean(1) > 0).long()
    loss = losses.build("dist", Dist(), student={}, teacher={}, classes=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        logits = network(images)
        term = loss(Output(logits, {}), Output(torch.stack([-odds, odds], 1), {}), target)
        optimizer.zero_grad()
        (term.total / term.count.float() + torch.nn.functional.cross_entropy(logits, target)).backward()
        optimizer.step()
    predicted = network(images).argmax(1)
    assert 2 * float((predicted * target).sum()) / float((predicted + target).sum()) > 0.9

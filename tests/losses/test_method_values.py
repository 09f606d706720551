"""Methods of the studies against slow statements of their formulas in plain numpy, in value and in gradient.

A statement loops over images and voxels, and shares no code with what it checks. Gradients are central differences of
the statement, along random directions.
"""

import numpy as np
import pytest
import torch

import losses
from losses.balance import hard_share
from losses.cirkd_memory import Queue
from losses.config import (
    Acfd,
    BoundaryHard,
    BoundarySoft,
    CeDice,
    CirkdMemory,
    CirkdPixel,
    CwdFeatures,
    Dice,
    DiceKl,
    Dkd,
    Ifvd,
    Mse,
    Nkd,
    SkdPair,
    SkdPixel,
    Structure,
)
from losses.distance import squared_distances, to_nearest
from losses.term import IGNORE
from models.output import Output, Tap

STUDENT = {"a": Tap(3, 1), "b": Tap(4, 2)}
TEACHER = {"a": Tap(3, 1), "b": Tap(5, 2)}


def softmax(x, axis=0):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def scene(classes, size=8, images=3, seed=0):
    """Arrays in float64 of logits and maps of student and teacher, and labels of which some are ignored."""
    draw = np.random.default_rng(seed)
    target = draw.integers(0, classes, (images, size, size))
    target[draw.random(target.shape) < 0.15] = IGNORE
    outputs = []
    for taps in (STUDENT, TEACHER):
        maps = {
            name: draw.normal(size=(images, tap.channels, size // tap.stride, size // tap.stride))
            for name, tap in taps.items()
        }
        outputs.append({"logits": 1.5 * draw.normal(size=(images, classes, size, size)), **maps})
    return (*outputs, target)


def tensors(arrays):
    made = {name: torch.tensor(x, requires_grad=True) for name, x in arrays.items()}
    return Output(made["logits"], {name: x for name, x in made.items() if name != "logits"})


def agree(name, config, statement, *, classes, regions=False, seed=0, moved="logits", frozen=False):
    """Value and gradient of a loss are those of a statement of (student's arrays, teacher's, target).

    frozen: the statement takes the student's arrays twice, and differs along the first alone.
    """
    student, teacher, target = scene(classes, seed=seed)
    if regions:
        target = np.where(target == IGNORE, IGNORE, np.stack([target == 0, target > 0], 1).swapaxes(0, 1) * 1)
        target = np.ascontiguousarray(target.swapaxes(0, 1))
        target[0, 0, :2] = IGNORE
    torch.manual_seed(2)
    loss = losses.build(name, config, student=STUDENT, teacher=TEACHER, classes=classes, regions=regions).double()
    loss.begin_epoch(3, 4)
    ours = tensors(student)
    term = loss(ours, tensors(teacher), torch.tensor(target))
    value = term.total.double() / term.count

    def stated(changed):
        return statement(changed, teacher, target, *([student] if frozen else []))

    assert float(value.detach()) == pytest.approx(stated(student), rel=1e-5)
    value.backward()
    gradient = (ours.logits if moved == "logits" else ours.taps[moved]).grad.numpy()
    draw = np.random.default_rng(seed + 1)
    for _ in range(2):
        way = draw.normal(size=gradient.shape)
        ends = [stated({**student, moved: student[moved] + step * way}) for step in (1e-5, -1e-5)]
        assert (gradient * way).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-4, abs=1e-7)


def voxels(target):
    """Places (n, y, x) that are not ignored."""
    return [tuple(place) for place in np.argwhere(target != IGNORE)]


@pytest.mark.parametrize("of", ["logits", "sigmoids"])
def test_mse_is_the_mean_over_elements(of):
    def statement(s, t, y):
        f = sigmoid if of == "sigmoids" else lambda x: x
        each = [(f(s["logits"][n, :, i, j]) - f(t["logits"][n, :, i, j])) ** 2 for n, i, j in voxels(y)]
        return np.mean(each)

    agree("mse", Mse(of=of), statement, classes=3)


@pytest.mark.parametrize("classes", [2, 4])
def test_nkd_sets_the_label_apart_and_normalises_the_others(classes):
    def statement(s, t, y):
        total = 0.0
        for n, i, j in voxels(y):
            label, ours, theirs = y[n, i, j], s["logits"][n, :, i, j], t["logits"][n, :, i, j]
            total -= softmax(theirs)[label] * np.log(softmax(ours)[label])
            q, p = softmax(np.delete(ours, label) / 2), softmax(np.delete(theirs, label) / 2)
            total -= 1.5 * 4 * (p * np.log(q)).sum()
        return total / len(voxels(y))

    agree("nkd", Nkd(temperature=2.0), statement, classes=classes)


@pytest.mark.parametrize("classes", [2, 4])
def test_dkd_weighs_the_label_and_the_others_apart(classes):
    def statement(s, t, y):
        total = 0.0
        for n, i, j in voxels(y):
            label, ours, theirs = y[n, i, j], s["logits"][n, :, i, j] / 4, t["logits"][n, :, i, j] / 4
            b, c = softmax(ours)[label], softmax(theirs)[label]
            binary = c * np.log(c / b) + (1 - c) * np.log((1 - c) / (1 - b))
            q, p = softmax(np.delete(ours, label)), softmax(np.delete(theirs, label))
            total += 16 * (2.0 * binary + 8.0 * (p * np.log(p / q)).sum())
        return total / len(voxels(y))

    agree("dkd", Dkd(alpha=2.0), statement, classes=classes)


def test_dkd_with_two_classes_is_alpha_times_soft_labels():
    """What is left of KD = TCKD + (1 - p) NCKD where there is no other class."""

    def statement(s, t, y):
        q, p = softmax(s["logits"] / 4, 1), softmax(t["logits"] / 4, 1)
        return 16 * (p * np.log(p / q)).sum(1)[y != IGNORE].mean()

    agree("dkd", Dkd(alpha=1.0, beta=5.0), statement, classes=2)


def test_dkd_grows_over_its_warmup():
    student, teacher, target = (tensors(x) if isinstance(x, dict) else torch.tensor(x) for x in scene(3))
    values = []
    for warmup, epoch in ((0, 1), (4, 1), (4, 3), (4, 9)):
        loss = losses.build("dkd", Dkd(warmup=warmup), student={}, teacher={}, classes=3)
        loss.begin_epoch(epoch, 20)
        values.append(float(loss(student, teacher, target).total.detach()))
    assert np.array(values) / values[0] == pytest.approx([1.0, 0.25, 0.75, 1.0])


@pytest.mark.parametrize("reduction", ["voxel-mean", "batch-sum"])
def test_skd_pixel_is_a_soft_cross_entropy(reduction):
    def statement(s, t, y):
        images = []
        for n in range(len(y)):
            p, q = softmax(t["logits"][n]), softmax(s["logits"][n])
            images.append(-(p * np.log(q)).sum(0)[y[n] != IGNORE])
        return np.concatenate(images).mean() if reduction == "voxel-mean" else sum(x.mean() for x in images)

    agree("skd-pixel", SkdPixel(reduction=reduction), statement, classes=3)


def test_skd_pixel_of_regions_is_a_cross_entropy_of_each():
    def statement(s, t, y):
        p, q, keep = sigmoid(t["logits"]), sigmoid(s["logits"]), y != IGNORE
        return -(p * np.log(q) + (1 - p) * np.log(1 - q))[keep].sum() / (keep.sum() / 2)

    agree("skd-pixel", SkdPixel(), statement, classes=2, regions=True)


def test_skd_pair_compares_cosines_of_pooled_places_with_lengths_that_are_constants():
    def nodes(x, lengths_of):
        """Windows of 2 x 2 of a map (C, 4, 4) with half its side; the place of the greatest value, and the lengths."""
        columns, lengths = [], []
        for i, j in np.ndindex(2, 2):
            window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(len(x), -1)
            other = lengths_of[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(len(x), -1)
            columns.append(window.max(1))
            lengths.append(np.sqrt((other.max(1) ** 2).sum()) + 1e-8)
        return [c / length for c, length in zip(columns, lengths, strict=True)]

    def statement(s, t, y, constant):
        total = 0.0
        for n in range(len(y)):
            ours, theirs = nodes(s["b"][n], constant["b"][n]), nodes(t["b"][n], t["b"][n])
            total += sum((ours[k] @ ours[m] - theirs[k] @ theirs[m]) ** 2 for k in range(4) for m in range(4)) / 16
        return total / len(y)

    agree("skd-pair", SkdPair(taps=("b",)), statement, classes=3, moved="b", frozen=True)


def test_ifvd_compares_cosines_with_the_mean_of_a_voxels_class():
    def cosines(x, labels):
        result = []
        for i, j in np.argwhere(labels != IGNORE):
            centre = np.mean([x[:, k, m] for k, m in np.argwhere(labels == labels[i, j])], 0)
            result.append(x[:, i, j] @ centre / np.linalg.norm(x[:, i, j]) / np.linalg.norm(centre))
        return np.array(result)

    def statement(s, t, y):
        small = y[:, ::2, ::2]
        each = [(cosines(s["b"][n], small[n]) - cosines(t["b"][n], small[n])) ** 2 for n in range(len(y))]
        return np.concatenate(each).mean()

    agree("ifvd", Ifvd(taps=("b",)), statement, classes=3, moved="b")


def test_cwd_features_sums_pairs_of_maps_and_takes_logits_for_one():
    def divergence(x, z):
        return np.mean([9 * (p * np.log(p / q)).sum() for p, q in zip(softmax(z.T).T, softmax(x.T).T, strict=True)])

    def statement(s, t, y):
        flat = [(a[n].reshape(3, -1) / 3, b[n].reshape(3, -1) / 3) for n in range(3) for a, b in pairs(s, t)]
        return sum(divergence(x, z) for x, z in flat) / 3

    def pairs(s, t):
        return (s["a"], t["a"]), (s["logits"], t["a"])

    config = CwdFeatures(taps=("a", ("logits", "a")), temperature=3.0)
    agree("cwd-features", config, statement, classes=3, moved="a")


@pytest.mark.parametrize("classes", [2, 3])
def test_dice_kl_mixes_labels_and_teacher(classes):
    def statement(s, t, y):
        total = 0.0
        for n in range(len(y)):
            keep = y[n] != IGNORE
            q, p = softmax(s["logits"][n])[:, keep], softmax(t["logits"][n])[:, keep]
            soft, hard = softmax(s["logits"][n] / 4)[:, keep], softmax(t["logits"][n] / 4)[:, keep]
            kl = 16 * (hard * np.log(hard / soft)).sum(0).mean()
            counted = [1] if classes == 2 else range(classes)
            truth = [y[n][keep] == c for c in counted]
            scores = [
                (2 * (q[c] * z).sum() + 1e-5) / (q[c].sum() + z.sum() + 1e-5)
                for c, z in zip(counted, truth, strict=True)
            ]
            total += 0.3 * (1 - np.mean(scores)) + 0.7 * kl
            assert len(p) == classes
        return total / len(y)

    agree("dice-kl", DiceKl(alpha=0.7), statement, classes=classes)


def dice_statement(form, classes):
    def statement(s, _, y):
        keep = y != IGNORE
        p = np.stack([softmax(x) for x in s["logits"]])
        if form == "image":
            scores = [_ratio(p[n, c][keep[n]], y[n][keep[n]] == c, 1e-5) for n in range(len(y)) for c in range(classes)]
        elif form == "batch":
            scores = [_ratio(p[:, c][keep], y[keep] == c, 1e-6, 0.0) for c in range(classes)]
        elif form == "batch-squared":
            scores = [_ratio(p[:, c][keep], y[keep] == c, 1e-5, power=2) for c in range(classes)]
        else:
            scores = [_ratio(p[:, 1][keep], y[keep] == 1, 1e-6)]
        return 1 - np.mean(scores)

    return statement


def _ratio(p, y, smooth, above=None, power=1):
    above = smooth if above is None else above
    return (2 * (p * y).sum() + above) / ((p**power).sum() + y.sum() + smooth)


@pytest.mark.parametrize(
    ("form", "classes"), [("image", 3), ("batch", 3), ("batch-squared", 3), ("sigmoid", 2), ("batch-squared", 2)]
)
def test_each_form_of_dice_is_the_one_of_its_source(form, classes):
    statement = dice_statement(form, classes)
    agree("dice", Dice(form=form), statement, classes=classes)

    def mixed(s, t, y):
        each = [-np.log(softmax(s["logits"][n, :, i, j])[y[n, i, j]]) for n, i, j in voxels(y)]
        return 0.4 * np.mean(each) + 0.6 * statement(s, t, y)

    agree("ce-dice", CeDice(ce=0.4, form=form), mixed, classes=classes)


@pytest.mark.parametrize("bce", ["weighted", "plain"])
def test_structure_weighs_voxels_whose_surroundings_differ(bce):
    def statement(s, _, y):
        total = 0.0
        for n in range(len(y)):
            inter = union = crossed = weights = 0.0
            for i, j in np.argwhere(y[n] != IGNORE):
                around = (y[n] == 1)[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].sum() / 25
                truth = float(y[n, i, j] == 1)
                w, p = 1 + 5 * abs(around - truth), softmax(s["logits"][n, :, i, j])[1]
                share = w if bce == "weighted" else 1.0
                crossed -= share * np.log(p if truth else 1 - p)
                weights += share
                inter, union = inter + w * p * truth, union + w * (p + truth)
            total += crossed / weights + 1 - (inter + 1) / (union - inter + 1)
        return total / len(y)

    agree("structure", Structure(window=5, bce=bce), statement, classes=2)


@pytest.mark.parametrize(
    ("epochs", "floor", "gamma", "last"),
    [(1000, 0.001, None, 0.001999), (50, 0.5, None, 0.51), (300, 0.5, 0.0015, 0.5515)],
)
def test_hard_boundaries_give_way_to_soft_ones_by_the_published_table(epochs, floor, gamma, last):
    """BTCV, BraTS and WORD; a fall of 0.001, 0.01 and 0.0015 each epoch."""
    shares = [hard_share(e, epochs, floor=floor, gamma=gamma) for e in range(1, epochs + 1)]
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(last)
    assert hard_share(10 * epochs, epochs, floor=floor, gamma=gamma) == floor


def band(mask):
    """Voxels with some but not all of the 8 neighbours in the mask."""
    padded = np.pad(mask.astype(int), 1)
    counts = {(i, j): padded[i : i + 3, j : j + 3].sum() - mask[i, j] for i, j in np.ndindex(*mask.shape)}
    return np.array([[0 < counts[i, j] < 8 for j in range(mask.shape[1])] for i in range(mask.shape[0])])


@pytest.mark.parametrize("reduction", ["image-mean", "batch-sum"])
def test_hard_boundary_is_the_divergence_along_each_classs_boundary(reduction):
    def statement(s, t, y):
        total = 0.0
        for n, c in np.ndindex(len(y), 3):
            p, q = softmax(t["logits"][n]), softmax(s["logits"][n])
            there = band(y[n] == c) & (y[n] != IGNORE)
            if there.any():
                total += (p * np.log(p / q)).sum(0)[there].sum() / (3 * there.sum())
        return 0.75 * total / (len(y) if reduction == "image-mean" else 1)

    agree("boundary-hard", BoundaryHard(reduction=reduction), statement, classes=3)


def test_hard_boundary_of_regions_compares_all_sigmoids_along_each():
    def statement(s, t, y):
        total = 0.0
        for n, c in np.ndindex(len(y), 2):
            each = (sigmoid(s["logits"][n]) - sigmoid(t["logits"][n])) ** 2 * (y[n] != IGNORE)
            each = each.sum(0) / np.maximum((y[n] != IGNORE).sum(0), 1)
            there = band(y[n, c] == 1) & (y[n, c] != IGNORE)
            total += each[there].mean() if there.any() else 0.0
        return 0.75 * total / len(y)

    agree("boundary-hard", BoundaryHard(), statement, classes=2, regions=True)


def squares(mask):
    """Squared distance to the nearest voxel on the other side, by looking at all."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return np.array(
        [
            [min(((np.argwhere(mask != mask[i, j]) - (i, j)) ** 2).sum(1)) for j in range(mask.shape[1])]
            for i in range(len(mask))
        ]
    )


@pytest.mark.parametrize("regions", [False, True])
def test_soft_boundary_weighs_differences_by_squared_distances(regions):
    """The distances are constants to the gradient: a step of central differences moves no voxel across 1/2."""

    def statement(s, t, y):
        total, count = 0.0, 0
        for n, c in np.ndindex(len(y), 2):
            keep = (y[n, c] if regions else y[n]) != IGNORE
            if regions:
                p, z = sigmoid(s["logits"][n, c]), sigmoid(t["logits"][n, c]) >= 0.5
            else:
                p, z = softmax(s["logits"][n])[c + 1], t["logits"][n].argmax(0) == c + 1
            weight = squares((p > 0.5) & keep) + squares(z & keep)
            total, count = total + ((p - z) ** 2 * weight)[keep].sum(), count + keep.sum()
        return 0.25 * np.log(1 + total / count)

    agree("boundary-soft", BoundarySoft(), statement, classes=2 if regions else 3, regions=regions)


@pytest.mark.parametrize("shape", [(9, 14), (5, 6, 7), (1, 8)])
def test_distances_on_a_device_are_those_on_the_host(shape):
    draw = np.random.default_rng(1)
    masks = torch.tensor(
        draw.random((6, *shape)) < np.array([0, 0.02, 0.3, 0.7, 0.98, 1]).reshape(-1, *[1] * len(shape))
    )
    both = torch.where(masks, to_nearest(~masks), to_nearest(masks))
    mixed = masks.flatten(1).any(1) & ~masks.flatten(1).all(1)
    assert torch.equal(both * mixed.view(-1, *[1] * len(shape)), squared_distances(masks))


def test_acfd_compares_corrected_features_and_the_attention_itself():
    torch.manual_seed(2)
    learned = losses.build("acfd", Acfd(taps=("b",)), student=STUDENT, teacher=TEACHER, classes=3).double()
    w = {key: x.detach().numpy() for key, x in learned.state_dict().items()}

    def hard(x):
        return np.clip((x + 3) / 6, 0, 1)

    def unit(x):
        q = (x**2).mean(0).ravel()
        return q / np.sqrt((q**2).sum())

    def attention(x):
        hidden = np.maximum(w["attention.0.squeeze.weight"] @ x.mean((1, 2)) + w["attention.0.squeeze.bias"], 0)
        by_channel = hard(w["attention.0.excite.weight"] @ hidden + w["attention.0.excite.bias"])
        padded = np.pad(x.mean(0), 3)
        kernel = w["attention.0.places.weight"][0, 0]
        by_place = [[(padded[i : i + 7, j : j + 7] * kernel).sum() for j in range(4)] for i in range(4)]
        return by_channel[:, None, None] * hard(np.array(by_place) + w["attention.0.places.bias"][0])

    def statement(s, t, y):
        total = 0.0
        for x, z in zip(s["b"], t["b"], strict=True):
            a = attention(x)
            mixed = np.einsum("oc,chw->ohw", w["mix.0.weight"][:, :, 0, 0], a) + w["mix.0.bias"][:, None, None]
            total += 2 * ((unit(x * a) - unit(z)) ** 2).mean() + 3 * ((unit(mixed) - unit(z)) ** 2).mean()
        return total / len(y)

    agree("acfd", Acfd(taps=("b",), alpha=2.0, beta=3.0), statement, classes=3, moved="b")


def divergences(x, z):
    """KL of the rows' softmax, the second first."""
    q, p = softmax(x, 1), softmax(z, 1)
    return (p * np.log(p / q)).sum(1)


def unit_rows(x):
    """(D, ...) to places by D, each of unit length."""
    rows = x.reshape(len(x), -1).T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("images", ["all", "first"])
def test_cirkd_pixel_compares_rows_of_cosines_over_all_pairs_of_images(images):
    def statement(s, t, y):
        count = len(y) if images == "all" else 1
        ours, theirs = ([unit_rows(x[n]) for n in range(count)] for x in (s["b"], t["b"]))
        pairs = list(np.ndindex(count, count))
        return np.mean([divergences(ours[n] @ ours[m].T / 0.5, theirs[n] @ theirs[m].T / 0.5) for n, m in pairs])

    agree("cirkd-pixel", CirkdPixel(taps=("b",), temperature=0.5, images=images), statement, classes=3, moved="b")


@pytest.mark.parametrize("name", ["cirkd-memory", "cirkd-region"])
def test_cirkd_memory_compares_places_with_what_is_remembered(name):
    """A sample that is the whole memory has no chance in it; the head is taken away."""
    student, teacher, target = scene(3)
    taps = {"b": Tap(5, 2)}
    student["b"] = np.random.default_rng(5).normal(size=teacher["b"].shape)
    config = CirkdMemory(tap="b", queue=40, contrast=200, temperature=0.5)
    loss = losses.build(name, config, student=taps, teacher=taps, classes=3).double()
    loss.head = torch.nn.Identity()
    ours, theirs, labels = tensors(student), tensors(teacher), torch.tensor(target)
    assert float(loss(ours, theirs, labels).total.detach()) == 0.0
    loss.absorb(loss.offer().unsqueeze(0))
    small = target[:, ::2, ::2]
    for c in range(3):
        remembered = loss.queue.vectors[c, : loss.queue.pushed[c]].numpy()
        own = [teacher["b"][n][:, small[n] == c] for n in range(3)]
        if name == "cirkd-region":
            assert remembered == pytest.approx(np.stack([unit_rows(x.mean(1))[0] for x in own]))
        else:
            assert len(remembered) == sum(min(16, x.shape[1]) for x in own)
            known = np.concatenate([unit_rows(x) for x in own])
            assert all(np.abs(known - row).max(1).min() < 1e-9 for row in remembered)
    bank = np.concatenate([loss.queue.vectors[c, : loss.queue.pushed[c]].numpy() for c in range(3)])
    term = loss(ours, theirs, labels)
    each = [
        divergences(unit_rows(s) @ bank.T / 0.5, unit_rows(t) @ bank.T / 0.5)
        for s, t in zip(student["b"], teacher["b"], strict=True)
    ]
    expected = np.concatenate(each)[(small != IGNORE).reshape(-1)].mean()
    assert float(term.total.detach() / term.count) == pytest.approx(expected)


def test_a_queue_keeps_the_newest_of_each_class():
    queue = Queue(2, 3, 1)
    for first in (0, 4):
        vectors = torch.arange(first, first + 4.0).view(1, 4, 1).expand(2, 4, 1).contiguous()
        queue.push(vectors, torch.tensor([[True, False, True, False], [True, True, True, True]]))
    kept = [set(queue.vectors[c, :3].flatten().tolist()) for c in range(2)]
    assert kept == [{2.0, 4.0, 6.0}, {5.0, 6.0, 7.0}]
    assert queue.pushed.tolist() == [4, 8]
    sampled, there = queue.sample(2)
    assert there.all()
    assert len(set(sampled[:2].flatten().tolist())) == 2

"""Terms that read the heads of deep supervision: main times the logits' loss plus each head's with its weight."""

import pytest
import torch
from pydantic import ValidationError

import losses
from losses.config import BceDice, CeDice, Dice, Kl, LossTerms, Ohem, Supervised, Weighted
from losses.term import IGNORE
from models.output import Output

KINDS = {"ce": Supervised, "ohem": Ohem, "dice": Dice, "ce-dice": CeDice, "bce-dice": BceDice}


def scene(images=4):
    draw = torch.Generator().manual_seed(0)
    logits, *heads = (torch.randn(images, 2, 16, 16, generator=draw).requires_grad_() for _ in range(4))
    target = torch.randint(0, 2, [images, 16, 16], generator=draw)
    target[:, :3] = IGNORE
    return Output(logits, {}, tuple(heads)), target


def build(name, *, main=1.0, weights=None, heads=3):
    """A loss for a student with so many heads."""
    config = KINDS[name](heads=weights, main=main)
    return losses.build(name, config, student={}, teacher=None, classes=2, heads=heads)


def value(term):
    return float(term.total.detach().double() / term.count)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("given", "weights"), [(0.4, (0.4, 0.4, 0.4)), ((1.0, 0.0, 0.5), (1.0, 0.0, 0.5))])
@pytest.mark.parametrize("main", [0.0, 1.0, 2.0])
def test_a_term_is_the_weighted_sum_of_the_plain_loss_over_logits_and_heads(name, given, weights, main):
    output, target = scene()
    plain = build(name)
    by_head = [value(plain(Output(head, {}), None, target)) for head in output.heads]
    expected = main * value(plain(output, None, target)) + sum(w * v for w, v in zip(weights, by_head, strict=True))
    term = build(name, main=main, weights=given)(output, None, target)
    assert value(term) == pytest.approx(expected, rel=1e-5)
    term.total.backward()
    assert (output.logits.grad is None) == (main == 0)
    assert [head.grad is None for head in output.heads] == [weight == 0 for weight in weights]


def test_what_is_not_named_for_it_reads_the_logits_alone():
    output, target = scene()
    build("ce")(output, None, target).total.backward()
    assert output.logits.grad is not None
    assert all(head.grad is None for head in output.heads)
    kl = losses.build("kl", Kl(), student={}, teacher={}, classes=2, heads=3)
    kl(output, Output(torch.zeros(4, 2, 16, 16), {}), target).total.backward()
    assert all(head.grad is None for head in output.heads)


def test_two_ranks_together_see_what_one_sees():
    output, target = scene()
    loss = build("dice", weights=0.5)
    whole = loss(output, None, target)
    parts = [
        loss(Output(output.logits[r], {}, tuple(head[r] for head in output.heads)), None, target[r])
        for r in (slice(1), slice(1, None))
    ]
    torch.testing.assert_close(sum(p.total for p in parts), whole.total)
    assert sum(p.count for p in parts) == whole.count


@pytest.mark.parametrize(
    ("weights", "heads", "message"),
    [
        (0.5, 0, r"^losses\.ce\.heads = 0\.5: the student has no heads of deep supervision; .*drop heads$"),
        ((1.0, 0.5), 3, r"^losses\.ce\.heads = \[1\.0, 0\.5\]: 2 weights for 3 heads; give as many, or one number"),
    ],
)
def test_heads_that_the_student_has_not_are_refused(weights, heads, message):
    with pytest.raises(ValueError, match=message):
        build("ce", weights=weights, heads=heads)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"main": 0.5}, "main = 0.5: is for terms with heads; set weight, or name heads"),
        ({"heads": 0.0, "main": 0.0}, "heads: all weights are 0, and main is too; give one above 0"),
        ({"heads": [0.5, -1.0]}, "greater than or equal to 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        LossTerms.model_validate({"ce": given})


def test_terms_without_heads_are_written_as_they_always_were():
    """Identities of studies are taken from these keys."""
    terms = LossTerms.model_validate({"ce": {}, "ohem": {}, "dice": {"heads": 0.5, "main": 0.0}})
    written = terms.model_dump(mode="json", exclude_none=True)
    assert written["ce"] == Weighted().model_dump(mode="json") == {"weight": 1.0}
    assert set(written["ohem"]) == {"weight", "threshold", "min_share"}
    assert written["dice"] == {"weight": 1.0, "heads": 0.5, "main": 0.0}

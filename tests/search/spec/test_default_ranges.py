"""`"losses.cwd" = "default"` in [space]."""

import pytest

from search.spec.load import identity
from trainer.errors import UserError

METHODS = 'method = { choices = ["none", "kl", "cwd"] }\n'


def test_a_loss_by_name_is_the_study_that_writes_its_ranges_out(study):
    short = study(f'{METHODS}"losses.cwd" = "default"')
    long = study(
        f'{METHODS}"losses.cwd.weight" = {{ low = 0.5, high = 100.0, log = true, when = {{ method = "cwd" }} }}\n'
        '"losses.cwd.temperature" = { low = 1.0, high = 8.0, log = true, when = { method = "cwd" } }'
    )
    assert short.space == long.space
    assert len({identity(spec, data_hash=None, teacher_hash=None) for spec in (short, long)}) == 1


def test_a_line_of_the_file_goes_before_the_table_s(study):
    spec = study(
        f'{METHODS}"losses.cwd" = "default"\n"losses.cwd.weight" = {{ choices = [3.0], when = {{ method = "cwd" }} }}'
    )
    assert {p.name: p.probes() for p in spec.space if p.path == "losses.cwd.weight"} == {"losses.cwd.weight": (3.0,)}
    assert any(p.path == "losses.cwd.temperature" for p in spec.space)


def test_without_a_choice_of_methods_the_term_is_always_live(study):
    spec = study('"losses.kl" = "default"')
    assert [(p.path, p.when) for p in spec.space] == [("losses.kl.weight", ()), ("losses.kl.temperature", ())]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"losses.cwd" = "defualt"', ["space.losses.cwd = 'defualt'", 'write "default"']),
        ('"losses.cdw" = "default"', ["space.losses.cdw", "no term with ranges", "nearest: cwd"]),
        ('"losses.ce" = "default"', ["space.losses.ce", "no term with ranges"]),
        ('"losses.dkd" = "default"', ["[run] has no losses.dkd"]),
        ('"optim.lr" = "default"', ["space.optim.lr = 'default'", "write a table"]),
        (f'{METHODS}"losses.at" = "default"', ["method is never 'at'"]),
    ],
)
def test_what_has_no_ranges_is_refused_in_one_line(study, the_line, line, words):
    with pytest.raises(UserError) as error:
        study(line)
    the_line(error, *words)

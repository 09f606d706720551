"""What `validate` says of methods that teach nothing with two classes."""

import pytest

from search.commands.preflight import _notes
from search.spec.load import load


@pytest.mark.parametrize("method", ["dist", "nkd", "dkd", "kl"])
def test_a_method_says_what_of_it_teaches_nothing_with_two_classes(method, tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(
        f'[objective]\nmaximize = "dice"\n[budget]\ntrials = 2\n[run]\nmethod = "{method}"\nepochs = 1\n'
        f'[run.data]\nname = "blobs"\n[run.student]\nname = "unet"\n[run.teacher]\nname = "unet"\ncheckpoint = "t.pt"\n'
        f'[run.losses]\nce = {{}}\n{method} = {{}}\n[space]\n"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}\n'
    )
    notes = [note for note in _notes(load(path)) if note.startswith("losses.")]
    assert [note.partition(":")[0] for note in notes] == ([] if method == "kl" else [f"losses.{method}"])
    assert all("with two classes" in note for note in notes)

"""Exit codes of ranks that are started again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.distributed import supervisor


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], Path]:
    """Be rank `rank` in the `start`-th start of the ranks."""

    def at(start: int, rank: int) -> Path:
        monkeypatch.setenv("KD_OUTCOMES", str(tmp_path))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(start))
        monkeypatch.setenv("RANK", str(rank))
        return tmp_path

    return at


def test_a_code_of_an_earlier_start_ends_no_later_one(outcomes: Callable[[int, int], Path]) -> None:
    folder = outcomes(0, 0)
    assert supervisor.record_exit_code(2) == 0
    outcomes(0, 1)
    assert supervisor.exit_code_after_loss() == 0  # its sibling knows better
    outcomes(1, 1)
    assert supervisor.exit_code_after_loss() == 1
    outcomes(10, 0)
    assert supervisor.record_exit_code(0) == 0
    assert (supervisor._codes(folder, None), supervisor._codes(folder, 0), supervisor._codes(folder, 5)) == (
        [0],
        [2],
        [],
    )


@pytest.mark.parametrize("code", [0, 2])
def test_a_code_that_cannot_be_kept_is_the_rank_s_own(
    outcomes: Callable[[int, int], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    """A finished search stays one where the folder of outcomes takes no file."""
    monkeypatch.setenv("KD_OUTCOMES", str(outcomes(0, 0) / "gone"))
    assert supervisor.record_exit_code(code) == code
    supervisor.say_once("the last words")
    assert "the last words" in capfd.readouterr().err


def test_a_machine_without_a_driver_or_a_card_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.sys, "platform", "linux")
    bus, devices = tmp_path / "bus", tmp_path / "dev"
    (bus / "0000:00:02.0").mkdir(parents=True)
    devices.mkdir()
    (bus / "0000:00:02.0" / "vendor").write_text("0x8086\n")
    assert not supervisor.may_have_gpu(devices, bus)
    assert not supervisor.may_have_gpu(devices, tmp_path / "none")
    (devices / "nvidiactl").touch()
    assert supervisor.may_have_gpu(devices, bus)
    (devices / "nvidiactl").unlink()
    (bus / "0000:00:02.0" / "vendor").write_text("0x10de\n")  # its driver is loaded when it is first wanted
    assert supervisor.may_have_gpu(devices, bus)
    monkeypatch.setattr(supervisor.sys, "platform", "darwin")
    assert supervisor.may_have_gpu(devices, tmp_path / "none")

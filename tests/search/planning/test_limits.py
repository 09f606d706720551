"""Times are measured in a process of their own, kept in a table, and looked up before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from pydantic import TypeAdapter

import search.__main__ as search_main
import trainer.__main__ as trainer_main
from models.config import NetworkConfig
from search.planning.limits import breach, networks, refuse_hopeless, verdict
from search.planning.network_costs import costs
from search.report import time_figure
from search.spec.load import load
from trainer.cli.entry import guard
from trainer.errors import UserError
from trainer.profiling import command, latency_table
from trainer.profiling.command import Peak
from trainer.profiling.latency_table import COLUMNS, Row, extend, looked_up, read

ROW = Row(
    network="unet",
    options="width=4",
    size=32,
    batch=1,
    device="cpu",
    runtime="onnxruntime",
    threads=1,
    median_ms=2.0,
    p95_ms=2.5,
    images_per_second=480.0,
    peak_mb=12.5,
    passes=900,
    processor="A processor, of commas",
    flags="avx2",
    cores=2,
    versions="onnxruntime 1",
    measured="2026-01-01",
)

STUDY = """
[objective]
maximize = "dice"
[limits]
latency_ms = {{ max = 5.0, table = "{table}" }}
[run]
epochs = 2
batch_size = 4
data = {{ name = "blobs", size = 32, train = 8, validation = 4, augment = "none" }}
student = {{ name = "unet", width = 16 }}
losses = {{ ce = {{}} }}
[space]
"student.width" = {{ low = 4, high = {high}, step = 4 }}
"optim.lr" = {{ low = 1e-4, high = 1e-1, log = true }}
[budget]
trials = 2
[[arms]]
name = "large"
set = {{ "student.name" = "resunet", "student.width" = 4 }}
"""


def written(folder: Path, high: int = 12) -> Path:
    path = folder / "timed.toml"
    path.write_text(STUDY.format(table=folder / "latency.csv", high=high))
    return path


def table(folder: Path, *times: float) -> None:
    rows = [replace(ROW, options=f"width={4 * n}", median_ms=time) for n, time in enumerate(times, 1)]
    extend(folder / "latency.csv", [*rows, replace(ROW, network="resunet")])


class TestTable:
    def test_what_is_written_is_read_again(self, tmp_path: Path) -> None:
        rows = [ROW, replace(ROW, size=64, median_ms=0.125)]
        extend(tmp_path / "deep" / "t.csv", rows)
        assert read(tmp_path / "deep" / "t.csv") == rows

    def test_the_same_place_is_replaced_and_others_stay(self, tmp_path: Path) -> None:
        other = replace(ROW, threads=4)
        extend(tmp_path / "t.csv", [ROW, other])
        again = replace(ROW, median_ms=9.0, versions="onnxruntime 2", measured="2026-02-02")
        extend(tmp_path / "t.csv", [again])
        assert read(tmp_path / "t.csv") == [again, other]

    def test_a_network_is_looked_up_by_name_options_and_size_at_one_picture(self) -> None:
        rows = [ROW, replace(ROW, batch=8, median_ms=99.0), replace(ROW, size=64, median_ms=7.0)]
        assert looked_up(rows, ("unet", "width=4", 32), "t.csv") == 2.0
        assert looked_up(rows, ("unet", "width=4", 64), "t.csv") == 7.0

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([replace(ROW, size=64)], "t.csv: has no time of unet width=4 at size 32; known: unet width=4 at size 64"),
            ([replace(ROW, batch=2)], "search profile STUDY -o TABLE"),
            ([ROW, replace(ROW, threads=4)], "has unet width=4 at size 32 with threads 1 and 4"),
            ([ROW, replace(ROW, processor="B")], "with processor A processor, of commas and B; give each target"),
        ],
    )
    def test_a_network_that_is_not_there_once_is_an_error(self, rows: list[Row], said: str) -> None:
        with pytest.raises(UserError) as caught:
            looked_up(rows, ROW.what, "t.csv")
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("median_ms", "median", "line 1: unknown column 'median'"),
            ("p95_ms,", "", "line 1: column p95_ms: missing"),
            (",2.0,", ",fast,", "line 2: median_ms = 'fast': expected a number"),
            (",2.0,", ",nan,", "line 2: median_ms = nan: expected a time above 0"),
            (",2.0,", ",", "line 2: expected 17 cells"),
        ],
    )
    def test_a_damaged_table_is_one_line_with_its_place(self, tmp_path: Path, old: str, new: str, said: str) -> None:
        path = tmp_path / "t.csv"
        extend(path, [ROW])
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}, {said}")

    def test_the_columns_are_those_of_the_page(self) -> None:
        assert COLUMNS[:3] == ("network", "options", "size")
        config: NetworkConfig = TypeAdapter(NetworkConfig).validate_python(
            {"name": "smp-unet", "encoder": "resnet18", "weights": "imagenet", "checkpoint": "x"}
        )
        assert latency_table.options_of(config) == "encoder=resnet18"


class TestLimit:
    def test_what_is_too_slow_is_refused_and_the_rest_is_not(self, tmp_path: Path) -> None:
        table(tmp_path, 1.0, 3.0, 6.5)
        spec = load(written(tmp_path))
        found = {cost.run.student.model_dump()["width"]: verdict(spec.limits, cost) for cost in costs(spec)}
        assert (found[4], found[12]) == (None, "6.5 ms of at most 5 ms")
        wide = spec.main.resolve({"student.width": 12, "optim.lr": 1e-3})
        assert breach(spec.limits)(wide) == "6.5 ms of at most 5 ms"
        assert breach(spec.limits)(spec.main.resolve({"student.width": 8, "optim.lr": 1e-3})) is None

    def test_every_network_of_every_arm_is_to_be_measured(self, tmp_path: Path) -> None:
        """The width between both ends as well, which no probe shows."""
        spec = load(written(tmp_path))
        found = [(run.student.name, run.student.model_dump()["width"]) for run in networks(spec)]
        assert found == [("unet", 4), ("unet", 8), ("unet", 12), ("resunet", 4)]
        extend(tmp_path / "latency.csv", [ROW, replace(ROW, options="width=12"), replace(ROW, network="resunet")])
        with pytest.raises(UserError, match=r"limits.latency_ms.table = .*: has no time of unet width=8 at size 32"):
            refuse_hopeless(spec, costs(spec))

    def test_a_missing_table_is_one_line_of_validate(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert guard(lambda: search_main.main(["validate", str(written(tmp_path)), "--no-data"])) == 2
        error = capsys.readouterr().err
        assert "latency.csv: cannot be read" in error
        assert "python -m search profile" in error
        assert len(error.splitlines()) == 1

    def test_validate_says_the_bound(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table(tmp_path, 1.0, 2.0)
        assert guard(lambda: search_main.main(["validate", str(written(tmp_path, high=8)), "--no-data"])) == 0
        assert f"latency_ms 5 by {tmp_path / 'latency.csv'}" in capsys.readouterr().out

    def test_a_range_without_gaps_is_refused(self, tmp_path: Path) -> None:
        text = written(tmp_path).read_text().replace("low = 4, high = 12, step = 4", "low = 4, high = 400")
        (tmp_path / "timed.toml").write_text(text)
        with pytest.raises(UserError, match="more than 256 networks to measure"):
            networks(load(tmp_path / "timed.toml"))


class TestPlot:
    """What `profile --plot` draws."""

    def test_each_network_has_a_line_of_its_students_and_the_bound_is_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[Figure] = []
        monkeypatch.setattr(time_figure, "png", lambda figure: drawn.append(figure) or b"")
        students = [
            time_figure.TimedStudent("unet", f"width={width}", width**2 / 500, float(width), 1.5 * width)
            for width in (16, 4, 8)
        ]
        other = time_figure.TimedStudent("$resunet$", "width=4", 0.03, 5.0, 5.0)
        time_figure.time_figure([*students, other], "ms for a picture", bound=12.0)
        (axes,) = drawn[0].axes
        assert axes.get_ylabel() == "ms for a picture"
        lines = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axes.containers}
        assert lines["unet"] == [[16 / 500, 4.0], [64 / 500, 8.0], [256 / 500, 16.0]]
        assert lines["$resunet$"] == [[0.03, 5.0]]
        assert {"width=4", "width=8", "width=16", "at most 12 ms"} <= {text.get_text() for text in axes.texts}
        low, high = axes.get_ylim()
        assert low < 4.0
        assert high > 24.0

    def test_one_student_alone_is_drawn(self) -> None:
        one = time_figure.TimedStudent("unet", "width=4", 0.1, 2.0, 2.0)
        assert time_figure.time_figure([one], "ms").startswith(b"\x89PNG")


class TestMeasuring:
    def test_a_run_is_measured_and_found_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study, out = str(written(tmp_path, high=4)), str(tmp_path / "latency.csv")
        words = ["profile", study, "--seconds", "0.05", "--threads", "1", "-o", out]
        assert guard(lambda: trainer_main.main(words)) == 0
        (row,) = read(tmp_path / "latency.csv")
        assert (row.network, row.options, row.size, row.runtime) == ("unet", "width=16", 32, "torch")
        assert 0 < row.median_ms <= row.p95_ms
        assert row.passes >= 30
        # Throughput counts every pass; no mean lies further from the median than 29 of 30 passes allow.
        assert 0 < row.images_per_second <= 2 * 1000 / row.median_ms
        assert row.peak_mb > 5  # the weights alone are 8.6 MB
        said = capsys.readouterr().out
        assert f"median {row.median_ms:.3g} ms" in said
        assert "1 threads of" in said

    @pytest.mark.slow
    def test_a_study_is_measured_whole_before_its_search(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        study, plot = str(written(tmp_path, high=4)), tmp_path / "plots" / "times.png"
        words = ["profile", study, "--seconds", "0.05", "--threads", "1", "--plot", str(plot)]
        assert guard(lambda: search_main.main(words)) == 0
        assert "2/2  resunet width=4 at 32 x 32" in capsys.readouterr().out
        with Image.open(plot) as picture:
            assert picture.size == (1200, 675)
        rows = read(tmp_path / "latency.csv")
        assert [row.options for row in rows] == ["width=4", "width=4"]
        assert {row.runtime for row in rows} == {"onnxruntime"}
        assert guard(lambda: search_main.main(["validate", study, "--no-data"])) == 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--seconds", "0"), "--seconds: '0': expected a number above 0"),
            (("--batch", "-1"), "--batch: '-1': expected a whole number of 1 or more"),
            (("--size", "33"), "--size 33: unet takes multiples of 16"),
        ],
    )
    def test_a_mistake_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
    ) -> None:
        study = str(written(tmp_path))
        runtime = ("--runtime", "onnxruntime")  # refused here, before a process is begun
        assert guard(lambda: trainer_main.main(["profile", study, *runtime, *words])) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1

    def test_peak_counts_what_was_taken_since_and_given_back(self) -> None:
        peak = Peak()
        taken = bytearray(64_000_000)
        taken[::4096] = b"x" * len(taken[::4096])
        del taken
        assert 55 < peak.megabytes() < 200

    def test_the_machine_is_named(self) -> None:
        assert command.processor()
        assert set(command.flags()) <= set(command.TELLING)
        assert command.cores() >= 1

"""`python -m search init`: a commented study file for a folder of pictures with masks, and the split that it needs.

The file is complete, and beside each value stands its reason.
"""

import argparse
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from search.answer.power import describe_confirmation
from search.spec.load import load
from trainer.atomic_files import write_output
from trainer.commands.data import DrawnSplit, add_mask_arguments, check_rows, draw_split, record_of
from trainer.data import DataError
from trainer.data.dataset import Part
from trainer.data.file_check import CheckedPair
from trainer.data.splits.folders import Pattern, find_pairs, find_sets, pattern_from
from trainer.data.splits.mask_codings import Codings, codings_of, mask_lines, refuse_empty_parts
from trainer.data.splits.split import IMAGE_FORMS, PARTS, Row, read_split
from trainer.errors import UserError, counted
from trainer.repository import escaped

if TYPE_CHECKING:
    from trainer.teacher.inspection import Inspection

CHANNELS, CLASSES = 3, 2
"""How many channels pictures have, and how many classes masks."""


@dataclass(frozen=True)
class Draft:
    """What is known of a study before a person has thought about it."""

    name: str
    root: str
    """The data root, absolute."""
    split: str
    teacher: str
    counts: Mapping[Part, int]
    """Images by part."""
    size: int
    batch_size: int
    epochs: int
    trials: int
    command: str
    """How commands call the study: its name, or its file."""
    labels: str | None
    """What a person said of the masks' values."""
    brought: "Inspection | None" = None
    """The teacher that a person brings; None: one is trained."""
    widths: tuple[int, int, int] = (8, 16, 24)
    millions: tuple[float, float, float] = (0.5, 2.2, 4.9)
    """The students' parameters."""
    limit: float = 5.0
    """Millions of parameters."""

    @property
    def first(self) -> int:
        """The first epoch that is scored."""
        return max(1, self.epochs // 20)

    def next_commands(self) -> tuple[str, ...]:
        """What is typed after the file was read and edited, in order."""
        file = f"studies/{self.name}.toml" if self.command == self.name else self.command
        return (
            *(() if self.brought else (f"python -m trainer teach {file}",)),
            f"python -m search validate {self.command}",
            f"python -m search work {self.command}",
            f"python -m search status {shlex.quote(self.name)}",
        )


def drafted(draft: Draft) -> str:
    """The file, TOML."""
    *teach, validate, worker, _ = draft.next_commands()
    small, middle, large = draft.millions
    parts = " / ".join(f"{part} {count}" for part, count in draft.counts.items())
    return _TEMPLATE.format(
        parts=parts,
        root=_quoted(escaped(draft.root)),
        split=_quoted(escaped(draft.split)),
        teacher=_quoted(escaped(draft.teacher)),
        labels="" if draft.labels is None else _LABELS.format(labels=_quoted(draft.labels)),
        size=draft.size,
        batch_size=draft.batch_size,
        epochs=draft.epochs,
        first=draft.first,
        warmup=draft.epochs // 10,
        trials=draft.trials,
        max_failed=max(2, draft.trials // 5),
        origin=f"trained once, before the search:  {teach[0]}" if teach else "a teacher that was brought",
        network=draft.brought.table() if draft.brought else _TRAINED,
        limit=draft.limit,
        middle=draft.widths[1],
        widths=list(draft.widths),
        millions=f"{small:.2g}, {middle:.2g} and {large:.2g}",
        validate=validate,
        worker=worker,
    )


def _quoted(text: str) -> str:
    """A basic string of TOML, which takes JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


_LABELS = "labels  = {labels}   # what the values of all masks mean; background, object and ignored\n"

_TRAINED = """\
name       = "unet"          # a large network of the students' kind
width      = 48              # about 20 M parameters"""

_TEMPLATE = """\
# Which small network, and which way of distilling a large one into it, segments these pictures best?
# Beside each value stands what it is for. All keys with their meaning: docs/study-file.md.
# After every change:  {validate}

[objective]
maximize = "dice"            # Dice per validation image, mean over images, at the trial's best epoch

[front]
along = "student.width"      # trials are spread evenly over its choices, and judged within them

[limits]                     # a student beyond them is refused before it costs any time
params_m = {limit:<5}             # millions of parameters: a quarter of the teacher's

# ---- one complete training run; [space] below replaces single values of it

[run]
method     = "kl"            # how the student learns from the teacher: a term of [run.losses], or "none"
epochs     = {epochs:<4}            # as many as give a student about 3000 steps on these pictures, 60 to 200
batch_size = {batch_size:<4}            # over all processes of a trial; at least three batches an epoch
precision  = "fp32"          # "bf16" is faster on a GPU
validate   = {{ from = {first}, every = 1 }}   # epochs that are scored: not the first twentieth, which says little

[run.data]                   # {parts}
name    = "polyp"            # pictures with masks of two classes, listed in a split file
root    = {root}   # paths in the split file start here; may begin with a $VARIABLE, and $$ is a dollar
split   = {split}   # which picture trains, validates and tests; from the folder where commands are typed
{labels}size    = {size:<4}               # pictures are brought to size x size; multiples of 32 suit every network
augment = "standard"         # none | flips | standard | strong

[run.teacher]                # {origin}
{network}
checkpoint = {teacher}   # its file, where every worker finds it
min_dice   = 0.5             # validation Dice below which the search is refused; raise it once you know yours

[run.student]
name  = "unet"               # unet | resunet
width = {middle:<4}                 # channels of the first stage; varied below

[run.losses]                 # terms are added with their weights
ce   = {{ weight = 1.0 }}      # against the masks, a pixel at a time
dice = {{ weight = 1.0 }}      # against the masks, as overlap: small objects count
kl   = {{ weight = 1.0, temperature = 4.0 }}   # against the teacher; both are varied below

[run.optim]
name         = "adamw"       # adam with weight decay apart from the gradient: forgiving about lr
lr           = 1e-3          # varied below
weight_decay = 1e-4          # against fitting few pictures too closely; seldom worth a search

# ---- what the search varies

[space]
"student.width"         = {{ choices = {widths} }}   # {millions} M parameters
"losses.kl.weight"      = {{ low = 0.1, high = 20.0, log = true }}   # from a hint to almost the teacher alone
"losses.kl.temperature" = {{ low = 1.0, high = 10.0, log = true }}   # 1: the teacher's own probabilities; 10: very soft
"optim.lr"              = {{ low = 1e-4, high = 1e-2, log = true }}   # ten times below and above the usual

[pruner]                     # hopeless trials end early
name          = "median"     # median | halving | hyperband | none
startup       = 5            # trials of the same width that must be complete before any is pruned
warmup_epochs = {warmup:<4}         # nothing is pruned in the first tenth, when ranks still change

[budget]
trials     = {trials:<4}            # that complete or are pruned, in each arm; failed ones do not count
max_failed = {max_failed:<4}            # so many failures end the search: something is wrong then
# wall     = "12h"           # or this much time, whichever comes first

[[arms]]                     # the control: the same search without a teacher, so that the gain can be told
name = "no-kd"               # what the control is called in tables and in the dashboard
set  = {{ method = "none" }}   # what differs from [run]; parameters that have no effect then are dropped

[confirm]                    # after the search: what `python -m search confirm` trains again, and tests once
seeds = [11, 12, 13, 14, 15] # fresh ones, the same for all that is compared; two at least
top   = 3                    # winners that are confirmed, beside the controls

# The worker may be started and stopped at any time, on any number of machines:
#   {worker}
"""

STRIDE = 32
"""Every network takes sizes that are multiples of it."""
LARGEST = 352
"""The side that is chosen for large pictures; more is seldom worth its price."""
FEW = 100
"""Images below which more of them validate and test: a score over a handful says little."""
COARSE = 20
"""Validation images below which a warning is printed."""
STEPS = 3000
"""Optimizer steps that a student gets at least, within the bounds of EPOCHS."""
EPOCHS = (60, 200)
TRIALS = 40
GPU = Path("/dev/nvidia0")
SHORT = "--size 128 --epochs 20 --trials 9"
"""Flags that make a first try short."""


@dataclass(frozen=True)
class Places:
    """The files that a new study consists of; teacher and split are named after the study."""

    study: Path
    name: str
    split: Path
    teacher: Path
    written: tuple[Path, ...]
    """What the command makes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "root", type=Path, metavar="DATA_ROOT", help="images and masks in folders, or data sets of such"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("-o", "--output", type=Path, metavar="FILE", help="the study file (default: studies/NAME.toml)")
    target.add_argument("--name", help="the study's name (default: that of the folder)")
    parser.add_argument(
        "--size",
        type=int,
        help=f"side of the network's input; multiples of {STRIDE} suit all networks (default: fits)",
    )
    parser.add_argument(
        "--epochs", type=int, help="of a run; first scored and first pruned epoch follow from it (default: fits)"
    )
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each arm (default: %(default)s)")
    parser.add_argument("--split", type=Path, metavar="FILE", help="a split file that exists (default: one is written)")
    parser.add_argument(
        "--groups", type=Path, metavar="FILE", help=f"CSV image,group: the patient; image is {IMAGE_FORMS}"
    )
    add_mask_arguments(parser)
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="a teacher that you bring: weights (.safetensors, .pt, .ckpt), ONNX or a .pt2 (default: one is trained)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the split's draw (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Look at the folder, write split and study, and say what comes next. Raises UserError, DataError."""
    if args.size is not None and (args.size < STRIDE or args.size % STRIDE):
        near = max(STRIDE, round(args.size / STRIDE) * STRIDE)
        raise UserError(f"--size = {args.size}: multiples of {STRIDE} suit every network; try {near}")
    for name in ("epochs", "trials"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} = {value}: at least 1")
    if args.groups is not None and args.split is not None:
        raise UserError(f"--groups {args.groups}: has no effect on --split {args.split}, which is drawn already")
    root = Path(args.root).expanduser().absolute()
    places = _places(args, root)
    taken = _given(args, root) if args.split is not None else _drawn(args, root)
    draft = _draft(args, root, places, taken)
    _write(draft, places, taken.drawn)
    if taken.drawn is not None:
        taken.drawn.report(places.split, root)
    for line in taken.lines:
        print(line)
    _say(draft, places, taken.checked, sized=bool(args.size or args.epochs or args.trials != TRIALS))
    return 0


@dataclass(frozen=True)
class Taken:
    """The pictures that a study is made for, all of them read."""

    rows: Sequence[Row]
    checked: Sequence[CheckedPair]
    drawn: DrawnSplit | None
    """The split that is to be written; None where one was given."""
    lines: Sequence[str] = ()
    """What is worth saying of a given split's masks."""


def _given(args: argparse.Namespace, root: Path) -> Taken:
    """The rows of a split file that exists."""
    if args.masks_pattern is not None:
        raise UserError(f"--masks-pattern {args.masks_pattern}: has no effect on --split {args.split}; leave one out")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    rows = _read(args.split, root)
    checked = check_rows(rows, root)
    values = [entry.values for entry in checked]
    codings: Codings = codings_of(rows, values, args.labels)
    refuse_empty_parts(rows, values, codings, str(args.split), remedy="draw a split anew with another --seed")
    return Taken(rows, checked, None, mask_lines(rows, values, codings))


def _read(split: Path, root: Path) -> Sequence[Row]:
    """The rows of a split file. Raises DataError, which names the folder above where the file's paths start there."""
    try:
        return read_split(split, root)
    except DataError as error:
        try:
            read_split(split, root.parent)
        except DataError:
            raise error from None
        raise DataError(f"{error}; paths in it start at {root.parent}: give that folder in place of {root}") from None


def _drawn(args: argparse.Namespace, root: Path) -> Taken:
    """The rows of a split that is drawn here."""
    pattern = None if args.masks_pattern is None else pattern_from(args.masks_pattern)
    folders = _sets(root)
    shares = (0.8, 0.1, 0.1) if _pictures(folders, pattern) >= FEW else (0.6, 0.2, 0.2)
    fractions = dict(zip(PARTS, shares, strict=True))
    drawn = draw_split(
        folders, root, groups=args.groups, seed=args.seed, fractions=fractions, labels=args.labels, pattern=pattern
    )
    return Taken(drawn.rows, drawn.checked, drawn)


def _write(draft: Draft, places: Places, drawn: DrawnSplit | None) -> None:
    """Write split and study, or nothing. Raises UserError, DataError."""
    text = drafted(draft)
    with TemporaryDirectory() as folder:
        tried = Path(folder, places.study.name)
        tried.write_text(text)
        load(tried)
    write_output(places.study, text)
    try:
        if drawn is not None:
            drawn.write(places.split)
    except BaseException:
        for path in (places.study, places.split, record_of(places.split)):
            with suppress(OSError):  # half of them can be neither used nor written again
                path.unlink()
        raise


def _places(args: argparse.Namespace, root: Path) -> Places:
    """Where everything goes; nothing that is there is ever overwritten. Raises UserError."""
    if args.output is not None and args.output.suffix != ".toml":
        raise UserError(f"--output {args.output}: a study file's name ends in .toml")
    given = args.output.stem if args.output else args.name
    name = given or re.sub(r"[^a-z0-9._-]+", "-", root.name.lower()).strip("-.") or "study"
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name):
        raise UserError(f"--name {name!r}: a study's name is 1 to 128 letters, digits, '.', '_' and '-'")
    study = args.output or Path("studies", f"{name}.toml")
    split = args.split or Path("splits", f"{name}.csv")
    if not f"{study}{split}".isprintable():
        raise UserError(f"--output {str(study)!r}: has characters that cannot be printed; choose another name")
    if study.exists():
        anew = f"{study} and {split}" if args.split is None and split.exists() else str(study)
        raise UserError(
            f"{study}: exists, and is never overwritten; give another --name or -o FILE, or delete {anew} to begin anew"
        )
    if args.split is None and split.exists():
        raise UserError(
            f"{split}: exists, and is never overwritten; use it with --split {split}, give another --name, or delete "
            f"{study} and {split} to begin anew"
        )
    written = (study, split) if args.split is None else (study,)
    return Places(study, name, split, args.teacher or Path("teachers", f"{name}.safetensors"), written)


def _sets(root: Path) -> list[Path]:
    """The data sets in the folder. Raises DataError, which asks for the folder above where that is meant."""
    try:
        return find_sets(root)
    except DataError as error:
        try:
            above = find_sets(root.parent)
        except DataError:
            raise error from None
        raise DataError(f"{error}; did you mean {root.parent}?" if above == [root.parent] else str(error)) from None


def _pictures(folders: Sequence[Path], pattern: Pattern | None) -> int:
    return sum(len(find_pairs(folder, pattern)) for folder in folders)


def _draft(args: argparse.Namespace, root: Path, places: Places, taken: Taken) -> Draft:
    """The settings that follow from the pictures. Raises DataError where nothing can be learned from them."""
    counts = {part: sum(row.part == part for row in taken.rows) for part in PARTS}
    for part in ("train", "validation"):
        if not counts[part]:
            raise DataError(f"{places.split}: no image in {part}; a search needs both train and validation")
    longer = median(max(entry.height, entry.width) for entry in taken.checked)
    size = args.size or min(LARGEST, max(2 * STRIDE, int(longer // STRIDE) * STRIDE))
    batch = 1
    while batch < 16 and 2 * batch <= counts["train"] / 3:
        batch *= 2
    steps = counts["train"] // batch
    epochs = args.epochs or min(max(-(-STEPS // steps // 10) * 10, EPOCHS[0]), EPOCHS[1])
    brought = _brought(args, root, taken, size)
    return Draft(
        name=places.name,
        root=str(root),
        split=str(places.split),
        teacher=str(places.teacher),
        counts=counts,
        size=size,
        batch_size=batch,
        epochs=epochs,
        trials=args.trials,
        command=_named(places),
        labels=args.labels,
        brought=brought,
        **_students(brought),
    )


def _brought(args: argparse.Namespace, root: Path, taken: Taken, size: int) -> "Inspection | None":
    """What the file of a teacher is. Raises CheckpointError."""
    if args.teacher is None:
        return None
    from trainer.teacher.inspection import inspect  # with torch, which nothing else here needs

    pictures = [root / row.image for row in taken.rows if row.part == "validation"]
    return inspect(args.teacher, channels=CHANNELS, classes=CLASSES, pictures=pictures, size=size)


def _students(brought: "Inspection | None") -> dict[str, Any]:
    """Widths of students that are small beside their teacher, with parameters and limit; none: the usual."""
    if brought is None or brought.parameters is None:
        return {}
    from trainer.teacher.inspection import students_below

    students = students_below(brought.parameters, channels=CHANNELS, classes=CLASSES)
    return {"widths": students.widths, "millions": students.millions, "limit": students.limit}


def _named(places: Places) -> str:
    """How commands call the study: by its name where they find it by that."""
    usual = places.study == Path("studies", f"{places.name}.toml")
    return places.name if usual else shlex.quote(str(places.study))


def _say(draft: Draft, places: Places, checked: Sequence[CheckedPair], *, sized: bool) -> None:
    """Print what was written and what comes next. sized: whether what a try costs was given, so that no advice on it is
    needed."""
    sides = sorted(max(entry.height, entry.width) for entry in checked)
    spread = f"{sides[0]} to {sides[-1]}" if sides[0] < sides[-1] else str(sides[0])
    print(
        f"{places.study}  pictures of {spread} pixels on the longer side, brought to {draft.size} x {draft.size}; "
        f"batches of {draft.batch_size}, {counted(draft.epochs, 'epoch')}"
    )
    if draft.brought is not None:
        count = draft.brought.parameters
        print(f"{places.teacher}  {draft.brought.title}" + (f", {count / 1e6:.3g} M parameters" if count else ""))
        for remark in draft.brought.remarks:
            print(f"  {remark}")
    few = {part: draft.counts[part] for part in ("validation", "test") if draft.counts[part] < COARSE}
    if few:
        counts = " and ".join(f"{count} {part}" for part, count in few.items())
        print(
            f"warning: {counts} images: scores over so few are coarse, and small differences between students are "
            "chance; for an answer more pictures are needed"
        )
    if not GPU.exists() and not sized:
        anew = " and ".join(str(path) for path in places.written)
        print(f"no GPU is seen here: for a first try that is short on a CPU, delete {anew} and repeat with {SHORT}")
    print(f"after the search: {describe_confirmation(load(places.study))}")
    print("next:")
    for command in draft.next_commands():
        print(f"  {command}")

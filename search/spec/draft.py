"""The text of a new study file: complete, and beside each value stands its reason."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.commands.data_lines import toml_lines
from trainer.data.dataset import Part
from trainer.repository import escaped

if TYPE_CHECKING:
    from trainer.teacher.inspection import Inspection


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
    data: Mapping[str, Any]
    """What [run.data] says of pictures and masks: `name`, and classes or labels where two do not name themselves."""
    accept: bool = False
    """Whether near-identical pictures in two parts are known of and pass."""
    brought: "Inspection | None" = None
    """The teacher that a person brings; None: one is trained."""
    widths: tuple[int, int, int] = (8, 16, 24)
    millions: tuple[float, float, float] = (0.5, 2.2, 4.9)
    """The students' parameters."""
    limit: float = 5.0
    """Millions of parameters."""
    patch: tuple[int, int, int] | None = None
    """Of volumes, the sides of a patch in voxels; None: pictures."""
    spacing: tuple[float, float, float] | None = None
    """Of volumes whose spacings differ and whose recipe keeps them: what all are brought to, millimetres."""

    foreground: int = 1
    """How many classes (without the ground) or regions the mean Dice is over."""

    @property
    def floor(self) -> float:
        """The mean validation Dice below which a teacher is taken to have learned nothing. Half of a single object's
        Dice; that of several is less, by the root of their number, since rare and small ones are learned late."""
        return max(0.05, round(20 * 0.5 / math.sqrt(self.foreground)) / 20)

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
        kind=_quoted(draft.data["name"]).ljust(10),
        pictures=_OVERLAPPING if "regions" in draft.data else _KINDS[draft.data["name"]],
        things="pictures" if draft.patch is None else "volumes",
        thing="picture" if draft.patch is None else "volume",
        fitted=_fitted(draft),
        student=_STUDENT if draft.patch is None else _STUDENT_OF_VOLUMES,
        supervised=_OF_REGIONS if "regions" in draft.data else _OF_CLASSES,
        meaning=_meaning(draft),
        batch_size=draft.batch_size,
        epochs=draft.epochs,
        first=draft.first,
        warmup=draft.epochs // 10,
        trials=draft.trials,
        max_failed=max(2, draft.trials // 5),
        origin=f"trained once, before the search:  {teach[0]}" if teach else "a teacher that was brought",
        network=draft.brought.table() if draft.brought else _TRAINED if draft.patch is None else _TRAINED_ON_VOLUMES,
        limit=draft.limit,
        middle=draft.widths[1],
        widths=list(draft.widths),
        millions=f"{small:.2g}, {middle:.2g} and {large:.2g}",
        floor=draft.floor,
        floor_reason=RAISE if draft.foreground == 1 else _MANY.format(draft.foreground),
        validate=validate,
        worker=worker,
    )


RAISE = "raise it once you know yours"
_MANY = f"of a mean over {{}}, rare ones are learned late; {RAISE}"


def _quoted(text: str) -> str:
    """A basic string of TOML, which takes JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


_KINDS = {
    "polyp": "pictures with masks of two classes",
    "pictures": "pictures with masks of named classes",
    "volumes": "volumes with labels of named classes",
}
_OVERLAPPING = "pictures with masks of regions, which overlap"

_REASONS = {
    "labels": "what the values of all masks mean; background, object and ignored",
    "classes": "in the order of the network's outputs; values are what masks hold",
    "regions": "in the order of the network's outputs, with what of a mask is in each; they may overlap",
    "ignore": "what in masks is neither learned nor scored",
    "channels": "of an image",
    "recipe": "how cases are prepared; fields beside it change it: docs/volumes.md",
    "swap": "classes that change places where left and right are flipped",
    "bits": "of a channel as pictures are kept",
    "window": "intensities that become black and white",
    "spacing": "mm along x, y, z, as in the plans",
    "schemes": "how each channel is normalised, as in the plans",
    "overlap": "share of a window that its neighbour covers, too",
    "weights": "of the voxels of windows that overlap",
    "tiling": "where windows lie",
    "reader": "a row is a cell, cut out around its nucleus",
    "near_duplicates": "near-identical pictures in two parts are known of",
}
"""What stands behind a key of [run.data]."""


def _meaning(draft: Draft) -> str:
    """Lines of [run.data] that say what pictures and masks are."""
    settings = {key: value for key, value in draft.data.items() if key != "name"}
    settings |= {"near_duplicates": "accept"} if draft.accept else {}
    lines = []
    for key, value in settings.items():
        first, *more = toml_lines({key.ljust(7): value} if key != "classes" else {key: value})
        lines += [f"{first}   # {_REASONS.get(key, 'of this data set')}", *more]
    return "".join(f"{line}\n" for line in lines)


_TRAINED = """\
name       = "unet"          # a large network of the students' kind
width      = 48              # about 20 M parameters"""

_TRAINED_ON_VOLUMES = """\
name       = "residual-unet-3d"   # a large network of the students' kind, 19 M parameters"""

_STUDENT = """\
name  = "unet"               # unet | resunet"""
_STUDENT_OF_VOLUMES = """\
name  = "tiny-unet-3d"       # or unet, segresnet, espnetv2-3d, mobile-unet-3d, lcovnet"""

_PICTURES = """\
size    = {size:<4}               # pictures are brought to size x size; multiples of 32 suit every network
augment = "standard"         # none | flips | standard | strong"""
_PATCHES = """\
{spacing}patch   = {patch}   # voxels along x, y, z that a network sees at once; multiples of 16 suit most
patches = 4                  # of each case in an epoch
augment = "flips"            # none | flips | standard | strong"""


def _fitted(draft: Draft) -> str:
    """Lines of [run.data] on what of a picture or volume a network sees."""
    if draft.patch is None:
        return _PICTURES.format(size=draft.size)
    spacing = "" if draft.spacing is None else f"spacing = {list(draft.spacing)}   # mm, the median of the cases\n"
    return _PATCHES.format(spacing=spacing, patch=list(draft.patch))


_OF_CLASSES = """\
ce   = { weight = 1.0 }      # against the masks, a pixel at a time
dice = { weight = 1.0 }      # against the masks, as overlap: small objects count"""
_OF_REGIONS = """\
bce-dice = { weight = 2.0 }  # against the masks, region by region: a pixel at a time, and as overlap, half each"""

_TEMPLATE = """\
# Which small network, and which way of distilling a large one into it, segments these {things} best?
# Beside each value stands what it is for. All keys with their meaning: docs/study-file.md.
# After every change:  {validate}

[objective]
maximize = "dice"            # Dice per validation {thing}, mean over them, at the trial's best epoch

[front]
along = "student.width"      # trials are spread evenly over its choices, and judged within them

[limits]                     # a student beyond them is refused before it costs any time
params_m = {limit:<5}             # millions of parameters: a quarter of the teacher's

# ---- one complete training run; [space] below replaces single values of it

[run]
method     = "kl"            # how the student learns from the teacher: a term of [run.losses], or "none"
epochs     = {epochs:<4}            # as many as give a student about 3000 steps on these {things}, 60 to 200
batch_size = {batch_size:<4}            # over all processes of a trial; at least three batches an epoch
precision  = "fp32"          # "bf16" is faster on a GPU
validate   = {{ from = {first}, every = 1 }}   # epochs that are scored: not the first twentieth, which says little

[run.data]                   # {parts}
name    = {kind}         # {pictures}, listed in a split file
root    = {root}   # paths in the split file start here; may begin with a $VARIABLE, and $$ is a dollar
split   = {split}   # which {thing} trains, validates and tests; from the folder where commands are typed
{meaning}{fitted}

[run.teacher]                # {origin}
{network}
checkpoint = {teacher}   # its file, where every worker finds it
min_dice   = {floor:<4}            # validation Dice below which the search is refused; {floor_reason}

[run.student]
{student}
width = {middle:<4}                 # channels of the first stage; varied below

[run.losses]                 # terms are added with their weights
{supervised}
kl   = {{ weight = 1.0, temperature = 4.0 }}   # against the teacher; both are varied below

[run.optim]
name         = "adamw"       # adam with weight decay apart from the gradient: forgiving about lr
lr           = 1e-3          # varied below
weight_decay = 1e-4          # against fitting few {things} too closely; seldom worth a search

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

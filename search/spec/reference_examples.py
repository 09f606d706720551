"""The words and examples of docs/study-file.md that no model holds. A test loads the examples as one study."""

INTRODUCTION = """
# The study file

A study file says what to search. It is TOML, and there is one file a study: `studies/NAME.toml` is the study `NAME`.

This page is made by `python -m search.spec.reference` from the code that reads the file; a test fails where the two
differ. `python -m search init FOLDER` writes a file for your own pictures, and `python -m search validate NAME` checks
one: every mistake is one line that names the key, what was received, what is known, and what to do.

Everything under `[run]` is one complete training run. A name in `[space]` is the dotted path of the value in `[run]`
that a trial replaces, and the same path is the parameter's name in the database, in the dashboard and in exports. A
path may also be written as nested tables: `"optim.lr" = 1e-3` and `[run.optim]` with `lr = 1e-3` say the same.

A study's identity is what `[objective]`, `[limits]`, `[run]` and `[space]` say, what `[front]` is along, and the
contents of data and teacher. Where that changes, the study needs another name. Everything else may change while a study
runs; places (paths) are not part of it.

The least that a file needs:
"""

EXAMPLES = {
    "whole": """
[objective]
maximize = "dice"

[run]
method = "none"
epochs = 30
data   = { name = "blobs" }
losses = { ce = { weight = 1.0 }, dice = { weight = 1.0 } }

[space]
"optim.lr" = { low = 1e-4, high = 1e-2, log = true }

[budget]
trials = 20
""",
    "objective": """
[objective]
maximize = "dice"
""",
    "front": """
[front]
along = "student.width"
""",
    "limits": """
[limits]
params_m   = 5.0
gflops     = 30.0
latency_ms = { max = 20.0, table = "latency.csv" }   # written on the target by `python -m search profile`
""",
    "run": """
[run]
method     = "kl"
epochs     = 100
batch_size = 16
seed       = 1
precision  = "bf16"
validate   = { from = 5, every = 1 }
""",
    "run.data": """
[run.data]
name    = "polyp"
root    = "$POLYP_ROOT"
split   = "splits/mine.csv"
size    = 352
augment = "standard"
""",
    "run.teacher": """
[run.teacher]
name       = "unet"
width      = 48
checkpoint = "teachers/mine.safetensors"
min_dice   = 0.80
""",
    "run.student": """
[run.student]
name  = "unet"
width = 16
""",
    "run.losses": """
[run.losses]
ce   = { weight = 1.0 }
dice = { weight = 1.0 }
kl   = { weight = 1.0, temperature = 4.0 }
cwd  = { weight = 3.0, temperature = 4.0 }
""",
    "run.optim": """
[run.optim]
name         = "adamw"
lr           = 1e-3
weight_decay = 1e-4
schedule     = { name = "one-cycle", warmup_epochs = 3 }
""",
    "teach": """
[teach]
epochs     = 150
"optim.lr" = 3e-4
""",
    "space": """
[space]
method                   = { choices = ["kl", "cwd"] }
"losses.kl.temperature"  = { low = 1.0, high = 10.0, log = true, when = { method = "kl" } }
"losses.cwd.temperature" = { low = 1.0, high = 8.0, log = true, when = { method = "cwd" } }
"student.width"          = { choices = [8, 16] }
"optim.lr"               = { low = 1e-4, high = 1e-2, log = true }
"optim.weight_decay"     = { low = 0.0, high = 0.01, step = 0.001 }
""",
    "sampler": """
[sampler]
name    = "tpe"
startup = 10
options = { n_ei_candidates = 24 }
""",
    "warm_start": """
[warm_start]
from   = "polyp-2025"
weight = 0.3
""",
    "pruner": """
[pruner]
name          = "median"
startup       = 5
warmup_epochs = 15
""",
    "budget": """
[budget]
trials     = 80
max_failed = 16
in_flight  = 24
gpu_hours  = 30
wall       = "12h"
""",
    "enqueue": """
[[enqueue]]
method = "kl"
"losses.kl.temperature" = 4.0
""",
    "arms": """
[[arms]]
name   = "no-kd"
set    = { method = "none" }
trials = 80
""",
    "confirm": """
[confirm]
seeds  = [11, 12, 13, 14, 15]
top    = 6
choose = { smallest = "params", margin = 0.02 }
""",
    "dashboard": """
[dashboard]
images = "off"
""",
    "published": """
[published]
file    = "polyp-hpo"
rows    = { data = "kvasir", student = ["unet", "smp-unet"] }
differs = ["One run each, seed 1.", "The division is that of DUCK-Net's authors."]
""",
    "series": """
[series]
gpu_hours = 200
wall      = "5d"
leave_out = [ { data = "clinicdb", teacher = "wide" } ]

[series.product.data.kvasir]
"run.data.split"         = "splits/kvasir.csv"
"run.teacher.checkpoint" = "teachers/{data}-{teacher}.safetensors"
[series.product.data.clinicdb]
"run.data.split"         = "splits/clinicdb.csv"
"run.teacher.checkpoint" = "teachers/{data}-{teacher}.safetensors"

[series.product.teacher.usual]
"run.teacher.width" = 48
[series.product.teacher.wide]
"run.teacher.width" = 64
""",
}
"""By table: how it is written. All but "whole" and "series" together are one study, with "series" a series of them."""

NOTES = {
    "front": "Then small students get their share of trials and are judged among their like; without it a "
    "search drifts to the widest.\n\n"
    'Along several paths, `along = ["student.name", "student.width"]`, each network with each of its widths is one '
    "choice: trials are dealt over these pairs, and sampled, pruned, confirmed and reported within them. All "
    "widths are lists of choices, a list for each network by `when`, or one for all; a network without one is a "
    'choice alone. Along `"method"` a study compares ways of distilling with equal shares of the trials; `"none"` is '
    "one of them, and no arm without a teacher is needed.\n\n"
    '`spread = "open"` gives a choice more trials the less sure its answer is. Each choice has `start` trials first, '
    "and at any time at least half of an equal share. Beyond that a trial goes to the choice whose best score it is "
    "expected to raise most, by `s / (n + r + 1)`: n trials of the choice have ended, r run, and s is by how much the "
    "five best scores of its newest 24 trials are above the sixth, in the mean, drawn half way towards the median of "
    "that over all choices. Pruned and paused trials are draws that were not better. So a choice whose trials have "
    "come to lie close together gets fewer. "
    '`per = "hour"` divides by what its trials take in device seconds, in the median, so that small students get more. '
    "A trial's choice is stored before its other parameters are drawn, by one worker at a time. All of this may be "
    "changed while a study goes on. Samplers `qmc` and `grid` and pruner `curves` refuse an open spread. What "
    "`validate` forecasts holds for either: from all trials of the smallest network to all of the largest. What it "
    "gave is in [benchmarks](../benchmarks/RESULTS.md#where-the-answer-is-open).",
    "limits": "A trial that breaks one is PRUNED before it trains; a choice that always breaks one is refused by "
    "`validate`. Times are looked up by network, options and size of the input, at one picture a pass: "
    "[docs/package.md](package.md#how-fast-it-is-where-it-will-run).",
    "run.data": "Paths may begin with `~` and hold `$VARIABLES`; `$$` is a dollar. Relative ones start where the "
    "command is started. [Splits and leaks](splits.md) says what a split file holds, what the values of masks mean, "
    "and what is refused.",
    "run.teacher": "`python -m trainer teach FILE` trains it. Its file carries hashes and sketches of its training "
    "images: one that saw validation or test images, or near-identical ones, is refused.\n\nA teacher of "
    "elsewhere is named by what it is: another program's state dict for a network of ours "
    '(`keys = [["module.", ""], ["segmentation_head.", "head."]]`), a whole network (`name = "onnx"` or `"export"`, '
    'with one float input N x 3 x H x W), stored `"maps"`, or several as an `"ensemble"`, whose `members` are tables '
    "like this one. `search init FOLDER --teacher FILE` looks into such a file, reads network, encoder and pairs from "
    "it, or output and kind of numbers, and writes this table with what is left to be checked: the normalisation above "
    "all. `trainer teach` then trains nothing and tells how good it is; what it was trained on is unknown. "
    "Where its size is fixed, images are resized to it and its output back. Methods that read taps need a network of "
    "ours, alone. Maps tell what was said of the plain pictures: they are bent along with the picture, while changes "
    "of colour leave them as they are; patches of volumes are cut out of them (docs/volumes.md).",
    "run.losses": "The total loss is the sum of weight times term, over the terms without a teacher and those that "
    "`method` names.",
    "ranges": 'What was published for each method, and the range in which `"losses.cwd" = "default"` searches it in '
    "`[space]`: every option of the term that has one, live where `method` names the term. A line of its own, such as "
    '`"losses.cwd.weight" = { low = 1.0, high = 5.0, log = true }`, goes before the table\'s. Values of papers differ '
    "from what a file has that leaves an option out: that stays, since runs are known by it. Weights are for the "
    "reductions that are the defaults, and beside a cross-entropy of weight 1.",
    "teach": "Keys are those of `[run]`, without `data`, `method`, `student` and `teacher`.",
    "space": "Each key is a path into `[run]`, its value a range or choices. Whole numbers (`low = 1`) draw whole "
    "numbers, others (`low = 1.0`) real ones. Where one path needs several ranges, write a list of them with "
    '`when`. A loss as a whole, `"losses.cwd" = "default"`, takes its [published ranges](#ranges).',
    "enqueue": "Keys are paths of `[space]`. `arm = NAME` puts an entry into another arm than the main search.",
    "arms": "Each is a search of its own with a budget of its own, in the study `NAME.ARM`. A path in `set` leaves the "
    "arm's space, and so do parameters that can no longer matter.",
    "confirm": "Each winner is trained once on each seed, and so are the controls: of every arm the best and, for each "
    "winner, the best with no more parameters; the best winner without its KD terms; and `[run]` as it is, without KD. "
    'With `along = "method"` the best of each method is compared with the best of `"none"` that has no more parameters '
    "(`gain[METHOD]`, corrected over the methods by Holm), so `top` is at least the number of methods. "
    "Runs of one seed start alike and see the same batches. Another `[confirm]` after the test rows were seen is a "
    "second opening, which the report tells.",
    "warm_start": "With sampler `tpe` alone. Finished trials of the older study that lie in this one's ranges stand in "
    "the sampler's view, by the parameters that both have and by their ranks: scores of other data are not compared. "
    "Each counts `weight` of an own trial (a power prior, Ibrahim and Chen 2000), and `weight / (1 + n / startup)` "
    "after n own ones; every second block of trials sees none of them, in case they mislead. They count in no budget "
    "and stand in no result, export or dashboard. Each worker reads them as it starts. An arm takes those of the arm "
    "of its name. The older study has the same `[objective]`; other samplers refuse the table.",
    "able": "Of a study that has what stands above a column. `works`: a test runs it. `refused`: `validate`, and every "
    "other command, says so in one line. `warned`: it works, and `validate` says what is otherwise than one may think. "
    "In any case `validate` warns where fewer trials are to be expected to complete than `gp`, `cmaes` or `nsga2` need "
    "before they learn, since these learn nothing from pruned ones.",
    "published": "A report shows them in columns of their own, beside what was confirmed here of the same network "
    "and method, with `differs` above them. They enter no comparison. "
    "[studies/published](../studies/published/README.md) says what the columns of such a file hold.",
    "series": "`studies/kd.toml` with this table is the series `kd`, and its members are the studies `kd.1`, `kd.2` "
    "and so on, in the file's order. All other tables are what they share; a member sets values by the paths that "
    "`--set` takes, names of networks before their options. What of `[space]`, `[front]` and `[[enqueue]]` a member "
    'has no use for, such as the temperature where `run.method` is `"none"`, leaves it, and `validate` says so; what '
    "no member has a use for is a mistake. In a product `{axis}` in a path of data, split or checkpoint stands for the "
    "member's choice.\n\n"
    "Every command takes a member by its name. The series' name is all of them: `trainer teach FILE` trains each "
    "distinct teacher once, `validate` forecasts each and the sum, `work` goes through them in order, `status` has a "
    "line for each, `confirm`, `export`, `enqueue`, `stop` and `close` do the same for every one, and `report` writes "
    "one page. `gpu_hours` and `wall` bound the searches of all members together, where a trial is admitted; "
    "confirmations are beyond them, as they are beyond `[budget]`. A member is known by its number in the database, so "
    "new ones go to the end: at the end of `members`, or as the last choice of the first axis.",
    "names": "What the tables of the program hold. Adding one is one file and one line: see CONTRIBUTING.md.",
}
"""By table: what a reader needs beside the meaning of its keys."""

SPACE_KEYS = (
    ("`low`, `high`", "number", "the range, both ends included"),
    ("`log`", "true or false", "draw evenly over the logarithm; not with `step`"),
    ("`step`", "number", "a grid from `low`; `high` must lie on it"),
    ("`choices`", "list of values", "in place of a range: texts, numbers, or true and false"),
    ("`when`", "table", "paths with a value, or a list of values, under which the parameter is live at all"),
)
"""The keys of an entry of [space]; `search.spec.space` reads them."""

ABLE_STUDY = """
[objective]
maximize = "dice"
[run]
method = "none"
epochs = 4
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4, augment = "none" }
student = { name = "unet", width = 4 }
losses = { ce = {} }
optim = { lr = 1e-3 }
[sampler]
SAMPLER
[pruner]
PRUNER
[budget]
trials = 40
[space]
"student.width" = { choices = [4, 8] }
"batch_size" = { low = 2, high = 8 }
"optim.weight_decay" = { low = 0.0, high = 0.1, step = 0.01 }
"""
"""A study in which every sampler and pruner works."""

ABLE_IN = {
    "a front": '[front]\nalong = "student.width"\n',
    "an open front": '[front]\nalong = "student.width"\nspread = "open"\nstart = 2\n',
    "arms": '[[arms]]\nname = "wide"\nset = { "student.width" = 8 }\n',
    "conditions": '"optim.clip" = { low = 1, high = 4, when = { "student.width" = 8 } }\n',
    "several workers": "",
    "trials that change hands": "",
}
"""What a study may have beside, by the head of its column; the last two are of workers and not of files."""

ABLE_SETTINGS = {"threshold": "lower = 0.3\n", "patient": "patience = 1\n"}
"""What a sampler or pruner needs beside its name."""

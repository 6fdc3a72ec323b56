"""`robust tune`."""

import sys
from pathlib import Path
from typing import Any

import click

from .options import RUNS
from .train import train

# What a training is told is told in the same way here, but for where it goes.
_OWN = ("out", "folder", "resume", "quiet")
_SHARED = [param for param in train.params if param.name not in _OWN]


@click.command(params=_SHARED)
@click.option(
    "--search",
    multiple=True,
    metavar="NAME=LOW:HIGH[:log]|NAME=A,B,C",
    help="Repeatable: what is searched. NAME is an option of training (lr), a parameter of what "
    "is trained against (adv.steps) or of a defense (jpeg.quality).  [default: learning rate, "
    "weight decay and --adv's numbers; around a model every parameter of its defenses]",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="How often to try; the first trial is what the other options say, without tuning.",
)
@click.option(
    "--objective",
    type=click.Choice(["robust", "clean", "mean"]),
    default="robust",
    show_default=True,
    help="What shall be high: validation accuracy under attack, on clean samples, or their mean.",
)
@click.option(
    "--prune/--no-prune",
    default=True,
    show_default=True,
    help="Give up trials that are below the median of others at the same point.",
)
@click.option(
    "--model",
    "path",
    metavar="FILE",
    help="Nothing is trained: tune defenses around this model, which --with names, against an "
    "adaptive attacker (--val-attack). Judged by --data, else by the validation part of what the "
    "checkpoint was trained on.",
)
@click.option(
    "--with",
    "around",
    multiple=True,
    metavar="NAME[,KEY=VALUE…]",
    help="Repeatable, in the order in which a sample meets them: the defenses around --model.",
)
@click.option("--trust-pickle", is_flag=True, help="With --model: load a fully pickled module.")
@click.option(
    "--probabilities", is_flag=True, help="With --model: the model returns probabilities."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("best.pt"),
    show_default=True,
    help="The best model, ready for `robust attack`.",
)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the run: study, trials, report. Default: a new one in runs/.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --run, or with the latest unfinished one of these options; with "
    "more --trials a finished one, too.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def tune(ctx: click.Context, /, **options: Any) -> None:
    """Search parameters of a training, or of defenses of a model.

    Every option of `robust train` says here what all trials have in common. The report shows clean
    against robust accuracy of all of them.

    \b
    robust tune --adv pgd --search lr=0.01:0.3:log --search adv.steps=3:10
    robust tune --defense bit-depth --adv pgd --search bit-depth.bits=2:6 \\
        --trials 12
    robust tune --model m.pt --with jpeg --search jpeg.quality=10:95
    """
    from robust.commands.tune import run_tune

    default = click.core.ParameterSource.DEFAULT
    given = {name for name in options if ctx.get_parameter_source(name) is not default}
    sys.exit(run_tune(RUNS, frozenset(given), **options))


# First what is told of tuning, then what trials have in common.
tune.params = [*tune.params[len(_SHARED) :], *_SHARED]

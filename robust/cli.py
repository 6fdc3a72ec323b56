"""The command line. Heavy parts are imported inside the commands, so that --help is instant."""

import sys
from pathlib import Path
from typing import Any

import click

from .core.errors import RobustError
from .options import BATCH_SIZE, NUMBER, NUMBERS, Numbers, model_options, oracle_options

RUNS = Path("runs")


class _Group(click.Group):
    """Turns bad input into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RobustError, click.UsageError) as error:
            told = error.format_message() if isinstance(error, click.UsageError) else str(error)
            click.secho(f"robust: {told}", fg="red", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robust", prog_name="robust")
def main() -> None:
    """How robust is your model really, and how to make it more so.

    \b
    robust train --adv pgd            train a robust model on the embedded digits → m.pt
    robust attack --model m.pt        attack it; the report is in runs/
    robust list attacks               what there is to attack with
    """


@main.command()
@click.option(
    "--model",
    "path",
    required=True,
    metavar="MODEL",
    help="Checkpoint of `robust train`, state dict, .safetensors, TorchScript, torch.export "
    "archive, .onnx; file.py:function, which runs that file; or the URL of a service.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="digits, x.npz, x.h5, a folder of images by class, "
    "x.parquet, hf:NAME. Default: what the checkpoint names, else digits.",
)
@click.option("--split", metavar="NAME", help="The part of the data, where it has parts.")
@click.option(
    "--range",
    "box",
    type=Numbers(2),
    metavar="LOW,HIGH",
    help="The range of the "
    "data; the model takes values in it. Default: the checkpoint's, else 0,1.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME[,KEY=VALUE…]",
    default=("auto",),
    show_default=True,
    help="Repeatable; each runs on what the former ones left. See `robust list attacks`, and "
    "--engine there for those of other packages.",
)
@click.option(
    "--surrogate",
    "surrogates",
    multiple=True,
    metavar="FILE[,KEY=VALUE…]",
    help="Repeatable: attacks search on these models, --model only verifies. A state dict is read "
    "with --arch, --mean and --std, or arch=NAME,mean=0.49:0.48:0.45,std=… of its own.",
)
@click.option(
    "--norm",
    type=click.Choice(["linf", "l2", "l1", "l0", "patch"]),
    help="l0: so many values change; patch: one square of that side. Default: the checkpoint's, "
    "else linf.",
)
@click.option(
    "--eps",
    type=NUMBER,
    help="Radius in the units of the data, such as 8/255; a count for l0 and patch. "
    "Default: the checkpoint's.",
)
@click.option(
    "--targeted",
    metavar="RULE",
    help="Turn samples into a class: next, random, "
    "least-likely, or its number. Default: any wrong class counts.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Attack only N samples.")
@click.option("--shuffle", is_flag=True, help="Take samples in a random order (from --seed).")
@click.option(
    "--every", is_flag=True, help="Run each attack on every sample, for figures of its own; slower."
)
@click.option(
    "--curve/--no-curve",
    default=True,
    show_default=True,
    help="Measure accuracy at further eps too, by a short attack.",
)
@click.option(
    "--batch-size",
    type=BATCH_SIZE,
    default="auto",
    show_default=True,
    help="Samples attacked at once; also the unit of storage and resume.",
)
@click.option(
    "--search",
    type=click.Choice(["auto", "exact", "compiled"]),
    default="auto",
    show_default=True,
    help="auto: on a faster copy of the model, which is asked itself near success; exact: on the "
    "model; compiled: on a copy made by torch.compile, which takes minutes at first.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the run. Default: a new one in runs/."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --out, or with the latest unfinished one of these options.",
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Exit with 1 if robust accuracy is below X (a release gate).",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print report.json, and nothing else, to stdout."
)
@model_options
@oracle_options
def attack(**options: Any) -> None:  # fmt: skip
    """Attack a model and write a robustness report.

    A checkpoint that `robust train` wrote needs no option but --model; every one can be given.

    \b
    robust attack --model m.pt
    robust attack --model m.pt2 --data test.npz --eps 8/255 --limit 1000
    robust attack --model weights.pt --arch net.py:make --mean 0.5 --std 0.5 \\
        --data test/ --eps 0.03 --attack pgd,steps=50,restarts=5 --fail-under 0.4
    robust attack --model https://host/v2/models/m --data test/ --eps 8/255 \\
        --access labels --queries 2000
    """
    from .commands import run_attack

    sys.exit(run_attack(RUNS, **options))


@main.command()
@click.option(
    "--adv",
    default="pgd",
    show_default=True,
    metavar="NAME[,KEY=VALUE…]",
    help="The attack to train against: pgd (7 steps), fgsm (random start), any other of "
    "`robust list attacks`, or none.",
)
@click.option(
    "--mix",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of each batch that is adversarial; the rest stays clean.",
)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help="digits, x.npz, x.h5, a folder of images by class, x.parquet, hf:NAME.",
)
@click.option("--validation", metavar="DATA", help="Default: a part of --data is held out.")
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="How large that part is.",
)
@click.option(
    "--test",
    metavar="DATA",
    help="What `robust attack` shall take by default. "
    "Default: the test split of --data if it has one, else the validation data.",
)
@click.option(
    "--range",
    "box",
    type=Numbers(2),
    default="0,1",
    show_default=True,
    metavar="LOW,HIGH",
    help="The range of the data; the model takes values in it.",
)
@click.option(
    "--arch",
    metavar="NAME",
    help="A name (see `robust list architectures`) or file.py:factory. Its "
    "weights are drawn anew (He), unless --init gives them.  [default: that of --init, "
    "else small-cnn]",
)
@click.option("--norm", type=click.Choice(["linf", "l2", "l1"]), default="linf", show_default=True)
@click.option(
    "--eps",
    type=NUMBER,
    help="Radius in the units of the data, such as 8/255. Default: 0.1 for digits.",
)
@click.option(
    "--eps-scale",
    type=NUMBER,
    metavar="X",
    help="Train on X times eps; what is measured is eps itself.  [default: 1; digits: 1.25]",
)
@click.option("--epochs", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), default="sgd", show_default=True
)
@click.option(
    "--lr", type=NUMBER, help="Highest learning rate.  [default: 0.1; adam and adamw: 0.001]"
)
@click.option("--momentum", type=NUMBER, default=0.9, show_default=True, help="Of sgd.")
@click.option("--weight-decay", type=NUMBER, help="[default: 0.0005; digits: 0.002]")
@click.option(
    "--schedule",
    type=click.Choice(["one-cycle", "piecewise", "constant"]),
    default="one-cycle",
    show_default=True,
)
@click.option(
    "--eps-warmup",
    type=NUMBER,
    default=0.0,
    show_default=True,
    metavar="EPOCHS",
    help="Let eps grow from 0 over the first epochs.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="bf16 and fp16: mixed precision.",
)
@click.option(
    "--class-weights", type=click.Choice(["none", "balanced"]), default="none", show_default=True
)
@click.option("--init", metavar="FILE", help="Start from the weights of this model.")
@click.option(
    "--freeze",
    multiple=True,
    metavar="PATTERN",
    help="Repeatable: parameters of these names keep their values ('features.*'). With --init.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="EPOCHS",
    help="Stop after so many epochs without a better validation robust accuracy; 0: never.",
)
@click.option(
    "--val-attack",
    default="pgd,steps=10",
    show_default=True,
    metavar="NAME[,…]",
    help="What validation robust accuracy is measured with.",
)
@click.option(
    "--val-limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Validation samples to measure after each epoch.",
)
@click.option(
    "--mean",
    type=NUMBERS,
    help="Normalisation inside the model, per channel. Default: that of the training data.",
)
@click.option("--std", type=NUMBERS, help="See --mean.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("m.pt"),
    show_default=True,
    help="The best model, ready for `robust attack`.",
)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the run: history, checkpoints, report. Default: a new one in runs/.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --run, or with the latest unfinished one of these options.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(**options: Any) -> None:  # fmt: skip
    """Train a model against an attack and write a checkpoint that `robust attack` understands.

    \b
    robust train --adv pgd
    robust train --adv pgd,steps=10 --data train.npz --eps 8/255 --epochs 60 \\
        --arch preact-resnet18 --batch-size 128 --out cifar.pt
    robust train --adv fgsm --data images/ --eps 4/255 --init pretrained.pt \\
        --freeze 'features.*'
    """
    from .commands import run_train

    sys.exit(run_train(RUNS, **options))


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def report(runs: tuple[Path, ...]) -> None:
    """Write report.html and report.json of RUNS anew from their stored outcomes."""
    from .commands import rewrite_reports

    rewrite_reports(runs)


@main.command("list")
@click.argument("what", type=click.Choice(["attacks", "defenses", "architectures"]))
@click.option("--engine", metavar="NAME", help="Attacks of another package: foolbox or art.")
def list_(what: str, engine: str | None) -> None:
    """List what there is: attacks, defenses or architectures."""
    from .commands import print_list

    print_list(what, engine)

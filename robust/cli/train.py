"""`robust train`."""

import sys
from pathlib import Path
from typing import Any

import click

from .options import NUMBER, NUMBERS, RUNS, Numbers


@click.command()
@click.option(
    "--adv",
    metavar="NAME[,KEY=VALUE…]",
    help="The attack to train against: pgd (7 steps), fgsm (random start), any other of "
    "`robust list attacks`; n-fgsm, free, trades or mart; or none: natural training.  "
    "[default: pgd; with --defense none, but for a denoiser]",
)
@click.option(
    "--also",
    multiple=True,
    metavar="NORM:EPS",
    help="Repeatable: threats to train against besides --norm and --eps, such as l2:1.5.",
)
@click.option(
    "--union",
    type=click.Choice(["max", "average"]),
    default="max",
    show_default=True,
    help="With --also: train on the worst point of each sample, or on those of all threats.",
)
@click.option(
    "--awp",
    type=NUMBER,
    default=0.0,
    metavar="GAMMA",
    help="Train the weights against a perturbation of themselves, of that length relative to "
    "theirs: 0.01, say.",
)
@click.option(
    "--guard/--no-guard",
    default=True,
    show_default=True,
    help="Watch for catastrophic overfitting within each epoch: roll back, and go on with a "
    "stronger attack.",
)
@click.option(
    "--recipe",
    type=click.Choice(["fast", "strong"]),
    help="A set of options that goes well together; those that are given count before it.",
)
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    metavar="NAME[,KEY=VALUE…]",
    help="Repeatable, in the order in which a sample meets them: defenses around the network "
    "while it is trained and after (`robust list defenses`). Without --adv training is natural; "
    "a denoiser, which learns from adversarial examples, takes pgd.",
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
@click.option(
    "--multi-label",
    is_flag=True,
    help="Labels are sets: y is (n, K) of 0 and 1, in .npz or HDF5. One sigmoid per label, binary "
    "cross-entropy; the best epoch is that of the highest robust Jaccard index.",
)
@click.option("--extra", metavar="DATA", help="More samples to train on, synthetic ones, say.")
@click.option(
    "--extra-fraction",
    type=NUMBER,
    default=0.5,
    show_default=True,
    metavar="F",
    help="The share of each batch that they make up.",
)
@click.option(
    "--augment",
    metavar="NAME[:NUMBER],…",
    help="Change training images at random: crop[:PIXELS], flip, cutout[:SIDE]; mixup[:ALPHA] "
    "goes for all samples.",
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
@click.option("--nesterov/--no-nesterov", default=False, help="Nesterov's momentum, of sgd.")
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
@click.option(
    "--label-smoothing",
    type=NUMBER,
    default=0.0,
    metavar="X",
    help="Share of the probability that all classes get alike.",
)
@click.option(
    "--grad-clip",
    type=NUMBER,
    default=0.0,
    metavar="NORM",
    help="Longest gradient of an update; 0: any.",
)
@click.option(
    "--ema",
    type=NUMBER,
    default=0.0,
    metavar="DECAY",
    help="Keep an exponential moving average of the weights, such as 0.999, in their place.",
)
@click.option(
    "--swa",
    type=click.IntRange(min=0),
    default=0,
    metavar="EPOCHS",
    help="Keep the mean of the weights at the ends of so many last epochs in their place.",
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
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:  # fmt: skip
    """Train a model against an attack, in a file for `robust attack`.

    \b
    robust train --adv pgd
    robust train --adv pgd,steps=10 --data train.npz --eps 8/255 --epochs 60 \\
        --arch preact-resnet18 --batch-size 128 --out cifar.pt
    robust train --adv fgsm --data images/ --eps 4/255 --init pretrained.pt \\
        --freeze 'features.*'
    robust train --data train.npz --eps 0.3 --recipe fast --augment crop:2
    robust train --defense bit-depth,bits=3 --adv pgd
    """
    from robust.commands.train import run_train

    default = click.core.ParameterSource.DEFAULT
    given = {name for name in options if ctx.get_parameter_source(name) is not default}
    sys.exit(run_train(RUNS, given, **options))

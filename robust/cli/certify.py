"""`robust certify`."""

import sys
from pathlib import Path
from typing import Any

import click

from .options import BATCH_SIZE, NUMBER, RUNS, Numbers, model_options


@click.command()
@click.option(
    "--model",
    "path",
    required=True,
    metavar="MODEL",
    help="A model file, as for `robust attack`, or file.py:function, which runs that file. With "
    "smoothing among its defenses, the network behind that is certified.",
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
    help="The range of the data. Default: the checkpoint's, else 0,1. Noise leaves it.",
)
@click.option(
    "--sigma",
    type=NUMBER,
    help="Standard deviation of the noise, in the units of the data. Default: that of the "
    "smoothing that the model has.",
)
@click.option(
    "--n0", type=int, default=100, show_default=True, help="Noisy copies that select the class."
)
@click.option(
    "--n",
    type=int,
    default=10_000,
    show_default=True,
    help="Noisy copies that its probability is estimated from.",
)
@click.option(
    "--alpha",
    type=NUMBER,
    default=0.001,
    show_default=True,
    help="Probability at most that a certificate is wrong, for each sample.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Certify only N samples.")
@click.option("--shuffle", is_flag=True, help="Take samples in a random order (from --seed).")
@click.option(
    "--batch-size", type=BATCH_SIZE, default="auto", show_default=True, help="Noisy copies at once."
)
@click.option(
    "--access",
    type=click.Choice(["scores", "labels"]),
    help="What a function answers with. Default: what it says itself, else scores.",
)
@click.option(
    "--classes",
    "num_classes",
    type=click.IntRange(min=2),
    metavar="K",
    help="Number of classes of a function that answers with labels. Default: that of the data.",
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
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print report.json, and nothing else, to stdout."
)
@model_options
def certify(**options: Any) -> None:
    """Prove a radius in L2 for each sample, by randomized smoothing.

    What is certified is the vote of the model on noisy copies of a sample, with a probability of
    1 − alpha each. A model should be trained on such noise.

    \b
    robust train --defense smoothing,sigma=0.25 --out smooth.pt
    robust certify --model smooth.pt --limit 100
    robust certify --model m.pt --sigma 0.25 --data test.npz --limit 500 --shuffle
    """
    from robust.commands.certify import run_certify

    sys.exit(run_certify(RUNS, **options))

"""`robust attack`."""

import sys
from pathlib import Path
from typing import Any

import click

from .options import BATCH_SIZE, NUMBER, RUNS, Numbers, model_options, oracle_options


@click.command()
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
    "--view",
    type=click.Choice(["both", "naive", "adaptive"]),
    default="both",
    show_default=True,
    help="Of a model with defenses: naive: on the model as it is deployed, as if it had none; "
    "adaptive: through them; both: one after the other.",
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
@click.option(
    "--diagnose",
    type=click.Choice(["subset", "full", "off"]),
    default="subset",
    show_default=True,
    help="Find out whether the figure can be trusted, by probes on 32 to 64 samples, or on all.",
)
@click.option(
    "--sample-rate",
    type=int,
    metavar="HZ",
    help="Of signals, to be heard in the report. Default: 16000 where they look like sound.",
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
@click.option(
    "--fail-if-worse-than",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Exit with 1 if robust accuracy is significantly worse than in that run, by McNemar's "
    "test on the samples of both. It must be on the same data and threat.",
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write gates and figures as JUnit XML, whether the gates hold or not.",
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
    robust attack --model m.pt --with bit-depth,bits=3 --attack pgd
    robust attack --model https://host/v2/models/m --data test/ --eps 8/255 \\
        --access labels --queries 2000
    """
    from robust.commands.attack import run_attack

    sys.exit(run_attack(RUNS, **options))

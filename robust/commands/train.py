"""What `robust train` does."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from robust import api, console
from robust.core.errors import RobustError
from robust.core.threat import CONVEX
from robust.data import DataSpec
from robust.models import describe_defense, load_model, parse_defense
from robust.preflight import choose_device
from robust.registry import number, parse_attack
from robust.store import argv, choose_folder, find_unfinished
from robust.training import (
    NO_ATTACK,
    TrainDone,
    TrainSpec,
    describe_adv,
    describe_attack,
    parse_adv,
    train,
    with_recipe,
)

from . import INTERRUPTED
from .defend import attack_on

DEFAULT_ADV = "pgd"


def run_train(runs: Path, given: Collection[str], **options: Any) -> int:
    """`robust train`: the exit code. given: the names of options that are no defaults."""
    spec = train_spec(options, given)
    folder: Path | None = options["folder"]
    if folder is None and options["resume"]:
        folder = _unfinished_training(runs, spec)
    folder = folder or choose_folder(runs, "train", options["out"].stem)
    quiet = options["quiet"]
    events = train(spec, folder=folder, out=options["out"], resume=options["resume"], argv=argv())
    title = f"training {spec.arch} on {options['data']}{_against(spec, options)}"
    done = None
    try:
        for event in console.follow(events, console.TrainProgress(title), quiet=quiet):
            if isinstance(event, TrainDone):
                done = event
    except KeyboardInterrupt:
        click.echo(
            "robust: interrupted; finished epochs are kept. To go on, repeat the command with "
            f"--resume --run {folder}",
            err=True,
        )
        return INTERRUPTED
    assert done is not None
    report = api.write_training_report(folder)
    if not quiet:
        following = attack_on(options["out"], spec.defenses)
        note = api.nothing_learned(done.row)
        console.training_results(done, str(options["out"]), str(report), following, note)
    return 0


def _against(spec: TrainSpec, options: dict[str, Any]) -> str:
    """How the title says what is trained with."""
    texts = []
    if options["defenses"]:
        texts.append(f" with {' + '.join(options['defenses'])}")
    if spec.adv != NO_ATTACK:
        texts.append(f" against {describe_adv(spec.adv)}")
        if spec.eps_scale != 1:
            texts.append(f" at {spec.eps_scale:g} × eps")
    return "".join(texts)


def train_spec(options: dict[str, Any], given: Collection[str] = ()) -> TrainSpec:
    """What options of `robust train` ask for; of a recipe, those that are not given themselves."""
    _refuse_unused(options, given)
    low, high = options["box"]

    def data(source: str | None, split: str | None = None) -> dict[str, Any] | None:
        if source is None:
            return None
        sets = options["multi_label"]
        return DataSpec(source, split, low=low, high=high, multi_label=sets).to_dict()

    digits = options["data"].partition(":")[0] == "digits"
    eps = options["eps"]
    if eps is None:
        if not digits:
            raise RobustError("say how far an attacker may go: --eps 8/255, say")
        eps = 0.1 * (high - low)
    threat = {"norm": options["norm"], "eps": eps, "low": low, "high": high}
    if options["recipe"] is not None:
        options = with_recipe(options, given, eps)
    # The embedded digits are few: training on a wider ball and stronger decay make up for it.
    eps_scale, weight_decay = options["eps_scale"], options["weight_decay"]
    if eps_scale is None:
        eps_scale = 1.25 if digits else 1.0
    if weight_decay is None:
        weight_decay = 2e-3 if digits else 5e-4
    defenses = [parse_defense(text) for text in options["defenses"]]
    adv = options["adv"]
    if adv is None:  # what learns from adversarial examples of a finished network needs some
        natural = defenses and not any(defense.freezes for _, defense in defenses)
        adv = "none" if natural else DEFAULT_ADV
    lr = options["lr"]
    if lr is None:
        lr = 0.1 if options["optimizer"] == "sgd" else 1e-3
    normalise: Any = "auto"
    if options["mean"] or options["std"]:
        mean = options["mean"] or [0.0] * len(options["std"])
        normalise = {"mean": list(mean), "std": list(options["std"] or [1.0] * len(mean))}
    same = (
        "mix val_fraction epochs batch_size optimizer momentum schedule "
        "eps_warmup precision init class_weights patience val_limit seed awp union guard nesterov "
        "extra_fraction label_smoothing grad_clip ema swa"
    )
    return TrainSpec(
        data=data(options["data"]) or {},
        validation=data(options["validation"]),
        test=data(options["test"]),
        adv=parse_adv(adv),
        defenses=[describe_defense(*named) for named in defenses],
        threat=threat,
        also=[{**threat, **parse_threat(text)} for text in options["also"]],
        augment=options["augment"].split(",") if options["augment"] else [],
        extra=data(options["extra"]),
        arch=options["arch"] or _arch_of(options["init"]) or "small-cnn",
        lr=lr,
        eps_scale=eps_scale,
        weight_decay=weight_decay,
        freeze=list(options["freeze"]),
        val_attack=describe_attack(parse_attack(options["val_attack"])),
        normalise=normalise,
        device=str(choose_device(options["device"])),
        **{name: options[name] for name in same.split()},
    )


def _refuse_unused(options: dict[str, Any], given: Collection[str]) -> None:
    """RobustError for options that say nothing, or nothing without another one."""
    for name in ("adv", "augment"):
        if options[name] is not None and not options[name].strip():
            raise RobustError(f"--{name} is empty: name something, or leave it out")
    for name, needed in (("union", "also"), ("extra_fraction", "extra")):
        if name in given and not options[needed]:
            flag = name.replace("_", "-")
            raise RobustError(f"--{flag} without --{needed} changes nothing: give that, too")


def parse_threat(text: str) -> dict[str, Any]:
    """ "l2:1.5" → norm and eps. RobustError for what is none."""
    norm, _, eps = text.partition(":")
    try:
        if norm not in CONVEX:
            raise ValueError(norm)
        return {"norm": norm, "eps": number(eps)}
    except ValueError:
        raise RobustError(
            f"--also {text}: write a norm ({', '.join(CONVEX)}) and an eps, such as l2:1.5"
        ) from None


def _arch_of(init: str | None) -> str | None:
    """The architecture that a checkpoint to start from names, if it names one."""
    if init is None:
        return None
    try:
        return load_model(init).info.arch
    except RobustError:  # no checkpoint of ours, or none at all: training says what is wrong
        return None


def _unfinished_training(runs: Path, spec: TrainSpec) -> Path | None:
    """The newest unfinished training below `runs` of these options, whatever the data hold."""
    wanted = {k: v for k, v in spec.to_dict().items() if k != "fingerprints"}
    return find_unfinished(runs, lambda record: wanted.items() <= record["spec"].items())

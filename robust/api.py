"""`robust.evaluate`, and what it shares with the command line: from a plan to a report."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robust.reports import sound
from robust.reports.certification import Certificates
from robust.reports.html import render, render_training
from robust.reports.summary import Report
from robust.reports.training import nothing_learned

from . import diagnosis, energy, flops
from . import evaluation as engine
from .core.attack import Attack, check_batch
from .core.defended import Defended
from .core.errors import RobustError
from .core.files import write_text
from .core.oracle import Oracle
from .core.outcome import Fit, Shard
from .core.threat import Threat
from .core.victim import Model
from .data import from_arrays
from .diagnosis import Diagnosing
from .models import Called, Loaded, in_memory
from .models.defending import is_file_defense
from .planning import as_oracle, asked_before, check_attacks, plan, with_chance
from .registry import defense_label, find, label, parse_attacks
from .store import MemoryStore, RunFolder, Store, argv, new_record, read_record
from .views import attacks_for


def evaluate(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat,
    attacks: str | Attack | Iterable[str | Attack] = "auto",
    surrogates: Model | Iterable[Model] = (),
    targeted: str | int | None = None,
    every: bool = False,
    curve: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    search: str = "auto",
    view: str = "both",
    access: str = "gradient",
    queries: int | None = None,
    draws: int | None = None,
    price_per_1000: float | None = None,
    diagnose: str = "subset",
    sample_rate: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
) -> Report:
    """How robust is this model on these samples?

    model       pixels in [threat.low, threat.high], float32 (n, …), to logits (n, K), or (n,) or
                (n, 1) for a binary model; a torch module is put into eval mode meanwhile and runs
                on the device that it is on, a function on that of x
    x, y        float (n, …) inside the box, and int (n,), the true classes
    threat      robust.Linf(8 / 255), robust.L2(0.5), robust.L1(12), robust.L0(10), robust.Patch(5)
    attacks     names as on the command line ("pgd,steps=10"), or attacks; each runs on what the
                former ones left
    surrogates  models that attacks search on in place of this one, which only verifies: how robust
                is it against an attacker who cannot ask it anything?
    targeted    None, "next", "random", "least-likely", or a class that samples shall become
    every       run each attack on every sample
    curve       measure accuracy at further eps too, by a short attack
    batch_size  samples attacked at once; None: as many as 512 MiB hold, at most 128
    search      "auto": attacks search on a copy of the model prepared for that (BatchNorm folded,
                channels_last, bf16 where the hardware has it) if it is faster, and the model itself
                answers whatever comes near the goal; "exact": on the model itself; "compiled": on a
                copy that torch.compile has made, which takes minutes at first
    view        of a model with defenses (`robust.defend`) or one that answers at random: "both":
                each attack with gradients runs naively, on the model as it is deployed, and then
                adaptively, through its defenses; or only "naive" or "adaptive"
    access      "scores" or "labels": the model is an oracle, which attacks can only ask, and which
                counts every answer
    queries     the most that a sample may cost then, what the engine itself asks included
    draws       answers that make one, where an oracle answers at random; None: find out
    price_per_1000   of the oracle's answers, for the report
    diagnose    "subset": whether the figure can be trusted, by probes on a few samples; "full": on
                all of them; "off": not at all
    sample_rate of signals, values a second, to be heard in the report; None: 16,000 where long ones
                around zero look like sound
    out         a folder for the run and its report; None: keep the outcomes in memory
    resume      go on with the run in `out`; the model must have parameters, whose hash tells it

    Returns a Report. Raises RobustError for input that cannot be used.
    """
    module = model if isinstance(model, nn.Module) else Called(model)
    check_batch(x, y, threat)
    check_sample_rate(sample_rate, tuple(x.shape[1:]))
    source = from_arrays(x, y, low=threat.low, high=threat.high, channels_last=False)
    device = next((p.device for p in module.parameters()), x.device)
    given = [surrogates] if callable(surrogates) else surrogates
    stand_ins = [one if isinstance(one, nn.Module) else Called(one) for one in given]
    if resume and not all(one.state_dict() for one in (module, *stand_ins)):
        raise RobustError(
            "resume needs a model with parameters: a plain function cannot be told from another"
        )
    aimed = targeted is not None
    named = parse_attacks_and_instances(attacks, threat.norm, access, aimed)
    loaded = as_oracle(in_memory(module), access)
    check_attacks(named, threat, source, targeted=aimed)
    loaded = with_chance(loaded, source, device, access)
    white_box = access == "gradient" and not stand_ins
    chosen = attacks_for(loaded.module, named, view, white_box=white_box)
    spec = plan(
        loaded,
        source,
        {"source": "in memory"},
        threat,
        chosen,
        surrogates=[in_memory(one) for one in stand_ins],
        targeted=None if targeted is None else str(targeted),
        every=every,
        curve=curve,
        batch_size=batch_size,
        seed=seed,
        search=search,
        access=access,
        queries=queries,
        draws=draws,
        device=device,
    )
    asked = asked_before(loaded)
    run = engine.Evaluation(spec, loaded.module, source, chosen, stand_ins, asked)
    diagnosing = Diagnosing(run, diagnose)
    facts = {
        **run_facts(loaded, price_per_1000),
        "diagnose": diagnose,
        "sample_rate": sample_rate,
    }
    if out is None:
        store = MemoryStore()
        record = {**new_record("attack", spec.to_dict(), spec.hash, []), **facts}
        for _ in measuring(run, diagnosing, store, record):
            pass
        return report_of({**record, "status": "done"}, store)
    folder = RunFolder.start(Path(out), spec, argv(), resume=resume)
    folder.record |= facts
    for _ in measuring(run, diagnosing, folder, folder.record):
        pass
    return conclude(folder)


def check_sample_rate(rate: int | None, shape: tuple[int, ...]) -> None:
    """Refuse one for samples that are no sound, or that no browser plays."""
    if rate is None:
        return
    if not sound.SLOWEST <= rate <= sound.FASTEST:
        raise RobustError(
            f"the sample rate must lie between {sound.SLOWEST:,} and {sound.FASTEST:,} Hz, "
            f"not be {rate:,}: browsers play no other"
        )
    if not sound.is_signal(shape):
        raise RobustError(
            f"a sample rate is for signals of shape (n,), (1, n) or (2, n); these samples have "
            f"shape {shape}"
        )


def measuring(
    run: engine.Evaluation, diagnosing: Diagnosing, store: Store, record: dict[str, Any]
) -> Iterator[engine.Event | diagnosis.Event]:
    """The events of a run and of its diagnosis. What they cost besides time goes into the record of
    run.json: `flops` of one forward and backward (see `flops.of`), and `energy`, where the machine
    tells, of all sessions of the run together.
    """
    record["flops"] = flops.of(run)
    events = itertools.chain(run.run(store), diagnosing.run(store))
    yield from energy.metered(events, record, run.device)


def run_facts(loaded: Loaded, price_per_1000: float | None) -> dict[str, Any]:
    """What run.json says of a model besides the spec: of an oracle what it was asked before, and
    what is known of the defenses.
    """
    module, facts = loaded.module, dict[str, Any]()
    if isinstance(module, Oracle):
        names = ("asked", "random", "not_finite")
        before = {name: getattr(module, name) for name in names}
        facts = {"preflight": before, "price_per_1000": price_per_1000}
        module = module.model
    if isinstance(module, Defended):
        facts["defenses"] = [_known_of(record) for record in module.records]
    return facts


def _known_of(record: dict[str, Any]) -> dict[str, Any]:
    """A defense as reports tell it: its record, label, family, paper, claims and broken_by."""
    names = ("family", "paper", "claims", "broken_by")
    facts = dict.fromkeys(names, "")
    if not is_file_defense(record["name"]):
        found = find("defenses", record["name"])
        facts = {name: getattr(found, name) for name in names}
    return {**record, "label": defense_label(record), **facts}


def parse_attacks_and_instances(
    attacks: str | Attack | Iterable[str | Attack],
    norm: str,
    access: str = "gradient",
    targeted: bool = False,
) -> list[Attack]:
    """Attacks for such threats and goals from a mixture of texts and instances, in order."""
    found: list[Attack] = []
    for attack in [attacks] if isinstance(attacks, str | Attack) else attacks:
        if isinstance(attack, str):
            found += parse_attacks([attack], norm, access, targeted=targeted)
        else:
            found.append(attack)
    labels = [label(attack) for attack in found]
    return [attack for i, attack in enumerate(found) if labels[i] not in labels[:i]]


def _facts(fits: dict[int, Fit]) -> list[dict[str, Any]]:
    """What is told of the things that attacks crafted: all but these things."""
    return [{k: v for k, v in vars(fit).items() if k != "tensor"} for fit in fits.values()]


def conclude(folder: RunFolder) -> Report:
    """Mark a run as done and write report.json and report.html from its rows."""
    folder.save(status="done")
    return write_report(folder)


def report_of(
    record: dict[str, Any], store: Store, shards: Iterable[Shard] | None = None
) -> Report:
    """The report of a run with that record of run.json, from what is stored: its shards, if it is
    not given them otherwise read.
    """
    more = {"fits": _facts(store.fits()), "diagnosis": store.diagnosis(), "damage": store.damage}
    return Report({**record, **more}, store.shards() if shards is None else shards)


def write_report(folder: RunFolder, certificates: Certificates | None = None) -> Report:
    """Derive report.json and report.html anew from the rows of a run, and from certificates of the
    same model where there are any.
    """
    report = report_of(folder.record, folder)
    write_text(folder.path / "report.json", json.dumps(report.to_json(), indent=1) + "\n")
    write_text(folder.path / "report.html", render(report, certificates))
    return report


def write_training_report(path: Path) -> Path:
    """Derive report.html of a training run from its run.json and history.jsonl; its path.

    An epoch that cannot be read is left out, and the page says so; a last line without an end is
    being written, or its process was killed.
    """
    record = read_record(path)
    try:
        lines = (path / "history.jsonl").read_text("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        lines = [""]  # the first epoch is not done
    except OSError as error:
        raise RobustError(f"{path / 'history.jsonl'} cannot be read: {error}") from error
    rows, broken = [], []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            broken.append(str(number))
    if broken:
        record["damage"] = {"history.jsonl": f"no epoch can be read from line {', '.join(broken)}"}
    page = path / "report.html"
    write_text(page, render_training(record, rows))
    return page


__all__ = ["conclude", "evaluate", "nothing_learned", "write_report", "write_training_report"]

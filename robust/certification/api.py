"""`robust.certify`."""

from pathlib import Path

from torch import Tensor, nn

from robust.core.attack import check_batch
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.core.victim import Model
from robust.data import Source, from_arrays
from robust.models import Called, in_memory
from robust.reports.certification import Certificates
from robust.store import argv, new_record

from .engine import Certifying, MemoryRows
from .folder import KIND, CertifyFolder
from .report import certificates, conclude
from .spec import behind_smoothing, plan


def certify(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float | None = None,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    batch_size: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
) -> Certificates:
    """Within which radius does the vote of this model on noisy copies provably stay the same?

    Randomized smoothing by the procedure of Cohen et al., 1902.02918, in L2.

    model       samples, float32 (n, …), to logits (n, K), or (n,) or (n, 1) for a binary model; a
                torch module is put into eval mode meanwhile and runs on the device that it is on.
                Of one with `smoothing` among its defenses what is behind it is certified
    x, y        float (n, …) and int (n,), the true classes
    sigma       standard deviation of the noise, in the units of x; None: that of `smoothing`
    n0, n       noisy copies that select the class of each sample, and that its probability is
                estimated from
    alpha       probability at most that a certificate is wrong, for each sample
    batch_size  noisy copies at once; None: as many as 512 MiB hold, at most 128
    out         a folder for the run and its report; None: keep the outcomes in memory
    resume      go on with the run in `out`; the model must have parameters, whose hash tells it

    Returns Certificates: `certified_accuracy(radius)` and what else the report tells. Raises
    RobustError for input that cannot be used.
    """
    module = model if isinstance(model, nn.Module) else Called(model)
    if resume and not module.state_dict():
        raise RobustError(
            "resume needs a model with parameters: a plain function cannot be told from another"
        )
    device = next((p.device for p in module.parameters()), x.device)
    classifier, own = behind_smoothing(module)
    sigma = own if sigma is None else sigma
    if sigma is None:
        raise RobustError("say how much noise: sigma=0.25, in the units of x")
    source = _source(x, y, module)
    loaded = in_memory(module)
    loaded.module = classifier
    spec = plan(
        loaded,
        source,
        {"source": "in memory"},
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=alpha,
        device=device,
        batch_size=batch_size,
        seed=seed,
    )
    run = Certifying(spec, classifier, source)
    if out is None:
        store = MemoryRows()
        for _ in run.run(store):
            pass
        record = new_record(KIND, spec.to_dict(), spec.hash, [])
        return certificates({**record, "status": "done"}, store.read())
    folder = CertifyFolder.start(Path(out), spec, argv(), resume=resume)
    for _ in run.run(folder):
        pass
    return conclude(folder)


def _source(x: Tensor, y: Tensor, module: nn.Module) -> Source:
    """The samples; their range is that of the model's defenses, or [0, 1] if that holds them."""
    if not x.numel():
        raise RobustError("x has no samples")
    if not bool(x.isfinite().all()):
        raise RobustError("x has values that are NaN or infinite")
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
    if isinstance(module, Defended) and module.frame is not None:
        low, high = module.frame.low, module.frame.high
    check_batch(x, y, Threat("l2", 0.0, low, high))
    return from_arrays(x, y, low=low, high=high, channels_last=False)

"""Before any work: does this model fit these data, and how large may a batch be?"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .core.defended import Defended
from .core.errors import RobustError
from .core.goal import Goal, as_logits
from .core.losses import margin
from .core.oracle import Oracle
from .core.victim import Victim
from .data import Source
from .targets import refuse_targets

_BATCH_LIMIT = {"cpu": 128, "cuda": 512}
_SURE = 8  # outputs in [0, 1] of a model with one, after which they are no logits
_CPU_BUDGET = 512 * 2**20  # bytes that the forward of one batch may keep for its backward


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient to parameters, and both as they were afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, grad in wanted:
            parameter.requires_grad_(grad)


def choose_device(name: str) -> torch.device:
    """auto: the first GPU if there is one. RobustError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RobustError(f"the device {name!r} is not available: use --device cpu") from error
    return device


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (n, K ≥ 2) without gradient; an error inside the model becomes one line."""
    with guarded(x), torch.no_grad():
        return as_logits(model(x), len(x))


@contextlib.contextmanager
def guarded(x: Tensor) -> Iterator[None]:
    """An error inside a model that is asked about x becomes one line."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # TorchScript's message is its own stack first; the reason is on a line of this form.
        reason = next((line for line in lines if line.startswith("RuntimeError: ")), lines[0])
        raise RobustError(
            f"the model does not accept samples of shape {tuple(x.shape[1:])}: "
            f"{reason.removeprefix('RuntimeError: ')}"
        ) from error


def confidence(model: nn.Module, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted classes, int64 (n,), −1 where an answer has NaN, and their probability, float64
    (n,): NaN where the model gives no scores.
    """
    probability, prediction = logits.double().softmax(1).max(1)
    prediction = prediction.masked_fill(logits.isnan().any(1), -1)
    if isinstance(model, Oracle) and not model.scores:
        probability = torch.full_like(probability, float("nan"))
    return prediction, probability


def examine(
    model: nn.Module,
    source: Source,
    device: torch.device,
    targeted: str | None = None,
    *,
    gradient: bool = False,
    ids: np.ndarray | None = None,
) -> int:
    """The number of classes K; RobustError unless the model answers these data with logits.

    Checked: the shape of samples and answers, NaN and infinity, probabilities instead of logits,
    every label of the data set in 0 … K−1, the target class, and with `gradient` that there is one.

    ids     the samples to ask about; None: up to 64 from all over the data. Probabilities of an
            oracle are no reason to refuse it: it takes their logarithm from now on
    """
    if ids is None:
        count = min(len(source), 64)
        ids = source.ids[np.linspace(0, len(source) - 1, count).astype(np.int64)]
    batch = source.batch(ids)
    with frozen(model):
        logits = forward(model, batch.x.to(device))
    if not isinstance(model, Oracle):
        refuse_bad_answers(logits, batch.ids)
    elif bool(logits.isnan().any(1).all()):
        raise RobustError("the model answers with NaN, whatever it is asked: see what it returns")
    logits = logits[~logits.isnan().any(1)]
    if probabilities(logits):
        if not isinstance(model, Oracle):
            raise RobustError(
                "the model returns probabilities; attacks need logits, because a saturated softmax "
                "hides the gradient: remove the last softmax or sigmoid, or pass --probabilities "
                "to take logarithms"
            )
        if bool((logits[:, 0] == 0).all()) and logits.shape[1] == 2:
            raise RobustError(
                "the model's one score is a probability, as it seems: pass --probabilities to take "
                "logarithms"
            )
        model.probabilities = model.scores
    classes = logits.shape[1]
    refuse_labels(source, classes)
    refuse_targets(targeted, classes)
    if gradient:
        _refuse_no_gradient(model, batch.x[:1].to(device))
    return classes


def _refuse_no_gradient(model: nn.Module, x: Tensor) -> None:
    seen = model.exposed if isinstance(model, Defended) else model
    goal = Goal(torch.zeros(len(x), dtype=torch.int64, device=x.device))
    try:
        with frozen(model):
            Victim(seen, len(x), device=x.device).gradient(x, margin, goal)
    except RobustError as error:
        if seen is model:
            raise
        raise RobustError(
            "what the defenses expose gives no gradient with respect to the input: add "
            "--access scores, or an expose to your defense"
        ) from error


def refuse_labels(source: Source, classes: int) -> None:
    """RobustError naming the first sample whose label is no class of the model."""
    labels = source.labels()
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        first, label = source.ids[wrong[0]], labels[wrong[0]]
        raise RobustError(
            f"sample {first} has the label {label}, but the model has {classes} "
            f"classes (0 to {classes - 1}); {len(wrong)} of {len(labels)} labels are out of range"
        )


def refuse_bad_answers(logits: Tensor, ids: Tensor) -> None:
    """RobustError naming the first sample whose logits are NaN or infinite."""
    bad = (~logits.isfinite().all(1)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise RobustError(
            f"the model returns NaN or infinite logits for sample {int(ids[row])}: "
            "check the checkpoint and the normalisation"
        )


def probabilities(logits: Tensor) -> bool:
    """Whether these answers look like probabilities, one row a sample."""
    if bool(((logits < 0) | (logits > 1)).any()):
        return False
    if bool((logits[:, 0] == 0).all()):  # one output z, which as_logits made (0, z)
        return len(logits) >= _SURE
    return bool(((logits.double().sum(1) - 1).abs() < 1e-3).all())


def auto_batch_size(model: nn.Module, source: Source, device: torch.device) -> int:
    """The largest power of two up to 128 (512 on a GPU) whose backward fits the memory budget.

    Measured: the bytes that one forward of two samples keeps for its backward. The budget is
    512 MiB, on a GPU a quarter of what is free.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = source.batch(source.ids[:2]).x.to(device).requires_grad_()
    watching = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with frozen(model), torch.enable_grad(), watching:
        model(x)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    per_sample = sum(size for address, size in kept.items() if address not in own) / len(x)
    budget = _CPU_BUDGET
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 4
    limit = _BATCH_LIMIT.get(device.type, 128)
    size = int(min(limit, max(1, budget // max(1, per_sample))))
    return 1 << (size.bit_length() - 1)

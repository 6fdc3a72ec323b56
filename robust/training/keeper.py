"""What is kept of a run: the state of its last epoch, the best weights, and checkpoints."""

import math
import time

from robust.models import save_checkpoint

from .averaging import deployed
from .data import Data
from .folder import Row, TrainFolder
from .guard import collapsed, said
from .label_sets import FIGURES
from .learner import Learner
from .spec import TrainSpec

# Columns of a row that only sets of labels have, and their checkpoints tell.
SETS = ("val_hamming", "val_robust_hamming", "val_jaccard", "val_robust_jaccard")
REFRESH = 60.0  # seconds after which model.pt and best.pt are written in mid-run


class Keeper:
    """Commits epochs to the folder of a run, and knows which of them is the best."""

    def __init__(
        self, spec: TrainSpec, data: Data, folder: TrainFolder, learner: Learner, measured: int
    ) -> None:
        self.spec, self.data, self.folder, self.learner = spec, data, folder, learner
        self.measured = measured  # validation samples
        self.figure = FIGURES[spec.multi_label][0]
        self.refreshed = time.perf_counter()

    @property
    def highest(self) -> dict[str, float]:
        """The highest validation accuracies, or Jaccard indices, so far."""
        old = self.folder.state
        names = (f"val_{self.figure}", f"val_robust_{self.figure}")
        return old["highest"] if old else dict.fromkeys(names, 0.0)

    def problem(self, row: Row) -> str | None:
        """What is wrong with an epoch, in half a line."""
        best = self.highest[f"val_robust_{self.figure}"]
        fgsm, robust = row[f"val_fgsm_{self.figure}"], row[f"val_robust_{self.figure}"]
        if not (self.learner.trainer.attacks and collapsed(fgsm, robust, best)):
            return None
        return said(fgsm, robust, best, sets=self.spec.multi_label)

    def keep(self, row: Row, told: list[str], looks_best: float, seconds: float) -> bool:
        """Add the alarms to the row, compare it with the best one, and commit the epoch: whether it
        is the best."""
        old, problem = self.folder.state, self.problem(row)
        row["collapsed"] = problem is not None
        texts = [*told]
        if problem is not None:
            texts.append(
                f"catastrophic overfitting in epoch {row['epoch']}: {problem}; best.pt keeps those "
                "weights. Train with --adv pgd or with a smaller eps"
            )
        row["alarm"] = "; ".join(texts) or None
        highest = {key: max(value, row[key]) for key, value in self.highest.items()}
        best = old is None or self._better(row, old["best_row"], highest)
        state = self.learner.state()
        if best or old is None:
            best_row, best_weights = row, {k: v.cpu() for k, v in deployed(state).items()}
        else:
            best_row, best_weights = old["best_row"], old["best_weights"]
        self.folder.commit(
            {
                "spec_hash": self.spec.hash,
                "row": row,
                **state,
                "looks_best": looks_best,
                "rollbacks": [*(old.get("rollbacks", []) if old else []), *told],
                "highest": highest,
                "best_row": best_row,
                "best_weights": best_weights,
                "seconds": seconds,
            }
        )
        if time.perf_counter() - self.refreshed > REFRESH:
            self.checkpoints()
        return best

    def _better(self, row: Row, old: Row, highest: dict[str, float]) -> bool:
        """Early stopping (2002.11569) on validation accuracy, robust accuracy where the run trains
        against an attack. Accuracies within one standard error of the highest so far are not told
        apart: of those epochs, the one of lower loss is the better. For sets of labels it is the
        Jaccard index, whose standard error is at most that of an accuracy."""
        kind = "val_robust" if self.learner.trainer.attacks else "val"
        accuracy, loss = f"{kind}_{self.figure}", f"{kind}_loss"
        top = highest[accuracy]
        least = top - math.sqrt(top * (1 - top) / self.measured)
        if row[accuracy] < least:
            return False
        return bool(old[accuracy] < least or row[loss] < old[loss])

    def stale(self, epoch: int) -> bool:
        """Whether the run has waited for a better epoch for as long as it was told."""
        state = self.folder.state
        if not self.spec.patience or state is None:
            return False
        return bool(
            epoch - max(state["best_row"]["epoch"], self.spec.eps_warmup) >= self.spec.patience
        )

    def checkpoints(self) -> None:
        """model.pt and best.pt from the state. The network itself keeps its weights."""
        state = self.folder.state
        assert state is not None
        network, now = self.learner.network, self.learner.network.weights()
        for name, weights, row in (
            ("model.pt", deployed(state), state["row"]),
            ("best.pt", state["best_weights"], state["best_row"]),
        ):
            network.trained.load_state_dict(weights)
            save_checkpoint(
                self.folder.path / name,
                network.net,
                arch=self.spec.arch,
                shape=self.data.train.shape,
                num_classes=self.data.num_classes,
                classes=self.data.train.classes,
                mean=network.mean,
                std=network.std,
                data=self.data.attack.to_dict(),
                threat=self.spec.threat,
                extra={
                    "adv": self.spec.adv,
                    "mix": self.spec.mix,
                    "epoch": row["epoch"],
                    "val_accuracy": row["val_accuracy"],
                    "val_robust_accuracy": row["val_robust_accuracy"],
                    **({"multi_label": True} if self.spec.multi_label else {}),
                    **{key: row[key] for key in SETS if key in row},
                    "rollbacks": state.get("rollbacks", []),
                    "seed": self.spec.seed,
                    "validation": self.data.judged.to_dict() if self.data.judged else None,
                    "spec_hash": self.spec.hash,
                },
                defended=network.defended,
            )
        network.trained.load_state_dict(now)
        self.refreshed = time.perf_counter()

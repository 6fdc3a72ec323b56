"""The attacks of ART, the Adversarial Robustness Toolbox."""

import importlib
import inspect
import math
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from .oracle import Oracle
from .peer import Facts, Peer

_ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
_LP = "linf l2 l1"
# ART asks for an eps_step besides eps; by default it keeps the proportion of ART's own defaults.
_STEP = {"eps_step": None}


def _decision(norms: str, goals: str = "untargeted targeted") -> Facts:
    return Facts(norms, Access.LABELS, minimal=True, goals=goals, alone=True)


def _pixels(norms: str) -> Facts:
    # Without the package cma, `es=0` cannot be.
    facts: dict[str, Any] = {"es": 1}
    return Facts(
        norms,
        Access.SCORES,
        minimal=True,
        alone=True,
        images=True,
        answers="probabilities",
        defaults=facts,
    )


_FACTS = {
    "AutoAttack": Facts(_LP, goals="untargeted", defaults=_STEP),
    "AutoConjugateGradient": Facts(_LP, defaults=_STEP),
    "AutoProjectedGradientDescent": Facts(_LP, defaults=_STEP),
    "BasicIterativeMethod": Facts("linf", defaults=_STEP),
    "BoundaryAttack": _decision("l2"),
    "CarliniL0Method": Facts("l0", minimal=True, images=True),
    "CarliniL2Method": Facts("l2", minimal=True),
    "CarliniLInfMethod": Facts("linf", minimal=True, goals="untargeted", alone=True),
    "DeepFool": Facts("l2", minimal=True, goals="untargeted"),
    "ElasticNet": Facts("l1", minimal=True),
    "FastGradientMethod": Facts(_LP, defaults=_STEP),
    "HopSkipJump": _decision("linf l2"),
    "MomentumIterativeMethod": Facts(_LP, defaults=_STEP),
    "NewtonFool": Facts("l2", minimal=True, goals="untargeted", answers="probabilities"),
    "PixelAttack": _pixels("l0"),
    "ProjectedGradientDescent": Facts(_LP, defaults=_STEP),
    "ProjectedGradientDescentNumpy": Facts(_LP, defaults=_STEP),
    "ProjectedGradientDescentPyTorch": Facts(_LP, defaults=_STEP),
    "RescalingAutoConjugateGradient": Facts(_LP, defaults=_STEP),
    "SaliencyMapMethod": Facts("l0", minimal=True),
    "SignOPTAttack": _decision("l2", "untargeted"),
    "SimBA": Facts(
        "l2", Access.SCORES, minimal=True, alone=True, images=True, answers="probabilities"
    ),
    "SquareAttack": Facts("linf l2", Access.SCORES, goals="untargeted", images=True),
    "TargetedUniversalPerturbation": Facts(_LP, goals="targeted"),
    "ThresholdAttack": _pixels("linf"),
    "UniversalPerturbation": Facts(_LP, goals="untargeted"),
    "VirtualAdversarialMethod": Facts(
        "l2", Access.SCORES, goals="untargeted", answers="probabilities"
    ),
    "ZooAttack": Facts("l2", Access.SCORES, minimal=True, alone=True),
}

_PATCH = "it makes a patch, which no Lp threat bounds"
_DETECTOR = "it attacks object detectors and trackers"
_SPEECH = "it attacks speech recognition"
_TENSORFLOW = "it needs a TensorFlow model"
_UNBOUNDED = "it turns, recolours or lights up images, which no Lp threat bounds"
_GUIDE = "it needs images whose features are to be imitated"

_LEFT_OUT = {
    **dict.fromkeys(
        ("AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch"), _PATCH
    ),
    **dict.fromkeys(
        ("AdversarialTexturePyTorch", "DPatch", "RobustDPatch", "OverloadPyTorch", "SNAL"),
        _DETECTOR,
    ),
    **dict.fromkeys(("CarliniWagnerASR", "ImperceptibleASR", "ImperceptibleASRPyTorch"), _SPEECH),
    **dict.fromkeys(
        (
            *("AdversarialPatchTensorFlowV2", "FeatureAdversariesTensorFlowV2"),
            *("MalwareGDTensorFlow", "ProjectedGradientDescentTensorFlowV2"),
        ),
        _TENSORFLOW,
    ),
    **dict.fromkeys(
        (
            *("CompositeAdversarialAttackPyTorch", "LaserAttack", "ShadowAttack"),
            "SpatialTransformation",
        ),
        _UNBOUNDED,
    ),
    **dict.fromkeys(("FeatureAdversariesNumpy", "FeatureAdversariesPyTorch"), _GUIDE),
    **dict.fromkeys(
        ("GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch"),
        "it changes a part of an image without limit",
    ),
    "DecisionTreeAttack": "it attacks decision trees",
    "FrameSaliencyAttack": "it needs another attack, and video",
    "GeoDA": "it needs NumPy 1, writes files where it runs, and may look for a start for ever",
    "HighConfidenceLowUncertainty": "it attacks Gaussian processes",
    "LowProFool": "it needs a table of features and how much each weighs",
    "OverTheAirFlickeringPyTorch": "it needs video",
    "Wasserstein": "its ball is that of the Wasserstein distance",
}


class ArtAttack(Peer):
    """Run on the processor, where ART's arrays are; the model stays where it is."""

    engine: ClassVar[str] = "art"

    def _rehearse(self) -> None:
        class Nothing(nn.Module):
            def forward(self, z: Tensor) -> Tensor:
                return z.flatten(1)[:, :10] - 1

        self._make(_classifier()(Nothing(), (3, 32, 32), 10, 1), Threat("linf", 0.1), self.params)

    def _classes(self, victim: Victim, first: Tensor, goal: Goal) -> int:
        """ART wants to know; two classes without gradients become three (with two, some raise)."""
        if self.access == Access.LABELS:
            return super()._classes(victim, first, goal)
        found = victim.logits(first).shape[1]
        return max(3, found) if self.access == Access.SCORES else found

    def _make(self, classifier: Any, threat: Threat, options: dict[str, Any], **more: Any) -> Any:
        """ART's own object, with whatever it takes of what is the engine's."""
        known = inspect.signature(self.theirs.__init__).parameters
        if "eps_step" in known and options["eps_step"] is None:
            share = known["eps_step"].default / known["eps"].default
            options = {**options, "eps_step": threat.eps * share}
        given = {
            "estimator": classifier,
            "classifier": classifier,
            "eps": threat.eps,
            "norm": _ORDERS.get(threat.norm),
            "verbose": False,
            "targeted": False,
            **more,
        }
        return self.theirs(**{k: v for k, v in given.items() if k in known}, **options)

    def _run(self, oracle: Oracle, goal: Goal, threat: Threat, options: dict[str, Any]) -> Tensor:
        unit = oracle.unit.cpu()
        classifier = _classifier()(oracle, tuple(unit.shape[1:]), oracle.classes, len(unit))
        # Alone, a batch is not the samples but what is asked about one of them.
        batch = {} if self.facts.alone else {"batch_size": len(unit)}
        attack = self._make(classifier, threat, options, targeted=goal.targeted, **batch)
        labels = np.eye(oracle.classes, dtype=np.float32)[goal.labels.cpu().numpy()]
        # What this one takes for labels are targets, always.
        aimless = self.theirs.__name__ == "SaliencyMapMethod" and not goal.targeted
        given = None if aimless else labels
        return torch.from_numpy(np.asarray(attack.generate(x=unit.numpy().copy(), y=given)))


@cache
def _classifier() -> Any:
    """ART's view of an oracle."""
    pytorch = importlib.import_module("art.estimators.classification.pytorch")

    class OracleClassifier(pytorch.PyTorchClassifier):  # type: ignore[misc, name-defined]
        def __init__(self, oracle: nn.Module, shape: tuple[int, ...], classes: int, n: int) -> None:
            super().__init__(
                model=oracle,
                loss=nn.CrossEntropyLoss(),
                input_shape=shape,
                nb_classes=classes,
                clip_values=(0.0, 1.0),
                preprocessing=None,
                device_type="cpu",
            )
            self._rows = max(64, n)

        def predict(self, x: Any, batch_size: int = 128, **more: Any) -> Any:
            """As many rows at a time as the engine's batch: ART often asks for one by one."""
            return super().predict(np.asarray(x, dtype=np.float32), self._rows)

    return OracleClassifier


def catalogue() -> tuple[dict[str, tuple[Any, Facts]], dict[str, str], dict[str, str]]:
    """The classes that can be run with their facts, why others cannot, and further names."""
    attacks = importlib.import_module("art.attacks.evasion")
    base = importlib.import_module("art.attacks.attack").EvasionAttack
    usable, left_out = {}, dict(_LEFT_OUT)
    for name, theirs in vars(attacks).items():
        if not (inspect.isclass(theirs) and issubclass(theirs, base)) or name in left_out:
            continue
        if name in _FACTS:
            usable[name] = theirs, _FACTS[name]
        else:
            left_out[name] = "it is not known here yet"
    return usable, left_out, {}

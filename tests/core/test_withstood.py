"""What attacks leave of a sample: of random models by shares, the worst point chosen by others."""

import numpy as np

from robust.core.outcome import AttackRows, Shard


def shard(right, trial, target=-1):
    n = len(right)
    return Shard(
        index=0, ids=np.arange(n), labels=np.zeros(n, int), targets=np.full(n, target),
        prediction=np.zeros(n, int), confidence=np.ones(n), margin=np.zeros(n),
        attackable=np.ones(n, bool), broken_at=np.full(n, np.inf), kept=np.zeros(0, int),
        x=np.zeros((0, 1), np.float32), right=np.array(right), trial=np.array(trial),
    )  # fmt: skip


def rows(places, fooled, trial):
    n = len(places)
    zeros = np.zeros(n, int)
    return AttackRows(
        label="a", rows=np.array(places), success=np.array(fooled) >= 0.5, prediction=zeros,
        confidence=np.ones(n), distance=np.zeros(n), margin=np.zeros(n), survives_8bit=zeros - 1,
        forwards=zeros, backwards=zeros, queries=zeros, refused=zeros,
        x_adv=np.zeros((0, 1), np.float32), seconds=0.0, fooled=np.array(fooled),
        trial=np.array(trial),
    )  # fmt: skip


def test_the_worst_point_is_chosen_by_other_draws():
    left = shard([0.9, 0.6], [0.8, 0.7]).withstood(
        [
            rows([0, 1], [0.5, 0.1], [0.6, 0.2]),
            rows(
                [0],
                [
                    0.9,
                ],
                [0.4],
            ),
        ]
    )
    # Sample 0: of 0.2, 0.6 and 0.4 in the draws that choose, 0.6 is worst; it fools in 0.5 of the
    # others. Sample 1: the clean sample is wrong in 0.3 of them, the candidate fools in 0.2.
    assert np.allclose(left, [0.5, 0.6])


def test_a_target_that_is_reached_is_not_the_same_as_a_wrong_class():
    left = shard([0.7, 0.7], [0.7, 0.7], target=3).withstood([rows([0], [0.3], [0.3])])
    assert np.allclose(left, [0.7 * 0.7, 0.7])

"""Which validation images are answered right, packed for the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.reports import make_result
from trainables.evaluation.hits import Hits, from_arrays, from_text, to_arrays, to_text
from trainables.training.trial_folder import TrialFolder

GOALS = ("clean_accuracy", "robust_accuracy")


def make_hits(seed: int, sizes: tuple[int, ...]) -> Hits:
    generator = np.random.default_rng(seed)
    return {goal: [generator.random(size) < 0.5 for size in sizes] for goal in GOALS}


@pytest.mark.parametrize("sizes", [(1,), (7, 8), (9, 1, 1000)])
def test_hits_come_back(sizes: tuple[int, ...]) -> None:
    points = [make_hits(seed, sizes) for seed in range(3)]
    back = from_arrays(to_arrays(points))
    for goal in GOALS:
        for number in range(len(sizes)):
            assert (back[goal][number] == np.stack([hits[goal][number] for hits in points])).all()
            text = from_text(to_text(points[1]), sizes)
            assert (text[goal][number] == points[1][goal][number]).all()
    with pytest.raises(ValueError):
        from_text(to_text(points[0]), [size + 8 for size in sizes])


def test_they_lie_beside_the_result_and_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    points, folder = [make_hits(seed, (1000,)) for seed in range(5)], TrialFolder(tmp_path)
    folder.claim()
    assert folder.hits() is None
    folder.finish(make_result(), {"last.w": torch.ones(1)}, points)
    path, back = tmp_path / "answers.npz", folder.hits()
    assert back is not None and (back[GOALS[1]][0][4] == points[4][GOALS[1]][0]).all()
    assert path.stat().st_size < 2 * 5 * 125 + 1500
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:300] + b"?" * 64 + content[364:]):
        path.write_bytes(damaged)
        assert folder.hits() is None

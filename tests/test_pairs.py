from __future__ import annotations

import numpy as np

from gbr._backend import Rows
from gbr._pairs import ANCHORS, PAIRS_PER_ROW, differences, wins


def made(sizes: tuple[int, ...] = (5, 1, 130, 0, 2)) -> Rows:
    rng = np.random.default_rng(0)
    rows = sum(sizes)
    X = rng.normal(size=(rows, 3)).astype(np.float32)
    target = rng.integers(0, 40, rows).astype(np.float64)
    return Rows(X, target, np.cumsum([0, *sizes]).astype(np.int64))


def test_pairs_are_of_one_slate_and_say_which_is_faster() -> None:
    train = made()
    slate = np.repeat(np.arange(5), train.sizes)
    pairs, faster = differences(train, seed=1)
    assert pairs.dtype == np.float32
    assert 0.8 * PAIRS_PER_ROW * 137 < len(pairs) <= PAIRS_PER_ROW * 137
    place = {row.tobytes(): number for number, row in enumerate(train.X)}
    for row, is_faster in zip(pairs, faster, strict=True):
        first = place[row[:3].tobytes()]
        same = np.flatnonzero(slate == slate[first])
        second = same[np.abs(train.X[same] - (row[:3] - row[3:])).sum(axis=1).argmin()]
        assert np.array_equal(train.X[first] - train.X[second], row[3:])
        assert train.target[first] != train.target[second]
        assert bool(is_faster) == (train.target[first] < train.target[second])


def test_wins_are_the_mean_over_the_anchors_of_the_slate() -> None:
    train = made()

    def beats(pairs: np.ndarray) -> np.ndarray:
        return np.tanh(pairs[:, 0] + 2.0 * pairs[:, 4])

    expected = []
    for start, stop in zip(train.indptr[:-1], train.indptr[1:], strict=True):
        rows = train.X[start:stop]
        anchors = rows[sorted({int(at) for at in np.linspace(0, len(rows) - 1, min(ANCHORS, len(rows)))})]
        expected += [np.mean([np.tanh(row[0] + 2.0 * (row[1] - other[1])) for other in anchors]) for row in rows]
    np.testing.assert_allclose(wins(beats, train.X, train.indptr), expected, rtol=1e-5)

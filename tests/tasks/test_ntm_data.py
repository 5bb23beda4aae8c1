"""Episodes of recall and copying against the layout of the spec; levels against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from noisyexp.tasks.ntm_recall import data
from noisyexp.tasks.ntm_recall.data import Episodes


def draw(counts: list[int], problem: str = "recall", key: int = 0) -> Episodes:
    return data.PROBLEMS[problem](torch.tensor(counts), torch.Generator().manual_seed(key))


def decode(x: Tensor) -> tuple[list[list[list[int]]], list[list[int]], int]:
    """Items, query and step of the cue of one episode (T, 8), read as a machine has to."""
    items: list[list[list[int]]] = []
    marks = [step for step in range(len(x)) if x[step, 6] or x[step, 7]]
    assert all(not x[step, :6].any() for step in marks)
    found = [x[step + 1 : step + 4, :6].int().tolist() for step in marks]
    items = [block for step, block in zip(marks, found, strict=True) if x[step, 6]]
    query, cue = [step for step in marks if x[step, 7]]
    assert marks == list(range(0, 4 * len(marks), 4)) and cue == query + 4
    return items, found[-2], cue


@pytest.mark.parametrize(("n", "steps"), [(2, 16), (6, 32), (16, 72)])
def test_lengths(n: int, steps: int) -> None:
    episodes = draw([n] * 5)
    assert episodes.x.shape == (steps, 5, 8) == (4 * (n + 2), 5, 8)
    assert episodes.target.shape == (steps, 5, 6) and episodes.mask.shape == (steps, 5)
    assert set(episodes.x.unique().tolist()) == {0.0, 1.0}
    # n delimiters of items; one of the query and one of the answer.
    assert episodes.x[:, :, 6].sum(0).tolist() == [n] * 5
    assert episodes.x[:, :, 7].sum(0).tolist() == [2] * 5
    # Three steps of six bits are scored, those of the last three steps, whose input is zero.
    assert (6 * episodes.mask.sum(0)).tolist() == [18] * 5
    assert episodes.mask.any(1).nonzero().flatten().tolist() == [steps - 3, steps - 2, steps - 1]
    assert not episodes.x[-3:].any()


def test_the_target_is_the_item_after_the_query() -> None:
    """Decoded from the input alone; the counts differ, so that short episodes are padded."""
    counts = [2 + i % 7 for i in range(300)]
    episodes = draw(counts)
    places = []
    for i, n in enumerate(counts):
        items, query, cue = decode(episodes.x[:, i])
        assert len(items) == n
        place = items.index(query)
        places.append((n, place))
        assert episodes.target[cue + 1 : cue + 4, i].int().tolist() == items[place + 1]
        scored = episodes.mask[:, i].nonzero().flatten().tolist()
        assert scored == [cue + 1, cue + 2, cue + 3]
        assert not episodes.x[cue + 1 :, i].any()
        assert int(episodes.target[:, i].sum()) == sum(map(sum, items[place + 1]))
    # Every item but the last is asked for.
    assert {place for n, place in places if n == 5} == {0, 1, 2, 3}
    assert {place for n, place in places if n == 2} == {0}


def test_bits_and_queries_are_fair() -> None:
    episodes = draw([6] * 20_000)
    bits = episodes.x[:24, :, :6].view(6, 4, 20_000, 6)[:, 1:]
    # 2.16 million coins: three standard errors are 0.001.
    assert float(bits.mean()) == pytest.approx(0.5, abs=0.00102)
    query = episodes.x[25:28, :, :6]
    same = (bits == query).all(-1).all(1).float().mean(1)
    assert same[:5].tolist() == pytest.approx([0.2] * 5, abs=3 * 0.0029)
    assert float(same[5]) < 0.001


@pytest.mark.parametrize("counts", [[3] * 4, [1, 4, 2, 4]])
def test_copy(counts: list[int]) -> None:
    episodes = draw(counts, "copy")
    assert len(episodes.x) == 2 * max(counts) + 2
    for i, n in enumerate(counts):
        x = episodes.x[:, i]
        assert x[0].tolist() == [0.0] * 6 + [1.0, 0.0]
        assert x[n + 1].tolist() == [0.0] * 7 + [1.0]
        assert not x[n + 2 :].any() and int(x[:, 6:].sum()) == 2
        assert episodes.mask[:, i].nonzero().flatten().tolist() == list(range(n + 2, 2 * n + 2))
        assert torch.equal(episodes.target[n + 2 : 2 * n + 2, i], x[1 : n + 1, :6])
        assert int(episodes.target[:, i].sum()) == int(x[:, :6].sum())


def test_growing_bound() -> None:
    """The table of the author's generator, batch 128: 48k, 148k ... 448k episodes."""
    found = [data.bound(step, 128, 2, 16, True) for step in (0, 374, 376, 1156, 1158, 3501)]
    assert found == [11, 11, 12, 12, 13, 16]
    assert data.bound(10**6, 128, 2, 16, True) == 16
    assert data.bound(0, 128, 2, 16, False) == 16
    assert data.bound(0, 128, 5, 6, True) == 5  # never below the fewest


def test_counts() -> None:
    generator = torch.Generator().manual_seed(1)
    each = data.counts(2, 6, 10_000, False, generator)
    assert each.bincount().tolist()[:2] == [0, 0]
    assert (each.bincount()[2:] / 1e4).tolist() == pytest.approx([0.2] * 5, abs=3 * 0.004)
    shared = [data.counts(2, 6, 3, True, generator).unique().tolist() for _ in range(60)]
    assert {len(values) for values in shared} == {1}
    assert {values[0] for values in shared} == {2, 3, 4, 5, 6}
    assert data.balanced(2, 6, 10).bincount().tolist() == [0, 0, 2, 2, 2, 2, 2]


# --- levels


def test_chance() -> None:
    assert data.chance_nats() == pytest.approx(12.477, abs=0.0005)


def test_query_blind_levels() -> None:
    """The table of the spec: 16 items, uniform 2 ... 16, uniform 2 ... 6, and 2 items."""
    assert data.query_blind_nats(16) == pytest.approx(11.854, abs=0.0005)
    assert data.query_blind_mean(2, 16) == pytest.approx(9.981, abs=0.0005)
    assert data.query_blind_mean(2, 6) == pytest.approx(6.991, abs=0.0005)
    assert data.query_blind_nats(2) == 0.0


@pytest.mark.parametrize("n", [3, 4, 5])
def test_query_blind_by_enumeration(n: int) -> None:
    """All contents of one bit of the n - 1 candidates, and every one of them as the answer."""
    total, others = 0.0, n - 1
    for bits in itertools.product((0, 1), repeat=others):
        p = sum(bits) / others
        cost = [-math.log(p if bit else 1 - p) for bit in bits]
        total += sum(cost) / others / 2**others
    assert data.query_blind_nats(n) == pytest.approx(18 * total)


def test_query_blind_on_drawn_episodes() -> None:
    """The best query-blind answer to real episodes of 4 items costs what the formula says."""
    episodes = draw([4] * 20_000)
    share = episodes.x[:16, :, :6].view(4, 4, 20_000, 6)[1:, 1:].mean(0).double()
    target = episodes.target[-3:].double()
    p = torch.where(target > 0, share, 1 - share)
    nats = -p.log().sum((0, 2))
    error = float(nats.std()) / math.sqrt(20_000)
    assert float(nats.mean()) == pytest.approx(data.query_blind_nats(4), abs=3 * error)

"""One long text as parallel streams, and the windows that truncated BPTT walks over.

With s tokens and B streams every stream has n = floor(s/B) rows. Stream i (0-based) starts at the
exact fraction i*s/B rounded to the nearest integer, halves up, and takes n consecutive tokens. So
the s - n*B leftover tokens are not cut off at the end but dropped one by one between streams.
Penn Treebank, B = 20 (`data.lua` of the reference code):

- train: n = 46,479 and 9 tokens are dropped, one after each of the streams 2, 4, 6, 8, 10, 13, 15,
  17, 19 (1-based); the last stream ends at the last token;
- valid: 73,760 = 20 x 3,688 exactly, nothing is dropped; test is not split.

Window k takes rows k*T .. k*T+T-1 as inputs and the rows one later as targets. Train, T = 20:
2,323 windows use 46,460 of the 46,478 possible targets of a stream; the last 18 are never seen.
"""

from __future__ import annotations

import torch
from torch import Tensor


def stream_starts(num_tokens: int, num_streams: int) -> list[int]:
    """Index of the first token of each stream: i*s/B rounded, halves up.

    In integers throughout: 464,794.5 must give 464,795, where Python's `round` gives 464,794.

    Raises:
        ValueError: there is no stream, or a stream would be empty.
    """
    if not 1 <= num_streams <= num_tokens:
        raise ValueError(f"{num_tokens} tokens cannot be split into {num_streams} streams")
    return [
        (2 * index * num_tokens + num_streams) // (2 * num_streams) for index in range(num_streams)
    ]


def to_streams(tokens: Tensor, num_streams: int) -> Tensor:
    """Split `tokens` of shape (s,) into parallel streams, shape (n, B), n = floor(s/B).

    Raises:
        ValueError: see `stream_starts`.
    """
    num_tokens = tokens.shape[0]
    rows = num_tokens // max(num_streams, 1)
    starts = stream_starts(num_tokens, num_streams)
    return torch.stack([tokens[start : start + rows] for start in starts], dim=1)


def num_windows(rows: int, steps: int) -> int:
    """Number of full windows: floor((n-1)/T), since the last row can only be a target.

    It equals the reference code's "epoch size" floor(n/T) unless T divides n.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"a window needs at least one step, not {steps}")
    return max(rows - 1, 0) // steps


def window(streams: Tensor, index: int, steps: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of window `index` (0-based), both views of shape (T, B).

    Args:
        streams: token ids of shape (n, B).
        index: 0 .. num_windows - 1.
        steps: T.

    Raises:
        IndexError: there is no such window; slicing alone would shorten it silently.
    """
    count = num_windows(streams.shape[0], steps)
    if not 0 <= index < count:
        raise IndexError(f"window {index} of {count}")
    first = index * steps
    return streams[first : first + steps], streams[first + 1 : first + steps + 1]

"""Sections from plain values: every type, every limit, and all problems at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from noisyexp.schema import build, closest, option


@dataclass(frozen=True)
class Inner:
    rate: float = option("the rate", above=0, high=2.5)


@dataclass(frozen=True)
class Outer:
    count: int = option("how many", low=1, high=9)
    share: float = option("a part", low=0, high=1)
    flag: bool = option("yes or no")
    name: str = option("a name")
    kind: str = option("a kind", choices=("soft", "hard"))
    limit: int | None = option("a limit; null for none", low=2)
    inner: Inner = option("a section")
    maybe: Inner | None = option("a section or null")
    free: dict[str, Any] = option("anything")
    items: list[int] = option("numbers")
    short: str | None = option("a short text", longest=4, without="/:")
    words: list[str] = option("short texts", longest=3)
    anything: Any = option("any value")


GOOD: dict[str, Any] = {
    "count": 3, "share": 0.25, "flag": True, "name": "x", "kind": "hard", "limit": None,
    "inner": {"rate": 1.5}, "maybe": None, "free": {"a": [1]}, "items": [1, 2], "anything": object,
    "short": None, "words": [],
}  # fmt: skip
SHORT = "a text (1 to 4 characters, none of / :)"
WORDS = "a list of texts (1 to 3 characters each)"


def problems_of(**changes: Any) -> list[str]:
    problems: list[str] = []
    made = build(Outer, {**GOOD, **changes}, "top", problems)
    assert (made is None) == bool(problems)
    return problems


def test_good_values_make_the_section() -> None:
    problems: list[str] = []
    made = build(Outer, GOOD, "", problems)
    assert problems == []
    assert made == Outer(**{**GOOD, "inner": Inner(1.5)})


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"count": 1}, "count", 1),
        ({"count": 9}, "count", 9),
        ({"share": 0}, "share", 0.0),
        ({"share": 1}, "share", 1.0),
        ({"limit": 2}, "limit", 2),
        ({"maybe": {"rate": 2.5}}, "maybe", Inner(2.5)),
        ({"anything": None}, "anything", None),
        ({"free": {}}, "free", {}),
        ({"short": "abcd"}, "short", "abcd"),
        ({"words": ["a", "b/c"]}, "words", ["a", "b/c"]),
    ],
)
def test_limits_are_inclusive_and_whole_numbers_serve_as_numbers(
    changes: dict[str, Any], field: str, value: Any
) -> None:
    problems: list[str] = []
    made = build(Outer, {**GOOD, **changes}, "", problems)
    assert problems == []
    assert getattr(made, field) == value
    assert type(getattr(made, field)) is type(value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 0}, "top.count=0: expected a whole number (at least 1, at most 9)"),
        ({"count": 10}, "top.count=10: expected a whole number (at least 1, at most 9)"),
        ({"count": 3.0}, "top.count=3.0: expected a whole number (at least 1, at most 9)"),
        ({"count": "3"}, "top.count='3': expected a whole number (at least 1, at most 9)"),
        ({"count": True}, "top.count=True: expected a whole number (at least 1, at most 9)"),
        ({"count": None}, "top.count=None: expected a whole number (at least 1, at most 9)"),
        ({"share": -0.1}, "top.share=-0.1: expected a number (at least 0, at most 1)"),
        ({"share": math.nan}, "top.share=nan: expected a number (at least 0, at most 1)"),
        ({"share": math.inf}, "top.share=inf: expected a number (at least 0, at most 1)"),
        ({"share": False}, "top.share=False: expected a number (at least 0, at most 1)"),
        ({"flag": 1}, "top.flag=1: expected true or false"),
        ({"flag": "true"}, "top.flag='true': expected true or false"),
        ({"name": 3}, "top.name=3: expected a text"),
        ({"kind": "hrad"}, "top.kind='hrad': choose from soft, hard. Did you mean hard?"),
        ({"kind": "zzz"}, "top.kind='zzz': choose from soft, hard."),
        ({"kind": 3}, "top.kind=3: expected a text (one of soft, hard)"),
        ({"limit": 1}, "top.limit=1: expected a whole number (at least 2)"),
        ({"inner": {"rate": 0}}, "top.inner.rate=0: expected a number (above 0, at most 2.5)"),
        ({"inner": {"rate": 3}}, "top.inner.rate=3: expected a number (above 0, at most 2.5)"),
        ({"inner": {}}, "top.inner.rate: missing (the rate)"),
        ({"inner": None}, "top.inner=None: expected a section with keys"),
        ({"inner": 3}, "top.inner=3: expected a section with keys"),
        ({"maybe": {"rate": "x"}}, "top.maybe.rate='x': expected a number (above 0, at most 2.5)"),
        ({"free": [1]}, "top.free=[1]: expected a mapping"),
        ({"items": {}}, "top.items={}: expected a list of whole numbers"),
        ({"short": ""}, f"top.short='': expected {SHORT}"),
        ({"short": "abcde"}, f"top.short='abcde': expected {SHORT}"),
        ({"short": "a/b"}, f"top.short='a/b': expected {SHORT}"),
        ({"short": "a:"}, f"top.short='a:': expected {SHORT}"),
        ({"short": 3}, f"top.short=3: expected {SHORT}"),
        ({"words": ["a", ""]}, f"top.words=['a', '']: expected {WORDS}"),
        ({"words": ["abcd"]}, f"top.words=['abcd']: expected {WORDS}"),
        ({"words": "abc"}, f"top.words='abc': expected {WORDS}"),
    ],
)
def test_each_mistake_names_key_value_and_what_is_allowed(
    changes: dict[str, Any], problem: str
) -> None:
    assert problems_of(**changes) == [problem]


def test_unknown_and_missing_keys() -> None:
    values = {key: value for key, value in GOOD.items() if key != "count"}
    problems: list[str] = []
    assert build(Outer, {**values, "cuont": 3, "inner": {"rate": 1, "x": 1}}, "", problems) is None
    keys = (
        "count, share, flag, name, kind, limit, inner, maybe, free, items, short, words, anything"
    )
    assert problems == [
        f"cuont=3: no such key. Did you mean count? Keys here: {keys}",
        "count: missing (how many)",
        "inner.x=1: no such key. Keys here: rate",
    ]


def test_all_problems_are_found_at_once() -> None:
    changes = {"count": 0, "flag": 1, "kind": "x", "inner": {"rate": -1}, "zzz": 0}
    assert [problem.split("=")[0] for problem in problems_of(**changes)] == [
        "top.zzz", "top.count", "top.flag", "top.kind", "top.inner.rate",
    ]  # fmt: skip


def test_not_a_section_at_all() -> None:
    problems: list[str] = []
    assert build(Inner, [1], "here", problems) is None
    assert problems == ["here=[1]: expected a section with keys"]


@dataclass(frozen=True)
class Ordered:
    low: int = option("lower end")
    high: int = option("upper end")

    def check(self) -> Iterator[str]:
        if self.low > self.high:
            yield f"low={self.low}: must not be above high={self.high}"


@dataclass(frozen=True)
class Holder:
    ends: Ordered = option("both ends")


def test_checks_over_several_fields_run_when_the_fields_are_right() -> None:
    problems: list[str] = []
    assert build(Holder, {"ends": {"low": 3, "high": 2}}, "a", problems) is None
    assert problems == ["a.ends.low=3: must not be above high=2"]
    problems.clear()
    assert build(Holder, {"ends": {"low": 3, "high": "x"}}, "a", problems) is None
    assert problems == ["a.ends.high='x': expected a whole number"]
    problems.clear()
    assert build(Holder, {"ends": {"low": 2, "high": 2}}, "a", problems) == Holder(Ordered(2, 2))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trainng.epochs", " Did you mean training.epochs?"),
        ("lr", " Did you mean training.lr?"),
        ("task.lr", " Did you mean training.lr?"),
        ("hiden_size", " Did you mean task.hidden_size?"),
        ("seed", " Did you mean seed?"),
        ("sed", " Did you mean seed?"),
        ("qqqq", ""),
        ("", ""),
    ],
)
def test_closest(word: str, hint: str) -> None:
    names = ["seed", "training", "training.epochs", "training.lr", "task.hidden_size"]
    assert closest(word, names) == hint
    assert closest(word, iter(names)) == hint


def test_closest_of_nothing() -> None:
    assert closest("x", []) == ""

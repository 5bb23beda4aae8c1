"""Generated programs: Python runs them, and their law is the one of the original rules."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from statistics import mean

import pytest

from noisyexp.tasks.lte import generate
from noisyexp.tasks.lte.programs import (
    ALPHABET,
    LETTERS,
    SPLITS,
    STRATEGIES,
    Builder,
    Level,
    Program,
    compose,
    level_draw,
    programs,
    split_of,
    text_hash,
)

TOP = (6, 3)
# The expected number of digits of a number that is uniform in 1 .. 10^6, and in 1 .. 24.
DIGITS = (9 * 1 + 90 * 2 + 900 * 3 + 9_000 * 4 + 90_000 * 5 + 900_000 * 6 + 7) / 10**6
FACTOR = (9 * 1 + 15 * 2) / 24


def take(count: int, split: str, strategy: str, level: Level, key: int = 1) -> list[Program]:
    return list(itertools.islice(programs(key, split, strategy, level, TOP), count))


def unfiltered(count: int, level: Level, key: int = 5) -> list[Program]:
    uniform = random.Random(key).random
    return [compose(lambda: level, uniform) for _ in range(count)]


def run(source: str) -> str:
    """What Python prints for a program, with the final dot."""
    assert source.endswith("@")
    printed: list[int] = []
    code = source[:-1].replace("#", "\n")
    exec(code, {"print": printed.append, "range": range, "__builtins__": {}})
    (value,) = printed
    return f"{value}."


def check_by_python(count: int, strategy: str) -> None:
    levels = [(1, 1), (3, 1), (6, 1), (1, 3), (4, 2), (6, 3)]
    seen = set()
    for number, level in enumerate(levels):
        for split in SPLITS:
            for program in take(count // 18 + 1, split, strategy, level, number):
                assert run(program.source) == program.target, program
                assert program.source.isascii() and set("".join(program)) <= set(ALPHABET)
                seen.add(program)
    assert len(seen) > count / 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_python_prints_the_targets(strategy: str) -> None:
    check_by_python(2_000, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_python_prints_ten_thousand_targets(strategy: str) -> None:
    check_by_python(10_000, strategy)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("j=587473#for x in range(22):j-=855771#g=(j+102164)#for x in range(22):g+=520529"
         "#print(g)@", "-6685687."),
        ("print((((535348 if 19614<915204 else 548937)*20)*6))@", "64241760."),
        ("a=3;#print((a-8))@", "-5."),
        ("c=2#for x in range(2):c-=4#print(c)@", "-6."),
        ("j=8584#for x in range(8):j+=920#print((j+7))@", "15951."),
    ],
)  # fmt: skip
def test_printed_examples_are_what_the_checker_takes(source: str, target: str) -> None:
    """The notation of published examples, through the same check as the generated ones."""
    assert run(source) == target


@pytest.mark.parametrize(
    ("text", "value", "split"),
    [
        ("print(8)@8.", 393092342, "test"),
        ("a=3;#print((a-8))@-5.", 156190302, "train"),
        ("print((3-8))@-5.", 310120566, "train"),
    ],
)
def test_known_hashes(text: str, value: int, split: str) -> None:
    """An odd and two even lengths; computed from the rule of the Lua code."""
    source, at, target = text.partition("@")
    assert text_hash(text) == value
    assert split_of(Program(source + at, target)) == split == SPLITS[value % 3]


def test_sets_share_no_text_and_are_of_equal_size() -> None:
    found = Counter(split_of(program) for program in unfiltered(30_000, (6, 3)))
    for split in SPLITS:  # four standard errors of a binomial share of 1/3
        assert abs(found[split] - 10_000) < 4 * (30_000 * 2 / 9) ** 0.5
    texts = [set(take(2_000, split, "naive", (1, 1))) for split in SPLITS]
    assert all(len(split) > 300 for split in texts)  # there are few short programs
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


def test_alphabet() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 42
    expected = " #()*+-.0123456789:;<=>@abcdefghij" + "lnoprstx"
    assert sorted(ALPHABET) == sorted(expected)
    used = {c for program in unfiltered(3_000, (6, 3)) for c in "".join(program)}
    assert used == set(ALPHABET)


@pytest.mark.parametrize(
    ("level", "source", "target"),
    [
        ((1, 1), 18.8, 2.4),
        ((3, 1), 23.0, 4.4),
        ((6, 1), 29.4, 7.5),
        ((1, 3), 39.0, 2.8),
        ((6, 2), 44.5, 7.9),
        ((6, 3), 59.1, 8.2),
    ],
)
def test_mean_lengths(level: Level, source: float, target: float) -> None:
    """As counted by an independent generator, on a sample smaller than this one."""
    found = unfiltered(5_000, level)
    assert mean(len(program.source) for program in found) == pytest.approx(source, abs=0.65)
    assert mean(len(program.target) for program in found) == pytest.approx(target, abs=0.12)
    assert max(len(program.source) for program in found) <= 113 + 10


def test_mean_length_in_closed_form() -> None:
    """One operation on six-digit numbers: characters that are fixed, plus digits."""
    shapes = {
        "add": 11 + 2 * DIGITS,  # print((a+b))@
        "multiply": 11 + DIGITS + FACTOR,  # print((a*m))@
        "identity": 8 + DIGITS,  # print(a)@
        "assign": 4 + 12 + 2 * DIGITS,  # v=a;# print((v+b))@
        "loop": 3 + 21 + 9 + 2 * DIGITS + FACTOR,  # v=a# for x in range(m):v+=b# print(v)@
        "choose": 8 + 13 + 4 * DIGITS,  # print((c if a>b else d))@
    }
    expected = sum(shapes.values()) / 6
    lengths = [len(program.source) for program in unfiltered(40_000, (6, 1))]
    assert expected == pytest.approx(28.986, abs=0.001)
    assert mean(lengths) == pytest.approx(expected, abs=4 * 12 / 40_000**0.5)


def test_negative_targets() -> None:
    share = mean(program.target.startswith("-") for program in unfiltered(10_000, (6, 3)))
    assert share == pytest.approx(0.27, abs=0.025)


@pytest.mark.parametrize("length", [1, 3, 6])
def test_ranges_of_numbers(length: int) -> None:
    top = Builder(lambda: (length, 1), lambda: 1 - 2**-53)
    assert top.operands(1) == [(str(10**length), 10**length)] and top.factor() == 4 * length
    bottom = Builder(lambda: (length, 1), lambda: 0.0)
    assert bottom.operands(1) == [("1", 1)] and bottom.factor() == 1
    sources = [program.source for program in unfiltered(6_000, (length, 1))]
    loops = [int(m) for source in sources for m in re.findall(r"range\((\d+)\)", source)]
    assert (min(loops), max(loops)) == (1, 4 * length)
    # A product tells its factor only by being small; a sum has two operands.
    sums = [re.fullmatch(r"print\(\((\d+)[+-](\d+)\)\)@", source) for source in sources]
    numbers = [int(n) for match in sums if match for n in match.groups()]
    assert len(numbers) > 1_500 and min(numbers) >= 1 and max(numbers) <= 10**length
    if length == 1:
        assert set(numbers) == {*range(1, 11)}


def test_uniform_draws() -> None:
    """Operations, slots of the previous result, and letters: each 1/k, four standard errors."""

    def close(counts: Counter[str], kinds: int, total: int) -> bool:
        width = 4 * (total * (1 / kinds) * (1 - 1 / kinds)) ** 0.5
        return len(counts) == kinds and all(abs(n - total / kinds) < width for n in counts.values())

    uniform = random.Random(2).random
    slots: Counter[str] = Counter()
    for _ in range(8_000):
        builder = Builder(lambda: (1, 1), uniform)
        builder.last = ("before", 0)
        slots[str([text for text, _ in builder.operands(4)].index("before"))] += 1
    assert close(slots, 4, 8_000)

    patterns = {
        "assign": r"\w=.*;#.*", "loop": r".*for x in.*", "choose": r".* if .* else .*",
        "identity": r"print\(\d+\)@", "multiply": r"print\(\(\d+\*\d+\)\)@",
        "add": r"print\(\(\d+[+-]\d+\)\)@",
    }  # fmt: skip
    kinds: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for program in unfiltered(12_000, (3, 1)):
        (kind,) = [k for k, pattern in patterns.items() if re.fullmatch(pattern, program.source)]
        kinds[kind] += 1
        if kind in ("assign", "loop"):
            letters[program.source[0]] += 1
    assert close(kinds, 6, 12_000)
    assert set(letters) == set(LETTERS) and close(letters, 10, letters.total())


def test_variables_are_fresh() -> None:
    """Ten operations use up to ten letters, none twice, and never the loop variable."""
    most = 0
    for program in unfiltered(500, (2, 10)):
        assigned = re.findall(r"(?:^|#)(\w)=", program.source)
        assert len(set(assigned)) == len(assigned) and set(assigned) <= set(LETTERS)
        assert set(re.findall(r"for (\w) in", program.source)) <= {"x"}
        assert run(program.source) == program.target
        most = max(most, len(assigned))
    assert most >= 6


def test_the_previous_result_is_used_exactly_once() -> None:
    """Every variable that is assigned is read once more (a loop reads its own in `v+=` too)."""
    for program in unfiltered(1_000, (6, 3)):
        for v in re.findall(r"(?:^|#)(\w)=", program.source):
            text = re.sub(r"print|range|for|else|if|in", "", program.source)
            assert text.count(v) - len(re.findall(rf"{v}[+-]?=", text)) == 1, program


def calls_of(strategy: str, count: int) -> list[list[Level]]:
    """Levels that each of `count` programs has drawn, at the current level (1, 1)."""
    uniform = random.Random(11).random
    draw = level_draw(strategy, (1, 1), TOP, uniform)
    found = []
    for _ in range(count):
        calls: list[Level] = []

        def recorded(calls: list[Level] = calls) -> Level:
            calls.append(draw())
            return calls[-1]

        compose(recorded, uniform)
        found.append(calls)
    return found


def test_combined_levels() -> None:
    """P(a number has the range of (1, 1)) = 0.8 + 0.2 / 6, P(one operation) = 0.8 + 0.2 / 3."""
    found = calls_of("combined", 20_000)
    numbers = [level[0] for calls in found for level in calls[1:]]
    p = 0.8 + 0.2 / 6
    assert mean(n == 1 for n in numbers) == pytest.approx(
        p, abs=4 * (p * (1 - p) / len(numbers)) ** 0.5
    )
    q = 0.8 + 0.2 / 3
    assert mean(calls[0][1] == 1 for calls in found) == pytest.approx(
        q, abs=4 * (q * (1 - q) / 20_000) ** 0.5
    )
    # Drawn anew for every number and factor: 3, 3, 2, 3, 4 and 5 draws for the six operations.
    single = [len(calls) for calls in found if calls[0][1] == 1]
    assert mean(single) == pytest.approx(20 / 6, abs=4 * 1.0 / len(single) ** 0.5)
    assert any(len({level[0] for level in calls[1:]}) > 1 for calls in found)


def test_other_strategies() -> None:
    assert {level for calls in calls_of("naive", 300) for level in calls} == {(1, 1)}
    assert {level for calls in calls_of("baseline", 300) for level in calls} == {TOP}
    levels = Counter(level for calls in calls_of("mix", 5_000) for level in calls)
    total = levels.total()
    assert len(levels) == 18
    for count in levels.values():
        assert abs(count - total / 18) < 5 * (total / 18) ** 0.5


def test_one_level_a_program() -> None:
    """Under `mix`, at one operation of one kind: both numbers have the same range."""

    def pairs(per_program: bool) -> list[tuple[int, int]]:
        stream = programs(3, "train", "mix", (1, 1), TOP, per_program=per_program)
        found = []
        for source, _ in itertools.islice(stream, 5_000):
            match = re.fullmatch(r"print\(\((\d+)[+-](\d+)\)\)@", source)
            if match:
                found.append((len(match[1]), len(match[2])))
        return found

    far = [mean(abs(a - b) >= 3 for a, b in pairs(flag)) for flag in (True, False)]
    # Three digits apart under one range has probability below 2 * 10^-3; else about 1/4.
    assert far[0] < 0.01 and far[1] > 0.15


def test_a_stream_is_a_function_of_its_key() -> None:
    assert take(50, "train", "combined", (2, 2), 7) == take(50, "train", "combined", (2, 2), 7)
    assert take(50, "train", "combined", (2, 2), 7) != take(50, "train", "combined", (2, 2), 8)


def test_pinned_programs() -> None:
    """The same on every platform and version of Python."""
    assert ["".join(program) for program in take(3, "test", "naive", (6, 3), 0)] == [
        "c=(258917 if 511275>757955 else 420572);#j=(c-908113);#print((j-250507))@-738048.",
        "print(((243911 if 191068<325205 else 870472)-320055))@-76144.",
        "e=(579696 if 895039<949765 else 589802)#for x in range(16):e-=82373#print((e*18))@"
        "-13288896.",
    ]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    generate.main(["--length", "6", "--nesting", "3", "--count", "5", "--seed", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for line in lines:
        source, at, target = line.partition("@")
        assert run(source + at) == target and split_of(Program(source + at, target)) == "train"
    generate.main(["--count", "4", "--length", "1", "--nesting", "1", "--split", "test"])
    assert capsys.readouterr().out.count("\n") == 4
    for wrong, message in (
        (["--nesting", "11"], "--nesting 11: must be in 1 .. 10"),
        (["--target-length", "0"], "--target-length 0: must be in 1 .. 9"),
        (["--count", "-1"], "--count -1: must be at least 0"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
    ):
        with pytest.raises(SystemExit):
            generate.main(wrong)
        assert message in capsys.readouterr().err

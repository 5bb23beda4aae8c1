"""Weights & Biases: what is logged, read back; servers that are not there or say no; agents."""

from __future__ import annotations

import http.server
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.compose import check
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.records.config_hash import config_hash
from noisyexp.training import RunSpec, execute

Row = dict[str, float]

SOME_KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no settings and no server of the user's."""
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("wandb.proto.wandb_internal_pb2")
    for name in ("API_KEY", "BASE_URL", "DIR", "MODE", "RUN_ID", "PROJECT", "SWEEP_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


def jsonl(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wandb_records(path: Path) -> Iterator[Any]:
    """Records of a .wandb file: blocks of 32 KiB with pieces (crc, length, type), as in LevelDB."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # W&B's other process may be writing at the end of a run
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, whole = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def history(records: list[Any]) -> list[Row]:
    """What was logged, step by step."""
    parts = [record.history for record in records if record.HasField("history")]
    return [
        {".".join([*item.nested_key]) or item.key: json.loads(item.value_json)
         for item in part.item} for part in parts
    ]  # fmt: skip


def test_wandb_has_one_run_for_each_job(tmp_path: Path, make_spec: Callable[..., RunSpec]) -> None:
    specs = [
        make_spec(tmp_path, act=act, keys={"logger.wandb": "offline", "logger.every_steps": 5})
        for act in ("reference", "hard")
    ]
    for spec in specs:
        assert execute(spec).record["status"] == "complete"
    for spec in specs:
        (file,) = spec.folder.glob("wandb/offline-run-*/run-*.wandb")
        assert file.name == f"run-{spec.digest}.wandb"
        records = list(wandb_records(file))
        runs = [record.run for record in records if record.HasField("run")]
        assert {run.run_id for run in runs} == {spec.digest}
        assert runs[0].display_name == f"{spec.names.act}-s0"
        alike = config_hash({**spec.plain, "seed": 0})[:6]
        assert runs[0].run_group == f"ptb-{spec.names.act}-{alike}"
        logged = history(records)
        expected: dict[int, Row] = {}
        for row in jsonl(spec.folder):
            expected.setdefault(int(row["step"]), {}).update(row)
        assert [row["_step"] for row in logged] == list(expected)
        for row, values in zip(logged, expected.values(), strict=True):
            own = {key: value for key, value in row.items() if not key.startswith("_")}
            assert own == {key: value for key, value in values.items() if key != "step"}


@contextmanager
def server(knows_the_key: bool) -> Iterator[str]:
    """A W&B that knows who we are, or not, and allows nothing; gives its address."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, answer = 401, {"errors": [{"message": "invalid api key"}]}
            if knows_the_key:
                code, answer = 403, {"errors": [{"message": "permission denied"}]}
            if knows_the_key and b"query Viewer" in asked:
                person = {"id": "x", "username": "me", "entity": "me", "flags": "{}"}
                code, answer = 200, {"data": {"viewer": {**person, "teams": {"edges": []}}}}
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def one_line_or_offline(
    said: str, folder: Path, make_spec: Callable[..., RunSpec], err: Callable[[], str]
) -> None:
    """Online ends with a line and the choice; auto says why, and goes on offline."""
    choice = "run `wandb login`, or use logger.wandb=offline"
    with pytest.raises(NoisyexpError, match=f"{said}.*{choice}") as caught:
        execute(make_spec(folder, act="reference", keys={"logger.wandb": "online"}))
    assert len(str(caught.value).splitlines()) == 1
    spec = make_spec(folder, act="reference", keys={"logger.wandb": "auto"})
    assert execute(spec).record["status"] == "complete"
    (line,) = [line for line in err().splitlines() if line.startswith("Weights & Biases")]
    assert line.startswith("Weights & Biases: offline, because ") and said in line
    (file,) = spec.folder.glob("wandb/offline-run-*/run-*.wandb")
    assert len(history(list(wandb_records(file)))) == 24  # updates; epochs have rows of theirs


def test_no_key(
    tmp_path: Path, make_spec: Callable[..., RunSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    one_line_or_offline(
        "there is no key here", tmp_path, make_spec, lambda: capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("knows", "said"), [(False, "invalid api key"), (True, "permission denied")]
)
def test_a_server_that_says_no(
    knows: bool,
    said: str,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SOME_KEY)
    with server(knows) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        one_line_or_offline(said, tmp_path, make_spec, lambda: capsys.readouterr().err)


def not_started(choice: str, folder: Path, make_spec: Callable[..., RunSpec]) -> str:
    """Why a run with logger.wandb=choice failed, as it is said and as its record has it."""
    spec = make_spec(folder, act="reference", keys={"logger.wandb": choice})
    with pytest.raises(NoisyexpError) as caught:
        execute(spec)
    assert caught.value.exit_code == 1
    record = json.loads((spec.folder / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("choice", ["offline", "online", "auto"])
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RUN_ID", "a/b:c", "Run ID cannot contain the characters: :;,#?/'"),
        (
            "BASE_URL", "nonsense",
            "base_url: Input should be a valid URL, relative URL without a base",
        ),
        (
            "TAGS", "",
            "run_tags: Tag at index 0 is empty. Tags must be between 1 and 64 characters",
        ),
        (
            "MODE", "nonsense",
            "mode: Input should be 'online', 'offline', 'shared', 'disabled', 'dryrun' or 'run'",
        ),
    ],
)  # fmt: skip
def test_settings_that_are_refused(
    choice: str,
    variable: str,
    value: str,
    said: str,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A login would not help, and offline they are refused too."""
    monkeypatch.setenv(f"WANDB_{variable}", value)
    refused = f"Weights & Biases refuses its settings: {said}"
    assert not_started(choice, tmp_path, make_spec) == refused
    assert "Weights & Biases" not in capsys.readouterr().err


def test_a_start_that_fails_otherwise(
    tmp_path: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def init(**_: Any) -> None:
        raise wandb.errors.Error("its other process is gone\nand more")

    monkeypatch.setattr(wandb, "init", init)
    expected = "Weights & Biases does not start: its other process is gone"
    assert not_started("offline", tmp_path, make_spec) == expected
    assert not_started("auto", tmp_path, make_spec) == expected


@pytest.mark.parametrize("mode", ["disabled", "offline", "dryrun"])
def test_a_mode_in_the_environment_that_contradicts(
    mode: str,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SOME_KEY)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert not_started("online", tmp_path, make_spec) == (
        f"Weights & Biases: logger.wandb=online, but the environment has WANDB_MODE={mode}: unset "
        "it, or use logger.wandb=offline (`wandb sync` uploads later)"
    )
    if mode != "disabled":
        return
    spec = make_spec(tmp_path, act="reference", keys={"logger.wandb": "auto"})
    assert execute(spec).record["status"] == "complete"
    line = "Weights & Biases: offline, because the environment has WANDB_MODE=disabled"
    assert line in capsys.readouterr().err.splitlines()
    assert list(spec.folder.glob("wandb/offline-run-*/run-*.wandb"))


def test_a_mode_in_a_settings_file_that_contradicts(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    """As `wandb offline` leaves it."""
    (tmp_path / "CONFIG").mkdir()
    (tmp_path / "CONFIG" / "settings").write_text("[default]\nmode = offline\n")
    assert not_started("online", tmp_path, make_spec) == (
        "Weights & Biases: logger.wandb=online, but its settings file has mode=offline: run "
        "`wandb online`, or use logger.wandb=offline (`wandb sync` uploads later)"
    )


PROJECT = r"a text (1 to 128 characters, none of / \ # ? % :)"
TAGS = "a list of texts (1 to 64 characters each)"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *[("wandb_project", f"'a{character}b'", PROJECT) for character in "/#?%:"],
        ("wandb_project", r"'a\b'", PROJECT),
        ("wandb_project", "''", PROJECT),
        ("wandb_project", "x" * 129, PROJECT),
        ("wandb_tags", f"[good,{'x' * 65}]", TAGS),
        ("wandb_tags", "['']", TAGS),
    ],
)
def test_names_that_are_refused(key: str, value: str, expected: str) -> None:
    """They are W&B's rules, held before anything is written."""
    with pytest.raises(ConfigError) as caught:
        check(["task=ptb", "act=nah", "logger=wandb", f"logger.{key}={value}"])
    (problem,) = caught.value.problems
    said, _, allowed = problem.partition(": expected ")
    assert said.startswith(f"logger.{key}=") and allowed == expected


def test_the_longest_names_are_taken(tmp_path: Path, make_spec: Callable[..., RunSpec]) -> None:
    keys = {
        "logger.wandb": "offline", "logger.wandb_project": "x" * 128,
        "logger.wandb_tags": ["y" * 64, "a/b"], "logger.wandb_group": "a/b:c " * 40,
        "logger.wandb_entity": "z" * 200,
    }  # fmt: skip
    spec = make_spec(tmp_path, act="reference", keys=keys)
    assert execute(spec).record["status"] == "complete"
    (file,) = spec.folder.glob("wandb/offline-run-*/run-*.wandb")
    runs = [record.run for record in wandb_records(file) if record.HasField("run")]
    assert (runs[0].project, list(runs[0].tags)) == ("x" * 128, ["y" * 64, "a/b"])


@pytest.mark.slow
def test_no_network(
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W&B itself tries for ten seconds."""
    monkeypatch.setenv("WANDB_API_KEY", SOME_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    one_line_or_offline(
        "Failed to authenticate with http://127.0.0.1:9",
        tmp_path, make_spec, lambda: capsys.readouterr().err,
    )  # fmt: skip


def test_the_trial_of_an_agent_whose_run_is_finished(
    tmp_path: Path, make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the id that the agent gave it, and the curve and the end of the recorded run."""
    record = execute(make_spec(tmp_path, act="reference")).record
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial1")
    spec = make_spec(tmp_path, act="reference", keys={"logger.wandb": "offline"})
    assert execute(spec).skipped
    (file,) = spec.folder.glob("wandb/offline-run-*/run-trial1.wandb")
    records = list(wandb_records(file))
    logged = [{k: v for k, v in row.items() if k[0] != "_"} for row in history(records)]
    curve = [{k: v for k, v in row.items() if k != "step"} for row in record["curve"]]
    assert logged == curve
    summary = {
        ".".join([*item.nested_key]) or item.key: json.loads(item.value_json)
        for record in records if record.HasField("summary") for item in record.summary.update
    }  # fmt: skip
    assert summary["test_ppl"] == record["final"]["test_ppl"]


def test_words_of_an_agent() -> None:
    """`${args_no_hyphens}` of a sweep's file, as W&B makes it, is a command line of ours."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    chosen = {"training.lr": {"value": 0.25}, "act.learn_p": {"value": False}}
    words = utils.create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    (spec,) = check(["task=ptb", "act=nah", "logger=wandb", "logger.wandb=online", *words])
    assert (spec.config.training.lr, spec.config.act.learn_p) == (0.25, False)

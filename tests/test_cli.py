"""The command line as it is used: what it prints, what it makes, the code it ends with; no user sees a traceback."""

import contextlib
import io
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from pydantic import BaseModel

from bursar.config import PriceSection, ProviderSection, Settings, load
from bursar.doors.cli import main
from bursar.doors.cli.setup import TEMPLATE
from bursar.doors.gateway.access import key_hash
from bursar.doors.open import derive
from bursar.stores.base import Store
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry, Hold, Instant

BURSAR = [sys.executable, "-m", "bursar.doors.cli"]
COMMANDS = (
    "demo", "init", "check", "serve", "sandbox", "report", "runs", "run", "price", "verify", "export", "import",
    "keys create", "keys list", "keys revoke", "budgets", "budgets suggest", "doctor",
)  # fmt: skip
DEADLINE = 20.0


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs commands in this process, in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: str) -> Ended:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(argv)
        told = self._capsys.readouterr()
        assert "Traceback" not in told.err
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, told.out, told.err)


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    for name in ("BURSAR_CONFIG", "BURSAR_STORE__URL", "BURSAR_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return Cli(capsys)


def row(number: int, **told: Any) -> Entry:
    usual = Entry(
        request_id=f"req_{number:04}", attempt=1, run_id="r1", parent_run_id=None, session_id="s1", user_id="u1",
        user_tier=None, agent_id="researcher", step="plan", tenant="default", tags=(), key_id=None,
        started_at=Instant(1_760_000_000_000_000 + number), duration_ms=5, api="chat", provider="openai",
        requested_model="gpt-4o", model="gpt-4o", tier=None, route_reason="caller", stream=False, status="completed",
        http_status=200, input_tokens=100, output_tokens=10, cost_nanos=10_000_000, cost_status="final",
    )  # fmt: skip
    return msgspec.structs.replace(usual, **told)


def write(store: Store, *entries: Entry) -> None:
    for entry in entries:
        hold = store.reserve(msgspec.structs.replace(entry, status="open", cost_nanos=None)).result()
        assert isinstance(hold, Hold)
        store.settle(hold, entry).result()


@pytest.fixture
def booked(cli: Cli) -> Cli:
    """Two runs, one in the other, and a call of unknown cost, in ./bursar.db."""
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        write(
            store,
            row(0),
            row(1, run_id="n1", parent_run_id="r1", agent_id="checker", cost_nanos=20_000_000),
            row(2, step="report", model="mystery", cost_nanos=None, cost_status="unpriced"),
        )
    return cli


# --- every command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_an_example_and_the_common_options(cli: Cli, command: str) -> None:
    """--help ends with an example of the command; --config and --json are there everywhere."""
    told = cli(*command.split(), "--help")
    assert told.code == 0
    assert f"Example: bursar {command}" in told.out
    assert "--config" in told.out and "--json" in told.out
    assert "--no-" not in told.out


def test_help_imports_nothing_heavy() -> None:
    """`bursar --help` lists every command without importing the configuration, a store or a server."""
    code = (
        "import sys\nfrom bursar.doors.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: print(sorted({'pydantic', 'sqlite3', 'uvicorn'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.endswith("[]\n")
    assert all(re.search(rf"│ {command.split()[0]} ", told) for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["reprot"], "Did you mean"),
        (["run"], "requires an argument"),
        (["report", "--colour"], "Unknown option"),
        (["report"], "there is no ledger at"),
        (["runs"], "there is no ledger at"),
        (["run", "r1"], "there is no ledger at"),
        (["verify"], "there is no ledger at"),
        (["keys", "list"], "there is no ledger at"),
        (["export"], "there is no ledger at"),
        (["report", "--config", "nowhere.toml"], "nowhere.toml: file: cannot be read"),
        (["report", "--tz", "Mars/Olympus"], "expected a time zone"),
        (["report", "--since", "yesterday"], "expected a time such as 7d"),
        (["report", "--json", "--csv"], "give one of them"),
        (["runs", "--limit", "0"], "expected 1 to 1000"),
        (["import", "nowhere.jsonl", "--from", "bursar"], "is no file"),
        (["keys", "create", "--name", "x", "--trust", "colour"], "expected some of agent"),
        (["keys", "create", "--name", " "], "expected a word"),
        (["keys", "create", "--name", "x", "--role", "king"], "data"),
        (["serve", "--workers", "0"], "expected 1 or more"),
        (["serve", "--port", "70000"], "expected 0 to 65535"),
        (["serve", "--host", "0.0.0.0", "--port", "0"], "create a key first"),
        (["sandbox", "--host", "no such host", "--port", "0"], "cannot be bound"),
        (["sandbox", "--faults", "colour:0.1", "--port", "0"], "is not a fault"),
        (["sandbox", "--recorded", "nowhere.jsonl"], "is no file"),
        (["demo", "--runs", "0"], "give at least 1"),
    ],
)
def test_a_users_fault_is_one_message_and_exit_code_2(cli: Cli, argv: list[str], told: str) -> None:
    """What is wrong and what would be right, on stderr; nothing on stdout."""
    ended = cli(*argv)
    assert (ended.code, ended.out) == (2, "")
    assert told in " ".join(ended.err.replace("│", " ").split())


def test_questions_make_no_ledger(cli: Cli) -> None:
    """Asking where nothing is leaves nothing behind."""
    for argv in (["report"], ["runs"], ["run", "r1"], ["verify"], ["keys", "list"], ["keys", "revoke", "k"]):
        assert cli(*argv).code == 2
    assert list(Path().iterdir()) == []


def test_a_file_that_is_no_ledger_is_said_to_be_none(cli: Cli) -> None:
    """So is a ledger that would be gone at once."""
    Path("bursar.db").write_text("not a database, whatever its name")
    assert "cannot be opened" in cli("report").err
    Path("bursar.toml").write_text('[store]\nurl = "memory://"\n')
    assert "gone when their process ends" in cli("report").err
    assert "gone at once" in cli("keys", "create", "--name", "x").err
    assert "one ledger for all of them" in cli("serve", "--workers", "2").err


def test_a_reader_that_has_seen_enough_ends_it_quietly(booked: Cli) -> None:
    """A closed pipe is no fault."""
    with subprocess.Popen([*BURSAR, "report"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.wait(DEADLINE), process.stderr.read()) == (0, "")


# --- init, check


def test_init_writes_what_check_accepts_and_never_over_a_file(cli: Cli) -> None:
    """The written file says nothing but the defaults; a second init leaves it alone."""
    assert cli("init").code == 0
    assert load(Path("bursar.toml"), {}) == load(None, {})
    assert cli("check").code == 0
    Path("bursar.toml").write_text("# mine\n")
    assert cli("init").code == 2
    assert Path("bursar.toml").read_text() == "# mine\n"
    assert cli("init", "--config", "other.toml", "--json").json == {"file": "other.toml"}


def test_the_template_shows_every_key_and_only_true_examples(tmp_path: Path) -> None:
    """With its comments taken off it is a valid file whose plain sections are the defaults; no key is left out."""
    bare = re.sub(r"^# (?=\[|\w+ = )", "", TEMPLATE.read_text(), flags=re.M)
    path = tmp_path / "bursar.toml"
    path.write_text(bare)
    told, usual = load(path, {}), Settings()
    for name in ("store", "gateway", "retry", "drain", "secrets", "finish_text", "on_disconnect", "capture"):
        assert getattr(told, name) == getattr(usual, name)
    sections = [field.annotation for field in Settings.model_fields.values()]
    models: list[Any] = [kind for kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)]
    for model in (*models, ProviderSection, PriceSection):
        missing = [name for name in model.model_fields if not re.search(rf"\b{name}\b", TEMPLATE.read_text())]
        assert missing == [], model


def test_check_tells_every_fault(cli: Cli) -> None:
    """All of them at once, with file and line; exit code 2; --json has them as data."""
    Path("bad.toml").write_text('colour = 1\n[store]\nurl = "mysql://x"\n[trials]\n')
    told = cli("check", "--config", "bad.toml")
    assert (told.code, [line.split(": ")[1:3] for line in told.err.splitlines()]) == (
        2, [["bad.toml:1", "colour"], ["bad.toml:3", "store.url"], ["bad.toml:4", "trials"]]
    )  # fmt: skip
    found = cli("check", "--config", "bad.toml", "--json")
    assert (found.code, found.json["ok"]) == (2, False)
    assert [(fault["line"], fault["key"]) for fault in found.json["faults"]] == [
        (1, "colour"), (3, "store.url"), (4, "trials")
    ]  # fmt: skip
    assert "properties" in cli("check", "--schema").json


# --- report, runs, run, verify


def test_report_in_its_three_forms(booked: Cli) -> None:
    """JSON, CSV and text say the same; unknown is null, empty, and a lower bound."""
    told = booked("report", "--by", "model", "--json")
    assert told.code == 0
    assert [(line["model"], line["calls"], line["cost_usd"]) for line in told.json["rows"]] == [
        ("gpt-4o", 2, "0.03"), ("mystery", 1, None)
    ]  # fmt: skip
    assert told.json["metrics"]["cost_per_run"]["cost_usd"] == "0.03"
    lines = booked("report", "--by", "model", "--csv").out.splitlines()
    assert [line.split(",")[:2] for line in lines] == [["model", "calls"], ["gpt-4o", "2"], ["mystery", "1"]]
    text = booked("report").out
    assert "≥ $0.0300" in text and "1 row of unknown cost (mystery)" in text
    steps = booked("report", "--by", "step", "--agent", "researcher", "--json").json["rows"]
    assert {line["step"]: line["calls"] for line in steps} == {"plan": 1, "report": 1}
    assert booked("report", "--since", "1h", "--json").json["rows"] == []
    assert "No calls in this period" in booked("report", "--since", "1h").out
    assert booked("report", "--by", "colour").code == 2


def test_runs_by_pages(booked: Cli) -> None:
    """Newest first; the cursor goes on where the page ended."""
    first = booked("runs", "--limit", "1", "--json").json
    assert [run["run_id"] for run in first["items"]] == ["n1"]
    rest = booked("runs", "--json", "--cursor", first["next_cursor"]).json
    assert [(run["run_id"], run["tree_cost_usd"], run["tree_unpriced"]) for run in rest["items"]] == [("r1", "0.03", 1)]
    assert "≥ $0.0300" in booked("runs", "--agent", "researcher").out
    assert booked("runs", "--cursor", "colour").code == 2


def test_run_is_the_call_map(booked: Cli) -> None:
    """Every attempt in order, nested ones deeper; a run that is not there, or in two tenants, is said so."""
    told = booked("run", "r1", "--json").json
    assert [(call["step"], call["depth"], call["cost_usd"]) for call in told["calls"]] == [
        ("plan", 0, "0.01"), ("plan", 1, "0.02"), ("report", 0, None)
    ]  # fmt: skip
    assert told["total"]["tree_cost_usd"] == "0.03"
    text = booked("run", "r1").out
    assert "└ checker (n1)" in text and "unknown" in text
    assert booked("run", "r2").code == 2
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        write(store, row(7, tenant="other"))
    assert "say which by --tenant" in booked("run", "r1").err
    assert len(booked("run", "r1", "--tenant", "other", "--json").json["calls"]) == 1


def test_verify_finds_what_was_tampered_with(booked: Cli) -> None:
    """0 and a sentence while all sums hold; 1 and the finding after a row was changed behind the ledger's back."""
    assert booked("verify").code == 0
    assert booked("verify", "--json").json == {"ok": True, "findings": []}
    with contextlib.closing(sqlite3.connect("bursar.db")) as db:
        db.execute("UPDATE calls SET cost_nanos = cost_nanos + 1 WHERE request_id = 'req_0000'")
        db.commit()
    assert booked("verify").code == 1
    assert booked("verify", "--json").json["findings"]


def test_price_answers_every_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A price, an unknown model and bytes that are not even text: one JSON line each, none of them fatal."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    lines = [{"id": name, "api": "chat", "model": name, "usage": usage} for name in ("gpt-4o", "mystery")]
    raw = "\n".join(map(json.dumps, lines)).encode() + b"\n\xff\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
    told = cli("price")
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert told.code == 0
    assert [(answer["id"], answer["usd"], answer["status"]) for answer in answers] == [
        ("gpt-4o", "0.0035", "final"), ("mystery", None, "unpriced"), (None, None, "unpriced")
    ]  # fmt: skip


def test_a_keys_life(cli: Cli) -> None:
    """The secret is shown once and stored nowhere; the ledger knows its hash; a revoked key is dead, once."""
    made = cli("keys", "create", "--name", "shop", "--tenant", "acme", "--trust", "user, run", "--json").json
    secret, key_id = made.pop("secret"), made["key_id"]
    assert (made["tenant"], made["role"], made["trusted_claims"]) == ("acme", "data", ["run", "user"])
    assert cli("keys", "list", "--json").json["items"] == [made]
    assert secret not in cli("keys", "list").out
    assert all(secret.encode() not in path.read_bytes() for path in Path().iterdir() if path.is_file())
    hashed = key_hash(secret, derive(Path("bursar.db.secret").read_bytes().strip(), "keys"))
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        found = store.find_key(hashed)
        assert found is not None and found.key_id == key_id
    assert cli("keys", "revoke", key_id).code == 0
    assert cli("keys", "revoke", key_id).code == 2
    assert cli("keys", "list", "--json").json["items"][0]["revoked_at"] is not None
    plain = cli("keys", "create", "--name", "boss", "--role", "admin")
    assert re.fullmatch(r"bsr_[\w-]{43}\n", plain.out)


# --- servers


@contextlib.contextmanager
def serving(*argv: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server of its own process, and the addresses that it told."""
    with subprocess.Popen([*BURSAR, *argv, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def ask(url: str, body: Any = None, **headers: str) -> Any:
    """The JSON answer, once the server listens."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < end, f"{url} does not listen"
            time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_books_a_call_and_ends_in_order(cli: Cli, workers: int) -> None:
    """A call through gateway and sandbox is in the ledger; SIGTERM ends both with exit code 0; all sums hold."""
    with serving("sandbox") as (provider, told):
        Path("bursar.toml").write_text(f'[providers.openai]\nbase_url = "{told["base_url"]}"\n')
        with serving("serve", "--workers", str(workers)) as (gateway, at):
            assert ask(f"{at['gateway']}/bursar/v1/health") == {"status": "ok"}
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
            answer = ask(f"{at['base_url']}/chat/completions", body, authorization="Bearer any")
            gateway.send_signal(signal.SIGTERM)
            assert gateway.wait(DEADLINE) == 0
        provider.send_signal(signal.SIGTERM)
        assert provider.wait(DEADLINE) == 0
    (line,) = cli("report", "--by", "provider", "--json").json["rows"]
    assert (line["provider"], line["completed"]) == ("openai", 1)
    assert line["output_tokens"] == answer["usage"]["completion_tokens"]
    assert cli("verify").code == 0


def test_a_port_that_is_taken_is_said_to_be(cli: Cli) -> None:
    """Before anything is served; exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for command in ("serve", "sandbox"):
            told = cli(command, "--port", port)
            assert told.code == 2
            assert f"127.0.0.1:{port} cannot be bound (Address already in use)" in told.err


def test_a_worker_of_several_finds_the_configuration_by_its_variable(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The application factory reads the file that BURSAR_CONFIG names, limits included."""
    from bursar.doors.gateway import worker

    path = tmp_path / "other.toml"
    path.write_text('[store]\nurl = "memory://"\n[gateway]\nmax_body_bytes = 7\n')
    monkeypatch.setenv("BURSAR_CONFIG", str(path))
    gateway = worker.create()
    assert isinstance(gateway.store, MemoryStore)
    assert gateway.proxy.settings.max_body_bytes == 7
    assert f"{worker.create.__module__}:{worker.create.__name__}" == worker.FACTORY

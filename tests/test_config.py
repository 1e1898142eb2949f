"""The configuration: every fault at once with its place, the environment over the file, secrets kept secret."""

import os
import threading
from pathlib import Path

import pytest

from bursar.config import ConfigError, Fault, load, schema
from bursar.doors.open import make_policy, open_books
from bursar.policy import Candidate


def faults(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[Fault]:
    path = tmp_path / "bursar.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value.faults


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    """A shape, a provider that is not there, a word, a section of a later version: one run tells all four."""
    found = faults(
        tmp_path,
        'on_disconnect = "sometimes"\n[tiers]\nsmall = ["nobody/x"]\n[gateway]\nport = "zz"\n[[budgets]]\nname = "x"\n',
    )
    assert [(f.line, f.key) for f in found] == [
        (1, "on_disconnect"), (3, "tiers.small"), (5, "gateway.port"), (6, "budgets"),
    ]  # fmt: skip
    assert all(f.file.endswith("bursar.toml") for f in found)


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        ("[store]\nredis = 'redis://h'", 2, "store.redis", "not enforced by this version"),
        ("[store]\nurl = 'postgresql://u:hush@h/db'", 2, "store.url", "expected sqlite:///PATH"),
        ("[store]\nurl = 'sqlite:///:memory:'", 2, "store.url", "expected sqlite:///PATH"),
        ("[store]\nurll = 'x'", 2, "store.urll", "did you mean url?"),
        ("[gateway]\nport = true", 2, "gateway.port", "expected a whole number"),
        ("[gateway]\nport = 70000", 2, "gateway.port", "65535"),
        ("[providers.acme]\nbase_url = 'http://h'", 1, "providers.acme.api", "is required"),
        ("[prices.gpt-4o]\ninput = '1'", 1, "prices.gpt-4o", "expected provider/model"),
        ("[prices.'a/b']\ninput = 'NaN'", 2, "prices.a/b.input", "expected 0 or more"),
        ("[tiers]\nsmall = []", 2, "tiers.small", "at least 1"),
        ("[drain]\ntime = 5", 2, "drain.time", "duration"),
        ("note = '''\n[gateway]\nport = 1\n'''\n[gateway]\nport = -1", 6, "gateway.port", "greater than or equal to 0"),
        ("a = \n", 1, "TOML", "Invalid value"),
    ],
)
def test_a_fault_names_line_key_and_what_was_expected(
    tmp_path: Path, text: str, line: int, key: str, told: str
) -> None:
    """Each kind of mistake is found where it stands."""
    found = {f.key: f for f in faults(tmp_path, text)}
    assert found[key].line == line
    assert told in found[key].message


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """What a fault shows may end in a log: a pasted key, URL or password does not."""
    text = "[store]\nurl='hush://hush'\n[providers.openai]\nbase_url='hush-1'\napi_key='hush-2'\napi_key_env='hush-3'\n"
    found = faults(tmp_path, text)
    assert len(found) == 4
    assert not any("hush" in f.message for f in found)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Variables overlay the file key by key, from the mapping that is handed in and no other."""
    path = tmp_path / "bursar.toml"
    path.write_text('[gateway]\nport = 1\nhost = "::1"\n')
    told = load(path, {"BURSAR_GATEWAY__PORT": "2", "BURSAR_PROVIDERS__OPENAI__BASE_URL": "http://h/v1"})
    assert (told.gateway.port, told.gateway.host) == (2, "::1")
    assert told.providers["openai"].base_url == "http://h/v1"
    assert told.providers["openai"].api_key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "environ", [{"BURSAR_STOR__URL": "x"}, {"BURSAR_STORE__URLL": "x"}, {"BURSAR_TIERS": "{"}, {"BURSAR_CAPTURE": "x"}]
)
def test_a_wrong_variable_is_a_fault_of_the_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    """A variable that was meant for us and cannot be used is told, by its name."""
    (only,) = faults(tmp_path, "", environ)
    assert (only.file, only.line, only.key) == ("environment", None, next(iter(environ)))


def test_default_providers(tmp_path: Path) -> None:
    """None configured: all three. Some configured: those, and a default that a tier names."""
    path = tmp_path / "bursar.toml"
    path.write_text("")
    assert set(load(path, {}).providers) == {"openai", "anthropic", "gemini"}
    path.write_text("[providers.openai]\n[tiers]\nbig = ['anthropic/claude-opus-4-8']\n")
    policy = make_policy(load(path, {}))
    assert set(policy.providers) == {"openai", "anthropic"}
    assert policy.tiers == {"big": (Candidate("anthropic", "claude-opus-4-8"),)}


def test_named_files_must_be_there(tmp_path: Path) -> None:
    """A file that was named and is missing is a fault, by argument or by BURSAR_CONFIG."""
    for path, environ in ((tmp_path / "x.toml", {}), (None, {"BURSAR_CONFIG": str(tmp_path / "x.toml")})):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path, environ)


def test_a_short_drain_is_not_no_drain(tmp_path: Path) -> None:
    """Whole seconds, rounded up."""
    path = tmp_path / "bursar.toml"
    path.write_text('[drain]\ntime = "500ms"\n')
    assert make_policy(load(path, {})).drain.seconds == 1


def test_racing_starts_agree_on_one_secret(tmp_path: Path) -> None:
    """However many open a new ledger at once, all derive the same keys, and the file is its owner's alone."""
    settings = load(None, {"BURSAR_STORE__URL": f"sqlite:///{tmp_path}/b.db"})
    roots: list[bytes] = []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        books = open_books(settings, {})
        roots.append(books.root)
        books.store.close()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(roots) == 8
    assert len(set(roots)) == 1
    assert (tmp_path / "b.db.secret").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.glob("b.db.secret*")] == ["b.db.secret"]


def test_purposes_have_keys_of_their_own_and_weak_roots_are_refused(tmp_path: Path) -> None:
    """The variable goes before the file; a short, emptied or readable secret opens nothing."""
    settings = load(None, {"BURSAR_STORE__URL": f"sqlite:///{tmp_path}/b.db"})
    books = open_books(settings, {"BURSAR_SECRET": "r" * 32})
    books.store.close()
    assert books.secret("keys") != books.secret("digests")
    assert not (tmp_path / "b.db.secret").exists()
    with pytest.raises(ConfigError, match="5 characters"):
        open_books(settings, {"BURSAR_SECRET": "short"})
    file = tmp_path / "b.db.secret"
    file.touch(0o600)
    with pytest.raises(ConfigError, match="holds 0 bytes"):
        open_books(settings, {})
    file.write_text("s" * 64)
    os.chmod(file, 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_books(settings, {})


def test_the_schema_describes_every_section() -> None:
    """Editors complete what load() accepts, and nothing else."""
    told = schema()
    assert {"store", "providers", "tiers", "prices", "gateway"} <= set(told["properties"])
    assert told["additionalProperties"] is False

"""The pages over a socket: every link leads to one, labels are never obeyed, and nobody is let in unasked."""

import re
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from books import Watch
from bursar.doors.cli import tables
from bursar.doors.dashboard import asked as asking
from bursar.doors.dashboard import render
from bursar.doors.dashboard.pages.breakers import RESET
from bursar.doors.dashboard.session import COOKIE, SECONDS
from bursar.insights import breakers
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from dashboards import EVIL, NAMES, NOW, PAGES, Page, Visitor, asked, book, rich, row, trip, visiting
from gateways import DEADLINE, TLS, create_key, running, until

# --- pages


def sound(page: Page) -> None:
    """One heading, a language and a title; nothing inline that the policy would stop, nothing of another host."""
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == tags.count("main") == 1 and tags[:4] == ["html", "head", "meta", "title"]
    for tag, told in page.tags:
        assert tag not in ("style", "iframe", "object", "base")
        assert tag != "script" or re.fullmatch(r"/bursar/static/dashboard\.js\?v=[0-9a-f]{12}", told["src"] or "")
        assert not [name for name in told if name.startswith("on") or name == "style"], told
        for name in ("href", "src", "action"):
            assert (told.get(name) or "/").startswith(("/", "#")) and not (told.get(name) or "").startswith("//"), told


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_ledger_says_what_to_do_next(page: str) -> None:
    """Every page of it is whole, and names a command or a line of code."""
    with visiting(MemoryStore()) as visitor:
        shown = visitor.page(asking.PATHS[page])
        sound(shown)
        next_steps = ("bursar demo --serve", "bursar budgets suggest", "bursar alerts test")
        assert any(word in shown.text for word in next_steps)


@pytest.mark.slow
def test_every_link_of_every_page_leads_to_a_page() -> None:
    """From the overview on, labels that would be markup, paths or templates included, and none of them is obeyed."""
    seen: set[str] = set()
    kinds: dict[tuple[str, tuple[str, ...]], int] = {}
    with visiting(rich()) as visitor:
        todo = deque(["/?since=all"])
        while todo:
            href = todo.popleft()
            at = urlsplit(href)
            query = dict(parse_qsl(at.query))
            kind = (at.path, tuple(sorted(query)))
            if href in seen or kinds.get(kind, 0) >= len(NAMES):  # the same kind of page again
                continue
            seen.add(href)
            kinds[kind] = kinds.get(kind, 0) + 1
            answer = visitor.get(href)
            assert answer.status_code == 200, (href, answer.text)
            page = Page(answer.text)
            sound(page)
            assert EVIL not in answer.text
            todo += [link for link in page.links if not link.startswith("#")]
        assert {path for path, _ in kinds} == set(asking.PATHS.values())
        told = visitor.page(asking.PATHS["agents"] + "?since=all").text
        assert EVIL in told and "{{ 7*7 }}" in told


def test_every_answer_is_strict() -> None:
    """The policy names no other source; nothing is sniffed, framed or kept."""
    with visiting(rich()) as visitor:
        for path, status in (("/", 200), ("/?zone=x", 400), ("/bursar/nothing", 404), ("/bursar/run?run=x", 404)):
            answer = visitor.get(path)
            assert answer.status_code == status
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';")
            assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
        for name in render.ASSETS:
            assert visitor.get(f"/bursar/static/{name}").content == render.ASSETS[name][0]
        assert visitor.get("/bursar/static/..%2fapp.py").status_code == 404


def test_a_filter_and_a_period_stay_in_the_address() -> None:
    """A link from a page keeps period, zone and tenant; the filters of one page do not follow to another."""
    question = asked("agents", since="30d", zone="Europe/Berlin", tenant="t", agent="x y")
    assert dict(parse_qsl(urlsplit(question.link("users")).query)) == {
        "since": "30d", "zone": "Europe/Berlin", "tenant": "t"
    }  # fmt: skip
    assert dict(parse_qsl(urlsplit(question.here(since="7d")).query))["agent"] == "x y"
    assert "agent" not in dict(parse_qsl(urlsplit(question.here(agent=None)).query))


def test_a_long_list_goes_on_where_it_ended() -> None:
    """Every row once, over all pages."""
    store = book(*(row(number) for number in range(120)))
    with visiting(store) as visitor:
        href: str | None = asking.PATHS["calls"]
        found: list[str] = []
        while href is not None:
            page = visitor.page(href)
            found += [dict(parse_qsl(urlsplit(one).query))["request"] for one in page.links if "request=" in one]
            href = next((one for one in page.links if "cursor=" in one), None)
    assert sorted(set(found)) == sorted(f"req_{number:04}" for number in range(120))
    assert len(found) == 2 * 120  # the time and the cost of each


def test_a_ledger_that_cannot_be_read_says_so() -> None:
    """503, without a traceback."""

    class Gone(MemoryStore):
        def spend(self, *told: Any) -> Any:
            raise StoreFailure("the disk is gone")

    with visiting(Gone()) as visitor:
        answer = visitor.get("/")
        assert answer.status_code == 503 and "the disk is gone" in Page(answer.text).text

    class Locked(MemoryStore):
        def find_key(self, *told: Any) -> Any:
            raise StoreFailure("the disk is gone")

    store = Locked()
    admin = create_key(store, "admin")
    with visiting(store) as visitor:
        assert visitor.get("/", authorization=f"Bearer {admin}").status_code == 503
        assert visitor.post("/bursar/login", {"key": admin}).status_code == 503


def test_without_jinja_the_pages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the gateway does not need it."""
    monkeypatch.setattr(render, "jinja2", None)
    with running() as gw:
        answer = gw.get("/")
        assert answer.status_code == 501 and "pip install 'bursar[dashboard]'" in answer.text
        assert gw.get("/bursar/v1/health").status_code == 200


# --- who is let in


def test_a_browser_logs_in_with_the_admin_key() -> None:
    """Wrong key, data key, then the admin's: a strict cookie that opens the pages until its end or its key's."""
    watch, store = Watch(NOW), book(row())
    data, admin = create_key(store), create_key(store, "admin")
    with visiting(store, watch) as visitor:
        first = visitor.get("/bursar/users?since=30d")
        assert first.status_code == 401 and "u1" not in first.text
        shown = Page(first.text)
        sound(shown)
        assert {"name": "back", "value": "/bursar/users?since=30d"}.items() <= dict(shown.tags)["input"].items() or any(
            told.get("value") == "/bursar/users?since=30d" for tag, told in shown.tags if tag == "input"
        )
        for key, status in (("", 401), ("bsr_wrong", 401), (data, 403)):
            refused = visitor.post("/bursar/login", {"key": key, "back": "/"})
            assert refused.status_code == status and "set-cookie" not in refused.headers
        let = visitor.post("/bursar/login", {"key": f" {admin} ", "back": "/bursar/users?since=30d"})
        assert (let.status_code, let.headers["location"]) == (303, "/bursar/users?since=30d")
        cookie = let.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; ")) and admin not in cookie
        assert "Secure" not in cookie
        for page in PAGES:
            assert visitor.get(asking.PATHS[page]).status_code == 200
        watch.forward(SECONDS * 1_000_000)
        assert visitor.get("/").status_code == 401


def test_a_cookie_dies_with_its_key_and_cannot_be_forged() -> None:
    """Any change of it, another deployment's, a data key's, and one whose key is revoked: the same as none."""
    watch, store = Watch(NOW), book(row())
    admin = create_key(store, "admin")
    with visiting(store, watch) as visitor:
        visitor.post("/bursar/login", {"key": admin})
        value = visitor.http.cookies[COOKIE]
        visitor.http.cookies.clear()
        key_id, end, seal = value.split(".")
        for other in (
            f"{key_id}.{int(end) + 1}.{seal}",
            f"key_x.{end}.{seal}",
            f"{key_id}.{end}.",
            "",
            ".",
            "a.b.c",
            f"{key_id}.{end}.{'0' * 64}",
            value[:-1],
            f"{key_id}.\u00b2.{seal}",
        ):
            assert visitor.get("/", cookie=f"{COOKIE}={other}").status_code == 401, other
        assert visitor.get("/", cookie=f"{COOKIE}={value}").status_code == 200
        assert store.revoke_key(key_id, NOW)
        assert visitor.get("/", cookie=f"{COOKIE}={value}").status_code == 401


def test_a_login_goes_back_to_a_page_of_ours_and_to_no_other() -> None:
    """No address of another host, however it is written; behind TLS the cookie is for TLS alone."""
    store = book(row())
    admin = create_key(store, "admin")
    with visiting(store) as visitor:
        for back in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "/bursar/../x",
            "javascript:1",
            "/bursar/users\r\nx: y",
            "",
        ):
            let = visitor.post("/bursar/login", {"key": admin, "back": back})
            assert (let.status_code, let.headers["location"]) == (303, "/"), back
        for path in ("/bursar/login", "/bursar/logout"):
            foreign = visitor.post(path, {"key": admin}, **{"sec-fetch-site": "cross-site"})
            assert foreign.status_code == 403 and "set-cookie" not in foreign.headers
        assert visitor.post("/bursar/login", {"key": "x" * 5000}).status_code == 413
        assert visitor.get("/").status_code == 200
        gone = visitor.post("/bursar/logout", {})
        assert gone.status_code == 303 and visitor.get("/").status_code == 401
        hidden = visitor.post("/bursar/login", {"key": admin}, **{"x-forwarded-proto": "https"})
        assert "Secure" in hidden.headers["set-cookie"]


def test_without_keys_this_machine_alone_sees_the_pages() -> None:
    """A foreign Host, Origin or Sec-Fetch-Site gets nothing, not even the style sheet."""
    with visiting(rich()) as visitor:
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            for path in (*asking.PATHS.values(), "/bursar/static/dashboard.css"):
                assert visitor.get(path, **headers).status_code == 403, (path, headers)
            for path in ("/bursar/login", RESET):
                assert visitor.post(path, {"key": "x"}, **headers).status_code == 403
        assert visitor.post("/bursar/login", {"key": "x"}).headers["location"] == "/"


# --- the one thing that a page changes


def fields(page: Page, breaker_id: str) -> dict[str, str]:
    """What the page's form for this breaker would send."""
    told = [attrs for tag, attrs in page.tags if tag == "input" and attrs.get("type") == "hidden"]
    pairs = [(one["name"] or "", one["value"] or "") for one in told]
    at = pairs.index(("id", breaker_id))
    return dict(pairs[at - 1 : at + 1])


def status_of(store: Any, breaker_id: str) -> tuple[str, str | None]:
    """How it stands, and who changed it last."""
    seen = breakers.find(store, breaker_id)
    assert seen is not None and seen.document.state.changed is not None
    return seen.document.state.status, seen.document.state.changed.who


@pytest.mark.parametrize("keyed", [False, True])
def test_a_breaker_is_reset_by_the_form_of_its_page_alone(keyed: bool) -> None:
    """Without the page's token, from another site, or without the key nothing is changed; the audit says who it was."""
    store = MemoryStore(clock=Watch(NOW))
    tripped = trip(store, Watch(NOW))
    admin = create_key(store, "admin") if keyed else ""
    with visiting(store) as visitor:
        if keyed:
            assert visitor.post(RESET, {"id": tripped}).status_code == 401
            visitor.post("/bursar/login", {"key": admin})
        page = visitor.page(asking.PATHS["alerts"])
        sound(page)
        form = fields(page, tripped)
        none: dict[str, str] = {}
        for bad, headers in (
            ({"id": tripped}, none),
            (form | {"token": ""}, none),
            (form | {"token": form["token"][:-1] + "?"}, none),
            (form | {"token": visitor.http.cookies.get(COOKIE) or ".."}, none),
            (form, {"sec-fetch-site": "cross-site"}),
        ):
            refused = visitor.post(RESET, bad, **headers)
            assert refused.status_code == 403, (bad, headers)
        assert visitor.get(f"{RESET}?{urlencode(form)}").status_code == 405
        assert status_of(store, tripped) == ("open", None)
        done = visitor.post(RESET, form)
        assert (done.status_code, done.headers["location"]) == (303, f"/bursar/breaker?id={tripped}")
        who = f"{store.list_keys()[0].name} ({store.list_keys()[0].key_id})" if keyed else "this machine"
        assert status_of(store, tripped) == ("closed", who)
        shown = visitor.page(done.headers["location"])
        sound(shown)
        assert who in shown.text and not [tag for tag, told in shown.tags if told.get("action") == RESET]
        assert visitor.post(RESET, form | {"id": "nobody's"}).status_code == 404
        assert visitor.get("/bursar/breaker?id=nobody").status_code == visitor.get("/bursar/breaker").status_code == 404


def test_a_form_is_of_the_one_who_was_shown_it() -> None:
    """Another admin's token is refused, and so is one that is as old as a login may be; a header's key is as good."""
    watch = Watch(NOW)
    store = MemoryStore(clock=watch)
    tripped, mine, other = trip(store, watch), create_key(store, "admin"), create_key(store, "admin")
    with visiting(store, watch) as visitor:
        shown = Page(visitor.get(asking.PATHS["alerts"], authorization=f"Bearer {mine}").text)
        form = fields(shown, tripped)
        assert visitor.post(RESET, form, authorization=f"Bearer {other}").status_code == 403
        watch.forward(SECONDS * 1_000_000)
        assert visitor.post(RESET, form, authorization=f"Bearer {mine}").status_code == 403
        assert status_of(store, tripped) == ("open", None)
        again = fields(Page(visitor.get(asking.PATHS["alerts"], authorization=f"Bearer {mine}").text), tripped)
        assert visitor.post(RESET, again, authorization=f"Bearer {mine}").status_code == 303
        assert visitor.post(RESET, {"id": "x" * 5000}).status_code == 413


def test_the_gateway_shows_its_calls_as_they_come_in() -> None:
    """A call by a real SDK is on the overview and in the list; the admin API beside it stays what it was."""
    with running() as gw:
        head = {"x-bursar-agent-id": "researcher", "x-bursar-user-id": "u42"}
        gw.openai().chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], extra_headers=head
        )
        entry = gw.row()
        for path in ("/", "/bursar/agents", "/bursar/calls"):
            text = Page(gw.get(path).text).text
            assert "researcher" in text and tables.dollars(entry.cost_nanos) in text
        assert gw.get("/bursar/v1/calls").json()["items"][0]["agent_id"] == "researcher"
        assert gw.get("/bursar/v1").status_code == gw.get("/bursar/v1/zzz").status_code == 404
        assert "error" in gw.get("/bursar/v1").json()
        assert gw.get("/metrics").text.startswith("# HELP")
    with running(keyed=True) as gw:
        assert gw.get("/").status_code == 401
        assert gw.get("/", {"authorization": f"Bearer {gw.admin}"}).status_code == 200
        assert gw.get("/", {"authorization": f"Bearer {create_key(gw.store)}"}).status_code == 403


def test_the_command_shows_any_ledger(tmp_path: Path) -> None:
    """A server of its own: the pages and nothing else, keys asked where there are any, exit code 0 at SIGTERM."""
    (tmp_path / "bursar.toml").write_text('[store]\nurl = "sqlite:///' + (tmp_path / "books.db").as_posix() + '"\n')
    command = [sys.executable, "-m", "bursar.doors.cli"]
    told: Any = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 60}
    missing = subprocess.run([*command, "dashboard", "--port", "0"], **told)
    assert missing.returncode == 2 and "there is no ledger at" in missing.stderr
    SqliteStore(tmp_path / "books.db").close()
    key = subprocess.run([*command, "keys", "create", "--name", "me", "--role", "admin"], **told).stdout.strip()
    argv = [*command, "dashboard", "--port", "0", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline() + process.stdout.readline())
            assert found is not None
            until(lambda: _listens(found[0]), "the dashboard listens")
            with Visitor(found[0]).http as http:
                assert http.get("/").status_code == 401
                assert http.get("/", headers={"authorization": f"Bearer {key}"}).status_code == 200
                assert http.get("/v1/models").status_code == http.get("/bursar/v1/calls").status_code == 404
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def _listens(url: str) -> bool:
    try:
        return httpx2.get(url, verify=TLS, timeout=DEADLINE).status_code == 401
    except httpx2.TransportError:
        return False

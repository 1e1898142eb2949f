"""The pages in a real browser: light and dark, wide and on a phone, by keyboard; nothing logged, nothing fetched from
elsewhere, and axe finds no fault. A machine without Chromium skips this.
"""

import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect, sync_playwright

from books import Watch, ask, held
from bursar.doors.dashboard.asked import PATHS
from bursar.stores.memory import MemoryStore
from dashboards import EVIL, NAMES, NOW, PAGES, book, rich, row, visiting
from gateways import create_key

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Reader:
    """One reader at one width; what the browser complains about and where it goes is kept."""

    def __init__(self, browser: Browser, url: str, width: int = 1440, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        self.page: Page = context.new_page()
        self.url, self.said, self.asked = url, list[str](), list[str]()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda fault: self.said.append(str(fault)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def sound(self) -> None:
        """As this page stands: quiet, of one host, no wider than the window, and without a fault that axe knows."""
        assert self.said == [] and all(one.startswith(self.url) for one in self.asked)
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), self.page.url
        found = Axe().run(self.page).response["violations"]
        assert found == [], [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found]


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1440, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1440, "light", marks=pytest.mark.slow),
    ],
)
def test_every_page_is_sound(browser: Browser, width: int, scheme: str) -> None:
    """Of a ledger with everything in it, labels that would be markup included; and of an empty one."""
    with visiting(rich()) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"), width, scheme)
        for name in PAGES:
            reader.go(PATHS[name] + "?since=30d")
            reader.sound()
        reader.go(PATHS["budgets"]).locator("tbody td a").first.click()
        expect(reader.page.get_by_role("heading", name="Who was charged")).to_be_visible()
        reader.sound()
        reader.go(PATHS["alerts"]).get_by_role("link", name="errors <b>").first.click()
        expect(reader.page.get_by_role("heading", name="What became of it")).to_be_visible()
        reader.sound()
        reader.go(PATHS["runs"] + "?since=30d").locator("tbody th a").first.click()
        expect(reader.page.get_by_role("heading", name="Call by call")).to_be_visible()
        reader.sound()
        reader.page.locator("tbody th a").first.click()
        expect(reader.page.get_by_role("heading", name="As the ledger has it")).to_be_visible()
        reader.sound()
    with visiting(MemoryStore()) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"), width, scheme)
        for name in PAGES:
            reader.go(PATHS[name])
            reader.sound()


def test_a_label_is_never_run(browser: Browser) -> None:
    """A script in a label is text, on the page of the label itself too; its table says it as it is."""
    with visiting(rich()) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"))
        reader.page.on("dialog", lambda dialog: reader.said.append(dialog.message))
        reader.go(PATHS["agents"] + "?since=30d").get_by_role("link", name=EVIL).first.click()
        expect(reader.page.get_by_role("heading", level=1)).to_have_text(f"Agent {EVIL}")
        reader.sound()


def test_a_keyboard_reaches_everything(browser: Browser) -> None:
    """First a way past the menu, then the pages in order; the numbers of a chart are in a table that Enter opens."""
    with visiting(rich()) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"))
        page = reader.go("/?since=30d")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Overview")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Agents and steps")
        assert "since=30d" in page.url
        page = reader.go("/?since=30d")
        page.locator(".chart summary").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".chart tbody tr").first).to_be_visible()


def test_a_keyboard_resets_a_breaker(browser: Browser) -> None:
    """The button says whose it is, and leads to the audit's new line; the others stay as they are."""
    store = rich()
    with visiting(store) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"))
        page = reader.go(PATHS["alerts"])
        buttons = page.get_by_role("button", name="Reset errors <b>, session ")
        shut = buttons.count()
        buttons.first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Breaker errors <b>")
        line = page.locator("section", has=page.get_by_role("heading", name="What became of it")).locator("tbody tr")
        expect(line.first).to_contain_text("hand: this machine")
        expect(buttons).to_have_count(0)
        reader.sound()
        reader.go(PATHS["alerts"])
        expect(buttons).to_have_count(shut - 1)
        assert shut == len(NAMES) - 1


def test_filters_are_in_the_address(browser: Browser) -> None:
    """The form leads to an address that says what was asked; a filter is taken away by its own link."""
    with visiting(rich()) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"))
        page = reader.go(PATHS["calls"])
        page.locator("summary").click()
        page.get_by_label("Agent").fill("a")
        page.get_by_label("From").fill("30d")
        page.get_by_role("button", name="Show").click()
        assert "agent=a" in page.url and "since=30d" in page.url
        assert set(page.locator("tbody td:nth-child(2)").all_inner_texts()) == {"a"}
        page.get_by_title("Take this filter away").click()
        assert "agent=" not in page.url and "since=30d" in page.url
        assert len(set(page.locator("tbody td:nth-child(2)").all_inner_texts())) > 1


def test_the_overview_is_live_until_it_is_told(browser: Browser) -> None:
    """A call that comes in is shown at the next look, without a reload, and not once that is switched off."""
    store = book(row(0))
    with visiting(store) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"))
        reader.page.clock.install()
        page = reader.go("/")
        value = page.locator(".tiles .value").nth(1)
        expect(value).to_have_text("$0.0100")
        _add(store, 1)
        page.clock.run_for(11_000)
        expect(value).to_have_text("$0.0200")
        page.get_by_role("button", name="Live").click()
        expect(page.get_by_role("button", name="Live")).to_have_attribute("aria-pressed", "false")
        _add(store, 2)
        asked = len(reader.asked)
        page.clock.run_for(60_000)
        assert len(reader.asked) == asked
        expect(value).to_have_text("$0.0200")
        reader.sound()


def _add(store: MemoryStore, number: int) -> None:
    store.settle(held(store, row(number, status="open"), ask()), row(number)).result()


def test_a_browser_logs_in_and_out(browser: Browser) -> None:
    """By the form, under the policy that the page itself names; afterwards the page is shut again."""
    store = book(row())
    admin = create_key(store, "admin")
    with visiting(store, Watch(NOW)) as visitor:
        reader = Reader(browser, str(visitor.http.base_url).rstrip("/"))
        page = reader.go(PATHS["users"] + "?since=30d")
        page.get_by_label("Admin key").fill(admin)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Users")
        assert page.url.endswith("/bursar/users?since=30d") and admin not in page.content()
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Admin key")).to_be_visible()

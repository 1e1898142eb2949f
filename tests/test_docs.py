"""The documentation is true: every Python example runs, every command and configuration key that is named exists."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.config import Settings
from bursar.sandbox import SandboxServer
from conftest import ROOT

PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def provider() -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        yield server


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, provider: SandboxServer, tmp_path: Path) -> None:
    """All examples of a page, one after the other, as one script against the sandbox provider."""
    script = "\n".join(EXAMPLE.findall(page.read_text("utf-8")))
    if not script:
        return
    environment = {
        "PATH": "",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT / "src"),
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": provider.url,
        "GEMINI_API_KEY": "k",
        "GOOGLE_GEMINI_BASE_URL": provider.url,
    }
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


def test_commands_exist() -> None:
    """Every `bursar COMMAND` in a shell block or code span is one that the command line has."""
    told = subprocess.run(
        [sys.executable, "-m", "bursar.doors.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"│ ([a-z]+) ", told))
    assert {"report", "run", "verify", "price"} <= known
    for page in PAGES:
        text = page.read_text("utf-8")
        shell = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`(bursar [^`\n]+)`", text)
        for line in "\n".join([*shell, *spans]).splitlines():
            for name in re.findall(r"(?:^|&& |/)bursar ([a-z]+)", line):
                assert name in known, f"{page.name}: bursar {name}"


def test_every_configuration_key_is_documented() -> None:
    """docs/configuration.md names each key of the settings, and `bursar init`'s template too."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    template = (ROOT / "src" / "bursar" / "doors" / "cli" / "template.toml").read_text("utf-8")
    for section, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for key in [f"{section}.{name}" for name in inner] if inner else [section]:
            assert f"`{key}" in page, f"{key} is missing in docs/configuration.md"
            assert key.rpartition(".")[2] in template, f"{key} is missing in the template of bursar init"


def test_links_lead_somewhere() -> None:
    """Relative links name files that are there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

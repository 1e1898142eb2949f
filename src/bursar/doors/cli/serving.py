"""What stays up until Ctrl-C or SIGTERM, which end it with exit code 0: the gateway, the sandbox; and the demo."""

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from bursar.config import Settings, load
from bursar.doors.cli.shared import Config, Misuse, note
from bursar.doors.gateway import meters, worker
from bursar.doors.gateway.serve import check_address, run
from bursar.doors.open import open_store
from bursar.doors.telemetry import logs
from bursar.sandbox import Settings as Sandbox
from bursar.sandbox import serve as serve_sandbox
from bursar.sandbox.faults import parse_odds
from bursar.stores.base import Store


def serve(
    *,
    host: Annotated[str | None, Parameter(help="The address to bind; default [gateway] host, 127.0.0.1.")] = None,
    port: Annotated[int | None, Parameter(help="Default [gateway] port, 4600; 0: a free one.")] = None,
    workers: Annotated[int, Parameter(help="Processes.")] = 1,
    as_json: Annotated[bool, Parameter(name="--json", help="Tell the address as JSON.")] = False,
    config: Config = None,
) -> None:
    """The gateway: the providers' own endpoints, every call priced and booked, and the admin API."""
    if workers < 1:
        raise Misuse(f"--workers {workers}: expected 1 or more")
    if config is not None:
        os.environ["BURSAR_CONFIG"] = str(config.absolute())  # how a worker finds it
    settings = load(config)
    address = host if host is not None else settings.gateway.host
    with _opened(settings, workers) as store:
        keyed = any(key.revoked_at is None for key in store.list_keys())
    check_address(address, keyed=keyed)
    bound = free(address, port if port is not None else settings.gateway.port)
    _announce("gateway", address, bound, as_json, _about(settings, keyed))
    logs.configure(settings.logging.format, settings.logging.level)
    with until_told(), ExitStack() as stack:
        if workers == 1:
            run(worker.gateway(settings), address, bound, log_config=None)
            return
        if meters.SHARED not in os.environ:  # how the workers count together
            os.environ[meters.SHARED] = stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-metrics-"))
        run(worker.FACTORY, address, bound, workers, factory=True, log_config=None)


def sandbox(
    *,
    host: Annotated[str, Parameter(help="The address to bind.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0: a free one.")] = 4601,
    latency_ms: Annotated[float, Parameter(help="Before the first byte of an answer.")] = 0,
    faults: Annotated[str, Parameter(help="KIND:ODDS with commas, as in 429:0.05,500:0.02,cut:0.01.")] = "",
    seed: Annotated[int, Parameter(help="Equal seeds answer equally.")] = 0,
    recorded: Annotated[Path | None, Parameter(help="A file of recorded outcomes to answer from.")] = None,
    any_model: Annotated[bool, Parameter(help="Serve unknown models too, without a price.")] = False,
    as_json: Annotated[bool, Parameter(name="--json", help="Tell the address as JSON.")] = False,
    config: Annotated[
        Path | None, Parameter(name="--config", help="Taken as everywhere; nothing here needs it.")
    ] = None,
) -> None:
    """The simulated provider alone: OpenAI's, Anthropic's and Gemini's wire formats, no key, no cost."""
    if config is not None:
        load(config)
    told = Sandbox(
        latency_ms=latency_ms, faults=faults, seed=seed, any_model=any_model,
        recorded=None if recorded is None else str(recorded),
    )  # fmt: skip
    try:
        parse_odds(faults)
    except ValueError as fault:
        raise Misuse(f"--{fault}") from None
    if recorded is not None and not recorded.is_file():
        raise Misuse(f"--recorded: {recorded} is no file")
    bound = free(host, port)
    _announce("sandbox", host, bound, as_json, "any key will do")
    with until_told():
        try:
            serve_sandbox(told, host, bound)
        except (ValueError, OSError) as fault:
            raise Misuse(str(fault)) from None


@contextmanager
def _opened(settings: Settings, workers: int) -> Iterator[Store]:
    if workers > 1 and settings.store.url.startswith("memory:"):
        raise Misuse(f"--workers {workers} needs one ledger for all of them: set [store] url to sqlite:///PATH")
    with closing(open_store(settings.store.url)) as store:
        yield store


def _about(settings: Settings, keyed: bool) -> str:
    missing = sorted(
        f"{name} ({told.api_key_env})"
        for name, told in settings.providers.items()
        if told.api_key_env and not os.environ.get(told.api_key_env)
    )
    note = f"; no key here for {', '.join(missing)}: callers bring their own" if missing and not keyed else ""
    if missing and keyed:
        note = f"; no key here for {', '.join(missing)}: calls to them will fail"
    return f"ledger {settings.store.url}, {'Bursar keys asked' if keyed else 'this machine alone, no keys'}{note}"


def free(host: str, port: int) -> int:
    """The port, once it is known that it can be bound; for 0 one that is free. Raises Misuse."""
    if not 0 <= port <= 65535:
        raise Misuse(f"--port {port}: expected 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listener:
            bound: int = listener.getsockname()[1]
            return bound
    except (OSError, UnicodeError) as fault:
        told = os.strerror(fault.errno) if isinstance(fault, OSError) and fault.errno else fault
        raise Misuse(f"{host}:{port} cannot be bound ({told}): give another --host or --port") from None


def _announce(what: str, host: str, port: int, as_json: bool, about: str) -> None:
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if as_json:
        sys.stdout.write(json.dumps({what: url, "base_url": f"{url}/v1"}) + "\n")
        sys.stdout.flush()
    note(f"{what} at {url}/v1 ({about}); Ctrl-C ends it")


@contextmanager
def until_told() -> Iterator[None]:
    """SIGTERM and Ctrl-C are how a server is meant to end. uvicorn gives them back once it has shut down in order."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(0)

"""A simulated provider that speaks the real wire formats: for the demo, tests and benchmarks."""

from bursar.sandbox.answers import Step, Task, is_right
from bursar.sandbox.app import Got, SandboxApp, app
from bursar.sandbox.bill import Bill, Line
from bursar.sandbox.server import SandboxServer, serve
from bursar.sandbox.settings import Settings

__all__ = [
    "Bill",
    "Got",
    "Line",
    "SandboxApp",
    "SandboxServer",
    "Settings",
    "Step",
    "Task",
    "app",
    "is_right",
    "serve",
]

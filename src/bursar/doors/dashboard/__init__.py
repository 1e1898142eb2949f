"""The dashboard: pages of the ledger, drawn on the server. No page needs a script, and none asks another host."""

from bursar.doors.dashboard.app import create, serves

__all__ = ["create", "serves"]

"""The providers' own credentials: which of them the environment holds, and the header in which a family takes one."""

from collections.abc import Iterable, Mapping

from bursar.policy import Provider
from bursar.types import Family


def held(providers: Iterable[Provider], environ: Mapping[str, str]) -> dict[str, str]:
    """By provider name; an empty variable holds none."""
    names = {provider.name: provider.api_key_env for provider in providers}
    return {name: environ[env] for name, env in names.items() if env is not None and environ.get(env)}


def header(family: Family, key: str) -> tuple[str, str]:
    """The header that carries the key."""
    match family:
        case "openai":
            return ("authorization", f"Bearer {key}")
        case "anthropic":
            return ("x-api-key", key)
        case "gemini":
            return ("x-goog-api-key", key)

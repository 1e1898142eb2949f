"""What every section of bursar.toml has in common. Frozen; a key that a section does not know is a fault."""

from pydantic import BaseModel, ConfigDict

from bursar.config.values import Text
from bursar.policy import Match


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MatchSection(Section):
    """Which calls a rule is for: all that is said must match, by shell globs. A missing label is "(none)"."""

    agent: Text | None = None
    step: Text | None = None
    user_tier: Text | None = None
    tags: dict[Text, Text] = {}

    def policy(self) -> Match:
        """As the policy has it."""
        return Match(self.agent, self.step, self.user_tier, tuple(self.tags.items()))

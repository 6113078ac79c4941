"""The rules of the feeds out of the configuration: sources whose key cannot be read are left out, and said."""

from __future__ import annotations

from collections.abc import Callable

from agent.config import FeedSettings
from agent.control.feeds import Feed, FeedRules, Source
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem


def feed_rules(settings: FeedSettings, note_problem: Callable[[str, str], None]) -> FeedRules:
    """Reads the key files. `note_problem`: subject and sentence."""
    sources: list[Source] = []
    for source in settings.source:
        try:
            key = verify_key_from_pem(source.key_file.read_bytes(), what=str(source.key_file))
        except (OSError, IdentityError) as error:
            note_problem(f"feed {source.name}", f"its values do not count: {error}")
            continue
        if any(key.key_id == other.key.key_id for other in sources):
            note_problem(f"feed {source.name}", "its values do not count: its key is another source's, too")
            continue
        sources.append(Source(name=source.name, key=key))
    return FeedRules(
        sources=tuple(sources),
        needed=settings.needed,
        area=settings.area,
        fresh_us={
            Feed.PRICE: round(settings.price_fresh_s * 1e6),
            Feed.FREQUENCY: round(settings.frequency_fresh_s * 1e6),
        },
    )

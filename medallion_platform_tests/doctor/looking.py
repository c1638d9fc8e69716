"""One check alone, as the doctor makes it, for tests of several rooms."""

from medallion_platform.doctor.finding import Check, Finding, examine
from medallion_platform.installation.settings import Settings


def look(check: Check, settings: Settings) -> list[Finding]:
    """What a check finds. It has more time than usual: a busy machine is not what is tested."""
    return examine(settings, {"this": check}, 60)


def only(check: Check, settings: Settings) -> Finding:
    """The only finding of a check."""
    (found,) = look(check, settings)
    return found

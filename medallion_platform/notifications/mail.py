"""E-mail: a thread for each incident, with a mail for each change of its state."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

from medallion_platform.certificates import tls_context
from medallion_platform.healing.told import Message, Notice
from medallion_platform.notifications.channel import Undelivered

SECONDS = 10.0
"""For how long the server may be silent."""
_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class Mail:
    """E-mail by one server.

    server: `smtp://user:password@host:port` (TLS by STARTTLS, without which no password is sent), or `smtps://`
    (TLS from the first byte). sender: the address of the platform. to: whom is written of what belongs to
    nobody in `addresses` (by owner); an owner that is an address is written to.
    """

    server: str = field(repr=False)
    sender: str
    to: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = "mail"
    silent: bool = False

    def send(self, notice: Notice, message: Message) -> str:
        """Send a mail, below the first one; it has the same `Message-ID` when the same is sent again.

        Raises:
            Undelivered: the server did not take it.
        """
        to = self.addresses.get(notice.owner) or (notice.owner if "@" in notice.owner else self.to)
        if not to:
            raise Undelivered(f"no address is known for {notice.owner or 'what nobody owns'}", only_this=True)
        mail = _mail(notice, message, self.sender, to)
        try:
            with self._connected() as server:
                server.send_message(mail)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError) as error:
            raise Undelivered(f"its server refuses the mail ({_code(error)})", only_this=True) from None
        except smtplib.SMTPAuthenticationError as error:
            raise Undelivered(f"its server refuses the user ({error.smtp_code})") from None
        except (OSError, smtplib.SMTPException) as error:
            raise Undelivered(f"its server cannot be reached ({type(error).__name__})") from None
        return message.handle or str(mail["Message-ID"])

    def _connected(self) -> smtplib.SMTP:
        parts = urlsplit(self.server)
        host, port, name = parts.hostname or "", parts.port or _PORTS[parts.scheme], socket.gethostname()
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, name, timeout=SECONDS, context=tls_context())
        else:
            server = smtplib.SMTP(host, port, name, timeout=SECONDS)
        try:
            server.ehlo()
            if parts.scheme == "smtp" and server.has_extn("starttls"):
                server.starttls(context=tls_context())
            elif parts.scheme == "smtp" and parts.username:
                raise Undelivered("its server offers no STARTTLS, so it was not given the password")
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
        except BaseException:
            server.close()
            raise
        return server


def _mail(notice: Notice, message: Message, sender: str, to: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, to, notice.title
    mail["Date"] = formatdate(usegmt=True)
    mail["Message-ID"] = f"<{notice.key}.{notice.state}.{notice.digest}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence answers
    if message.handle:
        mail["In-Reply-To"] = mail["References"] = message.handle
    facts = [f"{name}: {fact}" for name, fact in notice.facts.items()]
    mail.set_content("\n".join((notice.title, "", *facts, *([notice.link] if notice.link else []))) + "\n")
    return mail


def _code(error: smtplib.SMTPException) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return ", ".join(sorted({str(code) for code, _ in error.recipients.values()}))
    return str(error.smtp_code) if isinstance(error, smtplib.SMTPResponseException) else ""

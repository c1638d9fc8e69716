"""A webhook: a signed request for each change of a message, for whatever else is to hear of incidents.

Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime

from medallion_platform.healing.told import Message, Notice
from medallion_platform.notifications.http import request

_PREFIX = "whsec_"


@dataclass(frozen=True)
class Webhook:
    """url: where requests go. secret: by which they are signed, `whsec_` and base64 or any text; "": not."""

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    name: str = "webhook"
    silent: bool = True

    def send(self, notice: Notice, message: Message) -> str:
        """Send what is told now; its `webhook-id` is the same when the same is sent again.

        Raises:
            Undelivered: it was not accepted.
        """
        told = {"type": f"incident.{notice.state}", "data": asdict(notice)}
        body = json.dumps(told, default=datetime.isoformat).encode()
        id, at = f"{notice.key}-{notice.digest}", str(int(time.time()))
        headers = {"webhook-id": id, "webhook-timestamp": at}
        if self.secret:
            headers["webhook-signature"] = signature(self.secret, id, at, body)
        request("POST", self.url, body, headers=headers)
        return id


def signature(secret: str, id: str, at: str, body: bytes) -> str:
    """The signature of a request: HMAC with SHA-256 of its id, its time and its body. Pure."""
    signed = hmac.digest(_key(secret), b".".join((id.encode(), at.encode(), body)), hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()

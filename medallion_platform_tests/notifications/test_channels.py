"""What each channel sends, to real servers on this machine, and what it says of those that do not take it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medallion_platform.healing.told import Message, Notice, State, Told
from medallion_platform.notifications import http, mail
from medallion_platform.notifications.channel import Channel, Undelivered, deliver, send_test
from medallion_platform.notifications.grafana import Grafana
from medallion_platform.notifications.mail import Mail
from medallion_platform.notifications.pagerduty import PagerDuty
from medallion_platform.notifications.slack import Slack
from medallion_platform.notifications.webhook import Webhook, signature
from medallion_platform_tests.kafka import certificates
from medallion_platform_tests.notifications import servers
from medallion_platform_tests.notifications.servers import Answer, Server, http_server, mail_server
from medallion_platform_tests.ui.server import free_port

BEGAN = datetime(2026, 11, 30, 3, tzinfo=UTC)
KEY = "0123456789ab-1"
OWNER = "team:shop"
MESSAGE = Message((KEY,), OWNER, "disk")
SECRET = "hunter2@7"


def notice(state: State = "person", **other: object) -> Notice:
    facts = {"class": "disk: a disk or a bucket is full", "to do": "medallion incidents show <x> & more"}
    ended = BEGAN + timedelta(minutes=7) if state in ("ended", "lost") else None
    tables, title = ("gold.spend",), f"gold.spend: disk, {state}"
    link = "https://dagster.example/runs/abc"
    made = Notice(KEY, state, title, facts, BEGAN, ended, OWNER, "disk", tables, link)
    return replace(made, **other)


def told(state: State, handle: str) -> Message:
    return replace(MESSAGE, state=state, handle=handle)


@pytest.fixture
def slack() -> Iterator[tuple[servers.Slack, Server]]:
    workspace = servers.Slack()
    with http_server(workspace.answer) as server:
        yield workspace, server


def slack_of(server: Server) -> Slack:
    return Slack(SECRET, "C0ALL", {OWNER: "C0SHOP"}, f"{server.url}/api")


def test_slack_has_one_message_of_an_incident(slack: tuple[servers.Slack, Server]) -> None:
    workspace, server = slack
    channel = slack_of(server)
    handle = channel.send(notice("trying"), MESSAGE)
    assert channel.send(notice("ended"), told("trying", handle)) == handle
    ((ts, message),) = workspace.messages.items()
    assert handle == f"C0SHOP/{ts}"
    assert message["text"] == "gold.spend: disk, ended"
    assert not workspace.replies
    kinds = [block["type"] for block in message["blocks"]]
    assert kinds == ["section", "section", "context"]
    assert "&lt;x&gt; &amp; more" in message["blocks"][2]["elements"][0]["text"]
    assert {request.headers["authorization"] for request in server.asked} == {f"Bearer {SECRET}"}


def test_slack_says_in_the_channel_that_it_got_worse(slack: tuple[servers.Slack, Server]) -> None:
    workspace, server = slack
    channel = slack_of(server)
    handle = channel.send(notice("trying"), MESSAGE)
    channel.send(notice("person"), told("trying", handle))
    channel.send(notice("person", title="more"), told("person", handle))
    (reply,) = workspace.replies
    assert (reply["thread_ts"], reply["reply_broadcast"]) == (handle.partition("/")[2], True)


def test_slack_finds_the_message_that_nobody_remembers(slack: tuple[servers.Slack, Server]) -> None:
    workspace, server = slack
    channel = slack_of(server)
    other = channel.send(notice(key="another"), MESSAGE)
    handle = channel.send(notice(), MESSAGE)
    assert channel.send(notice(), MESSAGE) == handle != other
    assert len(workspace.messages) == 2
    workspace.may_look = False
    assert channel.send(notice(), MESSAGE) != handle
    assert len(workspace.messages) == 3


def test_slack_posts_anew_what_somebody_deleted(slack: tuple[servers.Slack, Server]) -> None:
    workspace, server = slack
    channel = slack_of(server)
    handle = channel.send(notice(), MESSAGE)
    workspace.messages.clear()
    channel.send(notice("ended"), told("person", handle))
    assert len(workspace.messages) == 1


@pytest.mark.parametrize(
    ("word", "only_this"),
    [("is_archived", True), ("channel_not_found", True), ("invalid_auth", False), ("ratelimited", False)],
)
def test_slack_says_by_a_word_what_it_refuses(word: str, only_this: bool) -> None:
    with http_server(lambda _: Answer({"ok": False, "error": word})) as server:
        channel = slack_of(server)
        with pytest.raises(Undelivered, match=word) as caught:
            channel.send(notice(), MESSAGE)
    assert caught.value.only_this is only_this


def test_pagerduty_is_triggered_and_resolved_by_the_same_key() -> None:
    with http_server(lambda _: Answer({"status": "success"}, 202)) as server:
        channel = PagerDuty(SECRET, server.url)
        for state in ("trying", "person", "person", "ended"):
            channel.send(notice(state), MESSAGE)
    told = [request.told for request in server.asked]
    assert set(server.paths) == {"POST /v2/enqueue"}
    assert {event["dedup_key"] for event in told} == {f"medallion/{KEY}"}
    assert [event["event_action"] for event in told] == ["trigger", "trigger", "trigger", "resolve"]
    assert [event["payload"]["severity"] for event in told[:3]] == ["warning", "error", "error"]
    assert {event["routing_key"] for event in told} == {SECRET}
    assert told[0]["payload"]["group"] == OWNER


def test_grafana_has_one_annotation_from_begin_to_end() -> None:
    grafana = servers.Grafana()
    with http_server(grafana.answer) as server:
        channel = Grafana(SECRET, server.url)
        handle = channel.send(notice(), MESSAGE)
        assert channel.send(notice(), MESSAGE) == handle  # nobody remembers it
        channel.send(notice("ended"), told("person", handle))
        (made,) = grafana.made.values()
        assert (made["timeEnd"] - made["time"]) == 7 * 60 * 1000
        assert {"medallion", f"incident:{KEY}", "table:gold.spend", OWNER, "ended"} <= set(made["tags"])
        assert "&lt;x&gt;" in made["text"]
        grafana.made.clear()
        channel.send(notice("ended"), told("person", handle))  # somebody deleted it
        assert len(grafana.made) == 1


@pytest.mark.parametrize(
    "secret", [f"whsec_{base64.b64encode(b'0123456789abcdef').decode()}", "0123456789abcdef"]
)
def test_a_webhook_is_signed_over_all_that_is_sent(secret: str) -> None:
    with http_server() as server:
        Webhook(f"{server.url}/hook?key=1", secret).send(notice(), MESSAGE)
        Webhook(f"{server.url}/hook", secret).send(notice(), MESSAGE)
        Webhook(f"{server.url}/hook").send(notice(), MESSAGE)
    first, again, unsigned = server.asked
    signed = f"{first.headers['webhook-id']}.{first.headers['webhook-timestamp']}.".encode() + first.text
    expected = base64.b64encode(hmac.new(b"0123456789abcdef", signed, hashlib.sha256).digest()).decode()
    assert first.headers["webhook-signature"] == f"v1,{expected}"
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert "webhook-signature" not in unsigned.headers
    assert first.told["type"] == "incident.person"
    assert (first.told["data"]["key"], first.told["data"]["tables"]) == (KEY, ["gold.spend"])


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of its specification and of its libraries."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a server on loopback whose authority this process trusts."""
    authority, server = tmp_path / "authority.pem", tmp_path / "server.pem"
    certificates.make(authority, server)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server)
    return context


def mail_of(post: servers.Post, scheme: str = "smtp", user: str = "") -> Mail:
    return Mail(
        f"{scheme}://{user}127.0.0.1:{post.port}", "lake@example.com", "all@example.com", {OWNER: "shop@x.y"}
    )


def test_mails_of_an_incident_are_a_thread_to_its_owner(trusted: ssl.SSLContext) -> None:
    with mail_server(tls_context=trusted) as post:
        channel = mail_of(post, user="me%40x.y:hunter2%407@")
        handle = channel.send(notice(), MESSAGE)
        channel.send(notice(), MESSAGE)
        channel.send(notice("ended"), told("person", handle))
        channel.send(notice(owner="ann@x.y"), MESSAGE)
        channel.send(notice(owner="team:hr"), MESSAGE)
    assert set(post.users) == {("me@x.y", SECRET, True)}
    first, again, end, to_person, to_all = post.mails
    assert first["Message-ID"] == again["Message-ID"] == end["In-Reply-To"] == handle
    assert end["Message-ID"] != handle
    assert (first["To"], to_person["To"], to_all["To"]) == ("shop@x.y", "ann@x.y", "all@example.com")
    assert first["Subject"] == "gold.spend: disk, person"
    assert "https://dagster.example/runs/abc" in first.get_payload(decode=True).decode()  # type: ignore[union-attr]


def test_a_password_is_never_sent_without_encryption() -> None:
    with mail_server() as post:
        mail_of(post).send(notice(), MESSAGE)
        with pytest.raises(Undelivered, match="no STARTTLS") as caught:
            mail_of(post, user=f"me:{SECRET}@").send(notice(), MESSAGE)
    assert not caught.value.only_this
    assert (len(post.mails), post.users) == (1, [])


def test_a_mail_server_that_is_not_who_it_says_gets_nothing(trusted: ssl.SSLContext, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    certificates.make(tmp_path / "unknown.pem", other)
    stranger = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    stranger.load_cert_chain(other)
    with mail_server(tls_context=stranger) as post, pytest.raises(Undelivered, match="cannot be reached"):
        mail_of(post, user=f"me:{SECRET}@").send(notice(), MESSAGE)
    assert not post.mails and not post.users


def test_a_wrong_password_or_address_is_told(trusted: ssl.SSLContext) -> None:
    with mail_server(tls_context=trusted) as post:
        post.refuses = "shop@x.y"
        with pytest.raises(Undelivered, match="refuses the mail") as caught:
            mail_of(post, user="me:hunter2%407@").send(notice(), MESSAGE)
        assert caught.value.only_this
        with pytest.raises(Undelivered, match="refuses the user") as caught:
            mail_of(post, user="me:wrong@").send(notice(), MESSAGE)
        assert not caught.value.only_this


@pytest.mark.parametrize("of", [Slack(SECRET, ""), Mail("smtp://127.0.0.1:1", "lake@x.y")])
def test_an_owner_without_an_address_is_named(of: Channel) -> None:
    with pytest.raises(Undelivered, match=f"for {OWNER}") as caught:
        of.send(notice(), MESSAGE)
    assert caught.value.only_this


def http_channels(url: str) -> list[Channel]:
    return [
        Slack(SECRET, "C0", url=url),
        PagerDuty(SECRET, url),
        Grafana(SECRET, url),
        Webhook(f"{url}/{SECRET}?{SECRET}", SECRET),
    ]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SECONDS", 0.5)
    monkeypatch.setattr(mail, "SECONDS", 0.5)


def assert_nothing_reaches_it(channels: list[Channel], caplog: pytest.LogCaptureFixture, says: str) -> None:
    """Each channel says what it lacks in a few words, without a secret, and is tried later."""
    caplog.set_level(logging.DEBUG)
    for channel in channels:
        remembered: list[Told] = []
        end = deliver(channel, [(MESSAGE, notice())] * 3, Told(), remembered.append)
        assert says in end.why
        assert (end.failures, len(remembered), end.messages) == (1, 1, {})
    assert SECRET not in caplog.text
    assert caplog.text.count("does not tell people") == len(channels)


def test_servers_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    gone = f"127.0.0.1:{free_port()}"
    channels = [*http_channels(f"http://{gone}"), Mail(f"smtp://me:{SECRET}@{gone}", "a@x.y", "b@x.y")]
    assert_nothing_reaches_it(channels, caplog, "cannot be reached (Connect")


@pytest.mark.parametrize(
    ("status", "says"), [(500, "answers 500"), (401, "answers 401"), (302, "answers 302")]
)
def test_servers_that_fail(caplog: pytest.LogCaptureFixture, status: int, says: str) -> None:
    with http_server(lambda _: Answer({}, status, {"location": "http://elsewhere.example"})) as server:
        assert_nothing_reaches_it(http_channels(server.url), caplog, says)
        assert len(server.asked) == 4  # none was asked twice


def test_servers_that_never_answer(caplog: pytest.LogCaptureFixture, short: None) -> None:
    with http_server() as server:
        server.silent = threading.Event()
        assert_nothing_reaches_it(http_channels(server.url), caplog, "")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        channels: list[Channel] = [Mail(f"smtp://me:{SECRET}@{address}", "a@x.y", "b@x.y")]
        caplog.clear()
        assert_nothing_reaches_it(channels, caplog, "cannot be reached")


def test_a_server_that_drips_is_left(short: None) -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: drip(listening.accept()[0]))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Undelivered, match="does not answer within"):
            PagerDuty(SECRET, url).send(notice(), MESSAGE)
        stop.set()
        thread.join()


def test_a_server_that_asks_to_wait_is_asked_later() -> None:
    with http_server(lambda _: Answer({}, 429, {"retry-after": "1200"})) as server:
        end = deliver(PagerDuty(SECRET, server.url), [(MESSAGE, notice())], Told(), lambda _: None)
    assert end.not_before
    assert end.not_before > datetime.now(UTC) + timedelta(minutes=19)


def test_a_message_that_is_refused_holds_no_other() -> None:
    with http_server(lambda _: Answer({}, 202)) as server:
        server.next.append(Answer({"message": "bad"}, 400))
        others = [(replace(MESSAGE, episodes=(key,)), notice(key=key)) for key in ("a-1", "b-1", "c-1")]
        end = deliver(PagerDuty(SECRET, server.url), others, Told(), lambda _: None)
    assert [m.state for m in end.messages.values()] == ["", "person", "person"]
    assert not end.failures


def test_a_process_that_is_killed_in_between_sends_at_most_one_again() -> None:
    class Killed(BaseException):
        pass

    workspace = servers.Slack()
    due = [(replace(MESSAGE, episodes=(key,)), notice(key=key)) for key in ("a-1", "b-1", "c-1")]
    with http_server(workspace.answer) as server:
        kept = [Told()]

        def remember(told: Told) -> None:
            if len(kept) == 2:
                raise Killed
            kept.append(told)

        with pytest.raises(Killed):
            deliver(slack_of(server), due, kept[0], remember)
        left = [(m, n) for m, n in due if m.key not in kept[-1].messages]
        end = deliver(slack_of(server), left, kept[-1], lambda _: None)
    assert (len(left), len(workspace.messages), len(end.messages)) == (2, 3, 3)


@pytest.mark.parametrize(
    ("of", "asks"),
    [
        (lambda url: Slack(SECRET, "C0", url=url), 3),
        (lambda url: PagerDuty(SECRET, url), 2),
        (lambda url: Webhook(url, SECRET), 2),
    ],
)
def test_a_test_is_told_and_ended(of: Callable[[str], Channel], asks: int) -> None:
    workspace = servers.Slack()
    with http_server(workspace.answer if asks == 3 else lambda _: Answer({})) as server:
        send_test(of(server.url), OWNER, BEGAN)
    assert len(server.asked) == asks
    assert "over" in json.dumps(server.asked[-1].told) or server.asked[-1].told["event_action"] == "resolve"


def test_no_channel_shows_its_secrets() -> None:
    shown = [
        repr(channel) for channel in [*http_channels("https://x.y"), Mail(f"smtp://me:{SECRET}@x.y", "a@x.y")]
    ]
    assert SECRET not in "".join(shown)

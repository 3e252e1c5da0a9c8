#!/usr/bin/env python3
"""A mail catcher with the part of Mailpit's ports, variables and API that this stack uses.

Listens for SMTP (1025), keeps what comes in memory, and shows it over HTTP (8025):

    GET    /api/v1/messages?start=0&limit=50   summaries, newest first
    DELETE /api/v1/messages                    forget all of them
    GET    /api/v1/message/{id|latest}         one message; …/raw gives its source
    GET    /livez, /readyz                     health
    GET    /                                   a page for people

`mailpit readyz` asks a running one for its health. A variable MP_… that is not known here stops it.
"""

from __future__ import annotations

import hmac
import html
import json
import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64decode
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import getaddresses, parseaddr
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

DEFAULTS = {
    "MP_SMTP_BIND_ADDR": "0.0.0.0:1025",
    "MP_UI_BIND_ADDR": "0.0.0.0:8025",
    "MP_MAX_MESSAGES": "500",
    "MP_SMTP_AUTH": "",  # "user:password", several split by blanks
    "MP_SMTP_AUTH_FILE": "",  # the same, one a line, in plain text only
    "MP_SMTP_AUTH_ACCEPT_ANY": "",
    "MP_SMTP_AUTH_ALLOW_INSECURE": "",
    "MP_SMTP_TLS_CERT": "",
    "MP_SMTP_TLS_KEY": "",
    "MP_SMTP_REQUIRE_STARTTLS": "",
    "MP_SMTP_REQUIRE_TLS": "",  # TLS from the first byte
    "MP_UI_AUTH": "",
    "MP_UI_AUTH_FILE": "",
}


class Settings:
    """The environment, checked."""

    def __init__(self, env: Mapping[str, str]) -> None:
        unknown = sorted(name for name in env if name.startswith("MP_") and name not in DEFAULTS)
        if unknown:
            raise SystemExit(
                f"error: expected only variables that this stand-in for Mailpit knows "
                f"({', '.join(DEFAULTS)}), found {', '.join(unknown)}. Use the official image."
            )
        self._values = DEFAULTS | {name: env[name] for name in DEFAULTS if env.get(name)}

    def address(self, name: str) -> tuple[str, int]:
        """Give host and port of a variable like `0.0.0.0:1025`."""
        host, _, port = self._values[name].rpartition(":")
        return host.strip("[]"), int(port)

    def switch(self, name: str) -> bool:
        """Tell whether a variable is on."""
        return self._values[name].lower() in {"1", "true", "yes"}

    def logins(self, name: str) -> dict[str, str]:
        """Give the users and passwords of the variable and of the file beside it."""
        file = self._values[f"{name}_FILE"]
        text = f"{self._values[name]} {Path(file).read_text() if file else ''}"
        return {
            user: password for user, _, password in (pair.partition(":") for pair in text.split())
        }

    def tls(self) -> ssl.SSLContext | None:
        """Give the certificate's context, or None where there is no certificate."""
        if not self._values["MP_SMTP_TLS_CERT"]:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._values["MP_SMTP_TLS_CERT"], self._values["MP_SMTP_TLS_KEY"])
        return context

    @property
    def max_messages(self) -> int:
        return int(self._values["MP_MAX_MESSAGES"])


class Mailbox:
    """What was caught, newest first; the oldest are forgotten beyond the bound."""

    def __init__(self, max_messages: int) -> None:
        self._caught: deque[tuple[str, dict[str, Any], bytes]] = deque(maxlen=max_messages)
        self._lock = threading.Lock()

    def add(self, source: bytes, envelope: Envelope) -> dict[str, Any]:
        """Keep one message; give its description."""
        message = describe(source, envelope)
        with self._lock:
            self._caught.appendleft((message["ID"], message, source))
        return message

    def all(self) -> list[dict[str, Any]]:
        with self._lock:
            return [message for _, message, _ in self._caught]

    def get(self, identity: str) -> tuple[dict[str, Any], bytes] | None:
        """Give one message and its source; `latest` names the newest."""
        with self._lock:
            for found, message, source in self._caught:
                if identity in (found, "latest"):
                    return message, source
        return None

    def clear(self) -> None:
        with self._lock:
            self._caught.clear()


def describe(source: bytes, envelope: Envelope) -> dict[str, Any]:
    """Describe a message with the names that Mailpit's API uses."""
    parsed = message_from_bytes(source, policy=policy.default)
    assert isinstance(parsed, EmailMessage)  # noqa: S101 - policy.default makes no other
    named = {header: _people(parsed, header) for header in ("To", "Cc", "Reply-To")}
    seen = {person["Address"] for people in named.values() for person in people}
    text, page = (parsed.get_body((kind,)) for kind in ("plain", "html"))
    name, address = parseaddr(str(parsed.get("From", envelope.mail_from or "")))
    return {
        "ID": uuid4().hex[:22],
        "MessageID": str(parsed.get("Message-ID", "")).strip("<>"),
        "From": {"Name": name, "Address": address},
        "To": named["To"],
        "Cc": named["Cc"],
        "Bcc": [{"Name": "", "Address": to} for to in envelope.rcpt_tos if to not in seen],
        "ReplyTo": named["Reply-To"],
        "ReturnPath": envelope.mail_from or "",
        "Subject": str(parsed.get("Subject", "")),
        "Date": datetime.now(UTC).isoformat(),
        "Tags": [],
        "Text": text.get_content() if text else "",
        "HTML": page.get_content() if page else "",
        "Size": len(source),
        "Inline": [],
        "Attachments": [
            {"FileName": part.get_filename() or "", "ContentType": part.get_content_type()}
            for part in parsed.iter_attachments()
        ],
    }


def _people(parsed: EmailMessage, header: str) -> list[dict[str, str]]:
    pairs = getaddresses([str(value) for value in parsed.get_all(header, [])])
    return [{"Name": name, "Address": address} for name, address in pairs]


def summary(message: dict[str, Any]) -> dict[str, Any]:
    """Give the part of a message that lists show."""
    same = ("ID", "MessageID", "From", "To", "Cc", "Bcc", "ReplyTo", "Subject", "Tags", "Size")
    return {name: message[name] for name in same} | {
        "Read": False,
        "Created": message["Date"],
        "Attachments": len(message["Attachments"]),
        "Snippet": " ".join(message["Text"].split())[:250],
    }


class Catcher:
    """What aiosmtpd calls for each message."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        message = self._mailbox.add(envelope.original_content or b"", envelope)
        print(f"caught {message['ID']} for {', '.join(envelope.rcpt_tos)}", flush=True)  # noqa: T201
        return f"250 2.0.0 Ok: queued as {message['ID']}"


class Server(SMTP):
    """Asks for a login in the words of other servers; Alertmanager answers no others."""

    AuthLoginUsernameChallenge = "Username:"
    AuthLoginPasswordChallenge = "Password:"


class Servers(Controller):
    """Makes such servers."""

    def factory(self) -> Server:
        return Server(self.handler, **self.SMTP_kwargs)


def smtp_server(settings: Settings, mailbox: Mailbox) -> Controller:
    """Give the SMTP server, with logins and TLS as set."""
    logins, tls = settings.logins("MP_SMTP_AUTH"), settings.tls()
    accept_any = settings.switch("MP_SMTP_AUTH_ACCEPT_ANY")
    implicit = tls is not None and settings.switch("MP_SMTP_REQUIRE_TLS")

    def authenticate(
        _server: SMTP, _session: Session, _envelope: Envelope, _how: str, login: Any
    ) -> AuthResult:
        good = accept_any or (
            isinstance(login, LoginPassword) and fits(logins, login.login, login.password)
        )
        return AuthResult(success=good, handled=False)

    host, port = settings.address("MP_SMTP_BIND_ADDR")
    starttls = {"tls_context": tls, "require_starttls": settings.switch("MP_SMTP_REQUIRE_STARTTLS")}
    return Servers(
        Catcher(mailbox),
        hostname=host,
        port=port,
        ssl_context=tls if implicit else None,
        authenticator=authenticate if logins or accept_any else None,
        auth_required=bool(logins) and not accept_any,
        auth_require_tls=not (implicit or settings.switch("MP_SMTP_AUTH_ALLOW_INSECURE")),
        **({} if implicit else starttls),
    )


def fits(logins: Mapping[str, str], user: bytes, password: bytes) -> bool:
    """Tell whether user and password are a pair that was set."""
    wanted = logins.get(user.decode(errors="replace"))
    return wanted is not None and hmac.compare_digest(wanted.encode(), password)


class Pages(BaseHTTPRequestHandler):
    """The API and the page for people."""

    mailbox: ClassVar[Mailbox]
    logins: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = [part for part in url.path.split("/") if part]
        if path in (["livez"], ["readyz"]):
            return self._answer(b"ok", "text/plain")
        if not self._is_allowed():
            return self._refuse()
        match path:
            case []:
                return self._answer(front_page(self.mailbox.all()), "text/html; charset=utf-8")
            case ["api", "v1", "messages"]:
                return self._json(self._list(parse_qs(url.query)))
            case ["api", "v1", "message", identity, *rest] if rest in ([], ["raw"]):
                return self._one(identity, raw=bool(rest))
        return self.send_error(HTTPStatus.NOT_FOUND)

    def do_DELETE(self) -> None:
        if not self._is_allowed():
            return self._refuse()
        if urlsplit(self.path).path != "/api/v1/messages":
            return self.send_error(HTTPStatus.NOT_FOUND)
        if int(self.headers.get("Content-Length") or 0):
            return self.send_error(
                HTTPStatus.NOT_IMPLEMENTED, "this stand-in only deletes all messages"
            )
        self.mailbox.clear()
        return self._answer(b"ok", "text/plain")

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        start, limit = (
            int(query.get(name, [default])[0])
            for name, default in (("start", "0"), ("limit", "50"))
        )
        found = self.mailbox.all()
        page = [summary(message) for message in found[start : start + limit]]
        totals = dict.fromkeys(("total", "unread", "messages_count", "messages_unread"), len(found))
        return totals | {"count": len(page), "start": start, "tags": [], "messages": page}

    def _one(self, identity: str, *, raw: bool) -> None:
        found = self.mailbox.get(identity)
        if found is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        message, source = found
        return self._answer(source, "text/plain; charset=utf-8") if raw else self._json(message)

    def _is_allowed(self) -> bool:
        if not self.logins:
            return True
        kind, _, value = (self.headers.get("Authorization") or "").partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            user, _, password = b64decode(value, validate=True).partition(b":")
        except ValueError:
            return False
        return fits(self.logins, user, password)

    def _refuse(self) -> None:
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", 'Basic realm="mail"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: dict[str, Any]) -> None:
        self._answer(json.dumps(value).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # A caught mail is foreign text: no script of it runs here.
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: health checks would fill the log."""


def front_page(messages: list[dict[str, Any]]) -> bytes:
    """Give the page that lists what was caught."""
    rows = "".join(
        "<details><summary>{date} <b>{subject}</b> to {to}</summary><pre>{text}</pre></details>".format(
            date=html.escape(message["Date"][:19]),
            subject=html.escape(message["Subject"]),
            to=html.escape(", ".join(person["Address"] for person in message["To"])),
            text=html.escape(message["Text"] or message["HTML"]),
        )
        for message in messages
    )
    return f"<!doctype html><title>Mail</title><h1>{len(messages)} messages</h1>{rows}".encode()


def ask_readiness(settings: Settings) -> int:
    """Give 0 when a running catcher answers that it is ready."""
    port = settings.address("MP_UI_BIND_ADDR")[1]
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3).close()
    except (urllib.error.URLError, TimeoutError) as found:
        print(f"expected the catcher to be ready, found: {found}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def main() -> int:
    """Catch mail until told to stop."""
    settings = Settings(os.environ)
    if sys.argv[1:] == ["readyz"]:
        return ask_readiness(settings)
    if sys.argv[1:]:
        raise SystemExit(f"error: expected no argument or 'readyz', found {sys.argv[1:]}.")
    Pages.mailbox = Mailbox(settings.max_messages)
    Pages.logins = settings.logins("MP_UI_AUTH")
    smtp_server(settings, Pages.mailbox).start()
    ThreadingHTTPServer(settings.address("MP_UI_BIND_ADDR"), Pages).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The routes over real HTTP, with replies that wait for a word: limits, keys, vanished clients, the end."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest
from fake_engine import ANSWER, SLOTS, THINK, FakeEngine
from local import HI, begin, running, until

from lite.server import main, middleware
from lite.server.middleware import MAX_BODY_BYTES

JSON = {"content-type": "application/json"}


def send(url, path="/v1/chat/completions", body=HI, headers=JSON, method="POST"):
    """(status, headers, body as JSON where it is) of one request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    kind = response.headers.get_content_type()
    return (
        response.status,
        response.headers,
        json.loads(text) if kind == "application/json" else text.decode(),
    )


def get(url, path, **headers):
    return send(url, path, None, headers, "GET")


def metric(url, name):
    lines = dict(line.rsplit(" ", 1) for line in get(url, "/metrics")[2].splitlines() if line[0] != "#")
    return float(lines.get(name, 0))


def test_a_reply(server):
    status, _, reply = send(server.url, body=HI | {"comp_ratio": 20})
    message = reply["choices"][0]["message"]
    assert (
        status == 200 and message["content"] == ANSWER and message["reasoning_content"] == (5 * THINK).strip()
    )
    assert (reply["lite"]["comp_ratio_asked"], reply["lite"]["comp_ratio_used"]) == (20, 20)
    assert metric(server.url, 'lite_replies_total{stop="eos"}') == 1
    assert metric(server.url, "lite_think_tokens_total") == 30


def test_a_stream_comes_as_it_is_written(server, engine):
    engine.gate.clear()
    client = begin(server.url, stream=True)
    seen = b""
    while THINK.encode() not in seen:  # the first piece is here while the second is not yet written
        seen += client.recv(4096)
    engine.gate.set()
    while b"[DONE]" not in seen:
        seen += client.recv(4096)
    client.close()
    events = [json.loads(line[6:]) for line in seen.decode().splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == 5 * THINK
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
    assert sum(delta.get("num_tokens", 0) for delta in deltas) == 35
    assert len({event["id"] for event in events}) == 1


def test_health_models_and_the_page(server):
    assert get(server.url, "/health")[2] == {"status": "ok"}
    (model,) = get(server.url, "/v1/models")[2]["data"]
    assert model["id"] == "fake_engine" and model["context_length"] == 4096
    assert get(server.url, "/v1/models/fake_engine")[2] == model and get(server.url, "/v1/models/x")[0] == 404
    for path, start in {"/": "<!doctype html>", "/page.css": ":root", "/page.js": "//"}.items():
        status, headers, text = get(server.url, path)
        assert status == 200 and text.startswith(start)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert (
            "unsafe" not in headers["content-security-policy"]
            and headers["x-content-type-options"] == "nosniff"
        )
    assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_slot(server, engine, stream):
    engine.gate.clear()
    clients = [begin(server.url, stream=stream) for _ in range(SLOTS)]
    until(lambda: engine.num_running == SLOTS)
    status, headers, reply = send(server.url)
    assert (status, reply["error"]["type"]) == (429, "rate_limit_error")
    assert 1 <= int(headers["retry-after"]) <= 60
    for client in clients:
        client.close()
    until(lambda: engine.num_running == 0)
    assert all(stream.cancelled for stream in engine.streams)
    engine.gate.set()
    assert send(server.url)[0] == 200
    assert metric(server.url, 'lite_responses_total{status="503"}') == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_waits_in_vain_is_a_429(server, stream):
    late = {"messages": [{"role": "user", "content": "late"}], "stream": stream}
    status, headers, reply = send(server.url, body=late)
    assert (status, reply["error"]["type"]) == (429, "rate_limit_error")
    assert "no slot came free within 60 s" in reply["error"]["message"]
    assert 1 <= int(headers["retry-after"]) <= 60


def test_what_the_engine_refuses_is_a_400(server):
    status, _, reply = send(server.url, body={"messages": [{"role": "user", "content": "refuse"}]})
    assert status == 400 and "leaves no room in 4096; shorten" in reply["error"]["message"]
    assert reply["error"]["code"] == "context_length_exceeded" and reply["error"]["param"] == "messages"


def test_a_fault_of_the_engine_shows_nothing_of_itself(server, caplog, capfd):
    fail = {"messages": [{"role": "user", "content": "fail"}]}
    before = metric(server.url, 'lite_responses_total{status="500"}')
    status, _, reply = send(server.url, body=fail)
    assert (status, reply["error"]["type"]) == (500, "server_error") and "scripted" not in str(reply)
    status, _, text = send(server.url, body=fail | {"stream": True})
    assert status == 200 and "server_error" in text and "[DONE]" not in text and "scripted" not in text
    assert "scripted" in capfd.readouterr().err + caplog.text  # it is for the log
    assert metric(server.url, 'lite_responses_total{status="500"}') == before + 1
    assert send(server.url)[0] == 200


def test_the_body(server, monkeypatch):
    assert send(server.url, body=b" " * MAX_BODY_BYTES)[0] == 400
    parts = urlsplit(server.url)
    client = socket.create_connection((parts.hostname, parts.port), timeout=10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    client.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
    chunk = b"20000\r\n" + b" " * 0x20000 + b"\r\n"
    for _ in range(9):
        client.sendall(chunk)
    assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    client.close()
    status, _, reply = send(server.url, headers={"content-type": "text/plain"})
    assert status == 415 and "Content-Type: application/json" in reply["error"]["message"]
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.1)
    client = socket.create_connection((parts.hostname, parts.port), timeout=10)
    client.sendall(f"{head}content-length: 9\r\n\r\n{{".encode())
    assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
    client.close()


def test_no_such_route(server):
    status, _, reply = send(server.url, "/v1/nix")
    assert status == 404 and reply["error"]["message"] == "POST /v1/nix: not found"
    status, headers, reply = get(server.url, "/v1/chat/completions")
    assert status == 405 and headers["allow"] == "POST" and "method not allowed" in reply["error"]["message"]
    assert get(server.url, "/../api.py")[0] == get(server.url, "/page%2f..%2fpage.js")[0] == 404


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200),
    ("evil.example", 400), ("localhost.evil.example", 400), ("127.0.0.1.evil.example:80", 400), ("", 400),
    ("127.0.0.1@evil.example", 400), ("[::1", 400), ("lite.lan", 200),
])  # fmt: skip
def test_dns_rebinding(host, status):
    with running(FakeEngine(), allow_hosts=["lite.lan"]) as server:
        assert get(server.url, "/", Host=host)[0] == get(server.url, "/v1/models", Host=host)[0] == status


def test_pages_of_other_origins():
    """Only those that are named may read a reply; a key is still asked for, but not of a preflight."""
    with running(FakeEngine(), key="secret", cors_origins=["https://chat.example"]) as server:
        for origin, allowed in (
            ("https://chat.example", "https://chat.example"),
            ("https://evil.example", None),
        ):
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            asks["Access-Control-Request-Headers"] = "authorization, content-type"
            status, headers, _ = send(server.url, body=None, headers=asks, method="OPTIONS")
            assert (status == 200) == bool(allowed)
            status, headers, _ = send(server.url, headers=JSON | {"Origin": origin})
            assert status == 401 and headers.get("access-control-allow-origin") == allowed


def test_a_key():
    with running(FakeEngine(), key="secret") as server:
        for path in ("/", "/page.js", "/page.css", "/health"):
            assert get(server.url, path, Host="any.example")[0] == 200
        for path in ("/v1/models", "/metrics", "/nix"):
            status, headers, reply = get(server.url, path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert reply["error"]["code"] == "invalid_api_key"
        for given in ("Bearer wrong", "Bearer", "Basic secret", "secret", "Bearer secret2", "Bearer \xe9"):
            assert send(server.url, headers=JSON | {"authorization": given})[0] == 401
        assert send(server.url, headers=JSON | {"authorization": "Bearer secret"})[0] == 200


def test_at_the_end_what_runs_may_finish(engine):
    engine.gate.clear()
    with running(engine) as server:
        client = begin(server.url)
        until(lambda: engine.num_running == 1)
        server.should_exit = True
        until(lambda: not server.servers[0].is_serving())
        engine.gate.set()
        assert b'"finish_reason":"stop"' in client.makefile("rb").read()


@pytest.mark.parametrize("stream, expected", [(False, b"HTTP/1.1 503 "), (True, b'data: {"error"')])
def test_at_the_end_what_takes_too_long_is_cancelled(engine, monkeypatch, stream, expected):
    monkeypatch.setattr(main, "GRACE_SECONDS", 0.3)
    engine.gate.clear()
    with running(engine) as server:
        client = begin(server.url, stream=stream)
        until(lambda: engine.num_running == 1)
        server.should_exit = True
        assert expected in client.makefile("rb").read()
        until(lambda: engine.num_running == 0)

"""The HTTP client against a server on loopback that misbehaves in every way we could think of."""

from __future__ import annotations

import email.utils
import socket
import threading
import time

import pytest
from loopback import Act, serve

from lite.errors import LiteError, Unreachable
from lite.remote import client as endpoint
from lite.remote.client import Endpoint, base_url, read_key

GOOD = {"fine": True}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(endpoint, "LONGEST_PAUSE_S", 0.01)


def post(server, **settings):
    """One request; its reply."""
    client = Endpoint(server.url, **settings)
    replies = []
    client.map(lambda body: client.post("/x", body), [{"a": 1}], lambda _, reply: replies.append(reply))
    return replies[0]


FAULTS = {
    "429": Act("slow down", status=429),
    "500": Act({"error": {"message": "oops"}}, status=500),
    "503 in HTML": Act("<html>bad gateway</html>", status=503),
    "cut in the head": Act(b"", headers={"Content-Length": "100"}, cut_after=0),
    "cut in the body": Act({"text": "x" * 500}, cut_after=200),
    "no JSON": Act("Sure! Here you are"),
    "cut JSON": Act('{"choices": [{'),
    "no object": Act([1, 2]),
    "no text": Act(b"\xff\xfe\x00"),
    "deep": Act("[" * 100_000),
    "empty": Act(""),
    "slow": Act(GOOD, wait_s=5.0),
    "dripping": Act({"text": "x" * 500}, drip_s=0.01),
    "huge": Act('"' + "x" * 300_000 + '"'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_tried_again(fault, monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_BYTES", 200_000)
    with serve(lambda path, body, number: FAULTS[fault] if number < 2 else GOOD) as server:
        assert post(server, timeout_s=0.5 if fault in ("slow", "dripping") else 60) == GOOD
        asked = [request[:2] for request in server.asked]
        assert asked[:3] == [("/v1/x", {"a": 1})] * 3 and (len(asked) == 3 or fault in ("slow", "dripping"))


@pytest.mark.parametrize(
    "fault, message",
    [
        ("500", r"/v1/x: status 500 \(oops\), 8 times in a row; the same command goes on from here"),
        ("429", r"status 429 \(slow down\), 8 times"),
        ("cut in the body", r"the connection was cut \(\w+\), 8 times"),
        ("no JSON", r"a reply that is no JSON object \(Sure! Here you are\), 8 times"),
        ("huge", "a reply of more than 0 MB, 8 times"),
    ],
)
def test_a_fault_that_stays_is_one_clear_line(fault, message, monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_BYTES", 200_000)
    with serve(lambda *_: FAULTS[fault]) as server, pytest.raises(LiteError, match=message) as raised:
        post(server)
    assert len(server.asked) == endpoint.ATTEMPTS and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "status, message",
    [
        (400, r"status 400 \(no such model\); check the URL and the model"),
        (401, r"status 401 \(no such model\); the server wants an API key"),
        (404, "status 404"),
        (307, "status 307"),  # a redirect could carry the key elsewhere
    ],
)
def test_a_refusal_is_not_tried_again(status, message):
    refusal = Act({"error": {"message": "no such\n model"}}, status=status, headers={"Location": "/v1/y"})
    with serve(lambda *_: refusal) as server, pytest.raises(LiteError, match=message):
        post(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("error", "num_asked", "message"),
    [
        ({"message": "quota exceeded"}, 1, r"status 400 \(quota exceeded\)"),
        ("quota exceeded", 1, r"status 400 \(quota exceeded\)"),
        ({"message": "no credits", "code": 402}, 1, r"status 402 \(no credits\)"),
        ({"message": "bad key", "code": "401"}, 1, r"status 401 \(bad key\); the server wants an API key"),
        ({"message": "overloaded", "code": 503}, 8, r"status 503 \(overloaded\), 8 times"),
    ],
)
def test_an_error_in_a_good_reply_is_an_error(error, num_asked, message):
    with serve(lambda *_: {"error": error}) as server, pytest.raises(LiteError, match=message):
        post(server)
    assert len(server.asked) == num_asked
    with serve(lambda *_: {"error": None, "choices": []}) as server:
        assert post(server)["choices"] == []


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_for_all_requests(form):
    until = time.time() + 2
    asked_for = "0.4" if form == "seconds" else email.utils.formatdate(until, usegmt=True)

    def answer(path, body, number):
        return Act("", status=429, headers={"Retry-After": asked_for}) if number == 0 else GOOD

    with serve(answer) as server:
        client = Endpoint(server.url, num_parallel=1)
        times = []
        client.map(lambda b: client.post("/x", b), [{}, {}], lambda *_: times.append(time.time()))
    waited = times[0] - (until - 2)
    assert waited > (0.35 if form == "seconds" else 0.8)
    assert len(server.asked) == 3


def test_as_many_in_flight_as_asked_for_and_all_done_once():
    lock, running, most = threading.Lock(), [0], [0]

    def answer(path, body, number):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.1)
        with lock:
            running[0] -= 1
        return body

    with serve(answer) as server:
        client = Endpoint(server.url, num_parallel=5)
        done = []
        client.map(
            lambda n: client.post("/x", {"n": n}), range(15), lambda n, reply: done.append((n, reply["n"]))
        )
    assert sorted(done) == [(n, n) for n in range(15)]
    assert 2 <= most[0] <= 5


def test_the_first_fault_ends_all():
    def answer(path, body, number):
        return Act("no", status=400) if body["n"] == 0 else Act(GOOD, wait_s=30)

    with serve(answer) as server:
        client = Endpoint(server.url, num_parallel=4)
        started = time.monotonic()
        with pytest.raises(LiteError, match="status 400"):
            client.map(lambda n: client.post("/x", {"n": n}), range(100), lambda *_: None)
        assert time.monotonic() - started < 20 and len(server.asked) <= 4


def test_the_key_goes_into_one_header_and_nowhere_else():
    echo = Act({"error": {"message": "Incorrect key sk-secret"}}, status=401)
    with serve(lambda *_: echo) as server, pytest.raises(LiteError) as raised:
        post(server, key="sk-secret")
    path, body, headers = server.asked[0]
    assert headers["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(raised.value) and "***" in str(raised.value)
    with serve(lambda *_: GOOD) as server:
        post(server)
    assert "Authorization" not in server.asked[0][2]


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    client = Endpoint(url)
    with pytest.raises(LiteError, match="/v1: nothing answers .*; start the server first"):
        client.served()


@pytest.mark.parametrize(
    "url, base",
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000/", "http://[::1]:8000/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
    ],
)
def test_base_url(url, base):
    assert base_url(url) == base


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://host", "http://", "http://host:port", "http://[::1", "file:///etc/passwd"],
)
def test_no_url(url):
    with pytest.raises(LiteError, match="^endpoint '.*; give one such as http://127.0.0.1:8000/v1$"):
        base_url(url)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host/v1", "http://host/v1?key=secret", "http://host/v1#secret"]
)
def test_a_url_with_a_secret_is_not_repeated(url):
    with pytest.raises(LiteError, match="give the bare URL") as raised:
        base_url(url)
    assert "secret" not in str(raised.value)
    for odd in (url.replace("host", "host:80x"), "me:secret@host", "http:/me:secret@host"):
        with pytest.raises(LiteError, match="Port could not be cast|no http|give the bare URL") as raised:
            base_url(odd)
        assert "secret" not in str(raised.value)


def test_a_server_that_is_away_is_told_once_in_a_while(capsys, monkeypatch):
    with serve(lambda *_: Act("busy", status=503)) as server, pytest.raises(Unreachable, match="8 times"):
        post(server)
    assert capsys.readouterr().err.count("status 503 (busy); trying again\n") == 1
    monkeypatch.setattr(endpoint, "SAY_EVERY_S", 0.0)
    with serve(lambda *_: Act("busy", status=503)) as server, pytest.raises(Unreachable):
        post(server)
    assert capsys.readouterr().err.count("trying again\n") == 7


def test_read_key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", " sk-1 \n")
    assert read_key("TEACHER_KEY") == "sk-1" and read_key("") == ""
    monkeypatch.setenv("TEACHER_KEY", "")
    with pytest.raises(LiteError, match="environment variable TEACHER_KEY is not set"):
        read_key("TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "sk\u00e9")
    with pytest.raises(LiteError, match="TEACHER_KEY holds no API key") as raised:
        read_key("TEACHER_KEY")
    assert "sk\u00e9" not in str(raised.value)


LISTED = {"data": [{"id": "base"}, {"id": "/models/tiny-q8_0.gguf"}]}


@pytest.mark.parametrize(
    "wanted, listed, found",
    [
        ("base", LISTED, "base"),
        ("tiny-q8_0", LISTED, "/models/tiny-q8_0.gguf"),
        ("other", {"data": [{"id": "base"}]}, "base"),
        ("", {"data": [{"id": "base"}]}, "base"),
        ("other", LISTED, "serves base, /models/tiny-q8_0.gguf; serve one called other, or a single one"),
        ("", LISTED, "say which one"),
        ("", {"data": []}, "serves no model"),
        ("", {"models": "none"}, "serves no model"),
        ("", {"data": ["base", None, {"name": 1}]}, "serves no model"),
    ],
)
def test_served(wanted, listed, found):
    with serve(lambda *_: listed) as server:
        client = Endpoint(server.url)
        if "serve" in found or "say" in found:
            with pytest.raises(LiteError, match=found):
                client.served(wanted)
        else:
            assert client.served(wanted)["id"] == found
    with (
        serve(lambda *_: {"data": [{"id": "base"}]}) as server,
        pytest.raises(LiteError, match="called other$"),
    ):
        Endpoint(server.url).served("other", only=False)

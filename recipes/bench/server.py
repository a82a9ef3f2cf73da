"""Hold `lite serve` to its word: many clients at once, some of which vanish, then malformed bodies.

    uv run python recipes/bench/server.py MODEL.gguf --clients 64 --seconds 60 --bodies 2000

The server runs in a process of its own on a free port of this machine. Each client asks greedy questions under random
ratios, budgets, stop texts and JSON, streamed or not, and compares every reply with what the engine alone wrote for the same question; one request
in twenty is left in the middle. The exit code is 1 if any of these fails:
- no reply is wrong, and no status other than 200 or 429 (with Retry-After) comes;
- the server's memory has grown by less than 5 % since the warm-up: a fifth of the time, and two replies per client;
- at the end no slot is taken;
- no malformed body, and no malformed request, gets a 5xx or a line in the server's log.

A client gives up after 120 s. Give it a machine that does nothing else, or `--threads 1`: where other work has the
cores, llama.cpp's threads wait for each other at every barrier. With two of them at the lowest priority beside a
training on two cores, 16 replies took 0 and 2 steps in 20 s; one thread took 37 (one run each, docs/log.md).
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from lite.data import word_problems
from lite.infer.engine import Engine
from lite.infer.grammar import ANY_OBJECT, of_schema
from lite.infer.request import question
from lite.tokens import BASE, MODES, POLICY, strip_control

MEMORY_GROWTH = 0.05
VANISHING = 0.05  # share of the requests
PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


class Server:
    """`lite serve` in a process of its own."""

    def __init__(self, gguf: Path, batch: int, queue: int, threads: int):
        command = [sys.executable, "-m", "lite", "serve", str(gguf), "--port", "0"]
        command += ["--batch", str(batch), "--queue", str(queue), "--threads", str(threads)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        found = re.search(r"http://\S+(?=;)", line)
        if not found:
            sys.exit(line + self.process.stderr.read())
        self.netloc = urlsplit(found.group()).netloc
        self.log: list[str] = []
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.netloc, timeout=120)

    def memory_mb(self) -> float:
        """Resident memory, by /proc."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024

    def metrics(self) -> dict[str, float]:
        connection = self.connect()
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }

    def end(self) -> int:
        """Ask it to end; give its exit code."""
        self.process.terminate()
        self.reader.join(60)
        return self.process.wait(60)


# Ways to ask for the same, and what more to ask for: fields of an Ask, and of the body.
EXTRAS = [
    ({}, {}),
    ({"stop": (" is",)}, {"stop": " is"}),
    ({"budget": 32}, {"reasoning": {"max_tokens": 32}}),
    ({"budget": 16}, {"thinking_token_budget": 16}),
    ({"thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
    (
        {"thinking": False, "grammar": of_schema(ANY_OBJECT)},
        {"think": False, "response_format": {"type": "json_object"}},
    ),
]


class Case:
    """A question under a mode, as the server is asked, and the (thinking, answer) that must come."""

    def __init__(self, text: str, mode: str, max_tokens: int, extra: int = 0):
        settings, fields = EXTRAS[extra % len(EXTRAS)]
        self.ask = question(text, mode, max_tokens=max_tokens, **settings)
        self.body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens} | fields
        if mode != BASE:
            ratio = POLICY if mode == POLICY else round(100 * float(mode))
            kwargs = self.body.get("chat_template_kwargs", {})
            self.body |= (
                {"chat_template_kwargs": kwargs | {"comp_ratio": ratio}} if kwargs else {"comp_ratio": ratio}
            )


def make_cases(gguf: Path, num: int, max_tokens: int, threads: int) -> list[Case]:
    """Questions of the quickstart's world with the replies of the engine alone."""
    rng = random.Random("bench")
    with Engine(gguf, num_threads=threads) as engine:
        modes = MODES if engine.has_dial else (BASE,)
        cases = [
            Case(
                word_problems.tell(rng, word_problems.MIX[index % len(word_problems.MIX)]).question,
                modes[index % len(modes)],
                max_tokens,
                index // len(modes),
            )
            for index in range(num)
        ]
        for case, answer in zip(cases, engine.generate([case.ask for case in cases]), strict=True):
            case.expected = tuple(strip_control(text).strip() for text in (answer.think, answer.visible))
    return cases


def ask(
    connection: http.client.HTTPConnection, case: Case, stream: bool
) -> tuple[int, tuple[str, str] | None]:
    """(status, reply) of one request."""
    connection.request("POST", PATH, json.dumps(case.body | {"stream": stream}), JSON)
    response = connection.getresponse()
    data = response.read()
    if response.status == 429 and not (response.headers["Retry-After"] or "").isdigit():
        return 0, None
    if response.status != 200:
        return response.status, None
    if not stream:
        message = json.loads(data)["choices"][0]["message"]
        return 200, (message["reasoning_content"], message["content"])
    texts = {"reasoning_content": "", "content": ""}
    *events, done = [line[6:] for line in data.decode().splitlines() if line]
    assert done == "[DONE]", data
    for event in events:
        for name in texts:
            texts[name] += json.loads(event)["choices"][0]["delta"].get(name, "")
    return 200, (texts["reasoning_content"].strip(), texts["content"].strip())


def vanish(server: Server, case: Case, rng: random.Random) -> None:
    """Ask, read a little or nothing, and go."""
    connection = server.connect()
    connection.request("POST", PATH, json.dumps(case.body | {"stream": rng.random() < 0.5}), JSON)
    time.sleep(rng.random() / 10)
    connection.sock.close()


def client(server: Server, cases: list[Case], seed: int, end: float, tally: Counter) -> None:
    rng = random.Random(seed)
    connection = server.connect()
    while time.monotonic() < end:
        case = rng.choice(cases)
        if rng.random() < VANISHING:
            vanish(server, case, rng)
            tally["vanished"] += 1
            continue
        try:
            status, reply = ask(connection, case, stream=rng.random() < 0.5)
        except Exception as fault:  # whatever a reply is that it should not be
            print("fault:", repr(fault)[:300], file=sys.stderr)
            tally["faults"] += 1
            connection = server.connect()
            continue
        tally[f"status {status}"] += 1
        if status == 429:
            time.sleep(rng.random() / 5)  # sooner than Retry-After says: to press
        elif reply != case.expected:
            tally["wrong"] += 1


def press(server: Server, cases: list[Case], num_clients: int, seconds: float) -> list[str]:
    """Many clients for some time. What it finds at fault."""
    started = time.monotonic()
    tallies = [Counter() for _ in range(num_clients)]
    threads = [
        threading.Thread(target=client, args=(server, cases, seed, started + seconds, tally))
        for seed, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 5)
    while sum(tally["status 200"] for tally in tallies) < 2 * num_clients and threads[0].is_alive():
        time.sleep(0.1)
    before = server.memory_mb()
    for thread in threads:
        thread.join()
    spent = time.monotonic() - started
    after = server.memory_mb()
    time.sleep(1)  # vanished clients' last replies are being cancelled
    counts = server.metrics()
    tally = sum(tallies, Counter())
    growth = after / before - 1
    print(f"{num_clients} clients, {spent:.0f} s: {dict(sorted(tally.items()))}")
    print(
        f"{tally['status 200'] / spent:.1f} replies/s, {counts['lite_reply_tokens_total'] / spent:.0f} tokens/s"
    )
    print(f"memory {before:.1f} MB when warm, {after:.1f} MB at the end ({growth:+.1%})")
    print(f"at the end {counts['lite_running']:.0f} running, {counts['lite_waiting']:.0f} waiting")
    known = {"status 200", "status 429", "vanished"}
    faults = [f"{name}: {count}" for name, count in tally.items() if name not in known]
    if not tally["status 200"]:
        faults.append("no reply came")
    if growth > MEMORY_GROWTH:
        faults.append(f"memory grew by {growth:.1%}")
    if counts["lite_running"] or counts["lite_waiting"]:
        faults.append("slots are taken though no client is there")
    return faults


ODD_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    1e308,
    10**30,
    2**63,
    "",
    "x",
    "\x00",
    "20",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
]
ODD_TEXTS = [
    "NaN",
    "Infinity",
    "-",
    "1e999",
    "9" * 5000,
    '"\\ud800"',
    "[" * 9000,
    '{"a":' * 9000,
    "\\",
    '"',
    "nul",
]
FIELDS = [
    *(
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
    ),
    *(
        "seed",
        "reasoning_effort",
        "thinking_budget",
        "comp_ratio",
        "n",
        "stop",
        "tools",
        "response_format",
        "reasoning",
        "thinking",
        "think",
        "chat_template_kwargs",
        "reasoning_budget",
        "lean",
        "x",
        "",
    ),
]


def malformed(rng: random.Random) -> bytes:
    """A request body with something wrong, or at least odd, in it."""
    body = {"messages": [{"role": "user", "content": "1+1?"}], "max_tokens": 2}
    kind = rng.randrange(6)
    if kind == 0:  # odd values in known and unknown fields
        for name in rng.sample(FIELDS, rng.randint(1, 3)):
            body[name] = rng.choice(ODD_VALUES)
    elif kind == 1:  # odd messages
        message = {name: rng.choice(ODD_VALUES) for name in rng.sample(["role", "content", "name", "x"], 2)}
        body["messages"] = rng.choice(
            [[message], [body["messages"][0] | message], message, [rng.choice(ODD_VALUES)]]
        )
    elif kind == 2:  # odd parts of a message
        part = {"type": "text", "text": "1+1?"} | {rng.choice(["type", "text", "x"]): rng.choice(ODD_VALUES)}
        body["messages"][0]["content"] = [part, rng.choice(ODD_VALUES)][: rng.randint(1, 2)]
    data = json.dumps(body).encode()
    if kind == 3:  # a value that is no JSON, too large or too deep
        return data.replace(b"2", rng.choice(ODD_TEXTS).encode())
    if kind == 4:  # cut
        return data[: rng.randrange(len(data))]
    if kind == 5:  # noise
        noisy = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(len(noisy))
            noisy[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
        return bytes(noisy)
    return data


def malformed_request(rng: random.Random, body: bytes) -> bytes:
    """The bytes of a request that is no proper HTTP, or not what the route takes."""
    head = rng.choice(
        [
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n",
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST %s HTTP/9\r\n\r\n",
            b"\x16\x03\x01%s\r\n\r\n",
            b"GET %s HTTP/1.1\r\n\r\n",
            b"PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            b"POST %s HTTP/1.1\r\nHost: \xff\r\nContent-Length: 0\r\n\r\n",
            b"POST %s/../../%%00 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        ]
    )
    return head % PATH.encode() + body


def fuzz(server: Server, num_bodies: int) -> list[str]:
    """Malformed bodies, and a tenth as many malformed requests. What it finds at fault."""
    rng = random.Random("fuzz")
    tally: Counter[int] = Counter()
    connection = server.connect()
    for _ in range(num_bodies):
        connection.request("POST", PATH, malformed(rng), JSON)
        response = connection.getresponse()
        text = response.read()
        tally[response.status] += 1
        if 400 <= response.status < 500:
            assert json.loads(text)["error"]["message"], text
    connection.close()
    host, port = server.netloc.split(":")
    for _ in range(num_bodies // 10):
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(malformed_request(rng, malformed(rng)))
            raw.shutdown(socket.SHUT_WR)
            found = re.match(rb"HTTP/1.1 (\d+)", raw.recv(4096))
            tally[int(found.group(1)) if found else 0] += 1
    print(
        f"{num_bodies} malformed bodies and {num_bodies // 10} malformed requests: {dict(sorted(tally.items()))}"
    )
    return [f"status {status}: {count}" for status, count in tally.items() if status >= 500]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bodies", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    given = parser.parse_args()
    cases = make_cases(given.gguf, given.questions, given.max_tokens, given.threads)
    server = Server(given.gguf, given.batch, given.queue, given.threads)
    try:
        faults = press(server, cases, given.clients, given.seconds) + fuzz(server, given.bodies)
    finally:
        code = server.end()
    if code:
        faults.append(f"the server ended with code {code}")
    if server.log:
        faults.append(f"the server's log has {len(server.log)} lines, the first {server.log[0]!r}")
    print("at fault: " + "; ".join(faults) if faults else "nothing at fault")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

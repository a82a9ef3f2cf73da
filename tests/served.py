"""`lite serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

# As `lite`, and at its end it names the modules it has loaded.
CODE = (
    "import atexit, sys; from lite import cli;"
    "atexit.register(lambda: sys.stderr.write('MODULES ' + ' '.join(sys.modules)));"
    "cli.main(sys.argv[1:])"
)


class Served:
    """A server on a free port of this machine; `end` asks it to end and gives its exit code and stderr."""

    def __init__(self, gguf, *arguments: str, **environment: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, "serve", str(gguf), "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        line = self.process.stderr.readline()
        found = re.search(r"http://\S+(?=;)", line)
        assert found, line + self.process.stderr.read()
        self.url = found.group()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err

"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from lite.infer.request import Answer


@dataclass
class Metrics:
    """Totals since the start. Only the event loop touches them."""

    responses: Counter[int] = field(default_factory=Counter)  # by HTTP status
    replies: Counter[str] = field(default_factory=Counter)  # by how they stopped
    prompt_tokens: int = 0
    think_tokens: int = 0
    reply_tokens: int = 0  # thinking included
    reply_seconds: float = 0.0

    def count_answer(self, answer: Answer) -> None:
        self.replies[answer.stop] += 1
        self.prompt_tokens += answer.prompt_tokens
        self.think_tokens += answer.think_tokens
        self.reply_tokens += answer.total_tokens
        self.reply_seconds += answer.seconds

    @property
    def mean_seconds(self) -> float:
        """Of a reply; 0 before the first."""
        return self.reply_seconds / max(self.replies.total(), 1)

    def text(self, num_running: int, num_waiting: int) -> str:
        """The page that Prometheus reads."""
        families = [
            ("responses_total", "counter", "HTTP responses.", _by("status", self.responses)),
            ("replies_total", "counter", "Replies that ended.", _by("stop", self.replies)),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", {"": self.prompt_tokens}),
            ("think_tokens_total", "counter", "Tokens between think markers.", {"": self.think_tokens}),
            ("reply_tokens_total", "counter", "Tokens of replies.", {"": self.reply_tokens}),
            ("reply_seconds_total", "counter", "Seconds in slots.", {"": round(self.reply_seconds, 6)}),
            ("running", "gauge", "Replies being decoded.", {"": num_running}),
            ("waiting", "gauge", "Requests in the queue.", {"": num_waiting}),
        ]
        lines = []
        for name, kind, what, values in families:
            lines += [f"# HELP lite_{name} {what}", f"# TYPE lite_{name} {kind}"]
            lines += [f"lite_{name}{label} {value}" for label, value in values.items()]
        return "\n".join(lines) + "\n"


def _by(label: str, counts: Counter) -> dict[str, int]:
    return {f'{{{label}="{value}"}}': count for value, count in sorted(counts.items())}

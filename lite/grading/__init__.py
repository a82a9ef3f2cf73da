"""The final answer of a reply: find it and compare it with the gold answer. Torch-free; nothing runs without a bound.

An answer is taken from the first of these that is there, the last one of its kind:
1. `\\boxed{...}`, braces balanced, as the prompt asks; a box that a cut left open does not count;
2. a line `#### X`, GSM8K's own form;
3. "the answer is X", "answer: X", a line "Final Answer" and the next one, or 答案是 X, up to the end of the clause;
4. the whole text, where it is one plain number and nothing else.
A number somewhere in a sentence is not an answer: taking it would reward replies that never conclude.

Answers are parsed by a grammar and compared exactly (`compare`); what the grammar does not know equals only itself.
"""

from lite.grading.compare import same
from lite.grading.find import final_answer

__all__ = ["final_answer", "is_correct", "same"]


def is_correct(reply: str, gold: str) -> bool:
    """Whether the visible reply (what follows the think span) gives the gold answer.

    A reply that says no final answer is wrong. `gold` is the answer alone, such as "72" or "\\frac{1}{2}".
    """
    answer = final_answer(reply)
    return answer is not None and same(answer, gold)

"""Grading against answers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from lite.grading import final_answer, is_correct, same


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"So it is \boxed{72}.", "72"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\frac{\sqrt{3}}{2}} units", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x : x > 0\right.}", r"\left\{x : x > 0\right."),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\text{see \boxed{3}}}", "3"),
        (r"\boxed{7} and, cut off, \boxed{4", "7"),
        (r"\boxed{4", None),
        (r"\boxed{}", None),
        (r"\boxed {5}", "5"),
        ("The answer is 5. But \\boxed{6}", "6"),
        ("Work.\n#### 1,234", "1,234"),
        ("The answer is 72.", "72"),
        ("The final answer is: **3.5 apples**.", "3.5 apples"),
        ("Answer: -4\nThanks!", "-4"),
        ("The answer is **5**\r\nBye", "5"),
        ("The answer is **5**\xa0\nBye", "5"),
        ("#### **72** \r", "**72**"),
        ("The answer is 3. No, wait. The answer is 4.", "4"),
        ("72", "72"),
        (" $1,000 ", "$1,000"),
        ("There are 72 clips.", None),  # a number somewhere is not an answer
        ("I computed 3 + 4 and then 7", None),
        ("", None),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The answer is 5" + " " * 20_000 + "x", None),
        ("The answer is" + "\n" * 20_000 + "*", None),
        ("#### 5" + " " * 20_000 + "x", None),
        ("\\boxed{" * 20_000 + "1}", "1"),
        ("9" * 20_000, None),  # more digits than int() takes
        ("1/" + "3" * 20_000, None),
    ],
)
def test_a_reply_that_repeats_itself(text, answer):
    started = time.process_time()
    found = final_answer(text)
    assert found == answer or (answer is None and not same(found, "5"))
    assert not is_correct(text, "9" * 5_000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("72", "72"),
        ("72.0", "72"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        (r"1\!,234", "1234"),
        ("1,234,567.5", "1234567.50"),
        ("$18", "18"),
        (r"\$18.00", "18"),
        ("17 apples", "17"),
        (r"17\text{ cm}", "17"),
        (r"17 \text{ cm}^2", "17"),
        (r"90^\circ", "90"),
        ("90 degrees", "90"),
        ("60 miles per hour", "60"),
        ("60 km/h", "60"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        (r"\dfrac{1}{2}", r"\frac{2}{4}"),
        ("1/2", "0.5"),
        (r"-\frac{3}{4}", "-0.75"),
        ("-5", "-5"),
        ("−5", "-5"),  # the typographic minus
        ("+5", "5"),
        ("50%", "50"),
        (r"50\%", "0.5"),
        ("0.5", r"50\%"),
        ("50 percent", "50%"),
        ("0.333333", r"\frac{1}{3}"),
        (r"1\frac{1}{2}", "1.5"),
        ("-1 1/2", "-1.5"),
        ("2 1/2 cups", "2.5"),
        (r"\{1,2\}", r"\{2,1\}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        (r"3\sqrt{13}", r"\sqrt{117}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("x = 5", "5"),
        ("evelyn", r"\text{Evelyn}"),
        ("B", r"\text{(B)}"),
    ],
)
def test_same(answer, gold):
    assert same(answer, gold)


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("71", "72"),
        ("-5", "5"),
        ("5", "-5"),
        ("1000001", "1000000"),
        ("1.2345", "12345"),
        ("1,23", "123"),  # no thousands separator
        ("0.5", "50"),
        ("0.33", r"\frac{1}{3}"),
        ("3 million", "3"),
        ("2 dozen", "2"),
        ("2 pi", "2"),
        (r"2\pi", "2"),
        ("3x", "3"),
        ("3 halves", "3"),
        ("5 or 6", "5"),
        ("not 5", "5"),
        ("1 1/2", "1"),
        ("1/0", "0"),
        ("(1,2)", "(2,1)"),
        (r"\{1,2,3\}", r"\{1,2\}"),
        ("9^9^9^9", "9"),  # would take for ever
        ("7" * 500, "7"),
        ("", "0"),
    ],
)
def test_not_same(answer, gold):
    assert not same(answer, gold)


def test_is_correct_reads_the_reply():
    assert is_correct("The answer is \\boxed{17}.", "17")
    assert not is_correct("The answer is \\boxed{18}.", "17")
    assert not is_correct("I think of 17 apples.", "17")
    assert not is_correct("", "17")


def test_works_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(same(r"\sqrt{4}+x", "x+2")))
    thread.start()
    thread.join()
    assert found == [True]


def test_plain_numbers_load_no_sympy():
    code = (
        "import sys; from lite.grading import is_correct;"
        "assert is_correct(r'\\boxed{1,234 apples}', '1234') and not is_correct(r'\\boxed{\\frac{1}{3}}', '0.5');"
        "assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

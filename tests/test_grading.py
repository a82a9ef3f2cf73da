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
        "assert not {'sympy', 'mpmath', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "reply, gold",
    [
        ("\\boxed{1011_2}", "1011"),
        ("\\boxed{1011_2}", "1011_3"),
        ("\\boxed{2x = 10}", "10"),
        ("\\boxed{x^2 = 9}", "9"),
        ("\\boxed{a + b = 7}", "7"),
        ("\\boxed{x = 5}", "y = 5"),
        ("\\boxed{2+3=6}", "6"),
        ("\\boxed{0}", "0.00000001"),
        ("\\boxed{1e-9}", "0"),
        ("\\boxed{10^{-9}}", "10^{-10}"),
        ("\\boxed{2^{1000}}", "2^{1000}+1"),
        ("\\boxed{e^{-200}}", "e^{-201}"),
        ("\\boxed{0.1234567}", "0.1234568"),
        ("\\boxed{\\frac{1}{10^{20}}}", "\\frac{1}{10^{21}}"),
        ("\\boxed{1,3,5,\\ldots,99}", "2,4,6,\\ldots,99"),
        ("\\boxed{1, 2, \\dots}", "1, 2"),
        ("\\boxed{5 more than x}", "5"),
        ("\\boxed{more than 5}", "5"),
        ("\\boxed{at least 5}", "5"),
        ("\\boxed{> 5}", "5"),
        ("\\boxed{\\ge 5}", "5"),
        ("\\boxed{\\leq 5}", "5"),
        ("\\boxed{5 \\text{ or more}}", "5"),
        ("\\boxed{not 5}", "5"),
        ("\\boxed{5 millionths}", "5"),
        ("\\boxed{5 thousandths}", "5"),
        ("\\boxed{3 hundred}", "3"),
        ("\\boxed{5 \\rightarrow 6}", "6"),
        ("\\boxed{5 \\Rightarrow 6}", "6"),
        ("\\boxed{12 \\text{ boxes and } 4 \\text{ pens}}", "12"),
        ("\\boxed{12 \\text{ remainder } 4}", "12"),
        ("\\boxed{12 R 4}", "12"),
        ("\\boxed{30^\\circ}", "30\\%"),
        ("\\boxed{30 cm}", "30 m"),
        ("\\boxed{5 \\mod 7}", "5"),
        ("\\boxed{3:4}", "4"),
        ("\\boxed{3:4}", "4:3"),
        ("\\boxed{3:4}", "3"),
        ("\\boxed{\\sqrt{-4}}", "2"),
        ("\\boxed{(1,2]}", "(1,2)"),
        ("\\boxed{[1,2)}", "(1,2]"),
        ("\\boxed{\\{1,2\\}}", "(1,2)"),
        ("\\boxed{5!}", "5"),
        ("\\boxed{-5}", "5"),
        ("\\boxed{\\pm 5}", "5"),
        ("\\boxed{5 \\text{ or } 6}", "5"),
        ("\\boxed{live}", "evil"),
        ("\\boxed{\\text{Monday}}", "\\text{Tuesday}"),
        ("\\boxed{A}", "B"),
        ("\\boxed{A, B}", "AC"),
        ("\\boxed{seven}", "8"),
        ("\\boxed{x > 3}", "[3,\\infty)"),
        ("\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
        ("\\boxed{3}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
        ("\\boxed{y=5, x=9}", "(5,9)"),
        ("\\boxed{4455万}", "4455"),
        ("\\boxed{不到31}", "31"),
        ("\\boxed{9{:}30}", "9:45"),
        ("\\boxed{9:30 AM}", "9:30 PM"),
        ("The answer is not 12.", "12"),
        ("The answer is less than 12.", "12"),
        ("The answer is between 11 and 12.", "12"),
        ("The answer is 12 or 13.", "12"),
        ("The answer is 12 more than x.", "12"),
        ("The answer is twice 12.", "12"),
        ("答案不是12。", "12"),
        ("\\boxed{0.333}", "1/3"),
        ("\\boxed{50}", "0.5"),
        ("\\boxed{10^{100000}}", "10^{100000}+1"),
        ("\\boxed{9^{9^9}}", "1"),
        ("\\boxed{5 \\text{ cm}^2}", "5 cm^3"),
        ("\\boxed{yes}", "no"),
        ("\\boxed{12\\text{ squared}}", "12"),
        ("\\boxed{\\text{minus } 12}", "12"),
        ("\\boxed{12^2}", "12"),
        ("\\boxed{12'}", "13"),
        ("\\boxed{1.2.3}", "1.23"),
        ("\\boxed{1/2/3}", "1/2"),
        ("\\boxed{12x}", "12"),
        ("\\boxed{12i}", "12"),
        ("\\boxed{12 + C}", "12"),
        ("\\boxed{\\frac{12}{0}}", "12"),
        ("\\boxed{\\infty}", "-\\infty"),
        ("\\boxed{231_7}", "231_5"),
        ("\\boxed{231}", "231_5"),
        ("\\boxed{x - 6 = 14}", "14"),
        ("\\boxed{3x + 9 = 0}", "0"),
        ("\\boxed{0}", "0.0000004"),
        ("\\boxed{0.0000001}", "0.0000004"),
        ("\\boxed{\\frac{1}{2^{88}}}", "\\frac{1}{2^{89}}"),
        ("\\boxed{3, 6, 9, \\ldots, 60}", "3, 4, 5, \\ldots, 60"),
        ("\\boxed{6 less than x}", "6"),
        ("\\boxed{7 billionths}", "7"),
        ("\\boxed{< 21}", "21"),
        ("\\boxed{20 \\to 21}", "21"),
        ("\\boxed{14 \\text{ rolls and } 3 \\text{ left over}}", "14"),
        ("\\boxed{40\\%}", "40^\\circ"),
    ],
)
def test_wrong_replies(reply, gold):
    assert not is_correct(reply, gold)


@pytest.mark.parametrize(
    "reply, gold",
    [
        ("\\boxed{1011_{2}}", "1011_2"),
        ("\\boxed{231_{\\text{five}}}", "231_5"),
        ("\\boxed{12_{10}}", "12"),
        ("\\boxed{x = 7}", "7"),
        ("\\boxed{f(x) = 2x+1}", "2x+1"),
        ("\\boxed{y = 2x+1}", "y=1+2x"),
        ("\\boxed{2x - y + 1 = 0}", "y = 2x + 1"),
        ("\\boxed{\\angle ABC = 40^\\circ}", "40"),
        ("\\boxed{AB = 5}", "5"),
        ("\\boxed{\\text{Total} = 5}", "5"),
        ("\\boxed{2+3=5}", "5"),
        ("\\boxed{1,3,5,...,99}", "1, 3, 5, \\ldots, 99"),
        ("\\boxed{5 thousandths}", "0.005"),
        ("\\boxed{3 hundred}", "300"),
        ("\\boxed{3 : 4}", "3:4"),
        ("\\boxed{2i}", "\\sqrt{-4}"),
        ("\\boxed{5!}", "120"),
        ("\\boxed{\\pm 5}", "5, -5"),
        ("\\boxed{x = \\pm 2}", "-2, 2"),
        ("\\boxed{x = 2 \\text{ or } x = -2}", "\\pm 2"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("\\boxed{C.}", "C"),
        ("\\boxed{C, A}", "AC"),
        ("\\boxed{seven}", "7"),
        ("\\boxed{twenty-one}", "21"),
        ("\\boxed{two hundred and five}", "205"),
        ("\\boxed{three and a half}", "3.5"),
        ("\\boxed{two thirds}", "\\frac{2}{3}"),
        ("\\boxed{half}", "0.5"),
        ("\\boxed{one quarter}", "1/4"),
        ("\\boxed{1.5 \\times 10^3}", "1500"),
        ("\\boxed{1.5 \\cdot 10^{3}}", "1500"),
        ("\\boxed{2 \\frac{3}{4}}", "2.75"),
        ("\\boxed{1 234 567}", "1234567"),
        ("\\boxed{1\\,234\\,567}", "1234567"),
        ("\\boxed{12~000}", "12000"),
        ("\\boxed{12{,}000}", "12000"),
        ("\\boxed{3¼}", "3.25"),
        ("\\boxed{⅔}", "2/3"),
        ("\\boxed{√2}", "\\sqrt{2}"),
        ("\\boxed{2√(3)}", "2\\sqrt3"),
        ("\\boxed{sqrt(2)/2}", "\\frac{\\sqrt{2}}{2}"),
        ("\\boxed{pi/2}", "\\frac{\\pi}{2}"),
        ("\\boxed{3*pi}", "3\\pi"),
        ("\\boxed{x^3−1}", "x^3-1"),
        ("\\boxed{x³+2x²}", "x^3+2x^2"),
        ("\\boxed{(−∞, 3]}", "(-\\infty,3]"),
        ("\\boxed{45°}", "45^\\circ"),
        ("\\boxed{45 degrees}", "45^{\\circ}"),
        ("\\boxed{∅}", "\\emptyset"),
        ("\\boxed{x ≥ 3}", "[3,\\infty)"),
        ("\\boxed{x > 3}", "(3,\\infty)"),
        ("\\boxed{x<2 \\text{ or } x>7}", "(-\\infty,2)\\cup(7,\\infty)"),
        ("\\boxed{7 > x \\ge 2}", "[2,7)"),
        ("\\boxed{(-∞,2) ∪ (7,∞)}", "(-\\infty,2)\\cup(7,\\infty)"),
        ("\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        (
            "\\boxed{\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}}",
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        ),
        ("\\boxed{\\begin{cases} x = 1 \\\\ y = 2 \\end{cases}}", "x=1, y=2"),
        ("\\boxed{x=5, y=9}", "(5,9)"),
        ("\\boxed{\\textbf{12}}", "12"),
        ("\\boxed{\\mathbf{12}}", "12"),
        ("\\boxed{\\textcolor{blue}{12}}", "12"),
        ("\\boxed{{\\color{blue}12}}", "12"),
        ("\\boxed{12 \\text{元}}", "12"),
        ("\\boxed{4600万元}", "46000000"),
        ("\\boxed{7.5亿}", "750000000"),
        ("\\boxed{三十一}", "31"),
        ("\\boxed{十二}", "12"),
        ("\\boxed{25.5千克}", "25.5"),
        ("\\boxed{5 dozen}", "60"),
        ("\\boxed{\\$2.5 billion}", "2500000000"),
        ("\\boxed{75 cents}", "\\$0.75"),
        ("\\boxed{\\$0.75}", "75\\text{ cents}"),
        ("\\boxed{€12}", "12"),
        ("\\boxed{1.2E4}", "12000"),
        ("\\boxed{9{:}30}", "9:30"),
        ("\\boxed{9:30 PM}", "9:30"),
        ("\\boxed 12", "12"),
        ("\\boxed{\\boxed{12}}", "12"),
        ("\\fbox{12}", "12"),
        ("The answer is 12 apples in total.", "12"),
        ("The answer is 12 because 6+6=12.", "12"),
        ("The answer is 12 (apples).", "12"),
        ("The answer is **12**.", "12"),
        ("The answer is: $12$", "12"),
        ("The answer is \\(12\\).", "12"),
        ("The answer is \\(\\frac{1}{2}\\).", "0.5"),
        ("Answer: 12.", "12"),
        ("**Answer:** 12", "12"),
        ("**Answer**: 12 apples", "12"),
        ("Final Answer: The final answer is $12$. I hope it is correct.", "12"),
        ("The final answer is 12", "12"),
        ("The correct answer is (B).", "B"),
        ("The answer to the question is 12.", "12"),
        ("The answer should be 12.", "12"),
        ("So the answer is therefore 12 miles!", "12"),
        ("The answer is that he has 12 left.", "12"),
        ("The answer is 12 - a nice number.", "12"),
        ("the answer is roughly 12.", "12"),
        ("The answer is $1,200 per month.", "1200"),
        ("The answer is 12%.", "12\\%"),
        ("The answer is -12.", "-12"),
        ("#### 12 apples", "12"),
        ("#### $12.00", "12"),
        ("#### **$12**", "12"),
        ("#### 12.", "12"),
        ("#### 12/day", "12"),
        ("答案是12。", "12"),
        ("答案为：12个", "12"),
        ("答案：12元，共计。", "12"),
        ("答：12", "12"),
        ("因此答案是$12$。", "12"),
        ("最终答案是\\boxed{12}。", "12"),
        ("\\boxed{3\\text{ hours}}", "180\\text{ minutes}"),
        ("\\boxed{1/3}", "0.333333"),
        ("\\boxed{50\\%}", "\\frac12"),
        ("\\boxed{0.\\overline{3}}", "\\frac13"),
        ("\\boxed{10^{100000}}", "10^{100000}"),
        ("\\boxed{\\frac{3}{4}x + 2}", "0.75x+2"),
        ("\\boxed{(x+1)(x-1)}", "x^2-1"),
        ("\\boxed{\\log_2 8}", "3"),
        ("\\boxed{\\sin 30^\\circ}", "0.5"),
        ("\\boxed{\\cos\\frac{\\pi}{3}}", "1/2"),
        ("\\boxed{\\binom{5}{2}}", "10"),
        ("\\boxed{\\lfloor 3.7 \\rfloor}", "3"),
        ("\\boxed{\\sqrt[3]{8}}", "2"),
        ("\\boxed{\\ln e^2}", "2"),
        ("\\boxed{2^{10}}", "1024"),
        ("\\boxed{3 \\sqrt{2} + \\sqrt{8}}", "5\\sqrt{2}"),
        ("\\boxed{5 \\text{ cm}^2}", "5 cm^2"),
        ("\\boxed{5\\ \\mathrm{m/s}}", "5"),
        ("\\boxed{$12$}", "12"),
        ("\\boxed{\\( 12 \\)}", "12"),
        ("\\boxed{12\\text{ people}}", "12\\text{ people}"),
        ("\\boxed{12\\,\\text{people}}", "12"),
        ("\\boxed{x \\in [2,7)}", "[2,7)"),
        ("\\boxed{\\text{Yes}}", "yes"),
        ("\\boxed{x\\approx 1.41, }", "1.41"),
        ("\\boxed{\\approx 12}", "12"),
        ("\\boxed{12.0}", "12"),
        ("\\boxed{012}", "12"),
        ("\\boxed{+12}", "12"),
        ("The answer is 31 stamps, altogether.", "31"),
        ("The answer is 31, which is the sum.", "31"),
        ("The answer is 31; nothing is left.", "31"),
        ("The answer is $6.00!", "6"),
        ("The answer is about $6.", "6"),
        ("Answer: 1/4 of the tank", "0.25"),
        ("The answer is that she saves $27 a week.", "27"),
        ("The answer is **31** stamps.", "31"),
        ("#### **31**", "31"),
        ("#### 31 (stamps)", "31"),
        ("#### $31/week", "31"),
        ("**Final Answer**\n\n31", "31"),
        ("\\boxed{48\\,500}", "48500"),
        ("\\boxed{48 500}", "48500"),
        ("\\boxed{4½}", "4.5"),
        ("\\boxed{5√7}", "5\\sqrt{7}"),
        ("\\boxed{5 sqrt(7)}", "5\\sqrt{7}"),
        ("\\boxed{12 pi}", "12\\pi"),
        ("\\boxed{x²+4}", "x^2+4"),
        ("\\boxed{(4,∞)}", "(4,\\infty)"),
        ("\\boxed{35\\degree}", "35^\\circ"),
        ("\\boxed{\\emptyset}", "\\varnothing"),
        ("所以答案是31。", "31"),
        ("最终答案：31", "31"),
        ("\\boxed{31元}", "31"),
        ("\\boxed{2 \\le x < 7}", "[2,7)"),
        ("\\boxed{\\begin{aligned} x &= 5 \\\\ y &= 9 \\end{aligned}}", "x=5,y=9"),
        ("\\boxed{\\$3.5 million}", "3500000"),
        ("\\boxed{40\\text{ cents}}", "\\$0.40"),
        ("\\boxed{2.5e3}", "2500"),
        ("\\boxed{4{:}15}", "4:15"),
        ("so \\boxed 8", "8"),
        ("\\boxed{\\color{red}31}", "31"),
        ("\\boxed{A, C, D}", "ACD"),
    ],
)
def test_right_replies(reply, gold):
    assert is_correct(reply, gold)


@pytest.mark.parametrize(
    "answer",
    [
        "9^9^9",
        "10**100000",
        "1e99999999",
        "\\frac{" * 60 + "1",
        "(" * 190 + "1" + ")" * 190,
        "1," * 199 + "2",
        "5" + "!" * 200,
        "e^{e^{e^{e^9}}}",
        "(\\frac13+\\sqrt2)^{100000}",
        "\\tan(\\frac{\\pi}{2})",
    ],
)
def test_no_answer_takes_long(answer):
    started = time.process_time()
    assert same(answer, answer) and not same(answer, "5") and not same(answer, answer + "+1")
    assert time.process_time() - started < 1

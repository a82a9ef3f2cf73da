"""What a tree is worth: exactly where it is rational, else to 40 and to 90 digits, at points for its variables."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from fractions import Fraction

from lite.grading.parser import Node

MAX_BITS = 1 << 15  # of a numerator or denominator; a larger number is not worked out
WORK = 4_000_000  # bits handled in one comparison
POINTS = range(3)
DIGITS = (40, 90)


class Unknown(ValueError):
    """A value that is not a number, or would take too long."""


class Evaluator:
    """Works out trees at the points, within a bound of work."""

    def __init__(self) -> None:
        self.work = WORK
        self._cache: dict[tuple[int, int, int], object] = {}
        self._kept: list[Node] = []  # ids in the cache stay theirs

    def values(self, node: Node, digits: int) -> list:
        """The value at every point, a Fraction or an mpmath number. Raises Unknown."""
        return [self.value(node, point, digits) for point in POINTS]

    def value(self, node: Node, point: int, digits: int):
        """The value at one point. Raises Unknown."""
        key = (id(node), point, digits)
        if key not in self._cache:
            self._kept.append(node)
            try:
                self._cache[key] = self._value(node, point, digits)
            except (ZeroDivisionError, OverflowError, ValueError, TypeError) as fault:
                self._cache[key] = Unknown(str(fault))
        found = self._cache[key]
        if isinstance(found, Unknown):
            raise found
        return found

    def same(self, one: Node, other: Node) -> bool:
        """Whether two trees have the same value everywhere. Raises Unknown."""
        return all(self._meet(one, other, point) for point in POINTS)

    def _meet(self, one: Node, other: Node, point: int) -> bool:
        """Whether the values at a point differ by rounding at most: such a difference falls as the digits rise."""
        a, b = (self.value(node, point, DIGITS[0]) for node in (one, other))
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a == b
        import mpmath

        with mpmath.workdps(DIGITS[1]):
            gap = abs(_float(a) - _float(b))
            if gap > max(abs(_float(a)), abs(_float(b)), 1) * mpmath.mpf(10) ** -12:
                return False
            a, b = (_float(self.value(node, point, DIGITS[1])) for node in (one, other))
            closer = abs(a - b)
            return (
                closer <= max(abs(a), abs(b)) * mpmath.mpf(10) ** -75 or closer < gap * mpmath.mpf(10) ** -25
            )

    def _spend(self, *values) -> None:
        for value in values:
            bits = 300
            if isinstance(value, Fraction):
                bits = value.numerator.bit_length() + value.denominator.bit_length()
                if bits > MAX_BITS:
                    raise Unknown("a number of too many digits")
            self.work -= bits + 200
        if self.work < 0:
            raise Unknown("too much work")

    def _value(self, node: Node, point: int, digits: int):
        kind = node[0]
        if kind in ("num", "decimal"):
            return node[1]
        if kind == "name":
            return _symbol(node[1], point, digits)
        if kind not in _ARITHMETIC:
            raise Unknown(f"{kind} is no number")
        if kind == "func":
            parts = [self.value(part, point, digits) for part in node[2:]]
            if node[2][0] == "°":
                parts[0] = self._radians(parts[0], digits)
            self._spend(*parts)
            return _function(node[1], parts, digits)
        parts = [self.value(part, point, digits) for part in node[1:]]
        self._spend(*parts)
        made = _ARITHMETIC[kind](*parts, digits)
        self._spend(made)
        return made

    def _radians(self, value, digits: int):
        import mpmath

        with mpmath.workdps(digits):
            return _float(value) * mpmath.pi / 180


def _symbol(name: str, point: int, digits: int):
    """The value of a variable at a point, drawn from its name; that of a constant."""
    if name in ("π", "e", "i"):
        import mpmath

        with mpmath.workdps(digits):
            return {"π": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1)}[name]
    drawn = random.Random(f"{name}/{point}")
    value = Fraction(drawn.randrange(10**6, 2 * 10**6), drawn.randrange(7 * 10**5 + 1, 2 * 10**6, 2))
    return -value if point == 2 and drawn.random() < 0.7 else value


def _float(value):
    """A Fraction as an mpmath number, at the digits that are set."""
    import mpmath

    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _floats(action):
    """An operation on floats with as many digits as asked."""

    def done(*parts, digits):
        import mpmath

        with mpmath.workdps(digits):
            made = action(mpmath, *map(_float, parts))
            if not mpmath.isfinite(made) or abs(made) > mpmath.mpf(10) ** 50:
                raise Unknown("too large to be told from its neighbours")
            return made

    return done


def _exact_or(exact, action):
    rough = _floats(action)

    def done(*parts_and_digits):
        *parts, digits = parts_and_digits
        return exact(*parts) if all(isinstance(p, Fraction) for p in parts) else rough(*parts, digits=digits)

    return done


def _power(base, exponent, digits: int):
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
            if abs(exponent.numerator) * max(size, base not in (0, 1, -1)) > MAX_BITS:
                raise Unknown("too large a power")
            return base ** int(exponent)
        return (
            _root(base**1, 1 / exponent, digits)
            if exponent.numerator == 1
            else _float_power(base, exponent, digits)
        )
    return _float_power(base, exponent, digits)


def _float_power(base, exponent, digits: int):
    def action(mpmath, x, y):
        if x == 0:
            if y.real > 0:
                return mpmath.mpf(0)
            raise ZeroDivisionError
        if abs(y) > 10**6 or abs(y) * (1 + abs(mpmath.log(abs(x)))) > 10**7:
            raise Unknown("too large a power")
        return mpmath.power(x, y)

    return _floats(action)(base, exponent, digits=digits)


def _root(value, index, digits: int):
    if not isinstance(index, Fraction) or index.denominator != 1 or not 0 < index <= 1000:
        raise Unknown("no such root")
    index = int(index)
    if isinstance(value, Fraction):
        negative = value < 0 and index % 2
        size = abs(value) if negative else value
        if size >= 0:
            top, bottom = (_exact_root(part, index) for part in (size.numerator, size.denominator))
            if top is not None and bottom is not None:
                return Fraction(-top if negative else top, bottom)
        if negative:
            return -_floats(lambda mpmath, x: mpmath.root(x, index))(size, digits=digits)
    return _floats(lambda mpmath, x: mpmath.root(x, index))(value, digits=digits)


def _exact_root(value: int, index: int) -> int | None:
    if index == 2:
        root = math.isqrt(value)
    elif value.bit_length() > 512:
        return None
    else:
        root = round(value ** (1 / index))
    return root if root**index == value else None


def _factorial(value, digits: int):
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 2000:
        raise Unknown("no such factorial")
    return Fraction(math.factorial(int(value)))


def _function(name: str, parts: list, digits: int):
    value = parts[0]
    if name in ("floor", "ceil"):
        if isinstance(value, Fraction):
            return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
        return _floats(lambda mpmath, x: getattr(mpmath, name)(x))(value, digits=digits)
    if name == "abs":
        return (
            abs(value) if isinstance(value, Fraction) else _floats(lambda _, x: abs(x))(value, digits=digits)
        )
    if name == "binom":
        whole = all(isinstance(p, Fraction) and p.denominator == 1 and 0 <= p <= 2000 for p in parts)
        if not whole:
            raise Unknown("no such binomial")
        return Fraction(math.comb(*map(int, parts)))
    if name in ("log", "lg", "ln"):
        base = parts[1] if len(parts) > 1 else Fraction(10) if name == "lg" else None
        if value == 1 and base is None:
            return Fraction(0)
        if base is None:
            return _floats(lambda mpmath, x: mpmath.log(x))(value, digits=digits)
        return _floats(lambda mpmath, x, b: mpmath.log(x) / mpmath.log(b))(value, base, digits=digits)
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}

    def action(mpmath, x):
        if abs(x) > 10**5:
            raise Unknown("too large an argument")
        return getattr(mpmath, names.get(name, name))(x)

    return _floats(action)(value, digits=digits)


_ARITHMETIC = {
    "func": None,
    "+": _exact_or(lambda a, b: a + b, lambda _, a, b: a + b),
    "-": _exact_or(lambda a, b: a - b, lambda _, a, b: a - b),
    "*": _exact_or(lambda a, b: a * b, lambda _, a, b: a * b),
    "/": _exact_or(lambda a, b: a / b, lambda _, a, b: a / b),
    "neg": _exact_or(lambda a: -a, lambda _, a: -a),
    "%": _exact_or(lambda a: a / 100, lambda _, a: a / 100),
    "°": lambda a, digits: a,
    "^": _power,
    "root": _root,
    "!": _factorial,
}


def names_in(nodes: Iterable) -> set[str]:
    """The variables in trees."""
    found, left = set(), list(nodes)
    while left:
        node = left.pop()
        if isinstance(node, (tuple, list)):
            if len(node) == 2 and node[0] == "name":
                found.add(node[1])
            else:
                left.extend(node)
    return found

"""Words of answers: numbers in English and Chinese, units with their dimensions, words that change a value."""

from __future__ import annotations

from fractions import Fraction

SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen".split()
    )
} | {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_LARGE = {"hundred": 100, "thousand": 1000} | {
    word: 1000 ** (place + 2)
    for place, word in enumerate("million billion trillion quadrillion quintillion".split())
}
_PARTS = {"half": 2, "halve": 2, "quarter": 4, "sixteenth": 16, "twentieth": 20} | {
    word: value
    for value, word in enumerate(
        "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), 3
    )
}
_PARTS |= {f"{word}th": value for word, value in _LARGE.items()}
SCALES: dict[str, int | Fraction] = {
    **_LARGE,
    **{f"{word}s": value for word, value in _LARGE.items()},
    **{word: Fraction(1, value) for word, value in _PARTS.items()},
    **{f"{word}s": Fraction(1, value) for word, value in _PARTS.items()},
    **{
        "dozen": 12,
        "dozens": 12,
        "pair": 2,
        "pairs": 2,
        "score": 20,
        "scores": 20,
        "gross": 144,
        "mil": 10**6,
    },
    **{"mn": 10**6, "bn": 10**9, "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7},
}
CJK_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CJK_DIGITS = {c: v for v, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}


def is_cjk_numeral(character: str) -> bool:
    """Whether a character is a Chinese digit or multiplier."""
    return character in _CJK_DIGITS or character in CJK_SCALES


def cjk_number(text: str) -> int | None:
    """The value of a Chinese numeral such as 三百零五, None for anything else."""
    total = section = digit = 0
    if not text or not all(map(is_cjk_numeral, text)):
        return None
    for place, character in enumerate(text):
        if character in _CJK_DIGITS:
            if digit:
                return None
            digit = _CJK_DIGITS[character]
        elif (scale := CJK_SCALES[character]) >= 10**4:
            total, section, digit = total + (section + digit or 1) * scale, 0, 0
        else:
            section, digit = section + (digit or (1 if not place or not digit else 0)) * scale, 0
    return total + section + digit


def _units() -> dict[str, tuple[str, Fraction]]:
    table = {
        "money": "$ dollar dollars usd bucks=1 cent cents ¢=1/100 penny pennies=1/100",
        "euro": "€ euro euros eur=1",
        "sterling": "£ gbp=1",
        "yuan": "元 块 块钱 人民币 yuan cny rmb=1 角=1/10 分钱=1/100",
        "rupee": "₹ rs inr rupee rupees=1",
        "length": "m meter meters metre metres 米=1 mm millimeter millimeters 毫米=1/1000"
        " cm centimeter centimeters centimetre centimetres 厘米=1/100 km kilometer kilometers kilometre kilometres"
        " 千米 公里=1000 in inch inches=127/5000 ft foot feet=381/1250 yd yard yards=1143/1250 mi mile miles=201168/125",
        "mass": "g gram grams 克=1 mg=1/1000 kg kgs kilogram kilograms 千克 公斤=1000 lb lbs pound pounds=45359237/100000"
        " oz ounce ounces=45359237/1600000",
        "time": "s sec secs second seconds 秒=1 min mins minute minutes 分钟=60 h hr hrs hour hours 小时=3600"
        " day days 天=86400 week weeks=604800",
        "span": "month months=1 year years yr yrs 年=12",
        "volume": "l liter liters litre litres 升=1 ml milliliter milliliters 毫升=1/1000",
        "angle": "° degree degrees deg 度=1",
        "forenoon": "am=1",
        "afternoon": "pm=1",
        "share": "% percent 百分=1",
    }
    units = {}
    for dimension, names in table.items():
        waiting: list[str] = []
        for part in names.split():
            name, _, factor = part.partition("=")
            waiting.append(name)
            if factor:
                units.update(dict.fromkeys(waiting, (dimension, Fraction(factor))))
                waiting = []
    return units


UNITS = _units()
# With one of these the words around a number are more than its unit.
CHANGING = frozenset(
    "than less fewer not no never isn't isnt cannot and or to plus minus times over under above below between"
    " except without mod squared cubed factorial root least most if unless until either neither nor twice thrice double"
    " triple half from through versus vs squareroot power greater exceeds almost nearly".split()
) | {"不", "大于", "小于", "超过", "少于", "多于", "至少", "至多", "不到", "或", "和", "到", "至"}
HARMLESS = frozenset("about approximately around roughly exactly only just that a an the".split())

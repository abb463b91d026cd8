"""Invented people: names, contact details and documents that are valid in form and belong to nobody.

Everything is a function of (person number, seed). Contact details are unique per person; resident IDs carry
the ISO 7064 check digit (GB 11643), bank cards the Luhn digit. Two organisations never write the same e-mail
or number the same way, so `written_email` and `written_mobile` give the variants found in real tables; all
variants of one person's detail have the same canonical form under the `comity-1` profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["People", "invent", "luhn_digit", "resident_check_digit", "written_email", "written_mobile"]

Numbers = npt.NDArray[np.int64]

_SURNAMES = (
    "王 wang|李 li|张 zhang|刘 liu|陈 chen|杨 yang|黄 huang|赵 zhao|吴 wu|周 zhou|徐 xu|孙 sun|马 ma|朱 zhu|"
    "胡 hu|郭 guo|何 he|高 gao|林 lin|罗 luo|郑 zheng|梁 liang|谢 xie|宋 song|唐 tang|许 xu|韩 han|冯 feng|"
    "邓 deng|曹 cao|彭 peng|曾 zeng|肖 xiao|田 tian|董 dong|潘 pan|袁 yuan|欧阳 ouyang|"
    "司马 sima|上官 shangguan"
)
_GIVEN = (
    "伟 wei|芳 fang|娜 na|敏 min|静 jing|丽 li|强 qiang|磊 lei|军 jun|洋 yang|勇 yong|艳 yan|杰 jie|娟 juan|"
    "涛 tao|明 ming|超 chao|秀英 xiuying|霞 xia|平 ping|建国 jianguo|志强 zhiqiang|晓明 xiaoming|"
    "婷婷 tingting|雪梅 xuemei|子涵 zihan|浩然 haoran|雨桐 yutong|思远 siyuan|佳怡 jiayi|文博 wenbo|"
    "欣妍 xinyan|宇轩 yuxuan|嘉豪 jiahao|梦琪 mengqi|俊杰 junjie|海燕 haiyan|春华 chunhua|国栋 guodong|"
    "慧敏 huimin"
)
_FIRST = (
    "Alice|Benjamin|Charlotte|Daniel|Emily|Frederick|Grace|Henry|Isabel|James|Katherine|Liam|Margaret|Noah|"
    "Olivia|Patrick|Rachel|Samuel|Teresa|Vincent"
)
_LAST = (
    "Anderson|Bennett|Carter|Dawson|Ellis|Fisher|Graham|Harrison|Irving|Jennings|Keller|Lawson|Morgan|Norris|"
    "Palmer|Reynolds|Sinclair|Thornton|Vaughan|Whitaker"
)
_DOMAINS = {
    "gmail.com": 0.30, "qq.com": 0.22, "163.com": 0.16, "126.com": 0.08,
    "outlook.com": 0.10, "sina.com": 0.05, "foxmail.com": 0.04, "icloud.com": 0.05,
}  # fmt: skip
_MOBILE_PREFIXES = [
    *range(130, 133),
    *range(135, 140),
    *range(150, 153),
    *range(155, 160),
    182,
    183,
    *range(186, 190),
]
# Divisions that kept their code for as long as anybody here has been alive.
_REGIONS = [
    110101, 120101, 140121, 210122, 310101, 330122, 340121, 350121, 360121, 430121, 510121, 530121, 610322,
]  # fmt: skip
_CARD_BINS = [621700, 622202, 622848, 621661, 622588, 621226]


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(part.split(" ")[0], part.split(" ")[1]) for part in text.split("|")]


@dataclass(frozen=True, slots=True)
class People:
    """Columns of equal length, one entry a person; `email` and `mobile` in their plain form."""

    number: Numbers
    name: list[str] = field(repr=False)
    email: list[str] = field(repr=False)
    mobile: list[str] = field(repr=False)
    resident_id: list[str] = field(repr=False)
    card: list[str] = field(repr=False)


def resident_check_digit(first17: str) -> str:
    """The 18th character of a mainland resident ID (GB 11643-1999: ISO 7064 MOD 11-2)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(int(d) * w for d, w in zip(first17, weights, strict=True)) % 11]


def luhn_digit(body: str) -> str:
    """The last digit of a card number (ISO/IEC 7812-1 annex B)."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def _scrambled(number: Numbers, modulus: int, random: np.random.Generator) -> Numbers:
    """A bijection of 0..modulus-1, so that what is derived from the person number stays unique."""
    while True:
        factor = int(random.integers(modulus // 3, modulus))
        if np.gcd(factor, modulus) == 1:
            break
    return (number * factor + int(random.integers(modulus))) % modulus


def invent(number: Numbers, age: Numbers, female: Numbers, *, seed: int, year: int = 2025) -> People:
    """People for the given person numbers (0 ≤ number < 10⁶), with IDs that fit their age and sex."""
    if number.size and (number.min() < 0 or number.max() >= 1_000_000):
        raise ValueError("person numbers run from 0 to 999,999")
    random = np.random.default_rng([seed, 1])
    count = number.size
    suffix = _scrambled(number, 1_000_000, random)
    tail = _scrambled(number, 100_000_000, random)
    serial = _scrambled(number, 1_000_000_000, random)
    surnames, givens = _pairs(_SURNAMES), _pairs(_GIVEN)
    first, last = _FIRST.split("|"), _LAST.split("|")
    western = random.random(count) < 0.15
    pick = random.integers(0, 1 << 30, size=(count, 4)).tolist()
    domains = random.choice(list(_DOMAINS), size=count, p=list(_DOMAINS.values()))
    prefixes = random.choice(_MOBILE_PREFIXES, size=count)
    regions, bins = random.choice(_REGIONS, size=count), random.choice(_CARD_BINS, size=count)
    born = random.integers(1, 336, size=count)
    names: list[str] = []
    emails: list[str] = []
    ids: list[str] = []
    cards: list[str] = []
    taken: set[str] = set()
    for i in range(count):
        if western[i]:
            given, family = first[pick[i][0] % len(first)], last[pick[i][1] % len(last)]
            name, local = f"{given} {family}", f"{given}.{family}".lower()
        else:
            family, family_latin = surnames[pick[i][0] % len(surnames)]
            given, given_latin = givens[pick[i][1] % len(givens)]
            name = family + given
            local = (f"{given_latin}.{family_latin}", f"{family_latin}{given_latin}")[pick[i][2] % 2]
        names.append(name)
        emails.append(f"{local}{suffix[i]:06d}@{domains[i]}")
        day = int(born[i])
        birth = f"{year - int(age[i]) - 1:04d}{1 + day // 28:02d}{1 + day % 28:02d}"
        order = pick[i][3] % 499 * 2 + (0 if female[i] else 1)
        while (first17 := f"{regions[i]}{birth}{order:03d}") in taken:
            order = (order + 2) % 1000
        taken.add(first17)
        ids.append(first17 + resident_check_digit(first17))
        body = f"{bins[i]}{int(serial[i]):012d}"
        cards.append(body + luhn_digit(body))
    mobiles = [f"{p}{int(t):08d}" for p, t in zip(prefixes, tail, strict=True)]
    return People(number, names, emails, mobiles, ids, cards)


_WIDE = str.maketrans({chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)})


def written_email(plain: str, style: int) -> str:
    """One of the ways people and systems write an e-mail address; `style` is any number ≥ 0."""
    local, domain = plain.split("@")
    google = domain == "gmail.com"
    match style % 8:
        case 0 | 1:
            return plain
        case 2:
            return f"{local.title()}@{domain}"
        case 3:
            return plain.upper()
        case 4:
            return f"  {plain} "
        case 5:
            return f"{local[:2]}.{local[2:5]}.{local[5:]}@{domain}".replace("..", ".") if google else plain
        case 6:
            return f"{local}+shop@Gmail.com" if google else f"{local}@{domain.capitalize()}"
        case _:
            return f"{local}@googlemail.com" if google else plain.translate(_WIDE)


def written_mobile(plain: str, style: int) -> str:
    """One of the ways an eleven-digit mainland mobile number is written; `style` is any number ≥ 0."""
    a, b, c = plain[:3], plain[3:7], plain[7:]
    match style % 8:
        case 0 | 1:
            return plain
        case 2:
            return f"{a} {b} {c}"
        case 3:
            return f"+86 {a}-{b}-{c}"
        case 4:
            return f"0086{plain}"
        case 5:
            return f"(+86) {a} {b} {c}"
        case 6:
            return f"86-{plain}"
        case _:
            return f"+86{plain}".translate(_WIDE)

"""Free-text notes as a call centre leaves them: Chinese and English, with personal data in mid-sentence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from comity.demo.people import People

__all__ = ["write_notes"]

# {mobile} {id} {card} {email} are filled in; the last ones hold none and only look as if they did. No names:
# finding those in free text takes the optional language models.
_TEMPLATES = (
    "客户来电，手机{mobile}，要求调高额度。",
    "身份证{id}已核验，本人到场办理。",
    "银行卡{card}遗失，已挂失，回电{mobile}。",
    "发票请寄到{email}，谢谢",
    "微信联系不上，改打{mobile}；邮箱{email}已退信。",
    "证件号{id}与卡号{card}不一致，待复核",
    "Called back on {mobile}; asked for a copy of the statement.",
    "Card {card} reported lost, replacement sent.",
    "Prefers e-mail ({email}), do not phone {mobile} before 10:00.",
    "ID {id} checked at the counter.",
    "黄金会员，订单号20250311004518，无需回访。",
    "Order 4411-2093-77 delayed, coupon issued, no call needed.",
    "请尽快处理，客户很着急。",
    "Asked about instalments; explained the 12-month plan.",
)


def _spaced(card: str) -> str:
    return " ".join(card[i : i + 4] for i in range(0, len(card), 4))


def write_notes(
    people: People, rows: npt.NDArray[np.int64], random: np.random.Generator, *, share: float
) -> list[str | None]:
    """A note, or None, for each entry of `rows` (indexes into `people`); about `share` of them get one."""
    has = random.random(len(rows)) < share
    which = random.integers(0, len(_TEMPLATES), size=len(rows))
    style = random.integers(0, 3, size=len(rows))
    notes: list[str | None] = []
    for place, row in enumerate(rows.tolist()):
        if not has[place]:
            notes.append(None)
            continue
        mobile, card = people.mobile[row], people.card[row]
        notes.append(
            _TEMPLATES[which[place]].format(
                mobile=(mobile, f"{mobile[:3]}-{mobile[3:7]}-{mobile[7:]}", f"+86 {mobile}")[style[place]],
                id=people.resident_id[row],
                card=(card, _spaced(card), card)[style[place]],
                email=people.email[row],
            )
        )
    return notes

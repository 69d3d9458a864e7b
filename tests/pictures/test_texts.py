from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.pictures.texts import WESTERN, NotText, decode, lines_of

TEXT = "photo of sks, café"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TEXT.encode(), TEXT),
        (b"\xef\xbb\xbf" + TEXT.encode(), TEXT),
        (b"\xef\xbb\xbf\xef\xbb\xbf" + TEXT.encode(), TEXT),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), TEXT),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT),
        (TEXT.encode("utf-16-le"), TEXT),
        (TEXT.encode("utf-16-be"), TEXT),
        (f"{TEXT}\r\n".encode("utf-16-le"), f"{TEXT}\r\n"),
        (TEXT.encode("utf-16-le") + b"\0\0\0", TEXT),
        ("sks, 一个女孩, 公园, hat".encode("utf-16-le"), "sks, 一个女孩, 公园, hat"),
        (TEXT.encode("utf-32"), TEXT),
        (TEXT.encode("utf-32-be"), TEXT),
        (TEXT.encode() + b"\0" * 20, TEXT),
        (b"photo\0\0\r\n", "photo"),
        (b"photo\r\n\x1a", "photo"),
        (b"", ""),
        (b" \n\t ", ""),
        ("红色头发, 赤い髪, 빨간 머리".encode(), "红色头发, 赤い髪, 빨간 머리"),
    ],
)
def test_unicode_is_read_with_and_without_its_mark(data: bytes, text: str) -> None:
    assert decode(data)[0] == text
    assert decode(data)[1].startswith("utf-")


@pytest.mark.parametrize(
    "text",
    [
        "sks’s café",
        "fille à lunettes, l’été",
        "“sara” – a woman’s hat",
        "ein Mädchen mit größeren Händen",
        "niño, ¿qué?",
        "CAFÉ, Élise",
        "naïve façade, 20° C",
        "coração, não",
        "blåbær på ø",
        "œuvre, cœur",
    ],
)
def test_western_text_is_read_and_said_to_be_a_guess(text: str) -> None:
    assert decode(text.encode("cp1252")) == (text, WESTERN)


OTHERS = {
    "cp932": "猫 女 男 人 北 目 本 水 山 少女 赤い髪 制服 アニメ 青い目 東京 公園 夜 雨 花 海 空 剣 眼鏡 ﾈｺ 微笑み",
    "gbk": "女 男 人 一个女孩 红色头发 公园 微笑 眼镜 夜 雨 花 海 天空 剑 长发 制服",
    "big5": "貓 女 男 人 一個女孩 紅色頭髮 公園 微笑 眼鏡 夜 雨 花",
    "euc_kr": "여자 남자 머리 빨간 공원 고양이 하늘 바다 꽃 밤 비 안경 소녀",
    "cp1251": "девушка кошка парк я и в на улыбка",
    "koi8_r": "девушка кошка парк",
    "cp1253": "κορίτσι γάτα",
    "cp1254": "kız gülüş",
    "cp850": "café garçon niño",
    "mac_roman": "café garçon niño l’été",
    "iso2022_jp": "赤い髪 公園",
}


@pytest.mark.parametrize("encoding", OTHERS)
def test_what_cannot_be_known_is_refused_and_never_misread(encoding: str) -> None:
    words = OTHERS[encoding].split()
    for form, (one, two) in itertools.product(
        ("{}", "sks, {}", "{} {}", "sks {}, {} x"), itertools.product(words, words)
    ):
        text = form.format(one, two)
        data = text.encode(encoding)
        if (data.isascii() and b"\x1b" not in data) or _is_utf8(data):
            continue
        try:
            assert decode(data)[0] == text
        except NotText as error:
            assert str(error)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\x1b" not in data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (TEXT.encode() + b"\xff, end", "encoding is not known"),
        ("sks, 赤い髪".encode("cp932"), "encoding is not known"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not text"),
        (b"photo\0of sks", "holds NULs"),
        (b"p\0hoto of\0sks", "holds NULs"),
        ("一个女孩".encode("utf-16-le"), "holds NULs"),
        (b"\xff\xfep\0h\0o\0\n", "marked as UTF-16"),
        (b"a\x07b", "control character 0x07"),
        ("caf\x82".encode(), "control character 0x82"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(NotText, match=reason):
        decode(data)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_every_text_comes_back_from_utf8(text: str) -> None:
    assert decode(text.encode())[0] == text.replace("\ufeff", "").rstrip(" ")


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        assert "\0" not in decode(data)[0]
    except NotText as error:
        assert str(error)


def test_lines_end_in_every_way() -> None:
    assert lines_of("a\rb  c\r\n\r\n d\u2028e\n\tf\x0cg") == ["a", "b c", "d", "e", "f g"]

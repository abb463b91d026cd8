"""The Presidio side: the recognisers in an analyser, and the text rewriter."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpEngineProvider

from privacy.detect import build_analyzer, find, mask_texts
from privacy.detect.recognizers import CnMobileRecognizer
from privacy.detect.rewriting import canonical_entity
from privacy.entities import EntityKind
from privacy.errors import BadInput, Misuse, UnknownEntity
from privacy.identifiers import Rejected
from privacy.pseudonyms import Pseudonymiser

TEXT = "客户王芳电话１３８００１３８０００，身份证11010519491231002X，邮箱wang@example.com谢谢"
TEXT += "，卡4111111111111111"


@pytest.fixture(scope="module")
def analyzer() -> AnalyzerEngine:
    return build_analyzer()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_analyser_finds_what_find_finds(analyzer: AnalyzerEngine, language: str) -> None:
    ours = {str(kind) for kind in EntityKind}
    results = {
        (r.start, r.end, r.entity_type) for r in analyzer.analyze(TEXT, language) if r.entity_type in ours
    }
    assert results == {(s.start, s.end, str(s.kind)) for s in find(TEXT)}


def test_presidio_s_own_patterns_are_there_too(analyzer: AnalyzerEngine) -> None:
    (result,) = analyzer.analyze("IBAN GB82WEST12345698765432", "en")
    assert result.entity_type == "IBAN_CODE"


def test_entities_can_be_asked_for(analyzer: AnalyzerEngine) -> None:
    results = analyzer.analyze(TEXT, "zh", entities=["CN_MOBILE"])
    assert [TEXT[r.start : r.end] for r in results] == ["１３８００１３８０００"]


def test_each_language_has_the_recognisers(analyzer: AnalyzerEngine) -> None:
    for language in ("zh", "en"):
        assert {str(kind) for kind in EntityKind} <= set(analyzer.get_supported_entities(language))
    assert build_analyzer(["en"]).supported_languages == ["en"]
    for bad in ([], "zh"):
        with pytest.raises(Misuse):
            build_analyzer(bad)


def test_a_recogniser_works_in_anybody_s_analyser() -> None:
    nlp = NlpEngineProvider(
        nlp_configuration={"nlp_engine_name": "no_op", "models": [{"lang_code": "zh", "model_name": "no_op"}]}
    ).create_engine()
    registry = RecognizerRegistry(recognizers=[CnMobileRecognizer("zh")], supported_languages=["zh"])
    engine = AnalyzerEngine(registry=registry, nlp_engine=nlp, supported_languages=["zh"])
    (result,) = engine.analyze("电话13800138000谢谢", "zh", return_decision_process=True)
    assert (result.start, result.end, result.entity_type) == (2, 13, "CN_MOBILE")
    assert result.analysis_explanation.recognizer == "CnMobileRecognizer"


# ------------------------------------------------------------------------------------- rewriting


def pseudonymisers() -> dict[str, Pseudonymiser]:
    return {
        domain: Pseudonymiser(bytes(32), purpose="mask", domain=domain)
        for domain in ("phone", "email", "resident_id", "card")
    }


def test_labels() -> None:
    masked = mask_texts(pa.array([TEXT, None, "没有", TEXT]))
    expected = "客户王芳电话<CN_MOBILE>，身份证<CN_RESIDENT_ID>，邮箱<EMAIL_ADDRESS>谢谢，卡<BANK_CARD>"
    assert masked.values.to_pylist() == [expected, None, "没有", expected]
    assert masked.found == {
        EntityKind.CN_MOBILE: 2,
        EntityKind.CN_RESIDENT_ID: 2,
        EntityKind.EMAIL_ADDRESS: 2,
        EntityKind.BANK_CARD: 2,
    }
    assert "王芳" not in repr(masked)


def test_tokens_in_text_equal_tokens_in_columns() -> None:
    made = pseudonymisers()
    masked = mask_texts(
        pa.array(["打１３８－００１３－８０００或+86 13800138000"]), "token", pseudonymisers=made
    )
    token = made["phone"].token(b"+8613800138000")
    assert masked.values.to_pylist() == [f"打{token}或{token}"]


def test_what_has_no_canonical_form_is_labelled() -> None:
    # 140 is not assigned, so the number has no E.164 form; it is taken out all the same.
    masked = mask_texts(pa.array(["打14000138000"]), "token", pseudonymisers=pseudonymisers())
    assert masked.values.to_pylist() == ["打<CN_MOBILE>"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a@b.com"], pa.large_string()),
        pa.array(["a@b.com"]).dictionary_encode(),
        pa.chunked_array([["a@b.com"], []], pa.string()),
        pa.array(["a@b.com"]).cast(pa.string_view()),
        pl.Series(["a@b.com"]),
        pl.Series(["a@b.com"], dtype=pl.Categorical),
    ],
)
def test_text_columns_of_every_kind(column: pa.Array) -> None:
    assert mask_texts(column).values.to_pylist() == ["<EMAIL_ADDRESS>"]


def test_null_columns_and_other_types() -> None:
    assert mask_texts(pa.nulls(2)).values.to_pylist() == [None, None]
    with pytest.raises(BadInput):
        mask_texts(pa.array([1]))
    with pytest.raises(Misuse):
        mask_texts(pa.array(["a"]), "token")
    with pytest.raises(Misuse):
        mask_texts(pa.array(["a"]), "hash")  # type: ignore[arg-type]
    with pytest.raises(UnknownEntity):
        mask_texts(pa.array(["a"]), kinds=["PERSON"])


@pytest.mark.parametrize(
    ("kind", "written", "form"),
    [
        (EntityKind.CN_MOBILE, "１３８ 0013 8000", b"+8613800138000"),
        (EntityKind.CN_LANDLINE, "(010)62345678", b"+861062345678"),
        (EntityKind.PHONE_NUMBER, "(415) 555-2671", b"+14155552671"),
        (EntityKind.PHONE_NUMBER, "+44 20 7946 0958", b"+442079460958"),
        (EntityKind.EMAIL_ADDRESS, "A.B+c@Gmail.com", b"ab@gmail.com"),
        (EntityKind.CN_RESIDENT_ID, "110105 19491231 002x", b"11010519491231002X"),
        (EntityKind.BANK_CARD, "4111-1111-1111-1111", b"4111111111111111"),
    ],
)
def test_canonical_entities(kind: EntityKind, written: str, form: bytes) -> None:
    assert canonical_entity(kind, written) == form
    assert canonical_entity(kind, written, region="US") == form


def test_an_entity_without_form() -> None:
    assert canonical_entity(EntityKind.CN_MOBILE, "10000000000") == Rejected("invalid_number")

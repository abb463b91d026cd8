"""The Presidio analyser that is right by default for Chinese and English."""

from __future__ import annotations

from collections.abc import Sequence

from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpEngineProvider

from privacy.detect.names import Names, name_finders
from privacy.detect.recognizers import (
    BankCardRecognizer,
    CnLandlineRecognizer,
    CnMobileRecognizer,
    CnResidentIdRecognizer,
    EmailAddressRecognizer,
    PersonNameRecognizer,
    PhoneNumberRecognizer,
)
from privacy.detect.scanner import MINIMUM_SCORE
from privacy.errors import Misuse

__all__ = ["build_analyzer"]

_OURS = (
    BankCardRecognizer,
    CnLandlineRecognizer,
    CnMobileRecognizer,
    CnResidentIdRecognizer,
    EmailAddressRecognizer,
    PhoneNumberRecognizer,
)
# Replaced by ours (e-mail swallows Hanzi, cards miss UnionPay and Chinese, phones leave out China and take
# three quarters of the time), or marking what is not personal by itself (dates, web addresses), or asking
# for a language model.
_REMOVED = (
    "CreditCardRecognizer",
    "DateRecognizer",
    "EmailRecognizer",
    "PhoneRecognizer",
    "SpacyRecognizer",
    "UrlRecognizer",
)


def build_analyzer(languages: Sequence[str] = ("zh", "en"), *, names: Names = "auto") -> AnalyzerEngine:
    """Return a Presidio `AnalyzerEngine` for `languages` (ISO 639-1).

    It has this package's recognisers in each language and Presidio's own pattern recognisers where they
    are sound, and drops findings scored below 0.5. Names of people (PERSON) are detected by the finders that
    `names` says: by default those whose models are installed, in each language, since notes mix scripts.
    No model is loaded before the first text asks for it. Postal addresses are not detected. Raises `Misuse`
    if no language is given, or (code `name_finder_missing`) if a required model is not installed.
    """
    if not languages or isinstance(languages, str):
        raise Misuse("Give the languages as a list, such as ['zh', 'en'].")
    known = list(dict.fromkeys(languages))
    finders = name_finders(names)
    models = [{"lang_code": language, "model_name": "no_op"} for language in known]
    nlp_engine = NlpEngineProvider(
        nlp_configuration={"nlp_engine_name": "no_op", "models": models}
    ).create_engine()
    registry = RecognizerRegistry(supported_languages=known)
    registry.load_predefined_recognizers(languages=known, nlp_engine=nlp_engine)
    registry.recognizers = [r for r in registry.recognizers if type(r).__name__ not in _REMOVED]
    for language in known:
        for recognizer in _OURS:
            registry.add_recognizer(recognizer(supported_language=language))
        for finder in finders:
            registry.add_recognizer(PersonNameRecognizer(finder, supported_language=language))
    return AnalyzerEngine(
        registry=registry,
        nlp_engine=nlp_engine,
        supported_languages=known,
        default_score_threshold=MINIMUM_SCORE,
    )

"""One harness for each parser: an oracle that takes octets, and real objects to begin with.

An oracle is the body of a property in ``tests/parsers`` or ``tests/vocabulary``, called with octets that no strategy drew.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handfast.keys import dump_private_key_der, dump_private_key_pem
from tests.parsers import test_files, test_octets, test_words
from tests.vocabulary import test_csr, test_identity, test_keys


@dataclass(frozen=True, slots=True)
class Harness:
    name: str
    oracle: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def _body(of: Any) -> Callable[..., None]:
    """A property without its strategies."""
    body: Callable[..., None] = of.hypothesis.inner_test
    return body


def _octets(name: str, of: Any, *seeds: bytes) -> Harness:
    return Harness(name, _body(of), seeds)


def _text(name: str, of: Iterable[Callable[[str], None]], *seeds: str) -> Harness:
    bodies = tuple(of)

    def oracle(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        for body in bodies:
            body(text)

    return Harness(name, oracle, tuple(seed.encode() for seed in seeds))


def _in_a_directory(name: str, body: Callable[[Path, bytes], None], *seeds: bytes) -> Harness:
    def oracle(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="handfast-fuzz-") as place:
            body(Path(place), data)

    return Harness(name, oracle, seeds)


def _configuration(of: Any) -> Callable[[Path, bytes], None]:
    """As YAML is read: octets that are no text are judged by a test of their own."""
    return lambda place, data: _body(of)(place, data.decode("utf-8", "replace"))


def _trail(place: Path, data: bytes) -> None:
    trail, _, head = data.partition(b"\0")
    _body(test_files.test_a_trail_that_was_altered_is_reported_and_read_to_its_end)(place, trail, head)


_WORDS = (
    *(
        functools.partial(_body(test_words.test_a_word_is_a_value_or_our_error), read)
        for read in test_words.READERS.values()
    ),
    _body(test_words.test_a_duration_is_positive_or_refused),
)
_NAMES = (
    _body(test_identity.test_a_spiffe_id_is_its_text_or_it_raises),
    _body(test_identity.test_a_trust_domain_is_its_text_or_it_raises),
    _body(test_identity.test_a_dns_name_is_its_text_or_it_raises),
    _body(test_identity.test_an_ip_address_is_its_text_or_it_raises),
)
_KEY = test_csr.KEY
_HEAD = b'\0{"seq": 3, "hash": "' + b"0" * 64 + b'"}'

HARNESSES: tuple[Harness, ...] = (
    Harness("csr", test_csr.ours_or_our_error, (test_csr.SAMPLE, test_csr.request())),
    Harness("key", test_keys.a_key_or_our_error, (dump_private_key_pem(_KEY), dump_private_key_der(_KEY))),
    _octets("certificate", test_octets.test_a_certificate_is_a_leaf_or_our_error, test_octets.LEAF, test_octets.ISSUER),
    _octets("chain", test_octets.test_a_pem_text_of_certificates_is_a_chain_or_our_error, test_octets.CHAIN),
    _octets("list", test_octets.test_a_list_is_verified_or_refused, test_octets.AUTHORITY.crl),
    _octets("lists", test_octets.test_a_pem_text_of_lists_is_split_or_our_error, test_octets.CRL_PEM),
    _octets("bundle", test_octets.test_a_bundle_message_is_a_bundle_or_our_error, test_octets.BUNDLE),
    _octets("snapshot", test_octets.test_a_snapshot_message_is_credentials_or_our_error, test_octets.SNAPSHOT),
    _octets("answer", test_octets.test_an_answer_of_the_ca_is_read_or_our_error, test_octets.ANSWER),
    _text("words", _WORDS, "1h30m", "7f", "sha256:" + "0f" * 32, "10.1.0.0/16", "hft_" + "A" * 43, "http://ca:7080/x"),
    _text("names", _NAMES, "spiffe://test.example/ns/shop", "test.example", "web.svc", "10.0.0.7", "2001:db8::7"),
    _in_a_directory(
        "ca-configuration",
        _configuration(test_files.test_a_ca_s_configuration_is_values_or_all_its_mistakes),
        test_files.CA.encode(),
    ),
    _text(
        "agent-configuration",
        [_body(test_files.test_an_agent_s_configuration_is_values_or_all_its_mistakes)],
        test_files.AGENT,
    ),
    _in_a_directory(
        "context",
        _configuration(test_files.test_an_operator_s_context_is_values_or_our_error),
        test_files.CONTEXT.encode(),
    ),
    _in_a_directory("trail", _trail, test_files.TRAIL + _HEAD),
    _in_a_directory(
        "backup",
        _body(test_files.test_a_backup_that_is_none_is_our_error_and_no_name_in_it_leads_out),
        test_files.BACKUP,
    ),
)

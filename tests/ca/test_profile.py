"""Two fuses burn while the CA is away: the certificates and the list. A configuration in which they do not fit is refused."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from handfast.errors import Invalid
from handfast.lifetime import format_duration, parse_duration
from handfast_ca.config import load
from handfast_ca.profile import DEFAULT_PROFILE, Profile
from handfast_ca.registration import MINIMUM_LIFETIME
from tests.ca_serve.process import handfast

SMALLEST = {
    "trust_domain": "test.example",
    "public_url": "http://ca.test.example",
    "issuer": {"certificate": "i.crt", "key": "i.key"},
    "root": {"certificate": "r.crt", "crl": "r.crl"},
    "state": "state",
}


def written(tmp_path: Path, **profile: str) -> Path:
    path = tmp_path / "handfast.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, "profile": profile}))
    return path


@pytest.mark.parametrize(
    ("life", "validity", "every", "wrong"),
    [
        ("24h", "12h", "1h", []),
        ("24h", "10h48m", "2h42m", []),
        ("24h", "10h47m59s", "1h", ["crl_validity"]),
        ("24h", "24h", "6h", []),
        ("24h", "24h1s", "1h", ["crl_validity"]),
        ("24h", "12h", "3h", []),
        ("24h", "12h", "3h1s", ["publish_every"]),
        ("1h", "27m", "6m45s", []),
        ("1h", "26m", "1h", ["crl_validity", "publish_every"]),
    ],
)
def test_lists_and_certificates_must_end_in_the_right_order(
    life: str, validity: str, every: str, wrong: list[str]
) -> None:
    """D4, D2: ``V >= (1 - f - j) * L``, ``V <= L``, a list every ``V / 4``, to the second."""

    def make() -> Profile:
        return Profile(
            longest=parse_duration(life), crl_validity=parse_duration(validity), publish_every=parse_duration(every)
        )

    if not wrong:
        assert make().crl_validity == parse_duration(validity)
        return
    with pytest.raises(Invalid) as refused:
        make()
    assert [violation.field for violation in refused.value.violations] == wrong


@pytest.mark.parametrize("life", ["1m", "90s", "2m", "10m", "1h", "24h", "7d"])
def test_what_follows_from_a_lifetime_fits_it(life: str) -> None:
    """D4: one number is enough."""
    made = Profile.for_lifetime(parse_duration(life))
    assert made.crl_validity == max(made.longest / 2, MINIMUM_LIFETIME)
    assert made.publish_every * 4 <= made.crl_validity
    assert Profile.for_lifetime(timedelta(hours=24)) == DEFAULT_PROFILE


def test_a_configuration_says_how_long_things_live(tmp_path: Path) -> None:
    """What is not given follows from the longest lifetime."""
    assert load(written(tmp_path)).profile == DEFAULT_PROFILE
    assert load(written(tmp_path, longest_lifetime="1h")).profile == Profile.for_lifetime(timedelta(hours=1))
    read = load(written(tmp_path, longest_lifetime="1h", crl_validity="40m", publish_every="5m")).profile
    assert (read.crl_validity, read.publish_every) == (timedelta(minutes=40), timedelta(minutes=5))


def test_a_configuration_whose_fuses_do_not_fit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    """D4: `check-config` and `serve` alike; the numbers that were reckoned with are in the error."""
    path = written(tmp_path, longest_lifetime="24h", crl_validity="2h", publish_every="1h")
    with pytest.raises(Invalid) as refused:
        load(path)
    told = {violation.field: violation.description for violation in refused.value.violations}
    assert set(told) == {"profile.crl_validity", "profile.publish_every"}
    assert "2h is below 10h48m = (1 - 0.5 - 0.05) * 24h" in told["profile.crl_validity"]
    assert "every 1h is not one every 30m = 2h / 4" in told["profile.publish_every"]
    for command in (("ca", "check-config", path), ("ca", "serve", "--config", path)):
        done = handfast(*command)
        assert done.code != 0
        assert "10h48m = (1 - 0.5 - 0.05) * 24h" in done.err
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("crl_validity", "soon"), ("longest_lifetime", 24), ("crl_lifetime", "12h"), ("backdate", "1h")]
)
def test_a_profile_that_cannot_be_read_names_its_key(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(Invalid) as refused:
        load(written(tmp_path, **{key: value}))
    assert [violation.field for violation in refused.value.violations] == [f"profile.{key}"]


def test_no_configuration_gives_a_list_that_ends_before_certificates_that_were_renewed_in_time() -> None:
    """D4: over a grid of lifetimes and validities, what is let through keeps the order of the two fuses."""
    minutes = [2, 5, 30, 60, 300, 648, 720, 1440]
    let_through = 0
    for life, validity in itertools.product(minutes, minutes):
        longest, lives = timedelta(minutes=life), timedelta(minutes=validity)
        try:
            made = Profile(longest=longest, crl_validity=lives, publish_every=lives / 4)
        except Invalid:
            continue
        let_through += 1
        survives = longest * 0.45
        assert survives <= made.crl_validity <= longest, format_duration(longest)
    assert let_through

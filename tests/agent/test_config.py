"""The agent's configuration: read once, all mistakes at once, and no token in the wrong place."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.certificates import Usage
from handfast.errors import Invalid
from handfast_agent.config import load, parse

GOOD = """
ca: {address: "127.0.0.1:7443", enrol: "127.0.0.1:7444"}
trust_domain: test.example
trust: {file: root.crt}
identity: spiffe://test.example/web
join_token: {file: token}
directory: out
dns_names: [web.test]
hooks: [{command: [/bin/true, "a; b $(c)"]}]
"""


def reasons(text: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        parse(text, environment or {})
    return {violation.field: violation.reason for violation in refused.value.violations}


def test_a_good_file_becomes_values() -> None:
    config = parse(GOOD, {}, base=Path("/etc/handfast"))
    assert config.directory == Path("/etc/handfast/out")
    assert config.pin.file == Path("/etc/handfast/root.crt")
    assert config.wanted.dns_names == ("web.test",)
    assert config.hooks[0].command == ("/bin/true", "a; b $(c)")


def test_every_mistake_is_reported_with_its_path() -> None:
    text = GOOD.replace(
        "dns_names: [web.test]", "dns_names: ['*.x', ok]\ncolour: red\nhealth: nowhere\nfiles: {private_mode: '0644'}"
    )
    assert reasons(text) == {
        "colour": "UNKNOWN_KEY",
        "dns_names[0]": "INVALID_DNS_NAME",
        "health": "INVALID_CONFIG",
        "files.private_mode": "MODE_TOO_WIDE",
    }


def test_addresses_that_are_none_and_usages_nobody_can_renew_with_are_refused() -> None:
    text = GOOD.replace('address: "127.0.0.1:7443"', "address: nowhere, http: ca.test").replace(
        'enrol: "127.0.0.1:7444"', 'enrol: "ca:70000"'
    )
    assert reasons(text + "usages: [server]\n") == dict.fromkeys(
        ("ca.address", "ca.enrol", "ca.http", "usages"), "INVALID_CONFIG"
    )


def test_without_a_wish_the_usages_are_those_of_the_entry_with_client_among_them() -> None:
    assert parse(GOOD, {}).wanted.usages == {Usage.CLIENT}
    assert parse(GOOD + "usages: [client, server]\n", {}).wanted.usages == set(Usage)


def test_a_mistyped_key_comes_with_the_one_that_was_meant(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(GOOD.replace("directory:", "directroy:"))
    with pytest.raises(Invalid) as refused:
        load(file, {})
    assert f"the configuration {file} is refused" in refused.value.message
    assert "did you mean 'directory'?" in refused.value.message


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        parse(GOOD + "directory: elsewhere\n", {})
    assert "stands twice" in refused.value.message


@pytest.mark.parametrize("trust", ["{}", "{file: a, fingerprint: b}"])
def test_without_exactly_one_pin_nothing_starts(trust: str) -> None:
    """B8."""
    assert reasons(GOOD.replace("{file: root.crt}", trust))["trust"] == "NO_PIN"


def test_a_token_in_the_configuration_or_the_environment_is_refused_and_not_repeated() -> None:
    """B2."""
    token = "hft_" + "S" * 43
    assert reasons(GOOD.replace("{file: token}", token))["join_token"] == "TOKEN_EXPOSED"
    assert reasons(GOOD, {"HANDFAST_JOIN_TOKEN": token}) == {"environment": "TOKEN_EXPOSED"}
    with pytest.raises(Invalid) as refused:
        parse(GOOD.replace("{file: token}", token), {})
    assert token not in str([refused.value.message, refused.value.violations])


@pytest.mark.parametrize(
    "hook", ["{command: 'rm -rf /'}", "{}", "{command: [a], pid_file: b}", "{pid_file: b, signal: SIGKILL}"]
)
def test_a_hook_is_an_argument_list_or_a_polite_signal(hook: str) -> None:
    """E11."""
    assert reasons(GOOD.replace('{command: [/bin/true, "a; b $(c)"]}', hook))


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\0", "!!python/object:os.system {}", "&a [*a]"])
def test_what_is_no_configuration_is_refused_and_not_run(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text, {})


def test_a_file_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"none\.yaml cannot be read: No such file or directory$"):
        load(tmp_path / "none.yaml", {})


def test_a_socket_whose_path_no_kernel_takes_is_refused_before_anything_starts() -> None:
    """unix(7): 107 bytes and a zero."""
    assert reasons(GOOD + f"socket: /run/{'a' * 103}\n") == {"socket": "INVALID_CONFIG"}
    assert parse(GOOD + f"socket: /run/{'a' * 102}\n", {}).socket is not None


def test_stapling_is_on_until_it_is_switched_off() -> None:
    """YAML's ``on`` and ``off`` are true and false; anything else is a mistake."""
    assert parse(GOOD, {}).stapling
    assert not parse(GOOD + "stapling: off\n", {}).stapling
    assert reasons(GOOD + "stapling: sometimes\n") == {"stapling": "INVALID_CONFIG"}

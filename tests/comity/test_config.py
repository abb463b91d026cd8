"""node.toml: what is read, and what is refused with the place named."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.config import NodeConfig, is_loopback, load_config, parse_config
from comity.errors import ConfigError


def read(text: str, directory: Path = Path("/srv/node")) -> NodeConfig:
    return parse_config(text, directory)


def test_a_name_is_all_that_is_needed() -> None:
    config = read('name = "bank"')
    assert config.public_url == "http://127.0.0.1:8440"
    assert config.database_url == "sqlite:////srv/node/comity.db"
    assert config.log_origin == "bank.comity.invalid/log"


def test_every_section_is_read() -> None:
    config = read(
        """
        name = "bank"
        [server]
        host = "::1"
        port = 9000
        public_url = "https://comity.bank.example/"
        behind_proxy = true
        [database]
        url = "postgresql+psycopg://comity:secret@db/comity"
        [log]
        origin = "bank.example/consent"
        [engine]
        blinder = "cryptography"
        workers = 2
        [budget]
        epsilon = 3
        """
    )
    assert config.public_url == "https://comity.bank.example"
    assert config.local_url == "http://[::1]:9000"
    assert config.database_url == "postgresql+psycopg://comity:secret@db/comity"
    assert (config.engine.blinder, config.engine.workers, config.budget.epsilon) == ("cryptography", 2, 3.0)
    assert "secret" not in repr(config)


def test_an_unknown_key_is_named_with_its_line_and_a_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        read('name = "bank"\n[server]\nhost = "127.0.0.1"\nprot = 8440\n')
    assert caught.value.detail == "node.toml, line 4, [server] prot: unknown key."
    assert caught.value.advice == "Did you mean 'port'?"


def test_an_unknown_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"line 2, \[servre\]: unknown key.*'server'"):
        read('name = "bank"\n[servre]\nport = 1\n')


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "name is missing"),
        ("name = 5", "text in quotes"),
        ('name = "Bank of X"', "lower-case letters"),
        ('name = "b"\nserver = 3', r"write \[server\]"),
        ('name = "b"\n[server]\nport = "8440"', "a whole number"),
        ('name = "b"\n[server]\nport = true', "a whole number"),
        ('name = "b"\n[server]\nport = 70000', "between 1 and 65535"),
        ('name = "b"\n[server]\nbehind_proxy = 1', "true or false"),
        ('name = "b"\n[server]\npublic_url = "ftp://x"', "http"),
        ('name = "b"\n[server]\npublic_url = "http://x/path"', "without a path"),
        ('name = "b"\n[server]\ntls_key = "k.pem"', "needs tls_certificate"),
        ('name = "b"\n[log]\norigin = "https://bank/log"', "without scheme"),
        ('name = "b"\n[database]\nurl = "mysql://x/y"', "sqlite"),
        ('name = "b"\n[database]\nurl = "nonsense"', "sqlite"),
        ('name = "b"\n[engine]\nblinder = "gpu"', "auto, cryptography or ipp"),
        ('name = "b"\n[engine]\nworkers = -1', "between 0 and 256"),
        ('name = "b"\n[budget]\nepsilon = nan', "above 0"),
        ('name = "b"\n[budget]\ndelta = 1.0', "below 1"),
        ('name = "b"\nname = "c"', "not TOML"),
        ('name = "b', "not TOML"),
    ],
)
def test_a_bad_value_is_refused_with_what_would_do(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read(text)


def test_values_may_stand_in_the_environment_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMITY_PORT", "9123")
    monkeypatch.setenv("COMITY_PROXY", "true")
    (tmp_path / "url.txt").write_text("postgresql+psycopg://db/comity\n")
    text = """
    name = "bank"
    [server]
    port = "env:COMITY_PORT"
    behind_proxy = "env:COMITY_PROXY"
    [database]
    url = "file:url.txt"
    """
    config = read(text, tmp_path)
    assert (config.server.port, config.server.behind_proxy) == (9123, True)
    assert config.database_url == "postgresql+psycopg://db/comity"


def test_a_reference_that_leads_nowhere_is_refused_without_showing_other_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="COMITY_NOT_THERE is not set"):
        read('name = "env:COMITY_NOT_THERE"')
    with pytest.raises(ConfigError, match=r"absent\.txt cannot be read"):
        read('name = "b"\n[database]\nurl = "file:absent.txt"', tmp_path)
    monkeypatch.setenv("COMITY_PORT", "hunter2")
    with pytest.raises(ConfigError) as caught:
        read('name = "b"\n[server]\nport = "env:COMITY_PORT"')
    assert "hunter2" not in str(caught.value)


def test_a_directory_without_configuration_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="comity init"):
        load_config(tmp_path)
    (tmp_path / "node.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "comity.example"])  # noqa: S104
def test_plain_http_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f'name = "b"\n[server]\nhost = "{host}"').check_exposed()
    assert caught.value.code == "tls_required"
    read(f'name = "b"\n[server]\nhost = "{host}"\nbehind_proxy = true').check_exposed()


def test_plain_http_on_loopback_and_tls_anywhere_are_fine(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    (tmp_path / "k.pem").touch()
    read('name = "b"').check_exposed()
    tls = '[server]\nhost = "0.0.0.0"\ntls_certificate = "c.pem"\ntls_key = "k.pem"'
    config = read(f'name = "b"\n{tls}', tmp_path)
    config.check_exposed()
    assert config.local_url == "https://127.0.0.1:8440"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_addresses_of_this_machine_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.evil.example", "", "10.0.0.1", "::"])
def test_other_addresses_are_not(host: str) -> None:
    assert not is_loopback(host)

"""Settings: from variables and secret files, refused with the name of what is wrong."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from services.settings import (
    SECRET_MIN_LENGTH,
    WELL_KNOWN_SECRETS,
    AccessSettings,
    BusinessSettings,
    DatabaseSettings,
    MigrateSettings,
    ProcessSettings,
    ProviderSettings,
    SettingsError,
    WorkerSettings,
    load,
)

SECRETS = (
    "app_password",
    "read_password",
    "internal_secret",
    "provider_secret",
    "webhook_secret",
    "cookie_secret",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What business needs, and the folder of its secret files."""
    for name in SECRETS:
        (tmp_path / f"tercet_{name}").write_text(secrets.token_urlsafe(32))
    monkeypatch.setenv("TERCET_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("TERCET_PRIMARY_DSN", "postgresql://tercet_app@127.0.0.1:1/tercet")
    monkeypatch.setenv("TERCET_PROVIDER_URL", "http://127.0.0.1:2/")
    return tmp_path


def refusal(kind: type[ProcessSettings] = BusinessSettings) -> str:
    with pytest.raises(SettingsError) as refused:
        load(kind)
    return str(refused.value)


def test_variables_and_secret_files_make_settings(environment: Path) -> None:
    settings = load(BusinessSettings)
    written = (environment / "tercet_provider_secret").read_text()
    assert settings.provider_secret.get_secret_value() == written
    assert settings.provider_url == "http://127.0.0.1:2"
    assert written not in repr(settings)
    assert written not in str(settings.model_dump())


def test_a_variable_goes_before_its_file(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = secrets.token_urlsafe(32)
    monkeypatch.setenv("TERCET_PROVIDER_SECRET", given)
    assert load(BusinessSettings).provider_secret.get_secret_value() == given


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_is_named(name: str, environment: Path) -> None:
    (environment / f"tercet_{name}").unlink()
    assert f"TERCET_{name.upper()}" in refusal()


WEAK = ["", "short", "a" * 64, "x" * (SECRET_MIN_LENGTH - 1), "0123456" * 10]
WEAK += [word + secrets.token_hex(32) for word in WELL_KNOWN_SECRETS]
WEAK += ["ChangeMe" + secrets.token_hex(32)]


@pytest.mark.parametrize("weak", WEAK, ids=range(len(WEAK)))
@pytest.mark.parametrize("name", SECRETS)
def test_an_empty_short_or_well_known_secret_is_refused_and_not_repeated(
    name: str, weak: str, environment: Path
) -> None:
    (environment / f"tercet_{name}").write_text(weak)
    said = refusal()
    assert f"TERCET_{name.upper()}" in said
    assert len(weak) < 6 or weak not in said


def test_everything_that_is_wrong_is_named_at_once(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_PRIMARY_DSN", "mysql://somewhere")
    monkeypatch.setenv("TERCET_PROVIDER_URL", "ftp://somewhere")
    monkeypatch.setenv("TERCET_BUSINESS_PORT", "70000")
    monkeypatch.setenv("TERCET_HOLD_MINUTES", "0")
    said = refusal().splitlines()
    for name in ("PRIMARY_DSN", "PROVIDER_URL", "BUSINESS_PORT", "HOLD_MINUTES"):
        assert [line for line in said if line.startswith(f"TERCET_{name}: ")]


def test_a_folder_of_secrets_that_is_not_there_is_named(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_SECRETS_DIR", str(environment / "nowhere"))
    assert "TERCET_SECRETS_DIR" in refusal()


@pytest.mark.parametrize(
    ("value", "dsns"),
    [
        ("", []),
        ("postgresql://a@b:1/c", ["postgresql://a@b:1/c"]),
        (
            "postgresql://a@b:1/c, postgres://a@d:2/c ,",
            ["postgresql://a@b:1/c", "postgres://a@d:2/c"],
        ),
    ],
)
def test_standbys_are_separated_by_commas(
    value: str, dsns: list[str], environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_STANDBY_DSNS", value)
    assert load(DatabaseSettings).standby_dsns == dsns


def test_one_bad_standby_among_good_ones_is_refused(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_STANDBY_DSNS", "postgresql://a@b:1/c,nonsense")
    assert "TERCET_STANDBY_DSNS" in refusal(DatabaseSettings)


def test_several_hosts_make_one_primary(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = "postgresql://tercet_app@one:5432,two:5432/tercet?target_session_attrs=read-write"
    monkeypatch.setenv("TERCET_PRIMARY_DSN", dsn)
    assert load(DatabaseSettings).primary_dsn == dsn


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ("http://business:8081/", ["http://business:8081"]),
        (" http://a:1, https://b:2/ ,", ["http://a:1", "https://b:2"]),
    ],
)
def test_business_may_have_several_addresses(
    value: str, urls: list[str], environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_BUSINESS_URL", value)
    assert load(AccessSettings).business_urls == urls


@pytest.mark.parametrize("value", ["", ",", "business:8081", "http://a:1,nonsense"])
def test_business_without_a_good_address_is_refused(
    value: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_BUSINESS_URL", value)
    assert "TERCET_BUSINESS_URL" in refusal(AccessSettings)


def test_settings_do_not_change_once_they_are_read(environment: Path) -> None:
    settings = load(BusinessSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.hold_minutes = 1  # type: ignore[misc]  # which is the point


@pytest.mark.parametrize(
    "kind",
    [BusinessSettings, WorkerSettings, AccessSettings, ProviderSettings, MigrateSettings],
)
def test_every_setting_says_what_it_is(kind: type[ProcessSettings]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description, name


def test_a_certificate_and_its_key_go_together_and_can_be_read(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_BUSINESS_URL", "http://127.0.0.1:1")
    certificate = environment / "certificate.pem"
    certificate.touch()
    monkeypatch.setenv("TERCET_ACCESS_TLS_CERTIFICATE", str(certificate))
    assert refusal(AccessSettings).endswith("TERCET_ACCESS_TLS_KEY go together")
    monkeypatch.setenv("TERCET_ACCESS_TLS_KEY", str(environment / "none.pem"))
    assert "none.pem can not be read" in refusal(AccessSettings)
    monkeypatch.setenv("TERCET_ACCESS_TLS_KEY", str(certificate))
    assert load(AccessSettings).access_tls_certificate == certificate

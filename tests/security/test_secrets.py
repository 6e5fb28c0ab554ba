"""S32: a process does not start on a bad secret, and none lies in the project."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import secrets
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import get_plugins, transient_settings
from pydantic import SecretStr

from infra.process import EXIT_BAD_SETTINGS
from services import settings
from services.settings import ProcessSettings, SettingsError

PROJECT: Final = Path(__file__).resolve().parents[2]
KINDS: Final[dict[str, type[ProcessSettings]]] = {
    "access": settings.AccessSettings,
    "business": settings.BusinessSettings,
    "worker outbox": settings.WorkerSettings,
    "provider": settings.ProviderSettings,
    "migrate": settings.MigrateSettings,
}
ADDRESSES: Final = {
    "TERCET_PRIMARY_DSN": "postgresql://tercet_app@127.0.0.1:1/tercet",
    "TERCET_OWNER_DSN": "postgresql://tercet_owner@127.0.0.1:1/tercet",
    "TERCET_PROVIDER_URL": "http://127.0.0.1:1",
    "TERCET_BUSINESS_URL": "http://127.0.0.1:1",
}
WEAK: Final = {
    "empty": "",
    "blank": " " * 40,
    "short": "x7Kq9",
    "a default": "changeme" * 8,
    "a word of the documentation": "example-" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9",
    "one letter": "a" * 64,
}
# What detect-secrets takes for a secret, and why it is none.
ALLOWED: Final = {
    ("tests/access/test_tracing.py", "Hex High Entropy String"): "the trace id of W3C's examples",
    ("tests/business/test_sandbox.py", "Base64 High Entropy String"): "of a provider of that test",
    ("tests/infra/test_postgres.py", "Basic Auth Credentials"): "a password that has to be refused",
    (
        "tests/security/test_secrets.py",
        "Base64 High Entropy String",
    ): "a weak one, with a word in it",
}
# Tokens of single vendors look as random as any: their twenty rules would take twice the time.
SCAN: Final = {
    "plugins_used": [
        {"name": "Base64HighEntropyString", "limit": 4.5},  # the limits are the library's own
        {"name": "HexHighEntropyString", "limit": 3.0},
        {"name": "KeywordDetector"},
        {"name": "BasicAuthDetector"},
        {"name": "PrivateKeyDetector"},
        {"name": "JwtTokenDetector"},
    ]
}
# What is no settings of any form: detect-secrets would read it as such too, at thrice the time.
LINE_BY_LINE: Final = (".py", ".md", ".txt")
# A line without one of these is none in which a rule of SCAN could see something: they are in every
# pattern of theirs, and eight characters are too few for either limit of entropy.
WORDS: Final = ("key", "pass", "pwd", "secret", "contrase", "eyj", "://", "begin")
QUOTED: Final = re.compile(r"""["'][^"'\s]{9,}["']""")
SKIPPED: Final = (
    ".git",
    ".venv",
    ".tools",
    ".tercet",
    "__pycache__",
    "node_modules",
    "results",
    ".build",
    ".hypothesis",
)


def secrets_of(kind: type[ProcessSettings]) -> list[str]:
    """The variables of its secrets that have to be there."""
    return [
        f"TERCET_{name.upper()}"
        for name, field in kind.model_fields.items()
        if field.annotation is SecretStr and field.is_required()
    ]


CASES: Final = [(kind, secret) for kind in KINDS for secret in secrets_of(KINDS[kind])]


def good(kind: str) -> dict[str, str]:
    """Settings on which that kind of process would start."""
    made = {secret: secrets.token_urlsafe(32) for secret in secrets_of(KINDS[kind])}
    return {**ADDRESSES, **made}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in os.environ:
        if name.startswith("TERCET_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("weak", WEAK)
@pytest.mark.parametrize(("kind", "secret"), CASES)
def test_every_secret_of_every_process_has_to_be_strong(
    environment: pytest.MonkeyPatch, kind: str, secret: str, weak: str
) -> None:
    for name, value in good(kind).items():
        environment.setenv(name, value)
    settings.load(KINDS[kind])
    environment.setenv(secret, WEAK[weak])
    with pytest.raises(SettingsError) as refused:
        settings.load(KINDS[kind])
    assert str(refused.value).startswith(f"{secret}: ")
    assert WEAK[weak] == "" or WEAK[weak] not in str(refused.value)


@pytest.mark.parametrize(("kind", "secret"), CASES)
def test_no_secret_has_a_default(environment: pytest.MonkeyPatch, kind: str, secret: str) -> None:
    for name, value in good(kind).items():
        if name != secret:
            environment.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{secret}: "):
        settings.load(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_ends_at_once_with_a_clear_line_and_exit_code_78(
    tmp_path: Path, kind: str
) -> None:
    """The secrets of a real process come as files; here each is bad in a way of its own."""
    names = secrets_of(KINDS[kind])
    for name, value in zip(names, list(WEAK.values()) * 2, strict=False):
        (tmp_path / name.lower()).write_text(value)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TERCET_")}
    done = subprocess.run(
        [sys.executable, "-m", "infra.process", *kind.split()],
        env={**clean, **ADDRESSES, "TERCET_SECRETS_DIR": str(tmp_path)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_BAD_SETTINGS
    first, *lines = done.stderr.splitlines()
    assert first == "the settings can not be used:"
    assert sorted(line.partition(":")[0] for line in lines) == sorted(names)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_secret_lies_in_the_project(tmp_path: Path) -> None:
    unexplained = set()
    for name, line_number, kind in secrets_in(PROJECT, tmp_path):
        # password="wrong" is what tests are made of; what looks random is not allowed there either.
        of_a_test = name.startswith("tests/") and kind == "Secret Keyword"
        if not of_a_test and (name, kind) not in ALLOWED:
            unexplained.add(f"{name}:{line_number} {kind}")
    assert unexplained == set()


def test_a_secret_in_a_file_would_be_found(tmp_path: Path) -> None:
    # In hex: of URL-safe base64 one in some hundred looks like a file name or a sequence to it.
    lines = ["import os", "", f'operator_token = "{secrets.token_hex(32)}"', ""]
    names = ("settings.py", "settings.yml", "Makefile", "notes.md", "words.txt")
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("\n".join(lines))
    (tmp_path / "scanned").mkdir()
    found = secrets_in(tmp_path / "in", tmp_path / "scanned")
    assert {(name, line_number) for name, line_number, _ in found} == {(one, 3) for one in names}


def test_each_rule_finds_what_it_is_for_among_lines_of_python(tmp_path: Path) -> None:
    """Lines are sorted out before they are scanned: none that holds a secret may be."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256"}).encode()).decode()
    random_ones = "".join(random.sample(string.ascii_letters + string.digits, 40))
    lines = {
        "Base64 High Entropy String": f"one = '{random_ones}'",
        "Hex High Entropy String": f'other = "{secrets.token_hex(32)}"',
        "Secret Keyword": "db_" + "pass" + ' = "correct horse"',
        "Basic Auth Credentials": "# see https:/" + "/reader:b00ks" + "@shop.example",
        "Private Key": "# -----BEGIN " + "PRIVATE " + "KEY-----",
        "JSON Web Token": f"# {head}.{head}.",
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "settings.py").write_text("\n\nx = 1\n".join(["", *lines.values(), ""]))
    found = secrets_in(tmp_path / "in", tmp_path / "scanned")
    assert {kind for _, _, kind in found} == set(lines)
    assert {line_number for _, line_number, _ in found} == {4 + 3 * n for n in range(len(lines))}


def secrets_in(root: Path, scratch: Path) -> set[tuple[str, int, str]]:
    """File, line and kind of what detect-secrets finds below `root`."""
    found = SecretsCollection()
    lines_of: dict[str, list[int]] = {}  # of a file's copy: the lines that are in it
    with transient_settings(SCAN):
        for path in files_below(root):
            if path.suffix in LINE_BY_LINE:
                copy = scratch / path.relative_to(root)
                lines_of[str(copy)] = copied_suspects(path, copy)
                found.scan_file(str(copy))
            else:
                found.scan_file(str(path))
    return {
        (
            str(Path(secret.filename).relative_to(scratch if lines else root)),
            lines[secret.line_number - 1] if lines else secret.line_number,
            secret.type,
        )
        for _, secret in found
        for lines in [lines_of.get(secret.filename)]
    }


def files_below(root: Path) -> Iterator[Path]:
    """Those that are ours; what is installed or written by runs is not even listed."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not skipped(name)]
        yield from (Path(folder, name) for name in names if not skipped(name))


def skipped(name: str) -> bool:
    return name in SKIPPED or name.endswith("_cache")


def copied_suspects(path: Path, copy: Path) -> list[int]:
    """Copy the lines in which any rule sees something, and return their numbers.

    scan_file asks its filters about every line before it asks its rules. That order takes seven
    times as long for what is mostly lines that no rule cares about, and to ask every rule about
    each of them thrice as long as to look for a word first.
    """
    lines = {
        number: line
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if is_suspect(line)
        and any(rule.analyze_line(str(path), line, number) for rule in get_plugins())
    }
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text("\n".join(lines.values()))
    return list(lines)


def is_suspect(line: str) -> bool:
    lowered = line.lower()
    return any(word in lowered for word in WORDS) or QUOTED.search(line) is not None

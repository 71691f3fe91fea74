"""Reading a table from S3, against a real server: OpenStack Swift with its S3 API, four processes on loopback.

Swift checks signatures and permissions, which is why it is here and not an imitation. Needs user extended attributes
on the file system of the temporary folder (Linux: ext4, xfs, btrfs, a recent tmpfs); skipped elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from botocore.config import Config

from pipeline.config.sections import DataConfig
from pipeline.data.dataset import Dataset, load_panel
from pipeline.data.errors import DataError
from pipeline.data.sample import write_sample

COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {home}
devices = {home}/devices
mount_check = false
disable_fallocate = true
log_address = {home}/no-syslog
recon_cache_path = {home}
"""
STORAGE = """[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """[pipeline:main]
pipeline = catch_errors cache s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_desk_owner = right .admin
user_desk_guest = guest
"""
MAIN = {"proxy": "swift.proxy.server", "object": "swift.obj.server"} | {
    kind: f"swift.{kind}.server" for kind in ("account", "container")
}


@dataclass
class Server:
    """A running server: where it is, the owner's client, and how often it gave an object away."""

    home: Path
    endpoint: str

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="desk:owner",
            aws_secret_access_key="right",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def put(self, path: Path, key: str) -> None:
        self.client().put_object(Bucket="market", Key=key, Body=path.read_bytes())

    def downloads(self) -> int:
        lines = (self.home / "object.log").read_text().splitlines()
        return sum('"GET /d1/' in line and '" 200 ' in line for line in lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("swift")
    if importlib.util.find_spec("swift") is None:
        pytest.skip("OpenStack Swift is not installed")
    try:
        os.setxattr(home, "user.test", b"x" * 1024)
    except (OSError, AttributeError):
        pytest.skip("no user extended attributes in the temporary folder, which Swift needs")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        ports = start_swift(home, processes)
        running = Server(home, f"http://127.0.0.1:{ports['proxy']}")
        running.client().create_bucket(Bucket="market")
        yield running
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def start_swift(home: Path, processes: list[subprocess.Popen[bytes]]) -> dict[str, int]:
    """Start one device, one replica; returns the port of each process once all of them listen."""
    with contextlib.ExitStack() as stack:
        sockets = {kind: stack.enter_context(socket.socket()) for kind in MAIN}
        for free in sockets.values():
            free.bind(("127.0.0.1", 0))
        ports = {kind: free.getsockname()[1] for kind, free in sockets.items()}
    (home / "devices" / "d1").mkdir(parents=True)
    policy = "[storage-policy:0]\nname = one\ndefault = yes\n"
    (home / "swift.conf").write_text(f"[swift-hash]\nswift_hash_path_suffix = test\n{policy}")
    rings = (
        "from swift.common.ring import RingBuilder\n"
        f"for kind, port in {ports!r}.items():\n"
        "    builder = RingBuilder(4, 1, 0)\n"
        "    place = dict(ip='127.0.0.1', port=port, device='d1')\n"
        "    builder.add_dev(dict(id=0, region=0, zone=0, weight=1, **place))\n"
        "    builder.rebalance()\n"
        f"    builder.get_ring().save(f'{home}/{{kind}}.ring.gz')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", rings], check=True, capture_output=True)
    user = pwd.getpwuid(os.getuid()).pw_name
    for kind, module in MAIN.items():
        text = COMMON + (PROXY if kind == "proxy" else STORAGE)
        (home / f"{kind}.conf").write_text(text.format(kind=kind, port=ports[kind], home=home, user=user))
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            f"from {module} import main; main()",
            f"{home}/{kind}.conf",
            "-v",
        ]
        with (home / f"{kind}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    deadline = time.monotonic() + 30
    for kind, port in ports.items():
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > deadline:
                pytest.fail(f"Swift's {kind} server did not start: {(home / f'{kind}.log').read_text()[-500:]}")
            time.sleep(0.1)
    return ports


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    write_sample(path, n_bars=60, n_features=12, n_degenerate=0)
    return path


@pytest.fixture
def as_owner(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Only the standard variables say where and who; no configuration file, no region, an empty cache."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "desk:owner")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "right")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return monkeypatch


def load(source: str) -> Dataset:
    return load_panel(DataConfig(source=source))


def refusal(source: str) -> str:
    with pytest.raises(DataError) as caught:
        load(source)
    assert len(caught.value.findings) == 1
    assert "\n" not in caught.value.findings[0]
    return caught.value.findings[0]


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "tft-pipeline").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("as_owner")
@pytest.mark.parametrize("key", ["table.parquet", "a b/day=1/täble.parquet"])
def test_object_and_file_give_the_same_panel(server: Server, table: Path, key: str) -> None:
    server.put(table, key)
    remote, local = load(f"s3://market/{key}"), load(str(table))
    assert remote.sha256 == local.sha256
    assert (remote.source, remote.n_rows) == (f"s3://market/{key}", local.n_rows)


@pytest.mark.usefixtures("as_owner")
def test_csv_and_arrow_objects_are_read_by_their_suffix(server: Server, table: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(table)
    frame.write_csv(tmp_path / "t.csv")
    frame.write_ipc(tmp_path / "t.arrow")
    for name in ("t.csv", "t.arrow"):
        server.put(tmp_path / name, name)
        assert load(f"s3://market/{name}").sha256 == load(str(table)).sha256


@pytest.mark.usefixtures("as_owner")
def test_an_unchanged_object_is_downloaded_once_a_changed_one_again(
    server: Server, table: Path, tmp_path: Path
) -> None:
    """The server's own log counts: one GET answered 200 per version of the object, and one file per object is kept."""
    server.put(table, "cached.parquet")
    before = server.downloads()
    first = load("s3://market/cached.parquet")
    again = load("s3://market/cached.parquet")
    assert server.downloads() == before + 1
    assert first.sha256 == again.sha256
    write_sample(table, n_bars=60, n_features=12, n_degenerate=0, seed=8)
    server.put(table, "cached.parquet")
    changed = load("s3://market/cached.parquet")
    assert server.downloads() == before + 2
    assert changed.sha256 == load(str(table)).sha256 != first.sha256
    assert len(cached_files(tmp_path)) == 1


def test_a_wrong_secret_is_refused_even_with_a_cached_copy(
    server: Server, table: Path, as_owner: pytest.MonkeyPatch
) -> None:
    server.put(table, "secret.parquet")
    load("s3://market/secret.parquet")
    as_owner.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    expected = "the S3 server refuses to give out secret.parquet of bucket market (SignatureDoesNotMatch)"
    assert refusal("s3://market/secret.parquet").startswith(expected)


def test_no_permission_no_key_no_bucket_no_credentials(
    server: Server, table: Path, as_owner: pytest.MonkeyPatch
) -> None:
    server.put(table, "table.parquet")
    assert refusal("s3://market/absent.parquet").startswith("bucket market has no key absent.parquet")
    assert refusal("s3://nowhere/table.parquet").startswith("there is no bucket nowhere on this S3 server")
    assert refusal("s3://market") == "an S3 source is s3://bucket/key"
    as_owner.setenv("AWS_ACCESS_KEY_ID", "desk:guest")
    as_owner.setenv("AWS_SECRET_ACCESS_KEY", "guest")
    assert "refuses to give out table.parquet of bucket market (AccessDenied)" in refusal("s3://market/table.parquet")
    as_owner.delenv("AWS_ACCESS_KEY_ID")
    as_owner.delenv("AWS_SECRET_ACCESS_KEY")
    assert refusal("s3://market/table.parquet").startswith("there are no AWS credentials")


@pytest.mark.usefixtures("server")
def test_a_server_that_is_down_is_said_within_seconds(as_owner: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        as_owner.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        started = time.monotonic()
        assert refusal("s3://market/table.parquet").startswith("no answer from the S3 server: Could not connect")
        assert time.monotonic() - started < 20
    as_owner.setenv("AWS_ENDPOINT_URL", "no-url")
    assert "check AWS_ENDPOINT_URL" in refusal("s3://market/table.parquet")


@pytest.mark.usefixtures("as_owner")
def test_an_object_that_is_no_table_names_the_object(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no parquet")
    server.put(tmp_path / "bad.parquet", "bad.parquet")
    assert refusal("s3://market/bad.parquet").startswith("bad.parquet is not readable as parquet")
    server.put(tmp_path / "bad.parquet", "bad")
    assert refusal("s3://market/bad").startswith("bad ends in nothing")


def test_a_cache_that_cannot_be_written_is_said(
    server: Server, table: Path, tmp_path: Path, as_owner: pytest.MonkeyPatch
) -> None:
    server.put(table, "table.parquet")
    (tmp_path / "occupied").write_text("a file where the folder should be")
    as_owner.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    assert refusal("s3://market/table.parquet").startswith("its local copy cannot be written (XDG_CACHE_HOME?)")


@pytest.mark.usefixtures("as_owner")
def test_a_download_that_breaks_off_leaves_no_file(
    server: Server, table: Path, tmp_path: Path, as_owner: pytest.MonkeyPatch
) -> None:
    """The copy appears under its name only when complete: here a server closes the connection half way."""
    body = table.read_bytes()
    head = f'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n'.encode()
    script = (
        "import socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0)); print(listener.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    peer, _ = listener.accept(); peer.recv(65536)\n"
        f"    peer.sendall({head!r} + bytes(100)); peer.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as broken:
        try:
            assert broken.stdout is not None
            as_owner.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{int(broken.stdout.readline())}")
            assert refusal("s3://market/table.parquet").startswith("no answer from the S3 server")
        finally:
            broken.terminate()
    assert not cached_files(tmp_path)

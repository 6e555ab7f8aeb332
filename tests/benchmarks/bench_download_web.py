"""The web server of bench_download: generated JPEGs behind a real web server on loopback.

Pictures have lognormal sizes with a mean of about 55 KB and sides of 120 to 2,400 px, as a crawl's; one in five is
progressive. They are smooth shapes under a grain that JPEG at quality 85 codes with about 0.2 bytes a pixel, as it does
photographs. The same seed gives the same pictures, and a folder that has them is used again.

The server is nginx: the one on the PATH, or Debian's package unpacked beside the pictures, which needs no root and
starts no service.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

MEAN_BYTES = 55_000
BYTES_PER_PIXEL = 0.2
"""Of the grain below at QUALITY, measured; photographs of the web have 0.1 to 0.4."""

QUALITY = 85
MIN_SIDE, MAX_SIDE = 120, 2_400
PICTURES = 1_000
"""Different ones; a link beyond them asks for the same again under another URL."""

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout {keep_alive_seconds};
    keepalive_requests 1000000;
    types {{ image/jpeg jpg; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port} backlog=4096; root {pictures}; }}
}}
"""


def paint_pictures(folder: Path, count: int = PICTURES) -> None:
    """Fill `folder` with 0.jpg to {count-1}.jpg, unless it has them."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{count - 1}.jpg").exists():
        return
    draw = np.random.default_rng(7)
    for number in range(count):
        width, height = _size(draw)
        shapes = Image.fromarray(draw.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        grain = draw.normal(0, 1, (height // 2 + 1, width // 2 + 1, 1)).astype(np.float32)
        ground = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        fine = np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)[:height, :width]
        pixels = np.clip(ground + fine * draw.lognormal(1.8, 0.5), 0, 255).astype(np.uint8)
        aside = folder / f"{number}.partial"
        Image.fromarray(pixels).save(aside, "JPEG", quality=QUALITY, progressive=number % 5 == 0)
        aside.rename(folder / f"{number}.jpg")


def _size(draw: np.random.Generator) -> tuple[int, int]:
    spread = 1.0  # of the logarithm; the mean of a lognormal is exp(mu + spread² / 2)
    pixels = draw.lognormal(np.log(MEAN_BYTES / BYTES_PER_PIXEL) - spread**2 / 2, spread)
    ratio = draw.lognormal(0.2, 0.3)
    width, height = np.sqrt(pixels * ratio), np.sqrt(pixels / ratio)
    return int(np.clip(width, MIN_SIDE, MAX_SIDE)), int(np.clip(height, MIN_SIDE, MAX_SIDE))


@contextmanager
def web_server(folder: Path, pictures: Path, *, keep_alive: bool = True) -> Iterator[int]:
    """Serve `pictures` on loopback within the block, which gets the port."""
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder.absolute(),
            pictures=pictures.absolute(),
            port=port,
            keep_alive_seconds=60 if keep_alive else 0,
        )
    )
    command = [find_nginx(folder), "-p", str(folder.absolute()), "-c", str(configuration.absolute())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_until_it_listens(port, server)
            yield port
        finally:
            server.terminate()


def picture_url(port: int, number: int) -> str:
    """Return the URL of the number-th link; each has one of its own."""
    return f"http://127.0.0.1:{port}/{number % PICTURES}.jpg?{number}"


def find_nginx(folder: Path) -> str:
    """Return the path of an nginx; one that is not installed is unpacked from Debian's package under `folder`."""
    installed = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if installed:
        return installed
    unpacked = folder / "debian" / "usr" / "sbin" / "nginx"
    if not unpacked.exists():
        try:
            subprocess.run(["apt-get", "download", "nginx"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            package = next(folder.glob("nginx_*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, folder / "debian"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit("bench_download needs nginx: install it (apt-get install nginx) and try again.") from error
    return str(unpacked)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_listens(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise SystemExit(f"nginx ended with {server.returncode}: see error.log beside its configuration.")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("nginx does not listen.")


def describe(pictures: Path) -> str:
    """Describe the pictures in one line."""
    sizes = np.array([os.path.getsize(path) for path in pictures.glob("*.jpg")])  # noqa: PTH202  # no difference here
    low, middle, high = np.percentile(sizes, (10, 50, 90)) / 1e3
    return f"{len(sizes)} JPEGs, mean {sizes.mean() / 1e3:.0f} KB, 10/50/90 %: {low:.0f}/{middle:.0f}/{high:.0f} KB"

"""Remove files that no worker needs from the installed packages, and check that the rest works as before.

    python slim.py        # in an image, as root, right after pip

It removes, in megabytes: OpenCV's libraries for films, AVIF and linear algebra 84 (resize and blur do not call them);
debugging symbols 35; tests 17; sources, headers and stubs 18; copies of a library under several names 6; numpy's
Fortran frontend 3. pip does not compile byte code (45); modules that are used are compiled here, once.

Invariant: every OpenCV call of the code returns the same pixels before and after, or OpenCV is restored; and every
module that workers import can still be imported. Rejected: shrinking with Pillow, which doubles the time per picture.
"""

import shutil
import struct
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGES = Path((find_spec("numpy") or sys.exit("numpy is not installed")).origin or "").parents[1]
SOURCES = {".a", ".c", ".cpp", ".h", ".hpp", ".lib", ".pxd", ".pxi", ".pyi", ".pyx"}
FOLDERS = ("pyarrow/include", "pyarrow/src", "numpy/f2py", "numpy/_core/include", "numpy/_core/lib")
OPENCV = Path("cv2/cv2.abi3.so")
OPENCV_LIBRARIES = Path("opencv_python_headless.libs")
KEPT_LIBRARY = "libpng16"
SEGMENT_LOAD, SEGMENT_DYNAMIC = 1, 2
NEEDED, STRINGS, SYMBOLS, HASHES = 1, 5, 6, 0x6FFFFEF5
VERSIONS_NEEDED, VERSIONS_COUNT = 0x6FFFFFFE, 0x6FFFFFFF
WEAK_VERSION, WEAK_BINDING = 2, 2
# Every call that dataset/ makes of OpenCV, with sizes and windows to both sides of where its code paths part: jpeg.py
# blurs with a window that grows with the scale and resizes with INTER_CUBIC, pdq.py and fingerprints.py shrink with
# INTER_AREA, and pdq.py enlarges floats with INTER_CUBIC; tests/test_images_of_docker.py compares it with the code.
PICTURES = """
import cv2, hashlib, numpy
cv2.setNumThreads(1)
print(cv2.error.__name__)
for width, height in (800, 600), (37, 501), (3, 2):
    pixels = numpy.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=numpy.uint8)
    for target in (256, 192), (384, 128), (64, 64), (1, 1), (1024, 700):
        for window, sigma in (0, 0), (3, 0.4), (5, 1.2), (9, 2.1), (31, 7.5):
            soft = cv2.GaussianBlur(pixels, (window, window), sigma) if window else pixels
            for way in cv2.INTER_CUBIC, cv2.INTER_AREA:
                small = cv2.resize(soft, target, interpolation=way)
                print(width, target, window, way, hashlib.sha256(small.tobytes()).hexdigest())
for side, target in (256, 512), (5, 7), (341, 512):
    enlarged = cv2.resize(numpy.eye(side, dtype=numpy.float32), (side, target), interpolation=cv2.INTER_CUBIC)
    print(side, target, hashlib.sha256(enlarged.tobytes()).hexdigest())
window = cv2.createHanningWindow((256, 256), cv2.CV_32F)
one, other = numpy.random.default_rng(0).random((2, 256, 256), dtype=numpy.float32)
print(cv2.phaseCorrelate(one, numpy.roll(one, (3, 5), (0, 1)), window), cv2.phaseCorrelate(one, other, window))
dots = (one < 0.3).astype(numpy.uint8)
print(hashlib.sha256(cv2.morphologyEx(dots, cv2.MORPH_OPEN, numpy.ones((3, 3), numpy.uint8)).tobytes()).hexdigest())
"""
USED = """
import ada_url, alembic.command, alembic.config, alembic.ddl.postgresql, asks, cv2, dns.asyncresolver, fastwarc, gcld3
import h11, mmh3, numpy.testing, PIL.AvifImagePlugin, PIL.Image, PIL.ImageCms, PIL.WebPImagePlugin, prometheus_client
import protego, psycopg.types.json, psycopg_binary, pyarrow.compute, pyarrow.csv, pyarrow.dataset, pyarrow.fs
import pyarrow.parquet, rich.live, rich.markup, rich.progress, rich.table, rich.traceback, safetensors, simdjson
import simplejpeg, sqlalchemy.dialects.postgresql.psycopg, starlette.applications, starlette.responses
import starlette.routing, trio
import typer.main, typer.rich_utils, uvicorn.lifespan.off, uvicorn.loops.asyncio, uvicorn.protocols.http.h11_impl
import xxhash
PIL.Image.init()
"""


class Library:
    """A shared library as ELF of 64 bits lays it out; see elf(5). Only the tables that the loader reads are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        self.end_of_headers = start + size * count
        # type, flags, offset, address, physical address, bytes in the file
        self.segments = [struct.unpack_from("<IIQQQQ", self.data, start + size * n) for n in range(count)]

    def save(self) -> None:
        """Write it anew, not in place: a process may have it mapped."""
        mode = self.path.stat().st_mode
        self.path.unlink()
        self.path.write_bytes(self.data)
        self.path.chmod(mode)

    def strip(self) -> None:
        """Remove everything behind the last segment: debugging symbols and the section table."""
        del self.data[max([self.end_of_headers, *(segment[2] + segment[5] for segment in self.segments)]) :]
        self.data[40:48] = bytes(8)  # e_shoff
        self.data[60:64] = bytes(4)  # e_shnum, e_shstrndx

    def forget(self, names: set[str]) -> None:
        """Remove these libraries from the needed ones. Their functions become null and must not be called."""
        (dynamic,) = (segment for segment in self.segments if segment[0] == SEGMENT_DYNAMIC)
        entries = [struct.unpack_from("<QQ", self.data, at) for at in range(dynamic[2], dynamic[2] + dynamic[5], 16)]
        tables = dict(entries)
        strings = self._place(tables[STRINGS])
        kept = [(tag, value) for tag, value in entries if tag != NEEDED or self._text(strings + value) not in names]
        kept += [(0, 0)] * (len(entries) - len(kept))
        struct.pack_into(f"<{2 * len(kept)}Q", self.data, dynamic[2], *(number for entry in kept for number in entry))
        symbols = self._place(tables[SYMBOLS])
        (first_defined,) = struct.unpack_from("<I", self.data, self._place(tables[HASHES]) + 4)
        for place in range(symbols + 24, symbols + 24 * first_defined, 24):  # undefined symbols come first
            self.data[place + 4] = WEAK_BINDING << 4 | self.data[place + 4] & 0xF
        libc = next(value for tag, value in entries if tag == NEEDED and self._text(strings + value) == "libc.so.6")
        self._weaken_versions(self._place(tables[VERSIONS_NEEDED]), tables[VERSIONS_COUNT], strings, names, libc)

    def _weaken_versions(self, place: int, count: int, strings: int, names: set[str], libc: int) -> None:
        """Redirect the symbol versions of removed libraries to libc, as weak ones, so that the loader ignores them."""
        for _ in range(count):
            _, versions, file, first, following = struct.unpack_from("<HHIII", self.data, place)
            if self._text(strings + file) in names:
                struct.pack_into("<I", self.data, place + 4, libc)
                version = place + first
                for _ in range(versions):
                    struct.pack_into("<H", self.data, version + 4, WEAK_VERSION)
                    version += struct.unpack_from("<I", self.data, version + 12)[0]
            place += following

    def _place(self, address: int) -> int:
        """Where in the file the byte of an address lies."""
        for kind, _, offset, start, _, size in self.segments:
            if kind == SEGMENT_LOAD and start <= address < start + size:
                return int(offset + address - start)
        raise ValueError(f"address {address:#x} of {self.path} lies in no segment")

    def _text(self, place: int) -> str:
        return self.data[place : self.data.index(0, place)].decode()


def main() -> None:
    """Slim the packages of this Python."""
    for folder in FOLDERS:
        shutil.rmtree(PACKAGES / folder, ignore_errors=True)
    for tests in [found for found in PACKAGES.rglob("tests") if found.is_dir()]:
        shutil.rmtree(tests, ignore_errors=True)
    for file in [found for found in PACKAGES.rglob("*") if found.suffix in SOURCES and found.is_file()]:
        file.unlink()
    drop_flight()
    drop_copies()
    slim_opencv()
    for path in [found for found in PACKAGES.rglob("*.so*") if found.is_file() and not found.is_symlink()]:
        if path.read_bytes()[:6] == b"\x7fELF\x02\x01":  # 64 bits, little-endian
            library = Library(path)
            library.strip()
            library.save()
    run(USED)


def drop_flight() -> None:
    """Drop what only Arrow Flight and Arrow's own tests need."""
    for pattern in ("libarrow_*flight*", "_flight.*", "_pyarrow_cpp_tests*"):
        for file in (PACKAGES / "pyarrow").glob(pattern):
            file.unlink()


def drop_copies() -> None:
    """Drop two of three: a wheel has no links, and of lib.so, lib.so.N and lib.so.N.0.0 only lib.so.N is asked for."""
    for library in (PACKAGES / "pyarrow").glob("lib*.so.*.*.*"):
        name, _, version = library.name.partition(".so.")
        if library.with_name(f"{name}.so.{version.partition('.')[0]}").exists():
            library.unlink()
            library.with_name(f"{name}.so").unlink(missing_ok=True)


def slim_opencv() -> None:
    """Drop the libraries that came with OpenCV, if it resizes to the same pixels without them."""
    before = run(PICTURES)
    with tempfile.TemporaryDirectory() as aside:
        shutil.copytree(PACKAGES / OPENCV_LIBRARIES, Path(aside) / "libraries")
        shutil.copy2(PACKAGES / OPENCV, aside)
        gone = [path for path in (PACKAGES / OPENCV_LIBRARIES).iterdir() if not path.name.startswith(KEPT_LIBRARY)]
        opencv = Library(PACKAGES / OPENCV)
        opencv.forget({path.name for path in gone})
        opencv.save()
        for path in gone:
            path.unlink()
        try:
            same = run(PICTURES) == before
        except subprocess.CalledProcessError:
            same = False
        if not same:
            print("slim.py: this OpenCV cannot do without its libraries, and keeps them", file=sys.stderr)  # noqa: T201
            shutil.copytree(Path(aside) / "libraries", PACKAGES / OPENCV_LIBRARIES, dirs_exist_ok=True)
            shutil.copy2(Path(aside) / OPENCV.name, PACKAGES / OPENCV)


def run(program: str) -> str:
    """Run a program in a Python of its own, and return what it prints."""
    return subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()

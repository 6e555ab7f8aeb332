"""The base of the chaos run, which can be broken: Postgres and the disk."""

import subprocess
from contextlib import suppress
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tracker.database import embedded_postgres
from tracker.database.database import connect
from tracker.database.migrate import migrate

DISK_BYTES = 512 << 20

# Postgres's sizes for a small machine, and no fsync: what dies here is the server, never the kernel below it.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "512MB", "shared_buffers": "64MB"}


class Server:
    """A migrated embedded Postgres in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o755)
        self.url = embedded_postgres.start(home)
        with connect(self.url) as admin:
            for name, value in SETTINGS.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        self.crash()
        migrate(self.url)

    def crash(self) -> None:
        """Stop the server without a checkpoint, like a crash, and start it again."""
        embedded_postgres.stop(self.home, mode="immediate")
        embedded_postgres.start(self.home)

    def close(self) -> None:
        embedded_postgres.stop(self.home, mode="immediate")

    @property
    def socket(self) -> str:
        return f"{conninfo_to_dict(self.url)['host']}/.s.PGSQL.5432"


class Disk:
    """A small file system of its own for the store, which can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True, capture_output=True
        )
        self._ballast = folder / ".ballast"

    def fill(self) -> None:
        """Fill the disk completely."""
        with suppress(OSError), self._ballast.open("wb") as file:  # a full disk may refuse the file itself
            while True:
                file.write(bytes(1 << 20))

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)

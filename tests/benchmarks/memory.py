"""The memory of a process and its descendants."""

from pathlib import Path


def tree_pss(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages divided among those who share them."""
    total, waiting = 0, [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended meanwhile
    return total

"""Wait for the notice that the provider will take this spot machine away, then run a command that drains its workers.

This script runs on the machine itself, with the machine's Python and no other file of Shoal: `tracker launch` puts it
there.

    drain_on_notice.py [--metadata URL] [--every SECONDS] COMMAND…

AWS gives two minutes, Google and Azure 30 seconds. Sources: AWS "Spot Instance interruption notices", Google Cloud
"Preemptible VM instances", Azure "Scheduled Events". On a machine of another provider it does nothing.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request

METADATA = "http://169.254.169.254"
TIMEOUT_SECONDS = 2.0
TOKEN_SECONDS = 21_600
ENDING = {"Preempt", "Terminate"}


def main() -> int:
    """Wait for the notice, run the command, and exit with its code."""
    parser = argparse.ArgumentParser(description="Drain when the provider takes this machine away.")
    parser.add_argument("--metadata", default=METADATA)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two requests (%(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    while not (by := noticed(arguments.metadata)):
        time.sleep(arguments.every)
    sys.stderr.write(f"drain.noticed by={by}\n")
    sys.stderr.flush()
    return subprocess.run(arguments.command, check=False).returncode


def noticed(metadata: str) -> str:
    """Return the provider that has given notice; '' if no provider has."""
    for name, ask in (("aws", _aws), ("google", _google), ("azure", _azure)):
        try:
            if ask(metadata):
                return name
        except (OSError, ValueError):  # no metadata service, or another provider's answer
            continue
    return ""


def _aws(metadata: str) -> bool:
    token = _get(f"{metadata}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}, "PUT")
    answer = json.loads(
        _get(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token.decode("ascii")})
    )
    return isinstance(answer, dict) and answer.get("action") in ("terminate", "stop", "hibernate")


def _google(metadata: str) -> bool:
    return _get(f"{metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}).strip() == b"TRUE"


def _azure(metadata: str) -> bool:
    answer = json.loads(_get(f"{metadata}/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"}))
    events = answer.get("Events", []) if isinstance(answer, dict) else []
    return any(event.get("EventType") in ENDING for event in events if isinstance(event, dict))


def _get(url: str, headers: dict[str, str], method: str = "GET") -> bytes:
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 — http, by METADATA
    # a proxy would answer with its own machine's metadata
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        return bytes(response.read(65_536))


if __name__ == "__main__":
    sys.exit(main())

"""Submits one job to a running NVFlare as its administrator, and waits for its end: `flare_submit KIT JOB RECORD`."""

from __future__ import annotations

import sys
import time

from contents import note
from nvflare.fuel.flare_api.flare_api import new_secure_session

ADMINISTRATOR = "admin@nvidia.com"
SITES = 2
LOGIN_S = 40.0
POLL_S = 0.1


def main(kit: str, job: str, record: str) -> None:
    """See the module's docstring."""
    session = new_secure_session(ADMINISTRATOR, kit, timeout=LOGIN_S)
    try:
        while len(session.get_connected_client_list()) < SITES:
            time.sleep(POLL_S)
        note(record, event="submitted", at_ns=time.time_ns())
        number = session.submit_job(job)
        status = ""
        while not status.startswith("FINISHED"):
            time.sleep(POLL_S)
            status = str(session.get_job_meta(number)["status"])
        note(record, event="finished", at_ns=time.time_ns(), status=status)
    finally:
        session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""``fastzk-server --verify-data``: walk log and database, report, change nothing."""

from __future__ import annotations

import os

from fastzk._log import scan
from fastzk.server.config import Config
from fastzk.server.recovery import log_path, state_path
from fastzk.server.store import verify


def verify_data(config: Config) -> int:
    """Print what was found in the data directory, a line each.

    Returns 0 if the server could start on it, 1 if something is damaged or missing. A torn tail of the log is
    what a crash leaves: it is reported and is no damage.
    """
    problems = []
    state = verify(os.fspath(state_path(config)))
    print(f"database path={state_path(config)} pages={state.pages} bytes={state.file_bytes} zxid=0x{state.zxid or 0:x}")
    problems += state.problems
    try:
        log = scan(os.fspath(log_path(config)))
    except OSError as error:
        problems.append(f"{log_path(config)}: {error.strerror}")
    else:
        print(
            f"log path={log_path(config)} segments={log.segments} batches={log.batches} transactions={log.txns} "
            f"first=0x{log.first_zxid:x} last=0x{log.last_zxid:x} bytes={log.bytes}"
        )
        if log.torn_tail is not None:
            print(f"log torn tail file={log.torn_tail[0]} offset={log.torn_tail[1]} (cut off at the next start)")
        if log.corruption is not None:
            problems.append(str(log.corruption))
        if state.store_id is not None and log.store_id is not None and state.store_id != log.store_id:
            problems.append("log and database belong to different servers")
    for problem in problems:
        print(f"problem {problem}")
    print("bad" if problems else "ok")
    return 1 if problems else 0

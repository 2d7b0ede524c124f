"""The Autobahn test suite's cases, as run by `kosoku`, against a server directly and through the proxy.

Usage: autobahn.py PLAN. The proxy passes if every case has the same result as without it: the verdict on the messages,
the verdict on the close, the close code, and who ended what.
"""

import asyncio
import re

from kosoku import FailureError, run_fuzzingclient

from common import differences, plan, tell

# Groups 9, 12 and 13 are about size and speed: a few cases of each kind (what is sent, and how it is split).
CASES = [
    *(f"{group}.*" for group in [1, 2, 3, 4, 5, 6, 7, 10]),
    *"9.1.1 9.1.6 9.2.6 9.3.4 9.4.4 9.5.1 9.6.1 9.7.1 9.8.1".split(),
    *"12.1.1 12.1.5 12.2.4 12.3.3 12.4.3 12.5.1".split(),
    *(f"13.{parameters}.2" for parameters in range(1, 8)),
]
# Some cases wait a second or two for a reaction.
AT_ONCE = 6


async def verdicts(url):
    """The result of each case."""
    try:
        results = await run_fuzzingclient(url, CASES, concurrency=AT_ONCE)
    except FailureError as failure:
        # Servers have their own limits and habits; it contains all results, including passed cases.
        results = failure.results
    return {result.case_id: verdict(result) for result in results}


def verdict(result):
    return {
        "behavior": result.behavior.value,
        "close": result.behavior_close.value,
        "remote code": result.remote_close_code,
        "remote reason": result.remote_close_reason,
        "local code": result.local_close_code,
        "clean": result.was_clean,
        "why not": result.was_not_clean_reason,
        "closed by the client": result.closed_by_me,
        "failed by the client": result.failed_by_me,
        "dropped by the client": result.dropped_by_me,
        "drop timed out": result.was_server_connection_drop_timeout,
        "extensions": re.findall(r"(?im)^sec-websocket-extensions: *(.*?)\r?$", result.http_response),
    }


async def main():
    urls = plan()
    direct = await verdicts(urls["direct"])
    # The precondition of the comparison: the cases ran, and most passed.
    good = [name for name, seen in direct.items() if seen["behavior"] in ("OK", "NON-STRICT", "INFORMATIONAL")]
    found = {"the server alone": None if len(good) > 250 else f"only {len(good)} of {len(direct)} cases are good"}
    for way, url in urls["proxied"].items():
        found |= differences(direct, await verdicts(url), way)
    tell(found)


asyncio.run(main())

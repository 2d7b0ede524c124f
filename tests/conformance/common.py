"""Shared by the programs: their input, and the result they print."""

import asyncio
import json
import sys

AT_ONCE = 16
# Longer than any server takes to give up on a peer.
CASE_DEADLINE = 40


def plan():
    """The first argument, JSON: `direct`, the URL of the echo server itself, and `proxied`, URLs through Switchyard."""
    return json.loads(sys.argv[1])


def tell(verdicts):
    """Prints which checks passed and why others failed; `verdicts` has the failure of each check, or None."""
    passed = [check for check, why in verdicts.items() if not why]
    failed = {check: why for check, why in verdicts.items() if why}
    print(json.dumps({"passed": passed, "failed": failed}))


def differences(direct, proxied, way):
    """For each case, the differences between the results through the proxy and without it."""
    verdicts = {}
    for name in direct.keys() | proxied.keys():
        alone, through = direct.get(name), proxied.get(name)
        why = None if alone == through else f"without the proxy {alone}\nthrough the proxy {through}"
        verdicts[f"{way} {name}"] = why
    return verdicts


async def transcripts(cases):
    """The results of these named coroutines, some of them running concurrently."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def run(case):
        async with turn:
            try:
                return await asyncio.wait_for(case, CASE_DEADLINE)
            except Exception as error:
                return {"trouble": repr(error)}

    cases = dict(cases)
    return dict(zip(cases, await asyncio.gather(*(run(case) for case in cases.values()))))


def compare(cases):
    """Runs `cases(url)`, pairs of a name and a coroutine, without the proxy and through it, and prints the result."""

    async def run():
        urls = plan()
        direct = await transcripts(cases(urls["direct"]))
        # The precondition of the comparison: a case that does not complete proves nothing.
        found = {f"the server alone: {name}": seen.get("trouble") for name, seen in direct.items()}
        for way, url in urls["proxied"].items():
            found |= differences(direct, await transcripts(cases(url)), way)
        tell(found)

    asyncio.run(run())

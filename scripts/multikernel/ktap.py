# SPDX-License-Identifier: GPL-2.0
"""Reads KTAP, the output of KUnit and kselftests (Documentation/dev-tools/ktap.rst)."""

import re

RESULT = re.compile(r"^(\s*)(not )?ok (\d+)(?: -?\s*(.*?))?(?:\s*#\s*(SKIP|TODO|XFAIL)\b(.*))?\s*$")
PLAN = re.compile(r"^(\s*)1\.\.(\d+)")
# A line of the kernel's log begins with its time, and the caller if asked for.
LOG_PREFIX = re.compile(r"^(?:<\d+>)?\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])? ?")
SUBTEST = re.compile(r"^(\s*)# Subtest: (.*?)\s*$")


def strip_log(text):
    """The console's text without the time stamps of the kernel's log."""
    return "\n".join(LOG_PREFIX.sub("", line.rstrip("\r")) for line in text.splitlines())


def parse(text):
    """The innermost results of TEXT, in order: (name, "ok" | "failed" | "skipped", lines).

    LINES are those between the result before and this one. A plan that promises
    more results than there are gives one more, failed.
    """
    found, said, missing = [], [], []
    counts, plans, suites = {}, {}, []
    had_inner = {}

    def close(depth):
        """Ends the lists of results that are deeper than DEPTH."""
        for inner in [d for d in plans if d > depth]:
            if counts.get(inner, 0) < plans[inner]:
                missing.append(f"{plans[inner] - counts.get(inner, 0)} of {plans[inner]} results "
                               f"are missing below {'/'.join(suites) or 'the top'}")
            del plans[inner]
        for inner in [d for d in counts if d > depth]:
            del counts[inner]

    for line in text.splitlines():
        plan = PLAN.match(line)
        subtest = SUBTEST.match(line)
        result = RESULT.match(line)
        if plan:
            plans[len(plan[1])] = int(plan[2])
            counts[len(plan[1])] = 0
        elif subtest:
            suites.append(subtest[2])
        elif result:
            depth = len(result[1])
            inner = any(had_inner.pop(d) for d in list(had_inner) if d > depth)
            close(depth)
            counts[depth] = counts.get(depth, 0) + 1
            had_inner[depth] = True
            name = result[4] or result[3]
            # Of a suite and its cases the cases count, unless only the suite failed.
            if suites and suites[-1] == name:
                suites.pop()
            if inner:
                said = []
                continue
            state = "failed" if result[2] else "skipped" if result[5] == "SKIP" else "ok"
            if result[5] in ("TODO", "XFAIL"):
                state = "skipped"
            found.append((".".join([*suites, name]), state, said))
            said = []
            continue
        said = [*said, line]
    close(-1)
    return found + [(text, "failed", []) for text in missing]

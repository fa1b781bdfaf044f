"""Rules for every test: what was skipped must not look like what was passed."""

import os
from collections.abc import Generator

import pytest

# gRPC's own fork handlers crash the child of a process that runs a channel; we only ever fork to exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

REQUIRE_REAL = "FARTHING_REQUIRE_REAL"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where real parts and shared data must be present, a skip is a failure."""
    del item, call
    report = yield
    if report.skipped and os.environ.get(REQUIRE_REAL) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but {REQUIRE_REAL} is set: {report.longrepr}"
    return report

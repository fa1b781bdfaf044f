"""What every test may ask for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair: timing is for benchmarks.
settings.register_profile("farthing", deadline=None)
settings.load_profile("farthing")

TESTS = Path(__file__).parent
#: What takes longest, begun first: a file that is still at it when all others are done has a core to itself, and the other one idles. Those that
#: wait for processes stand beside the simulator's, which fill the cores. All others follow in their order.
BEGUN_FIRST = (
    "sim/test_simulation.py",
    "cloud/serve/test_whole_cloud.py",
    "system/test_outages.py",
    "system/test_demo.py",
    "system/test_whole_file.py",
    "system/test_kills.py",
    "sim/test_protections.py",
    "firmware_sim/test_fleet_live.py",
    "system/test_attacks.py",
    "edge/daemon/test_edge_daemon.py",
    "system/test_full_disk.py",
    "cloud/registry/test_registry_calls.py",
    "system/test_start_messages.py",
    "edge/journal/test_snapshots.py",
    "proto/test_tariff_pricing.py",
    "contract/test_ledger_corrections.py",
    "contract/test_ledger_carried_ends.py",
    "contract/test_ledger_store.py",
    "proto/test_device_messages.py",
    "cloud/documents/test_documents_service.py",
    "cloud/events/test_consumer.py",
    "cloud/ledger/test_ledger_killed.py",
    "proto/test_hsm_token.py",
    "cloud/ledger/test_ledger_verify.py",
    "firmware_sim/test_replay.py",
    "cloud/serve/test_database_steps.py",
    "contract/test_ledger_incarnations.py",
    "edge/engine/test_engine_upkeep.py",
)


def pytest_configure() -> None:
    """A name that is no file's any more would let its file be begun last, and nobody would notice."""
    gone = [name for name in BEGUN_FIRST if not (TESTS / name).is_file()]
    if gone:
        raise pytest.UsageError(f"to be begun first, and not there: {gone}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By file, as ``BEGUN_FIRST`` says; within a file nothing moves."""
    places = {TESTS / name: place for place, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Find a file of the shared folder (``../shared`` beside the repository, or ``FARTHING_SHARED``) or skip, saying so."""
    folder = Path(os.environ.get("FARTHING_SHARED") or Path(__file__).resolve().parents[2] / "shared")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"shared data not there: {path} (set FARTHING_SHARED)")
        return path

    return find

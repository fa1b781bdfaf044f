"""``make demo``: exit 0 only if every check holds."""

import asyncio
import os
import sys
import traceback

from farthing.hsm import HsmError
from farthing_demo.processes import DemoError
from farthing_demo.run import Run
from farthing_demo.settings import SettingsError, from_environment
from farthing_demo.whole_file import WholeFile


def main() -> int:
    """Run the demo; 0: every check holds, 1: one is broken, 2: it could not run."""
    try:
        settings = from_environment()
        run = WholeFile(settings) if settings.whole_file else Run(settings)
        return 0 if asyncio.run(run.play()) else 1
    except (SettingsError, DemoError, HsmError) as err:
        print(f"farthing-demo: {err}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("farthing-demo: stopped", file=sys.stderr)
        return 130
    except Exception:  # noqa: BLE001 shown in full, then we leave with 2: nothing is answered as done
        traceback.print_exc()
        return 2


code = main()
sys.stdout.flush()
sys.stderr.flush()
# gRPC's signer for keys in a token keeps a thread alive; everything else was closed in order.
os._exit(code)

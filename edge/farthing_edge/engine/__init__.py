"""One writer: everything that changes the gateway's state goes through one queue into one engine.

It takes everything that waits, up to a limit, decides each in order against the state in memory, writes all that follows in one
transaction, and only then answers all of them.
"""

from farthing_edge.engine.asked import EngineError as EngineError
from farthing_edge.engine.asked import EngineLimits as EngineLimits
from farthing_edge.engine.asked import Waiting as Waiting
from farthing_edge.engine.engine import Engine as Engine
from farthing_edge.engine.record import QuotaRequestRow as QuotaRequestRow
from farthing_edge.engine.record import SignedBatchRow as SignedBatchRow
from farthing_edge.engine.signing import BatchSigner as BatchSigner
from farthing_edge.engine.signing import GrantSigner as GrantSigner
from farthing_edge.engine.signing import TokenSigner as TokenSigner
from farthing_edge.engine.view import DeviceView as DeviceView
from farthing_edge.engine.view import GatewayView as GatewayView

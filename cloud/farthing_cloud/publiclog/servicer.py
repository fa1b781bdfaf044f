"""The public logs' calls: what they say, proofs, and a person's word after a restore."""

from collections.abc import Mapping
from typing import Final

import grpc
import structlog
from typing_extensions import override

from farthing.tlog.entries import LogName
from farthing.tlog.note import MAX_NOTE_SIZE
from farthing.tlog.tiles import TileError
from farthing.v1 import publiclog_pb2, publiclog_pb2_grpc
from farthing_cloud.callers import caller
from farthing_cloud.publiclog.audits import Audits
from farthing_cloud.publiclog.files import Contradiction
from farthing_cloud.publiclog.sequencer import Sequencer
from farthing_cloud.refusals import Context, Refused, refusals

#: Subjects of one question: the batches of one bundle.
MAX_SUBJECTS: Final = 1_024
#: Entries about one subject: a device changes a few times in its life; the newest count.
MAX_ENTRIES_EACH: Final = 16
#: Audits of one answer.
MAX_AUDITS: Final = 1_000

_CODES = (
    (Contradiction, grpc.StatusCode.FAILED_PRECONDITION),
    (TileError, grpc.StatusCode.FAILED_PRECONDITION),
)

_log = structlog.stdlib.get_logger(__name__)


class PublicLogServicer(publiclog_pb2_grpc.PublicLogServicer):
    """See ``publiclog.proto``."""

    def __init__(self, sequencers: Mapping[LogName, Sequencer], audits: Audits) -> None:
        self._audits = audits
        self._sequencers: dict[str, Sequencer] = {str(name): each for name, each in sequencers.items()}

    @override
    async def ShowLogs(
        self, request: publiclog_pb2.ShowLogsRequest, context: Context
    ) -> publiclog_pb2.ShowLogsResponse:
        """Each log's key, size and newest checkpoint."""
        logs = []
        async with refusals(context, _CODES):
            for name, sequencer in self._sequencers.items():
                row, newest = await sequencer.shown()
                logs.append(
                    publiclog_pb2.ShownLog(
                        log=name,
                        verifier_key=str(sequencer.key),
                        size=row.size,
                        published=0 if newest is None else newest.size,
                        checkpoint=b"" if newest is None else newest.note,
                        waits_for=sequencer.waits_for,
                        directory=str(sequencer.files.folder),
                    )
                )
        return publiclog_pb2.ShowLogsResponse(logs=logs)

    @override
    async def ProveEntries(
        self, request: publiclog_pb2.ProveEntriesRequest, context: Context
    ) -> publiclog_pb2.ProveEntriesResponse:
        """The newest entries about each subject, with their paths."""
        async with refusals(context, _CODES):
            sequencer = self._sequencer(request.log)
            if not 1 <= len(request.subjects) <= MAX_SUBJECTS:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"ask about 1 to {MAX_SUBJECTS} things")
            published, found = await sequencer.entries_about(request.subjects, limit=MAX_ENTRIES_EACH)
        return publiclog_pb2.ProveEntriesResponse(
            checkpoint=published.note,
            entries=[publiclog_pb2.ProvenEntry(index=index, entry=entry, path=path) for index, entry, path in found],
        )

    @override
    async def ProveGrowth(
        self, request: publiclog_pb2.ProveGrowthRequest, context: Context
    ) -> publiclog_pb2.ProveGrowthResponse:
        """The consistency proof from an earlier size."""
        async with refusals(context, _CODES):
            published, old_root, path = await self._sequencer(request.log).growth(request.old_size)
        return publiclog_pb2.ProveGrowthResponse(old_root=old_root, path=path, checkpoint=published.note)

    @override
    async def ListAudits(
        self, request: publiclog_pb2.ListAuditsRequest, context: Context
    ) -> publiclog_pb2.ListAuditsResponse:
        """What was drawn, and what came of it."""
        async with refusals(context, _CODES):
            audits = await self._audits.list(request.gateway_id, min(request.limit or MAX_AUDITS, MAX_AUDITS))
        return publiclog_pb2.ListAuditsResponse(audits=audits)

    @override
    async def ReconcileLog(
        self, request: publiclog_pb2.ReconcileLogRequest, context: Context
    ) -> publiclog_pb2.ReconcileLogResponse:
        """See ``Sequencer.reconcile``."""
        who = caller(context)
        async with refusals(context, _CODES):
            if len(request.newest_checkpoint) > MAX_NOTE_SIZE:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"a checkpoint has at most {MAX_NOTE_SIZE} bytes")
            taken_in, rewritten = await self._sequencer(request.log).reconcile(request.newest_checkpoint or None)
        _log.warning("a person reconciled a public log", log=request.log, caller=who.uri)
        return publiclog_pb2.ReconcileLogResponse(taken_in=taken_in, rewritten=rewritten)

    def _sequencer(self, log: str) -> Sequencer:
        sequencer = self._sequencers.get(log)
        if sequencer is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no log {log!r:.40}: there are {', '.join(self._sequencers)}")
        return sequencer

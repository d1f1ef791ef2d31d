"""The exceptions a client raises for the error codes a server answers with.

One class per code of :class:`fastzk.protocol.Error`, so that callers can catch what they expect and let the
rest through. All of them derive from :class:`ZooKeeperError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from fastzk.protocol import Error


class ZooKeeperError(Exception):
    """A request was answered with an error code.

    Raised itself only for codes this library does not know; for the others there are the classes below.

    :param path: the path the request was about, where there is one.
    :param code: the error code, where it is not the one of the class.
    """

    code: int = Error.SYSTEM_ERROR
    path: str | None
    #: How the error calls itself, where its code says too little.
    what: ClassVar[str] = ""

    def __init__(self, path: str | None = None, code: int | None = None) -> None:
        super().__init__(path, code)
        self.path = path
        if code is not None:
            self.code = int(code)

    def __str__(self) -> str:
        try:
            what = self.what or Error(self.code).name.lower().replace("_", " ")
        except ValueError:
            what = "unknown error"
        return f"{what} ({int(self.code)})" + ("" if self.path is None else f": {self.path}")


class SystemZooKeeperError(ZooKeeperError):
    """The server failed for a reason of its own."""

    code = Error.SYSTEM_ERROR


class RuntimeInconsistencyError(ZooKeeperError):
    """Inside a multi: the operation was not tried, because one before it failed."""

    code = Error.RUNTIME_INCONSISTENCY


class RolledBackError(ZooKeeperError):
    """Inside a multi: the operation was valid, but one behind it failed, so nothing was carried out."""

    code = Error.OK

    def __str__(self) -> str:
        return "rolled back" + ("" if self.path is None else f": {self.path}")


class DataInconsistencyError(ZooKeeperError):
    """The server found its data inconsistent."""

    code = Error.DATA_INCONSISTENCY


class ConnectionLossError(ZooKeeperError):
    """The connection broke before the answer came; the request may or may not have been carried out."""

    code = Error.CONNECTION_LOSS


class NotSent(ConnectionLossError):
    """There was no connection to send the request on: it was not carried out, and may be made again."""

    what = "not sent, for lack of a connection"


class MaybeApplied(ConnectionLossError):
    """The connection broke after a request that changes something was sent: only looking tells whether it did."""

    what = "connection lost, the request may have been carried out"


class MarshallingError(ZooKeeperError):
    """The server could not read the request."""

    code = Error.MARSHALLING


class UnimplementedError(ZooKeeperError):
    """The server does not know this operation."""

    code = Error.UNIMPLEMENTED


class OperationTimeoutError(ZooKeeperError):
    """The operation took too long."""

    code = Error.OPERATION_TIMEOUT


class BadArgumentsError(ZooKeeperError):
    """A path, a flag or another argument is not valid."""

    code = Error.BAD_ARGUMENTS


class UnknownSessionError(ZooKeeperError):
    """The server does not know the session."""

    code = Error.UNKNOWN_SESSION


class NewConfigNoQuorumError(ZooKeeperError):
    """A reconfiguration names servers of which no quorum is connected and up to date."""

    code = Error.NEW_CONFIG_NO_QUORUM


class ReconfigInProgressError(ZooKeeperError):
    """Another reconfiguration has not ended yet."""

    code = Error.RECONFIG_IN_PROGRESS


class APIError(ZooKeeperError):
    """Marks the start of the codes for wrong use; servers do not send it."""

    code = Error.API_ERROR


class NoNodeError(ZooKeeperError):
    """The znode, or the parent of the one to create, does not exist."""

    code = Error.NO_NODE


class NoAuthError(ZooKeeperError):
    """The ACL does not permit this to the session's identities."""

    code = Error.NO_AUTH


class BadVersionError(ZooKeeperError):
    """The version asked for is not the znode's."""

    code = Error.BAD_VERSION


class NoChildrenForEphemeralsError(ZooKeeperError):
    """An ephemeral znode cannot have children."""

    code = Error.NO_CHILDREN_FOR_EPHEMERALS


class NodeExistsError(ZooKeeperError):
    """The znode exists already."""

    code = Error.NODE_EXISTS


class NotEmptyError(ZooKeeperError):
    """The znode has children."""

    code = Error.NOT_EMPTY


class SessionExpiredError(ZooKeeperError):
    """The session is over; its ephemeral znodes are gone."""

    code = Error.SESSION_EXPIRED


class ConnectionClosedError(SessionExpiredError):
    """The client is closed, or was not started; there is no session."""

    what = "the client is closed"


class ForkedError(ConnectionClosedError):
    """The client was made by the parent process. A child cannot share its connection; it needs a client of its own."""

    what = "the client was made before the fork, make another one"


class InvalidCallbackError(ZooKeeperError):
    """The callback is not valid."""

    code = Error.INVALID_CALLBACK


class InvalidACLError(ZooKeeperError):
    """The ACL is empty or an entry of it is not valid."""

    code = Error.INVALID_ACL


class AuthFailedError(ZooKeeperError):
    """The server refused the credentials."""

    code = Error.AUTH_FAILED


class SessionMovedError(ZooKeeperError):
    """The session is attached to another server by now."""

    code = Error.SESSION_MOVED


class NotReadOnlyError(ZooKeeperError):
    """A write was sent to a server that is read-only."""

    code = Error.NOT_READ_ONLY


class EphemeralOnLocalSessionError(ZooKeeperError):
    """A local session cannot create ephemeral znodes."""

    code = Error.EPHEMERAL_ON_LOCAL_SESSION


class NoWatcherError(ZooKeeperError):
    """There is no such watch to remove or to check."""

    code = Error.NO_WATCHER


class RequestTimeoutError(ZooKeeperError):
    """The request was not completed in time."""

    code = Error.REQUEST_TIMEOUT


class ReconfigDisabledError(ZooKeeperError):
    """The server's configuration does not permit reconfigurations."""

    code = Error.RECONFIG_DISABLED


class SessionClosedRequireSASLAuthError(ZooKeeperError):
    """The server closed the session, because it demands an authentication that has not taken place."""

    code = Error.SESSION_CLOSED_REQUIRE_SASL_AUTH


class QuotaExceededError(ZooKeeperError):
    """The write would exceed a hard quota."""

    code = Error.QUOTA_EXCEEDED


class ThrottledOpError(ZooKeeperError):
    """The server is overloaded and did not carry out the request; it may be sent again later."""

    code = Error.THROTTLED_OP


#: The class of each error code.
ERRORS: Final[Mapping[int, type[ZooKeeperError]]] = MappingProxyType(
    {
        int(cls.code): cls
        for cls in (
            SystemZooKeeperError,
            RuntimeInconsistencyError,
            DataInconsistencyError,
            ConnectionLossError,
            MarshallingError,
            UnimplementedError,
            OperationTimeoutError,
            BadArgumentsError,
            UnknownSessionError,
            NewConfigNoQuorumError,
            ReconfigInProgressError,
            APIError,
            NoNodeError,
            NoAuthError,
            BadVersionError,
            NoChildrenForEphemeralsError,
            NodeExistsError,
            NotEmptyError,
            SessionExpiredError,
            InvalidCallbackError,
            InvalidACLError,
            AuthFailedError,
            SessionMovedError,
            NotReadOnlyError,
            EphemeralOnLocalSessionError,
            NoWatcherError,
            RequestTimeoutError,
            ReconfigDisabledError,
            SessionClosedRequireSASLAuthError,
            QuotaExceededError,
            ThrottledOpError,
        )
    }
)


def from_code(code: int, path: str | None = None) -> ZooKeeperError:
    """The exception for an error code; the caller raises it.

    :param code: as in a reply header or in the result of a multi.
    :param path: the path the request was about, where there is one.
    :returns: an instance of the code's class, or of ZooKeeperError itself for a code that is not known.
    :raises ValueError: for code 0, which is no error.
    """
    if code == Error.OK:
        raise ValueError("code 0 is no error")
    cls = ERRORS.get(code)
    return ZooKeeperError(path, code) if cls is None else cls(path)

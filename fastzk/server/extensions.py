"""What the server says of its extensions: znodes that can be read though they are in no tree.

A client learns from them which requests beyond ZooKeeper's it may send. They are not listed among the children
of any znode, so that whoever does not ask for them never meets them; a real znode of the same path goes first.
``docs/extensions.md`` describes the extensions.
"""

from __future__ import annotations

import json
from typing import Final

from fastzk.protocol import ExtensionOpCode, KeeperFeature

#: What of ClickHouse Keeper's features is here. Not: watches set by a multiRead, and the newer requests.
KEEPER_FEATURES: Final = (
    KeeperFeature.FILTERED_LIST,
    KeeperFeature.MULTI_READ,
    KeeperFeature.CHECK_NOT_EXISTS,
    KeeperFeature.CREATE_IF_NOT_EXISTS,
    KeeperFeature.REMOVE_RECURSIVE,
    KeeperFeature.PERSISTENT_WATCHES,
)
#: For Keeper's clients that know no feature flags: 3 means the first three of them.
KEEPER_API_VERSION: Final = 3
#: The extensions by the names under which ``/zookeeper/features`` has their request types.
NAMES: Final = {
    "filteredList": ExtensionOpCode.FILTERED_LIST,
    "checkNotExists": ExtensionOpCode.CHECK_NOT_EXISTS,
    "createIfNotExists": ExtensionOpCode.CREATE_IF_NOT_EXISTS,
    "removeRecursive": ExtensionOpCode.REMOVE_RECURSIVE,
    "pagedList": ExtensionOpCode.PAGED_LIST,
}


def feature_flags() -> bytes:
    """``KEEPER_FEATURES`` as Keeper writes them: feature n is the bit 7 - n % 8 of the byte n // 8."""
    flags = bytearray(max(KEEPER_FEATURES) // 8 + 1)
    for feature in KEEPER_FEATURES:
        flags[feature // 8] |= 1 << 7 - feature % 8
    return bytes(flags)


def virtual_znodes() -> dict[bytes, bytes]:
    """Path -> data of the znodes that tell of the extensions."""
    return {
        b"/keeper/api_version": b"%d" % KEEPER_API_VERSION,
        b"/keeper/feature_flags": feature_flags(),
        b"/zookeeper/features": json.dumps({name: int(op) for name, op in NAMES.items()}).encode(),
    }

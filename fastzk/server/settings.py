"""Settings of a server before their values are read: the names and texts of files and flags, and their places."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastzk.server.config_keys import PREFIX, Effect, Key, find_key, nearest_name, port_or_any, quote
from fastzk.server.properties import DEFAULT, JAVA_BLANKS, ConfigError, Where, parse_properties


@dataclass(frozen=True, slots=True)
class Setting:
    """One key as it was set: ``name`` is how it was called there, ``text`` its value, trimmed."""

    key: Key
    name: str
    text: str
    where: Where

    def error(self, message: str) -> ConfigError:
        """The error to raise for this setting."""
        return ConfigError(message, self.where, self.name)

    def value(self) -> Any:
        """What the key's reader makes of the text. Raises ConfigError."""
        read = port_or_any if self.key.name == "clientPort" and self.where.flag else self.key.read
        try:
            return read(self.text)
        except ValueError as error:
            message = "the value is empty" if not self.text else str(error)
            raise self.error("the value is wrong" if self.key.secret else message) from None


#: Fields of keys that give access: a line that ZooKeeper ignores must not do so here.
_OPENING = ("skip_acl", "super_digest", "x509_super_user", "sasl_super_password")


class Settings(dict[str, Setting]):
    """The last setting of each key, by its name in the table (of a family's key: by its own).

    ``warnings``: lines for the log. ``servers_version``: the entry ``version`` of the file of the servers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.servers_version: tuple[str, Where] | None = None

    def place(self, name: str) -> Where:
        """Where the key ``name`` was set, DEFAULT if nowhere."""
        setting = self.get(name)
        return setting.where if setting else DEFAULT

    def put(self, name: str, text: str, where: Where) -> None:
        """Take one setting, or a warning if there is no such key. ``name`` may begin with ``zookeeper.``."""
        key = find_key(name)
        if key is None:
            nearest = nearest_name(name)
            hint = f" (did you mean {nearest!r}?)" if nearest else ""
            place = "--set" if where.flag else where
            self.warnings.append(f"{place}: unknown key {quote(name)}{hint}")
            return
        bare = name
        if name.startswith(PREFIX) and not key.native:
            bare = name.removeprefix(PREFIX)
            if where.path and (key.field in _OPENING or key.name == "superUser.NAME"):
                # ZooKeeper ignores such a line: one that slept in a file for years must not open the data.
                self.warnings.append(f"{where}: {name}: ignored, as by ZooKeeper: its name in a file is {bare}")
                return
            if where.path:
                self.warnings.append(f"{where}: {name}: taken as {bare}, which is its name in a file")
        known = bare if key.family else key.name
        earlier = self.get(known)
        if earlier and earlier.where.path and where.path:
            self.warnings.append(f"{where}: {name}: set again, replaces the value of {earlier.where}")
        # A family's key is called by its bare name: server.1, whatever its prefix.
        self[known] = Setting(key, bare, text, where)

    def read_file(self, path: Path, blame: Where | None = None) -> None:
        """Take every entry of a file; of that with the servers, which ``blame`` names. Raises ConfigError."""
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            if blame:
                raise ConfigError(f"cannot read {str(path)!r}: {reason}", blame, "dynamicConfigFile") from None
            raise ConfigError(f"cannot read the file: {reason}", Where(path)) from None
        for entry in parse_properties(content, path):
            name, where = entry.name.strip(JAVA_BLANKS), Where(path, entry.line)
            if blame and not name.startswith(("server.", "group.", "weight.")) and name != "version":
                raise ConfigError("has no place in the file of the servers: move it to zoo.cfg", where, name)
            if blame and name == "version":
                self.servers_version = (entry.value.strip(JAVA_BLANKS), where)
            else:
                self.put(name, entry.value.strip(JAVA_BLANKS), where)

    def name_what_is_ignored(self) -> None:
        """Put the keys without effect into the warnings, in one line for each reason."""
        for effect, words in (
            (Effect.LATER, "accepted, without effect yet"),
            (Effect.NEVER, "accepted, without meaning here"),
        ):
            names = [setting.name for setting in self.values() if setting.key.effect is effect]
            if names:
                self.warnings.append(f"{words}: {', '.join(names)}")

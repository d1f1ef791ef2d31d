"""zoo.cfg, flags and defaults: what is read, what is refused, and with which words."""

from __future__ import annotations

import dataclasses
import logging
import operator
import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastzk.server import config_keys
from fastzk.server.config import (
    Config,
    ConfigError,
    create_data_directories,
    effective_lines,
    load_config,
)
from fastzk.server.config_keys import KEYS, Effect, find_key, nearest_name
from fastzk.server.ensemble_config import EnsembleConfig, QuorumTls
from fastzk.server.errors import StartupError
from fastzk.server.logs import LineFormatter, setup_logging
from fastzk.server.properties import Property, escape_value, parse_properties
from fastzk.server.zab.quorum import Hierarchical, Membership

# A busy machine must not fail a test.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are called ``zoo.cfg`` in messages, and ``./data`` is nobody else's."""
    monkeypatch.chdir(tmp_path)


def load(*lines: str, flags: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file that has ``dataDir=data`` as its first line, then ``lines``."""
    Path("zoo.cfg").write_text("\n".join(["dataDir=data", *lines]))
    return load_config(Path("zoo.cfg"), list((flags or {}).items()), environ or {})


def error_of(*lines: str, flags: Mapping[str, str] | None = None) -> str:
    before = sorted(Path().rglob("*"))
    with pytest.raises(ConfigError) as caught:
        load(*lines, flags=flags)
    assert set(Path().rglob("*")) - set(before) <= {Path("zoo.cfg")}
    message = str(caught.value)
    assert message.isprintable()
    return message


def properties(text: str) -> list[Property]:
    return list(parse_properties(text.encode("latin-1"), Path("zoo.cfg")))


# ---- the syntax of Java's properties


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tickTime=2000", [(1, "tickTime", "2000")]),
        ("tickTime:2000", [(1, "tickTime", "2000")]),
        ("tickTime 2000", [(1, "tickTime", "2000")]),
        (" \t\ftickTime \t=\f 2000 ", [(1, "tickTime", "2000 ")]),
        ("a = = b", [(1, "a", "= b")]),
        ("a==b", [(1, "a", "=b")]),
        ("a", [(1, "a", "")]),
        ("=b", [(1, "", "b")]),
        ("# a=1\n  ! b=2\n\n \t\nc=3", [(5, "c", "3")]),
        ("a=1\r\nb=2\rc=3\n", [(1, "a", "1"), (2, "b", "2"), (3, "c", "3")]),
        ("a=1,\\\n   2,\\\r\n\t3\nb=4", [(1, "a", "1,2,3"), (4, "b", "4")]),
        ("a=1\\\n# not a comment", [(1, "a", "1# not a comment")]),
        ("# a comment does not go on \\\na=1", [(2, "a", "1")]),
        ("a=1\\\n\nb=2", [(1, "a", "1"), (3, "b", "2")]),
        ("\\\n\nb=2", [(3, "b", "2")]),
        ("\\\n# a=1\nb=2", [(3, "b", "2")]),
        ("a=1\\", [(1, "a", "1")]),
        ("a=c:\\\\x\\\\\nb=2", [(1, "a", "c:\\x\\"), (2, "b", "2")]),
        ("a\\ b\\:c\\=d=e", [(1, "a b:c=d", "e")]),
        ("a=\\u00e9\\t\\n\\r\\f\\z\\u005c", [(1, "a", "é\t\n\r\fz\\")]),
        ("a=\\ud83d\\ude00", [(1, "a", "\U0001f600")]),
        ("a=1\na=2", [(1, "a", "1"), (2, "a", "2")]),
        ("a=\xe9", [(1, "a", "é")]),
    ],
)
def test_syntax(text: str, expected: list[tuple[int, str, str]]) -> None:
    assert properties(text) == expected


def test_a_file_in_utf8_is_read_as_such() -> None:
    content = b"\xef\xbb\xbf" + "a=é".encode()
    assert list(parse_properties(content, Path("zoo.cfg"))) == [Property(1, "a", "é")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\na=\\u12",
            "zoo.cfg:2: \\u must be followed by four hexadecimal digits; write \\\\ for a backslash",
        ),
        (
            "a=C:\\users",
            "zoo.cfg:1: \\u must be followed by four hexadecimal digits; write \\\\ for a backslash",
        ),
        ("a=\\ud83d", "zoo.cfg:1: a \\u escape is half of a character: its other half is missing"),
    ],
)
def test_bad_escapes(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        properties(text)
    assert str(caught.value) == message


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_entries_or_a_config_error(content: bytes) -> None:
    try:
        entries = list(parse_properties(content, Path("zoo.cfg")))
    except ConfigError:
        # A bad escape is the only way to fail.
        assert b"\\u" in content
        return
    lines = [entry.line for entry in entries]
    assert lines == sorted(set(lines))
    assert len(lines) <= len(re.split(rb"\r\n|\r|\n", content))


@unhurried
@given(st.text(st.characters(codec="utf-8")), st.sampled_from(["=", ":", " ", " = ", "\t:\f"]))
def test_an_escaped_value_is_read_back(value: str, separator: str) -> None:
    line = f"key{separator}{escape_value(value)}"
    assert line.isascii()
    if value:
        # Without a value a blank is no separator but the end of the key; the value is empty in any case.
        assert properties(line) == [(1, "key", value)]
    else:
        assert properties(line) == [(1, "key", "")]


# ---- values


def test_without_arguments() -> None:
    config = load_config(None, [], {})
    data = Path("data").absolute()
    assert config == Config(data_dir=data, data_log_dir=data)
    assert (config.client_address, config.client_port) == ("127.0.0.1", 2181)
    assert (config.tick_time_ms, config.min_session_timeout_ms, config.max_session_timeout_ms) == (
        3000,
        6000,
        60000,
    )
    assert config.warnings == ()
    assert not data.exists()


def test_the_sample_of_zookeeper_is_read_without_a_warning() -> None:
    config = load("tickTime=2000", "initLimit=10", "syncLimit=5", "clientPort=2181")
    assert config.warnings == ()
    assert (config.client_address, config.client_port) == ("", 2181)
    assert (config.min_session_timeout_ms, config.max_session_timeout_ms) == (4000, 40000)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("tickTime=+0500", "tick_time_ms", 500),
        ("minSessionTimeout=-1", "min_session_timeout_ms", 6000),
        ("minSessionTimeout=1", "min_session_timeout_ms", 1),
        ("maxSessionTimeout=90000", "max_session_timeout_ms", 90000),
        ("maxClientCnxns=0", "max_client_cnxns", 0),
        ("maxCnxns=7", "max_cnxns", 7),
        ("jute.maxbuffer=0x1ffff", "jute_maxbuffer", 0x1FFFF),
        ("globalOutstandingLimit=5", "global_outstanding_limit", 5),
        ("4lw.commands.whitelist=stat, ruok,", "four_letter_whitelist", frozenset({"srvr", "stat", "ruok"})),
        ("4lw.commands.whitelist=*", "four_letter_whitelist", config_keys.FOUR_LETTER_COMMANDS | {"*"}),
        ("snapCount=1000", "snap_count", 1000),
        ("preAllocSize=64", "pre_alloc_size_kb", 64),
        ("autopurge.snapRetainCount=5", "autopurge_snap_retain_count", 5),
        ("autopurge.purgeInterval=24", "autopurge_purge_interval", timedelta(days=1)),
        ("autopurge.purgeInterval=90m", "autopurge_purge_interval", timedelta(minutes=90)),
        ("autopurge.purgeInterval=250MS", "autopurge_purge_interval", timedelta(milliseconds=250)),
        ("clientPortListenBacklog=100", "listen_backlog", 100),
        ("skipACL=yes", "skip_acl", True),
        ("extendedTypesEnabled=TRUE", "extended_types_enabled", True),
        ("datadir.autocreate=true", "data_dir_autocreate", True),
        ("DigestAuthenticationProvider.digestAlg=SHA-256", "digest_alg", "sha256"),
        ("DigestAuthenticationProvider.superDigest=super:abc", "super_digest", "super:abc"),
        ("dataLogDir=log", "data_log_dir", Path("log")),
        ("dataLogDir=data/log", "data_log_dir", Path("data/log")),
        ("clientPortAddress=[::1]", "client_address", "::1"),
        ("clientPortAddress=0.0.0.0", "client_address", ""),
    ],
)
def test_a_value_arrives_in_its_field(line: str, field: str, value: object) -> None:
    config = load("clientPort=2182", line)
    assert getattr(config, field) == (value.absolute() if isinstance(value, Path) else value)
    assert config.warnings == ()


NUMBER = "is not a whole number"
PORT = "is not a port number from 1 to 65535"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("tickTime=abc", f"'abc' {NUMBER} of milliseconds"),
        ("tickTime=", "the value is empty"),
        ("tickTime=2_000", f"'2_000' {NUMBER} of milliseconds"),
        ("tickTime=\u0662", f"'\u0662' {NUMBER} of milliseconds"),
        ("tickTime=0", "'0' is out of range: choose 1 to 107374182 milliseconds"),
        ("tickTime=-5", "'-5' is out of range: choose 1 to 107374182 milliseconds"),
        (
            "tickTime=99999999999999999999",
            "'99999999999999999999' is out of range: choose 1 to 107374182 milliseconds",
        ),
        ("minSessionTimeout=-2", "'-2' is out of range: choose -1 to 2147483647 milliseconds"),
        (
            "maxSessionTimeout=0",
            "'0' is out of range: choose 1 to 2147483647 milliseconds, or -1 for the default",
        ),
        ("maxClientCnxns=-1", "'-1' is out of range: choose 0 to 2147483647"),
        ("maxCnxns=many", f"'many' {NUMBER}"),
        ("jute.maxbuffer=1M", f"'1M' {NUMBER} of bytes"),
        ("jute.maxbuffer=4", "'4' is out of range: choose 16 to 2147483647 bytes"),
        ("globalOutstandingLimit=0", "'0' is out of range: choose 1 to 2147483647"),
        ("snapCount=x", f"'x' {NUMBER}"),
        ("preAllocSize=0", "'0' is out of range: choose 1 to 16777216 kilobytes"),
        (
            "autopurge.purgeInterval=5w",
            "'5w' is not a whole number of hours, or one with ms, s, m, h or d",
        ),
        ("autopurge.purgeInterval=9999d", "'9999d' is out of range: choose ten years or less"),
        ("clientPort=0", f"'0' {PORT}"),
        ("clientPort=65536", f"'65536' {PORT}"),
        ("clientPort=-1", f"'-1' {PORT}"),
        ("secureClientPort=x", f"'x' {PORT}"),
        ("admin.serverPort=70000", f"'70000' {PORT}"),
        ("clientPortAddress=a b", "'a b' is not an address or host name"),
        ("clientPortListenBacklog=-2", "'-2' is out of range: choose -1 to 2147483647"),
        ("skipACL=true", "'true' is neither yes nor no (in lower case)"),
        ("extendedTypesEnabled=yes", "'yes' is neither true nor false"),
        ("reconfigEnabled=1", "'1' is neither true nor false"),
        ("initLimit=ten", f"'ten' {NUMBER}"),
        ("electionAlg=0", "'0' is out of range: choose 3 to 3"),
        ("peerType=boss", "'boss' is not one of: participant, observer"),
        ("dataLogDir=", "the value is empty"),
        ("dataLogDir=a\\u0000b", "'a\\x00b' is not a directory's path"),
        ("snapCount=" + "9" * 70, f"'{'9' * 57}...' {NUMBER}"),
    ],
)
def test_a_bad_value_is_named_with_its_line(line: str, problem: str) -> None:
    key = line.partition("=")[0]
    assert error_of("# a comment", line) == f"zoo.cfg:3: {key}: {problem}"


def test_a_digest_must_be_known() -> None:
    message = error_of("DigestAuthenticationProvider.digestAlg=MD6")
    assert message.startswith("zoo.cfg:2: DigestAuthenticationProvider.digestAlg: 'MD6' is not a known digest: choose")


def test_an_error_tells_its_parts() -> None:
    with pytest.raises(ConfigError) as caught:
        load("tickTime=abc")
    error = caught.value
    assert (error.path, error.line, error.flag, error.key) == (Path("zoo.cfg"), 2, None, "tickTime")
    with pytest.raises(ConfigError) as caught:
        load_config(None, [("--client-port", "abc")], {})
    error = caught.value
    assert (error.path, error.line, error.flag, error.key) == (None, None, "--client-port", "clientPort")


# ---- flags


def test_flags_count_more_than_the_file_and_the_last_more_than_the_first() -> None:
    flags = {
        "--data-dir": "other",
        "--client-port": "0",
        "--client-address": "localhost",
        " tickTime ": " 5 ",
    }
    config = load("clientPort=2181", "tickTime=1", flags=flags)
    assert config.data_dir == Path("other").absolute()
    assert (config.client_port, config.client_address, config.tick_time_ms) == (0, "localhost", 5)
    assert config.warnings == ()
    twice = load_config(None, [("zookeeper.snapCount", "7"), ("snapCount", "8")], {})
    assert (twice.snap_count, twice.warnings) == (8, ())


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        (
            "--client-port",
            "65536",
            "--client-port: '65536' is not a port number from 0 to 65535 (0 takes any free one)",
        ),
        ("--client-address", "", "--client-address: the value is empty"),
        ("--data-dir", "a\nb/c", "--data-dir: 'DIR/a\\nb/c' cannot be created: create 'DIR/a\\nb' first"),
        ("tickTime", "abc", "--set tickTime: 'abc' is not a whole number of milliseconds"),
        ("--log-level", "loud", "--log-level: 'loud' is not one of: debug, info, warning, error, critical"),
    ],
)
def test_a_bad_flag_is_named(flag: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [(flag, value)], {})
    assert str(caught.value) == message.replace("DIR", str(Path.cwd()))


def test_log_level() -> None:
    assert load_config(None, [], {"FASTZK_LOG_LEVEL": "DEBUG"}).log_level == "debug"
    assert load_config(None, [("--log-level", "error")], {"FASTZK_LOG_LEVEL": "debug"}).log_level == "error"
    with pytest.raises(ConfigError, match=r"^FASTZK_LOG_LEVEL: 'x' is not one of: debug"):
        load_config(None, [], {"FASTZK_LOG_LEVEL": "x"})


# ---- warnings


def test_unknown_keys_come_with_the_nearest_one() -> None:
    config = load("clientPort=2181", "tickTme=5", "whatIsThis=1", "CLIENTPORT=3", flags={"snapCont": "9"})
    assert config.warnings == (
        "zoo.cfg:3: unknown key 'tickTme' (did you mean 'tickTime'?)",
        "zoo.cfg:4: unknown key 'whatIsThis'",
        "zoo.cfg:5: unknown key 'CLIENTPORT' (did you mean 'clientPort'?)",
        "--set: unknown key 'snapCont' (did you mean 'snapCount'?)",
    )
    assert config.client_port == 2181


def test_what_is_ignored_is_named_once() -> None:
    config = load(
        "clientPort=2181",
        "admin.enableServer=true",
        "forceSync=no",
        "kerberos.canonicalizeHostNames=true",
        "ssl.authProvider=other",
        "jvm.pause.monitor=true",
        "ssl.provider=OPENSSL",
        "initLimit=5",
    )
    assert config.warnings == (
        "accepted, without effect yet: admin.enableServer, kerberos.canonicalizeHostNames, ssl.authProvider",
        "accepted, without meaning here: forceSync, jvm.pause.monitor, ssl.provider",
    )


def test_duplicates() -> None:
    config = load("clientPort=1", "tickTime=abc", "clientPort=2", "tickTime=7")
    assert (config.client_port, config.tick_time_ms) == (2, 7)
    assert config.warnings == (
        "zoo.cfg:4: clientPort: set again, replaces the value of zoo.cfg:2",
        "zoo.cfg:5: tickTime: set again, replaces the value of zoo.cfg:3",
    )


def test_a_prefix_in_the_file() -> None:
    config = load("clientPort=2181", "zookeeper.snapCount=9", "zookeeper.tickTime=9", "zookeeper.skipACL=yes")
    assert (config.snap_count, config.tick_time_ms, config.skip_acl) == (9, 3000, False)
    assert config.warnings == (
        "zoo.cfg:3: zookeeper.snapCount: taken as snapCount, which is its name in a file",
        "zoo.cfg:4: unknown key 'zookeeper.tickTime' (did you mean 'tickTime'?)",
        "zoo.cfg:5: zookeeper.skipACL: ignored, as by ZooKeeper: its name in a file is skipACL",
    )


def test_numbers_that_zookeeper_mends() -> None:
    config = load("clientPort=2181", "snapCount=-5", "autopurge.snapRetainCount=1")
    assert (config.snap_count, config.autopurge_snap_retain_count) == (2, 3)
    assert config.warnings == (
        "zoo.cfg:3: snapCount: -5 is too small, 2 it is",
        "zoo.cfg:4: autopurge.snapRetainCount: 1 is too small, 3 it is",
    )


def test_an_unknown_word_in_the_whitelist() -> None:
    config = load("clientPort=2181", "4lw.commands.whitelist=ruok,ruin")
    assert config.warnings == ("zoo.cfg:3: 4lw.commands.whitelist: no such four-letter word: 'ruin'",)


# ---- secrets


def test_secrets_are_not_shown() -> None:
    config = load("clientPort=2181", "DigestAuthenticationProvider.superDigest=hush-hush")
    assert config.super_digest == "hush-hush"
    shown = [repr(config), *config.warnings, *effective_lines(config)]
    assert "hush" not in " ".join(shown)
    assert "DigestAuthenticationProvider.superDigest=***" in shown
    assert config.warnings == (
        "zoo.cfg:3: DigestAuthenticationProvider.superDigest: is not user:digest, so nobody can use it",
    )
    assert "superDigest" not in " ".join(effective_lines(load("clientPort=2181")))


# ---- the configuration as a whole


def test_a_config_cannot_be_changed() -> None:
    config = load_config(None, [], {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.client_port = 1  # type: ignore[misc]
    assert not hasattr(config, "__dict__")


def test_session_timeouts_must_fit_each_other() -> None:
    assert error_of("minSessionTimeout=9000", "maxSessionTimeout=8000") == (
        "zoo.cfg:2: minSessionTimeout: 9000 is greater than maxSessionTimeout 8000 (zoo.cfg:3)"
    )
    assert error_of("tickTime=10", "minSessionTimeout=300") == (
        "zoo.cfg:3: minSessionTimeout: 300 is greater than maxSessionTimeout 200 (20 ticks of 10 ms, zoo.cfg:2)"
    )
    assert error_of("minSessionTimeout=-1", "maxSessionTimeout=5999") == (
        "zoo.cfg:3: maxSessionTimeout: 5999 is less than minSessionTimeout 6000 (2 ticks of 3000 ms)"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["clientPort=2181", "secureClientPort=2181"],
            "zoo.cfg:3: secureClientPort: port 2181 is also that of clientPort (zoo.cfg:2)",
        ),
        (
            ["admin.serverPort=8080", "clientPort=8080"],
            "zoo.cfg:2: admin.serverPort: port 8080 is also that of clientPort (zoo.cfg:3)",
        ),
        (
            ["clientPort=2181", "metricsProvider.httpPort=7000", "admin.serverPort=7000"],
            "zoo.cfg:3: metricsProvider.httpPort: port 7000 is also that of admin.serverPort (zoo.cfg:4)",
        ),
        (
            ["clientPort=2888", "server.1=localhost:2888:3888"],
            "zoo.cfg:3: the quorum port of server.1: port 2888 is also that of clientPort (zoo.cfg:2)",
        ),
        (
            ["clientPort=3888", "clientPortAddress=127.0.0.1", "server.1=localhost:2888:3888"],
            "zoo.cfg:4: the election port of server.1: port 3888 is also that of clientPort (zoo.cfg:2)",
        ),
        (
            ["server.1=localhost:2888:3888;3888"],
            "zoo.cfg:2: the election port of server.1: port 3888 is also that of the client port of server.1 "
            "(zoo.cfg:2)",
        ),
        (
            ["server.1=localhost:2888:2888;2181"],
            "zoo.cfg:2: server.1: port 2888 is named twice: the two ports of a server must differ",
        ),
        (
            ["admin.serverPort=2181"],
            "zoo.cfg:2: admin.serverPort: port 2181 is also that of clientPort (default)",
        ),
    ],
)
def test_two_listeners_on_one_port(lines: list[str], message: str) -> None:
    assert error_of(*lines) == message


@pytest.mark.parametrize(
    "lines",
    [
        ["clientPort=8080", "admin.serverPort=8080", "admin.enableServer=false"],
        [
            "clientPort=8080",
            "clientPortAddress=127.0.0.1",
            "admin.serverPort=8080",
            "admin.serverAddress=10.0.0.1",
        ],
        ["clientPort=2888", "clientPortAddress=127.0.0.1", "server.1=10.0.0.1:2888:3888"],
        ["clientPort=2181", "observerMasterPort=0"],
    ],
)
def test_ports_that_do_not_meet(lines: list[str]) -> None:
    assert load(*lines).client_port == int(lines[0].partition("=")[2])


def test_a_client_port_by_flag_may_collide_too() -> None:
    assert error_of("clientPort=1", "secureClientPort=99", flags={"--client-port": "99"}) == (
        "zoo.cfg:3: secureClientPort: port 99 is also that of clientPort (--client-port)"
    )


# ---- where it listens


def test_only_a_file_with_a_client_port_listens_on_every_interface() -> None:
    assert load("clientPort=2182").client_address == ""
    silent = load("tickTime=2000")
    assert (silent.client_address, silent.client_port) == ("127.0.0.1", 2181)
    assert silent.warnings == ("zoo.cfg: clientPort is not set: serving 127.0.0.1:2181",)
    assert load("tickTime=2000", flags={"--client-port": "5"}).client_address == "127.0.0.1"
    assert load("clientPort=2182", flags={"--client-address": "::1"}).client_address == "::1"


def test_an_address_needs_its_port() -> None:
    assert error_of("clientPortAddress=localhost") == (
        "zoo.cfg:2: clientPortAddress: is set, but clientPort is not: add it"
    )
    assert load("clientPortAddress=localhost", flags={"--client-port": "5"}).client_address == "localhost"


def test_tls_beside_plain_text_or_alone() -> None:
    both = load("secureClientPort=2281", "clientPort=2181")
    assert (both.client_port, both.secure_client_port, both.secure_client_address) == (2181, 2281, "")
    assert both.serves_tls
    alone = load("secureClientPort=2281", "secureClientPortAddress=127.0.0.1")
    assert (alone.client_port, alone.secure_client_port) == (None, 2281)
    assert alone.secure_client_address == "127.0.0.1"
    assert alone.warnings == both.warnings == ()
    by_flag = load("clientPort=2181", flags={"secureClientPort": "2281"})
    assert by_flag.secure_client_address == "127.0.0.1"
    assert error_of("clientPort=1", "secureClientPortAddress=localhost") == (
        "zoo.cfg:3: secureClientPortAddress: is set, but secureClientPort is not: add it"
    )
    assert not load("clientPort=2181").serves_tls
    assert load("clientPort=2181", "client.portUnification=true").serves_tls


# ---- authentication


def test_the_authentication_schemes() -> None:
    package = "org.apache.zookeeper.server.auth"
    assert load("clientPort=1").auth_schemes == {"ip", "digest"}
    assert load("secureClientPort=1").auth_schemes == {"ip", "digest", "x509"}
    sasl = f"authProvider.1={package}.SASLAuthenticationProvider"
    config = load("clientPort=1", sasl, "authProvider.2=a.B")
    assert config.auth_schemes == {"ip", "digest", "sasl"}
    assert config.warnings == ("zoo.cfg:4: authProvider.2: no authentication provider known here: 'a.B'",)


def test_what_clients_must_have() -> None:
    sasl = "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
    jaas = "java.security.auth.login.config=jaas.conf"
    assert load("clientPort=1", "enforce.auth.schemes=digest").required_schemes == ()
    config = load("clientPort=1", "enforce.auth.enabled=true", "enforce.auth.schemes=digest, sasl", sasl)
    assert config.required_schemes == ("digest", "sasl")
    assert load("clientPort=1", "sessionRequireClientSASLAuth=true", sasl, jaas).required_schemes == ("sasl",)
    assert error_of("clientPort=1", "enforce.auth.enabled=true") == (
        "zoo.cfg:3: enforce.auth.enabled: is true, but enforce.auth.schemes is not set: add it"
    )
    assert error_of("clientPort=1", "sessionRequireClientSASLAuth=true", jaas) == (
        "zoo.cfg:3: sessionRequireClientSASLAuth: the authentication scheme 'sasl' is not available: "
        "add its authProvider.NAME"
    )
    assert error_of("clientPort=1", "sessionRequireClientSASLAuth=true", sasl) == (
        "zoo.cfg:3: sessionRequireClientSASLAuth: no client could have the scheme 'sasl': "
        "set java.security.auth.login.config"
    )


def test_a_line_that_zookeeper_ignores_makes_nobody_super() -> None:
    x509 = "X509AuthenticationProvider.superUser=CN=b"
    config = load("clientPort=1", "zookeeper.superUser.a=bob", f"zookeeper.{x509}")
    assert (config.super_users, config.x509_super_user) == ((), None)
    assert len(config.warnings) == 2
    config = load("clientPort=1", "superUser=bob", "superUser.2=eve", x509)
    assert config.super_users == (("superUser", "bob"), ("superUser.2", "eve"))
    assert config.x509_super_user == "CN=b"


# ---- server lines


@pytest.mark.parametrize(
    ("line", "address", "port"),
    [
        ("server.1=localhost:2888:3888;2182", "", 2182),
        ("server.1=localhost:2888:3888:participant;127.0.0.1:2182", "127.0.0.1", 2182),
        ("server.0=[::1]:2888:3888;[::1]:2182;2281", "::1", 2182),
        ("server.1=a:2888:3888|b:2889:3889;2182", "", 2182),
    ],
)
def test_one_server_line_is_a_standalone_server(line: str, address: str, port: int) -> None:
    config = load(line)
    name, _, text = line.partition("=")
    assert (config.client_address, config.client_port, config.server_id) == (address, port, None)
    assert config.servers == ((int(name[7:]), text),)


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "localhost:2888",
        "a:1:2:3:4",
        ":1:2",
        "a:1:2:boss",
        "a:1:2;3;4;5",
        "a:1:2;b:c:3",
        "[::1]",
        "",
        "|",
    ],
)
def test_a_malformed_server_line(text: str) -> None:
    message = error_of("clientPort=2181", f"server.1={text}")
    assert message.startswith(f"zoo.cfg:3: server.1: '{text}' is not of the form host:port:port[:role][;")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["clientPort=2181", "server.1=a:2888:3888:observer"],
            "zoo.cfg:3: server.1: an observer needs other servers: a single one is a participant",
        ),
        (["server.x=a:1:2"], "zoo.cfg:2: server.x: a server's number is a whole number from 0 to 255"),
        (["server.1=a:1:x"], "zoo.cfg:2: server.1: 'x' is not a whole number"),
        (["server.1=a:1:2;0"], "zoo.cfg:2: server.1: '0' is out of range: choose 1 to 65535"),
        (["server.1=a b:1:2"], "zoo.cfg:2: server.1: 'a b' is not an address or host name"),
        (
            ["clientPort=2181", "server.1=a:1:2;2182"],
            "zoo.cfg:2: clientPort: 2181 differs from port 2182 of server.1 (zoo.cfg:3)",
        ),
        (
            ["clientPort=2181", "clientPortAddress=localhost", "server.1=a:1:2;2181"],
            "zoo.cfg:3: clientPortAddress: localhost differs from the address of server.1 (zoo.cfg:4)",
        ),
    ],
)
def test_server_lines_that_are_refused(lines: list[str], message: str) -> None:
    assert error_of(*lines) == message


def test_the_file_of_the_servers() -> None:
    servers = Path("zoo.cfg.dynamic")
    servers.write_text("version=100000000\nserver.1=localhost:2888:3888;2182\n")
    config = load("dynamicConfigFile=zoo.cfg.dynamic")
    assert (config.client_port, config.servers) == (2182, ((1, "localhost:2888:3888;2182"),))
    assert error_of("dynamicConfigFile=zoo.cfg.dynamic", "server.1=a:1:2") == (
        "zoo.cfg:3: server.1: must stand in the file that dynamicConfigFile names (zoo.cfg:2)"
    )
    servers.write_text("tickTime=2000\n")
    assert error_of("dynamicConfigFile=zoo.cfg.dynamic") == (
        "zoo.cfg.dynamic:1: tickTime: has no place in the file of the servers: move it to zoo.cfg"
    )
    servers.unlink()
    assert error_of("dynamicConfigFile=zoo.cfg.dynamic") == (
        "zoo.cfg:2: dynamicConfigFile: cannot read 'zoo.cfg.dynamic': No such file or directory"
    )


# ---- ensembles

LIMITS = ("initLimit=10", "syncLimit=5")
SERVERS = tuple(f"server.{each}=h{each}:2888:3888;2181" for each in (1, 2, 3))
MYID = Path("data/myid")


def load_member(*lines: str, my_id: str = "1", flags: Mapping[str, str] | None = None) -> EnsembleConfig:
    """The ensemble's part of the configuration of the server ``my_id``."""
    MYID.parent.mkdir(exist_ok=True)
    MYID.write_text(my_id)
    ensemble = load(*lines, flags=flags).ensemble
    assert ensemble is not None
    return ensemble


def error_of_member(*lines: str, my_id: str = "1") -> str:
    MYID.parent.mkdir(exist_ok=True)
    MYID.write_text(my_id)
    return error_of(*lines)


def test_the_servers_of_an_ensemble() -> None:
    ensemble = load_member("tickTime=200", *LIMITS, *SERVERS, "server.9=h9:2888:3888:observer", my_id="2")
    text = "\n".join(
        [
            *(f"server.{each}=h{each}:2888:3888:participant;0.0.0.0:2181" for each in (1, 2, 3)),
            "server.9=h9:2888:3888:observer",
            "version=0",
        ]
    )
    assert ensemble.membership == Membership.parse(text)
    assert ensemble.membership.text() == text
    assert (ensemble.my_id, ensemble.me.host) == (2, "h2")
    assert (ensemble.init_limit_ms, ensemble.sync_limit_ms, ensemble.connect_limit_ms) == (2000, 1000, 2000)
    config = load("tickTime=200", *LIMITS, *SERVERS)
    assert (config.client_address, config.client_port, config.server_id) == ("", 2181, 2)
    assert config.servers == tuple((each, f"h{each}:2888:3888;2181") for each in (1, 2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        ensemble.my_id = 3  # type: ignore[misc]


def test_the_cfg_of_kazoos_harness() -> None:
    servers = [
        "server.1=localhost:20002:20001:participant",
        "server.2=localhost:20012:20011:participant",
        "server.3=localhost:20022:20021:observer",
        "server.4=localhost:20032:20031:participant",
    ]
    lines = [
        "tickTime=2000",
        "clientPort=20000",
        "secureClientPort=20005",
        "reconfigEnabled=true",
        "localSessionsEnabled=true",
        "localSessionsUpgradingEnabled=true",
        "initLimit=4",
        "syncLimit=2",
        *servers,
        "peerType=observer",
    ]
    ensemble = load_member(*lines, my_id="3", flags={"readonlymode.enabled": "true"})
    assert load(*lines).warnings == ()
    assert ensemble.me.observer
    assert ensemble.reconfig_enabled
    assert ensemble.local_sessions_enabled
    assert ensemble.local_sessions_upgrading_enabled
    assert ensemble.read_only_mode_enabled
    assert ensemble.listen_addresses(ensemble.me) == (("localhost", 20022),)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("connectToLearnerMasterLimit=3", "connect_limit_ms", 9000),
        ("quorumListenOnAllIPs=true", "quorum_listen_on_all_ips", True),
        ("leaderServes=no", "leader_serves", False),
        ("commitLogCount=700", "commit_log_count", 700),
        ("sslQuorumReloadCertFiles=true", "ssl_quorum_reload_cert_files", True),
        ("electionAlg=3", "my_id", 1),
        ("portUnification=false", "ssl_quorum", False),
    ],
)
def test_a_key_for_ensembles(line: str, field: str, value: object) -> None:
    assert getattr(load_member(*LIMITS, *SERVERS, line), field) == value
    # A server alone takes it, too, and it means nothing.
    assert load("clientPort=2181", line).ensemble is None


def test_tls_between_servers() -> None:
    lines = [
        "sslQuorum=true",
        "ssl.quorum.keyStore.location=/a.p12",
        "ssl.quorum.keyStore.password=hush",
        "ssl.quorum.clientAuth=WANT",
        "ssl.keyStore.location=/b.p12",
    ]
    config = load_member(*LIMITS, *SERVERS, *lines)
    assert config.ssl_quorum
    assert config.tls == QuorumTls(
        ssl_key_store_path=Path("/a.p12"), ssl_key_store_password="hush", ssl_client_auth="want"
    )
    assert load(*LIMITS, *SERVERS, *lines).ssl_key_store_path == Path("/b.p12")
    assert "hush" not in repr(config) + "".join(effective_lines(load(*LIMITS, *SERVERS, *lines)))
    # Those of TLS for clients and between servers are called alike.
    assert {field.name for field in dataclasses.fields(QuorumTls)} <= {
        field.name for field in dataclasses.fields(Config)
    }
    assert error_of_member(*LIMITS, *SERVERS, "sslQuorum=true") == (
        "zoo.cfg:7: sslQuorum: is true, but ssl.quorum.keyStore.location is not set: add it"
    )


def test_groups_and_weights() -> None:
    ensemble = load_member(*LIMITS, *SERVERS, "group.1=1:2", "group.2=3", "weight.3=0")
    quorum = ensemble.membership.quorum
    assert isinstance(quorum, Hierarchical)
    assert (dict(quorum.groups), dict(quorum.weights)) == ({1: 1, 2: 1, 3: 2}, {1: 1, 2: 1, 3: 0})
    lines = effective_lines(load(*LIMITS, *SERVERS, "group.1=1:2", "group.2=3", "weight.3=0"))
    assert {"group.1=1:2", "group.2=3", "weight.3=0"} <= set(lines)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["initLimit=1"], "zoo.cfg: syncLimit is not set: add a line syncLimit=5"),
        (["syncLimit=1"], "zoo.cfg: initLimit is not set: add a line initLimit=10"),
        (["initLimit=0", "syncLimit=5"], "zoo.cfg:5: initLimit: is 0: an ensemble needs at least 1 tick"),
        ([*LIMITS, "server.01=h4:1:2"], "zoo.cfg:7: server.01: is the same server as server.1 (zoo.cfg:2)"),
        (
            [*LIMITS, "server.4=H2:3888:1"],
            "zoo.cfg:7: server.4: port 3888 of H2 is also that of server.2 (zoo.cfg:3)",
        ),
        (
            [*LIMITS, "server.4=h4:1:2|h3:2888:1"],
            "zoo.cfg:7: server.4: port 2888 of h3 is also that of server.3 (zoo.cfg:4)",
        ),
        (
            [*LIMITS, "portUnification=true"],
            "zoo.cfg:7: portUnification: plain text beside TLS between servers is not supported: set it to false",
        ),
        (
            [*LIMITS, "quorum.auth.enableSasl=true"],
            "zoo.cfg:7: quorum.auth.enableSasl: SASL between servers is not supported: use quorumSecretFile or "
            "sslQuorum",
        ),
        ([*LIMITS, "group.1=1:2"], "zoo.cfg:7: group.1: server 3 is in no group"),
        ([*LIMITS, "group.1=1:1"], "zoo.cfg:7: group.1: server 1 is in more than one group"),
        ([*LIMITS, "group.1=1:x"], "zoo.cfg:7: group.1: 'x' is not a whole number"),
        ([*LIMITS, "group.x=1"], "zoo.cfg:7: group.x: 'x' is not the number of a group"),
        ([*LIMITS, "weight.1=-1"], "zoo.cfg:7: weight.1: '-1' is out of range: choose 0 to 2147483647"),
        (
            [*LIMITS, "group.1=1:2:3", "weight.1=0", "weight.2=0", "weight.3=0"],
            "zoo.cfg:7: group.1: no participant's vote has any weight",
        ),
        (
            [*LIMITS, "clientPort=2182"],
            "zoo.cfg:7: clientPort: 2182 differs from port 2181 of server.1 (zoo.cfg:2)",
        ),
    ],
)
def test_ensembles_that_are_refused(lines: list[str], message: str) -> None:
    assert error_of_member(*SERVERS, *lines) == message


def test_who_of_the_ensemble_this_is() -> None:
    place = f"{Path.cwd()}/data/myid"
    assert error_of(*LIMITS, *SERVERS) == (
        f"{place}: the file is missing: write this server's number into it, that of its server line"
    )
    assert error_of_member(*LIMITS, *SERVERS, my_id="7") == (
        f"{place}:1: there is no line server.7 among server.1, server.2, server.3"
    )


def test_one_participant() -> None:
    alone, observer = "server.1=localhost:1:2;2181", "server.2=b:1:2:observer"
    MYID.parent.mkdir()
    MYID.write_text("1")
    assert load(alone, *LIMITS).ensemble is None
    assert load(alone).standalone_enabled
    assert error_of(alone, observer, *LIMITS) == (
        "zoo.cfg:3: server.2: an observer needs an ensemble: add participants, or standaloneEnabled=false for an "
        "ensemble of one"
    )
    assert load_member(alone, observer, *LIMITS, "standaloneEnabled=false").membership.voters == {1}
    assert load_member(alone, *LIMITS, "standaloneEnabled=false").membership.voters == {1}
    assert error_of("clientPort=2181", "standaloneEnabled=false") == (
        "zoo.cfg:3: standaloneEnabled: is false, but no server line names a participant: add them"
    )
    assert error_of("clientPort=1", observer, "server.3=c:1:2:observer") == (
        "zoo.cfg:3: server.2: only observers: an ensemble needs participants"
    )


def test_the_file_of_the_servers_of_an_ensemble() -> None:
    for name, inside, version in (
        ("zoo.cfg.dynamic", "", 0),
        ("zoo.cfg.dynamic.10000002a", "version=5", 0x10000002A),
        ("zoo.cfg.dynamic", "version=100000005", 0x100000005),
    ):
        Path(name).write_text("\n".join([*SERVERS, inside]))
        ensemble = load_member(*LIMITS, f"dynamicConfigFile={name}", my_id="3")
        assert (ensemble.membership.version, ensemble.me.host) == (version, "h3")
        assert ensemble.dynamic_config_path == Path(name).absolute()
    Path("zoo.cfg.dynamic").write_text("\n".join([*SERVERS, "version=x"]))
    assert error_of_member(*LIMITS, "dynamicConfigFile=zoo.cfg.dynamic") == (
        "zoo.cfg.dynamic:4: version: 'x' is not a hexadecimal number"
    )


def test_where_it_listens_for_servers() -> None:
    servers = ["server.1=a:1:2|[::1]:3:4", "server.2=0.0.0.0:1:2", "server.3=c:1:2"]
    ensemble = load_member(*LIMITS, "clientPort=2181", *servers)
    one, two = (ensemble.membership.members[each] for each in (1, 2))
    assert ensemble.listen_addresses(one) == (("a", 1), ("::1", 3))
    assert ensemble.listen_addresses(two) == (("", 1),)
    everywhere = load_member(*LIMITS, "clientPort=2181", *servers, "quorumListenOnAllIPs=true")
    assert everywhere.listen_addresses(one) == (("", 1), ("", 3))


def test_client_ports_of_an_ensemble() -> None:
    Path("data").mkdir()
    MYID.write_text("1")
    tls = ["server.1=a:1:2;10.0.0.1:2181;2281", "server.2=b:1:2;5", "server.3=c:1:2"]
    config = load(*LIMITS, *tls)
    assert (config.client_address, config.client_port) == ("10.0.0.1", 2181)
    assert (config.secure_client_address, config.secure_client_port) == ("", 2281)
    assert error_of(*LIMITS, *tls, "secureClientPort=2282") == (
        "zoo.cfg:7: secureClientPort: 2282 differs from port 2281 of server.1 (zoo.cfg:4)"
    )
    MYID.write_text("2")
    assert (load(*LIMITS, *tls).client_address, load(*LIMITS, *tls).client_port) == ("", 5)
    MYID.write_text("3")
    assert (load(*LIMITS, *tls, "clientPort=6").client_address, load(*LIMITS, *tls, "clientPort=6").client_port) == (
        "",
        6,
    )
    assert error_of(*LIMITS, *tls, "clientPort=1").startswith(
        "zoo.cfg:6: the quorum port of server.3: port 1 is also that of clientPort (zoo.cfg:7)"
    )


def test_warnings_about_ensembles() -> None:
    local = [f"server.{each}=localhost:{each}1:{each}2" for each in range(1, 5)]
    MYID.parent.mkdir()
    MYID.write_text("1")

    def warnings(*lines: str) -> tuple[str, ...]:
        return load("clientPort=2181", *LIMITS, *lines).warnings

    assert warnings(*local[:3]) == ()
    assert warnings(*local[:2]) == ("with two participants the ensemble stands still when either is away: have 3",)
    assert warnings(*local) == ("4 participants survive the loss of no more servers than 3 do",)
    assert warnings(*local[:3], "peerType=observer") == (
        "zoo.cfg:8: peerType: the line server.1 says participant (zoo.cfg:5), and that counts",
    )
    assert warnings(*local[:3], "commitLogCount=9", "cnxTimeout=5") == (
        "zoo.cfg:8: commitLogCount: 9 is too small, 500 it is",
        "accepted, without meaning here: cnxTimeout",
    )
    open_door = (
        "who reaches the quorum port may pass for a server of the ensemble: set quorumSecretFile, or sslQuorum",
    )
    assert warnings(*local[:3], "quorumListenOnAllIPs=true") == open_door
    tls = ["sslQuorum=true", "ssl.quorum.keyStore.location=/a.pem", "quorumListenOnAllIPs=true"]
    assert warnings(*local[:3], *tls) == ()
    assert warnings(*local[:3], *tls, "ssl.quorum.clientAuth=none") == open_door


def test_the_secret_of_the_servers() -> None:
    secret = Path("secret")
    lines = (*LIMITS, *SERVERS, "quorumSecretFile=secret")
    place = "zoo.cfg:7: quorumSecretFile: "
    here = Path.cwd() / "secret"
    assert error_of_member(*lines) == f"{place}cannot read '{here}': No such file or directory"
    secret.write_bytes(b"0123456789abcdef\n")
    secret.chmod(0o640)
    assert error_of_member(*lines) == f"{place}'{here}' has mode 0640: nobody else may read it, set 0600"
    secret.chmod(0o600)
    ensemble = load_member(*lines)
    assert (ensemble.quorum_secret, ensemble.quorum_secret_path) == (b"0123456789abcdef", here)
    assert "0123" not in repr(ensemble)
    assert load(*lines).warnings == ()
    for content in (b"short\n", b"x" * 4097):
        secret.write_bytes(content)
        assert error_of_member(*lines).startswith(f"{place}the secret in '{here}' has ")
    secret.unlink()
    os.mkfifo(secret, 0o600)
    assert error_of_member(*lines) == f"{place}'{here}' is not a file"
    # A server alone has nobody to share it with.
    assert load("clientPort=2181", "quorumSecretFile=secret").ensemble is None


def test_what_check_config_prints_of_an_ensemble_leads_to_it_again() -> None:
    first = load_member(
        *LIMITS, *SERVERS, "group.1=1:2:3", "leaderServes=no", "reconfigEnabled=true", "ssl.quorum.crl=true"
    )
    lines = effective_lines(load_config(Path("zoo.cfg"), [], {}))
    assert {"initLimit=10", "leaderServes=no", "reconfigEnabled=true", SERVERS[0]} <= set(lines)
    Path("zoo.cfg").write_text("\n".join(lines))
    assert load_config(Path("zoo.cfg"), [], {}).ensemble == first


def test_myid() -> None:
    Path("data").mkdir()
    myid = Path("data/myid")
    line = "server.1=localhost:2888:3888;2181"
    myid.write_text(" 1 \nrest\n")
    assert load(line).server_id == 1
    assert load("clientPort=2181").server_id is None
    myid.write_text("255\n")
    config = load(line)
    assert config.server_id == 255
    assert config.warnings == ("zoo.cfg:2: server.1: myid says 255; a single server does without",)
    place = f"{Path.cwd()}/data/myid:1: "
    assert error_of(line, "extendedTypesEnabled=true") == (
        f"{place}'255' is not a server's number: write a whole number from 0 to 254 when extendedTypesEnabled is true"
    )
    for text in ("", "one\n", "-1", "256", "\xff"):
        myid.write_text(text)
        message = error_of(line)
        assert message.startswith(place)
        assert message.endswith("is not a server's number: write a whole number from 0 to 255")


# ---- directories


def test_directories_must_be_possible() -> None:
    here = Path.cwd()
    assert error_of("dataLogDir=a/b") == (
        f"zoo.cfg:2: dataLogDir: '{here}/a/b' cannot be created: create '{here}/a' first"
    )
    Path("file").touch()
    Path("loop").symlink_to("loop")
    assert error_of("dataLogDir=file") == f"zoo.cfg:2: dataLogDir: '{here}/file' is not a directory"
    assert error_of("dataLogDir=loop") == f"zoo.cfg:2: dataLogDir: '{here}/loop' is not a directory"
    assert error_of("datadir.autocreate=false") == (
        f"zoo.cfg:1: dataDir: '{here}/data' does not exist and datadir.autocreate is false: create it"
    )
    Path("data").mkdir()
    assert load("clientPort=1", "datadir.autocreate=false").data_dir == here / "data"


def test_directories_must_be_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, to whom everything is permitted.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    here = Path.cwd()
    assert error_of() == f"zoo.cfg:1: dataDir: '{here}/data' cannot be created: no permission to write in '{here}'"
    Path("data").mkdir()
    assert error_of() == f"zoo.cfg:1: dataDir: no permission to use '{here}/data': change its owner or mode"
    assert load_config(Path("zoo.cfg"), [], {}, read_only=True).data_dir == here / "data"


def test_a_file_needs_data_dir_and_must_be_there() -> None:
    Path("zoo.cfg").write_text("clientPort=2181\n")
    with pytest.raises(ConfigError, match=r"^zoo\.cfg: dataDir is not set: add a line dataDir="):
        load_config(Path("zoo.cfg"), [], {})
    with pytest.raises(ConfigError, match=r"^none\.cfg: cannot read the file: No such file or directory$"):
        load_config(Path("none.cfg"), [], {})
    with pytest.raises(ConfigError, match=r"cannot read the file: Is a directory$"):
        load_config(Path.cwd(), [], {})


def test_creation_of_the_directories() -> None:
    config = load("dataDir=outer/data", "dataLogDir=outer", "clientPort=2181")
    create_data_directories(config)
    create_data_directories(config)
    assert [stat.S_IMODE(Path(name).stat().st_mode) for name in ("outer", "outer/data")] == [0o700, 0o700]
    Path("outer/data").rmdir()
    Path("outer/data").touch()
    with pytest.raises(StartupError, match=r"^cannot create the directory '.*/outer/data': File exists$"):
        create_data_directories(config)


# ---- the configuration in effect

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0."), min_size=1, max_size=20)
VALUES: dict[str, st.SearchStrategy[str]] = {
    "clientPortAddress": st.sampled_from(["localhost", "::1", "0.0.0.0", "10.1.2.3"]),
    "tickTime": st.integers(1, 100_000).map(str),
    "maxClientCnxns": st.integers(0, 2**31 - 1).map(str),
    "jute.maxbuffer": st.integers(16, 2**31 - 1).map(hex),
    "4lw.commands.whitelist": st.lists(st.sampled_from(["*", "stat", "ruok", "none"])).map(",".join),
    "snapCount": st.integers(-5, 2**31 - 1).map(str),
    "autopurge.purgeInterval": st.integers(0, 10**9).map("{}ms".format),
    "skipACL": st.sampled_from(["yes", "no"]),
    "extendedTypesEnabled": st.sampled_from(["true", "false"]),
    "DigestAuthenticationProvider.digestAlg": st.sampled_from(["SHA1", "sha-256", "MD5"]),
    "server.3": st.just("localhost:28888:38888"),
    "secureClientPort": st.just("28999"),
    "ssl.keyStore.location": st.just("/a/b c.p12"),
    "ssl.enabledProtocols": st.sampled_from(["TLSv1.2", "TLSv1.3, TLSv1.2"]),
    "ssl.clientAuth": st.sampled_from(["none", "WANT", "need"]),
    "authProvider.sasl": st.just("org.apache.zookeeper.server.auth.SASLAuthenticationProvider"),
    "superUser.1": st.sampled_from(["bob", "é"]),
}


@unhurried
@given(
    data_dir=NAMES,
    port=st.integers(1, 20000),
    rest=st.fixed_dictionaries({}, optional=VALUES),
)
def test_what_check_config_prints_leads_to_the_same_configuration(
    tmp_path_factory: pytest.TempPathFactory, data_dir: str, port: int, rest: dict[str, str]
) -> None:
    directory = tmp_path_factory.getbasetemp()
    entries = {"dataDir": f"{directory}/{data_dir}".rstrip(), "clientPort": str(port), **rest}
    path = directory / "round.cfg"
    path.write_text("\n".join(f"{key}={escape_value(value)}" for key, value in entries.items()))
    first = load_config(path, [], {})
    path.write_text("\n".join(effective_lines(first)))
    second = load_config(path, [], {})
    assert dataclasses.replace(second, warnings=()) == dataclasses.replace(first, warnings=())


# ---- the table


def test_the_table_is_sound() -> None:
    names = [name for key in KEYS for name in (key.name, *key.aliases)]
    assert len(names) == len(set(names))
    fields = {field.name for field in dataclasses.fields(Config)}
    of_ensemble: set[str] = set()
    for key in KEYS:
        assert key.text
        if key.field and key.effect is Effect.ENSEMBLE:
            assert key.field.startswith("ensemble.")
            of_ensemble.add(key.field.removeprefix("ensemble."))
        elif key.field:
            assert key.effect is Effect.NOW
            assert key.field in fields
        if not key.family:
            assert find_key(key.name) is key
    not_from_keys = {"server_id", "servers", "log_level", "config_path", "warnings"}
    not_from_keys |= {"auth_providers", "super_users", "ensemble"}
    assert {key.field for key in KEYS if key.field and key.effect is Effect.NOW} | not_from_keys == fields
    # Those of the whole configuration, of the server lines, and of what is in a file.
    elsewhere = {"tick_time_ms", "standalone_enabled", "reconfig_enabled"}
    elsewhere |= {"my_id", "membership", "dynamic_config_path", "quorum_secret", "tls"}
    tls = {f"tls.{field.name}" for field in dataclasses.fields(QuorumTls)}
    assert of_ensemble | elsewhere == {field.name for field in dataclasses.fields(EnsembleConfig)} | tls
    for name, title in {
        "server.12": "server.N",
        "weight.1": "weight.N",
        "metricsProvider.x": "metricsProvider.NAME",
    }.items():
        key_of_name = find_key(name)
        assert key_of_name is not None
        assert key_of_name.name == title


def test_the_defaults_in_the_table_are_those_of_config() -> None:
    config = load_config(None, [], {})
    servers = {"server.1": "a:1:2", "standaloneEnabled": "false", "initLimit": "1", "syncLimit": "1"}
    Path("data").mkdir()
    Path("data/myid").write_text("1")
    member = load_config(None, list(servers.items()), {})
    for key in KEYS:
        if key.effect is Effect.ENSEMBLE and key.field and key.default:
            assert key.read(key.default) == operator.attrgetter(key.field)(member), key.name
            continue
        # Directories, the address and the session timeouts have a default in words.
        if key.field and key.default and "default" not in key.text and key.default.split()[0].isalnum():
            if key.name in ("dataDir", "dataLogDir", "clientPortAddress", "secureClientPortAddress"):
                continue
            assert key.read(key.default) == getattr(config, key.field), key.name


@unhurried
@given(st.sampled_from([key.name for key in KEYS if not key.family and len(key.name) > 5]), st.data())
def test_a_letter_too_few_is_found(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(name) - 1))
    typo = name[:at] + name[at + 1 :]
    if find_key(typo) is None:
        assert nearest_name(typo) is not None


def test_the_document_is_up_to_date() -> None:
    document = DOCUMENT.read_text()
    assert config_keys.with_current_tables(document) == document, (
        "run: python -m fastzk.server.config_keys docs/configuration.md"
    )
    with pytest.raises(ValueError, match="lacks the marks"):
        config_keys.with_current_tables("nothing")


# ---- logging


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, which is afterwards as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def test_one_event_is_one_line(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = len(root_logger.handlers)
    setup_logging("info")
    setup_logging("info")
    assert len(root_logger.handlers) == handlers + 1
    logger = logging.getLogger("fastzk.server.app")
    logger.debug("unseen")
    logger.info("listening address=%s port=%d", "127.0.0.1", 2181)
    logger.warning("path=%s", "/a\nb\r\x1b[31m\u2028\x00")
    first, second = capsys.readouterr().err.splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(stamp + r" INFO  fastzk\.server\.app listening address=127\.0\.0\.1 port=2181", first)
    assert re.fullmatch(stamp + r" WARN  fastzk\.server\.app path=(.*)", second)
    assert second.endswith(r"path=/a\nb\r\x1b[31m\u2028\x00")


def test_errors_and_their_tracebacks(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("debug")
    logger = logging.getLogger("fastzk.test")
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        logger.warning("expected", exc_info=True)
        logger.exception("unexpected")
    expected, unexpected, *trace = capsys.readouterr().err.splitlines()
    assert expected.endswith("WARN  fastzk.test expected error='ValueError: bad\\\\nthing'")
    assert unexpected.endswith("ERROR fastzk.test unexpected error='ValueError: bad\\\\nthing'")
    assert trace[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in trace)
    assert trace[-1] == "    thing"


@pytest.mark.parametrize(("created", "shown"), [(0.9996, "00.999Z"), (59.0, "59.000Z"), (1.0015, "01.001Z")])
def test_milliseconds_do_not_carry(created: float, shown: str) -> None:
    record = logging.LogRecord("a", logging.CRITICAL, "", 0, "x", None, None)
    record.created = created
    assert LineFormatter().format(record) == f"1970-01-01T00:00:{shown} FATAL a x"


@unhurried
@given(st.text())
def test_no_message_makes_a_second_line(text: str) -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s", (text,), None)
    line = LineFormatter().format(record)
    assert len(line.splitlines()) == 1
    line.encode()  # a lone surrogate would fail here

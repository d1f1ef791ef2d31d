"""kazoo's tests that fastzk.Client does not pass, with the reason. docs/from-kazoo.md names each of them.

A test that is listed here and passes is a failure of the run, too.
"""

from __future__ import annotations

from typing import Final

#: By module and name; with the class where another test of the module has the name, too.
DIFFERENT: Final = {
    # arguments and results that differ
    "test_client::test_invalid_handler": "there are no handlers to choose from",
    "test_client::test_retry_options_dict": "there is no connection_retry, and the retry is a policy",
    "test_client::test_chroot_warning": "the chroot of a client cannot be set",
    "test_client::test_unchroot": "the chroot of a client cannot be set",
    "test_client::test_create_acl_empty_list": "an empty ACL is refused, it does not stand for everybody",
    # tests that change kazoo's own state to see what it does
    "test_client::test_closed": "puts a closed socket into the client",
    "test_client::test_create_on_broken_connection": "sets the client's inner state",
    "test_client::TestClient::test_invalid_auth": "sets the client's inner state",
    "test_client::test_session_callback_states": "calls an inner method",
    "test_watchers::test_child_watcher_remove_session_watcher": "looks for an inner listener",
    "test_cache::test_start": "looks at the cache's nodes",
    "test_cache::test_close": "looks at the client's tables of watches",
    "test_cache::test_delete_operation": "counts the cache's nodes in memory",
    "test_cache::test_session_reconnected": "counts the requests: there are fewer",
    "test_cache::test_exception_handler": "makes an inner method fail",
    "test_cache::test_exception_suppressed": "calls inner methods",
    "test_partitioner::test_race_condition_new_partitioner_during_the_lock": "puts another class in the place of Lock",
    "test_partitioner::test_race_condition_new_partitioner_steals_the_lock": "puts another class in the place of Lock",
}

#: What needs more than one server; tests/conformance/test_kazoo_ensemble.py has those, for the server.
NEED_ENSEMBLE: Final = {
    "test_client::test_update_host_list",
    "test_client::test_add_remove_observer",
    "test_client::test_bad_input",
    "test_client::test_no_super_auth",
}

#: These leave a tenth of a second for several requests, which a busy machine does not always keep.
IN_A_HURRY: Final = {"test_queue::test_concurrent_execution"}

"""What libraries print about themselves is silent."""

import logging

import sqlalchemy

from segue.verbs.terminal.quiet import silence_libraries


def test_a_connection_that_ctrl_c_closed_in_a_query_prints_no_traceback() -> None:
    silence_libraries()
    pool = sqlalchemy.create_engine("sqlite://").pool
    assert not pool.logger.isEnabledFor(logging.ERROR)

"""Checks a database's schema and brings it to head: under a lock, as a whole or not at all.

Alembic is imported only if there is work for it. Most programs open a ledger that is current, which costs one
SELECT.
"""

from operator_core.db.migrate.adoption import adopt
from operator_core.db.migrate.autogenerate import include_name, include_object
from operator_core.db.migrate.deploy import (
    DEFAULT_URL,
    LOCK_TIMEOUT,
    URL_VARIABLE,
    look,
    run_locked,
    upgrade,
)
from operator_core.db.migrate.opening import check_usable, is_current, make_current
from operator_core.db.migrate.revisions import (
    HEAD,
    REVISIONS,
    VERSION_TABLE,
    check_current,
    check_known,
    current_revision,
)
from operator_core.db.migrate.scripts import alembic_config, postgresql_script, upgrade_on
from operator_core.db.migrate.template import copy_template

__all__ = [
    "DEFAULT_URL",
    "HEAD",
    "LOCK_TIMEOUT",
    "REVISIONS",
    "URL_VARIABLE",
    "VERSION_TABLE",
    "adopt",
    "alembic_config",
    "check_current",
    "check_known",
    "check_usable",
    "copy_template",
    "current_revision",
    "include_name",
    "include_object",
    "is_current",
    "look",
    "make_current",
    "postgresql_script",
    "run_locked",
    "upgrade",
    "upgrade_on",
]

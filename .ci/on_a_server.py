"""Runs a command with OPERATOR_DATABASE_URL naming an empty database on a PostgreSQL server of its own."""

import os
import subprocess
import sys

from tests.servers import Server

with Server.make(durable=False) as server:
    environment = {**os.environ, "OPERATOR_DATABASE_URL": server.url()}
    status = subprocess.run(sys.argv[1:], env=environment, check=False).returncode
sys.exit(status)

# SPDX-License-Identifier: BSD-2-Clause
"""Has cloud-init's own `schema` command judge files, as `schema.py VERSION KIND FILE...`, and prints all that it says.

VERSION is the one of cloud-init that has to do it, KIND what its --schema-type takes.
"""

import contextlib
import sys

# Where netplan is installed, cloud-init asks netplan's parser instead of its schema.
sys.modules["netplan"] = None

from cloudinit import version
from cloudinit.cmd import main
from cloudinit.net import netplan

netplan.available = lambda target=None: False
assert version.version_string() == sys.argv[1], version.version_string()
with contextlib.redirect_stderr(sys.stdout):
    for path in sys.argv[3:]:
        try:
            main.main(["cloud-init", "schema", "--schema-type", sys.argv[2], "--config-file", path])
        except SystemExit as end:
            # Only whoever says why may fail: what it says is compared.
            assert end.code in (0, 1), end.code

# SPDX-License-Identifier: BSD-2-Clause
"""Prints type and content (in base64) of every part of a user-data document, as Python's parser sees them; cloud-init's own
processor has to see the same kinds."""

import base64
import email
import email.policy
import sys

from cloudinit import helpers, user_data

with open(sys.argv[1], "rb") as file:
    document = file.read()

message = email.message_from_bytes(document, policy=email.policy.default)
assert message.is_multipart() and not message.defects, message.defects
parts = list(message.iter_parts())
for part in parts:
    assert not part.defects, part.defects
    print(part.get_content_type(), base64.b64encode(part.get_payload(decode=True)).decode())

# An #include would be fetched; an archive becomes its entries, and what is packed what it is.
processor = user_data.UserDataProcessor(helpers.Paths({}))
processor._do_include = lambda content, message: print(end="")
seen = [part.get_content_type() for part in processor.process(document).walk()][1:]
becomes = {"text/x-include-url": [], "text/cloud-config-archive": ["text/cloud-config"], "application/gzip": ["text/x-shellscript"]}
expected = [kind for part in parts for kind in becomes.get(part.get_content_type(), [part.get_content_type()])]
assert seen == expected, (seen, expected)

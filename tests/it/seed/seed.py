# SPDX-License-Identifier: BSD-2-Clause
"""Prints what cloud-init makes of the seed in a folder."""

import sys

from cloudinit import helpers, sources, ssh_util, user_data, util
from cloudinit.sources.DataSourceNoCloud import _merge_new_seed

empty = {"meta-data": {}, "user-data": "", "vendor-data": "", "network-config": None}
read = util.pathprefix2dict(
    sys.argv[1], required=["user-data", "meta-data"], optional=["vendor-data", "network-config"], delim="/"
)
seed = _merge_new_seed(empty, read)
for key in ("instance-id", "local-hostname"):
    print(key, seed["meta-data"][key])
for line in sources.normalize_pubkey_data(seed["meta-data"]["public-keys"]):
    key = ssh_util.AuthKeyLineParser().parse(line)
    assert key.valid() and not key.options
    print("key", key)
for name in ("user-data", "vendor-data"):
    document = user_data.UserDataProcessor(helpers.Paths({})).process(seed[name])
    print(name, *[part.get_content_type() for part in document.walk()][1:])
for ethernet in seed["network-config"]["ethernets"].values():
    print("mac", ethernet["match"]["macaddress"])

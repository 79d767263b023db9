# SPDX-License-Identifier: BSD-2-Clause
"""Has cloud-init read every network-config named on the command line, and render it for every system it knows.

Fails for anything that cloud-init warns of, for a key that is not in its documentation of version 2, and where what it
understood is not what the file says. For Debian 12's cloud-init: later ones write netplan's file to this machine's own /etc.
"""

import copy
import ipaddress
import json
import logging
import os
import sys
import tempfile

from cloudinit import util
from cloudinit.distros.rhel import Distro as Rhel
from cloudinit.net import eni, netplan, network_manager, network_state, networkd, sysconfig

# https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html
ETHERNET = {"match", "set-name", "dhcp4", "addresses", "routes", "nameservers"}
ROUTE = {"to", "via", "on-link"}
FOLDERS = ["network/interfaces.d", "netplan", "sysconfig/network-scripts", "systemd/network", "NetworkManager/conf.d"]
RENDERERS = {
    "eni": (eni, {"eni_path": "etc/network/interfaces.d/50-cloud-init", "netrules_path": None}),
    "netplan": (netplan, {}),
    "networkd": (networkd, {"resolve_conf_fn": "/etc/systemd/resolved.conf", "network_conf_dir": "/etc/systemd/network/"}),
    "sysconfig": (sysconfig, Rhel.renderer_configs["sysconfig"]),
    "network-manager": (network_manager, {}),
}


class Strict(logging.Handler):
    """Turns a warning into a failure."""

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            raise AssertionError(record.getMessage())


def check_keys(config):
    """Only what cloud-init documents, and every value of the kind that it has to be."""
    assert set(config) == {"version", "ethernets"} and config["version"] == 2
    for name, ethernet in config["ethernets"].items():
        assert set(ethernet) <= ETHERNET, set(ethernet) - ETHERNET
        assert ethernet["set-name"] == name and set(ethernet["match"]) == {"macaddress"}
        assert isinstance(ethernet["match"]["macaddress"], str), ethernet["match"]
        assert ethernet.get("dhcp4", True) is True
        for address in ethernet.get("addresses", []):
            ipaddress.ip_interface(address)
        for route in ethernet.get("routes", []):
            assert set(route) <= ROUTE and route["to"] in ("0.0.0.0/0", "::/0"), route
            assert route.get("on-link", True) is True
            gateway = ipaddress.ip_address(route["via"])
            reached = any(gateway in ipaddress.ip_interface(a).network for a in ethernet["addresses"])
            assert reached or gateway.is_link_local and gateway.version == 6 or route["on-link"], route
        assert set(ethernet.get("nameservers", {})) <= {"addresses", "search"}


def check_understood(config, state):
    """The interfaces that cloud-init saw are those of the file."""
    for name, ethernet in config["ethernets"].items():
        interface = state._network_state["interfaces"][name]
        assert interface["mac_address"] == ethernet["match"]["macaddress"]
        subnets = interface["subnets"]
        assert [s["type"] for s in subnets].count("dhcp4") == int("dhcp4" in ethernet)
        static = [f"{s['address']}/{s['prefix']}" for s in subnets if s["type"].startswith("static")]
        assert static == ethernet.get("addresses", []), (static, ethernet)
        vias = [route["gateway"] for subnet in subnets for route in subnet.get("routes", [])]
        assert vias == [route["via"] for route in ethernet.get("routes", [])]


def render(config):
    """Every renderer takes it; what netplan gets is the file itself, `on-link` and all."""
    for name, (module, settings) in RENDERERS.items():
        with tempfile.TemporaryDirectory() as target:
            for folder in FOLDERS:
                os.makedirs(os.path.join(target, "etc", folder))
            state = network_state.parse_net_config_data(copy.deepcopy(config))
            if name == "networkd":
                module.util.chownbyname = lambda *_: None
            module.Renderer(copy.deepcopy(settings)).render_network_state(state, target=target)
            if name == "netplan":
                with open(os.path.join(target, "etc/netplan/50-cloud-init.yaml")) as file:
                    written = util.load_yaml(file.read())["network"]
                assert written == config, (written, config)


def main(paths):
    logging.getLogger().addHandler(Strict())
    for path in paths:
        with open(path) as file:
            text = file.read()
        config = util.load_yaml(text)
        assert config == json.loads(text), "YAML and JSON differ"
        try:
            check_keys(config)
            check_understood(config, network_state.parse_net_config_data(copy.deepcopy(config)))
            render(config)
        except Exception as error:
            raise SystemExit(f"{path}: {error!r}") from error
    print(len(paths), "network-configs are fine")


main(sys.argv[1:])

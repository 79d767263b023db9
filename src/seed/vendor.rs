// SPDX-License-Identifier: BSD-2-Clause
//! vendor-data: what this provider itself has done at the first boot.
//!
//! A script, not a `#cloud-config`: a list such as `runcmd` in the user-data would take the place of ours. cloud-init
//! runs it once for an instance, by cc_scripts_vendor in its last stage.
//!
//! Whatever fails in it leaves the seed where it is. It finds the volume by a serial number that follows from the
//! instance's UUID.

use super::identity::Identity;

/// The script. `@SERIAL@` stands for the serial number of the instance's volume.
const PERSIST: &str = include_str!("persist.sh");

/// The file `vendor-data` of an instance that shall keep its seed without the partition.
pub(crate) fn vendor_data(identity: &Identity) -> Vec<u8> {
    let serial = identity.volume_serial();
    // As blkid(8) shows the UUID of a FAT volume.
    PERSIST.replace("@SERIAL@", &format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::vendor_data;
    use crate::seed::Identity;

    #[test]
    fn the_script_knows_the_instances_volume() {
        let identity = Identity::new("web1", "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f").unwrap();
        let script = String::from_utf8(vendor_data(&identity)).unwrap();
        let serial = format!("{:08X}", identity.volume_serial());
        assert!(script.starts_with("#!/bin/sh\n"), "{script}");
        assert!(script.contains(&format!("\nserial={}-{}\n", &serial[..4], &serial[4..])), "{script}");
        assert!(!script.contains('@'), "{script}");
    }
}

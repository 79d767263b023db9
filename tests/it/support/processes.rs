// SPDX-License-Identifier: BSD-2-Clause
//! The processes of this machine.

use std::fs;

/// What /proc says of each process in a session that has not ended.
pub(crate) fn living_in_session(session: u32) -> Vec<String> {
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        // It may end at any time.
        fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    });
    stats.filter(|stat| is_living_in(stat, session).unwrap_or(false)).collect()
}

/// proc_pid_stat(5): number, (name), state, parent, group, session.
fn is_living_in(stat: &str, session: u32) -> Option<bool> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    Some(fields.nth(2)? == session.to_string() && !matches!(state, "Z" | "X"))
}

// SPDX-License-Identifier: BSD-2-Clause
//! The processes of this machine.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// A number of seconds for `sleep`, long, by which a process can be told from all others.
pub(crate) fn unique_seconds() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("47110.{}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The processes that have `word` as an argument, and have not ended.
pub(crate) fn living_with(word: &str) -> Vec<String> {
    let folders = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let lines = folders.filter_map(|folder| {
        let line = fs::read(folder.join("cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|known| known == word).then(|| format!("{} {}", folder.display(), words.join(" ")))
    });
    lines.collect()
}

/// The processes that `parent` started, and those that these did.
pub(crate) fn descendants(parent: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().map(|id| id.parse().unwrap()).collect();
    children.iter().flat_map(|child| [vec![*child], descendants(*child)].concat()).collect()
}

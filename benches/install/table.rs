// SPDX-License-Identifier: BSD-2-Clause
//! One case in numbers: medians, ratios, and whether they hold.

use serde::Serialize;

use crate::cases::Role;
use crate::measure::{Entry, Measured};

/// A figure over all runs of a contender.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Spread { median, min, max })
    }
}

/// A number that has a limit, or none.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Judged {
    pub(crate) value: f64,
    pub(crate) limit: Option<f64>,
    pub(crate) holds: Option<bool>,
}

impl Judged {
    fn new(value: f64, limit: Option<f64>) -> Self {
        Judged { value, limit, holds: limit.map(|limit| value <= limit) }
    }
}

/// What the provider is compared with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rival {
    pub(crate) label: String,
    pub(crate) wall: Spread,
    /// The provider's median by this one's.
    pub(crate) ratio: Judged,
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The provider's time in seconds.
    pub(crate) wall: Spread,
    /// Processor time of the provider and its children, in seconds.
    pub(crate) cpu: f64,
    pub(crate) predecessor: Option<Rival>,
    pub(crate) best: Option<Rival>,
    pub(crate) floor: Option<Rival>,
    /// Peak memory of the provider's process, the highest of all runs, in MiB.
    pub(crate) memory: Judged,
    /// The same of the largest process, children included.
    pub(crate) memory_with_children: f64,
    /// Why the provider's own runs do not count.
    pub(crate) void: Option<String>,
    /// Others that do not count, or that nothing is compared with.
    pub(crate) notes: Vec<String>,
}

impl Row {
    /// None when the provider did not run.
    pub(crate) fn of(measured: &Measured) -> Option<Self> {
        let (case, entries) = (&measured.case, &measured.entries);
        let ours = entries.iter().find(|entry| entry.contender.role == Role::Ours)?;
        let wall = walls(ours)?;
        let rival = |role: Role, limit: Option<f64>, slowest: bool| {
            let valid = entries.iter().filter(|entry| entry.contender.role == role && entry.void.is_none());
            let timed = valid.filter_map(|entry| Some((entry.contender.label, walls(entry)?)));
            let by_median = |a: &(&str, Spread), b: &(&str, Spread)| a.1.median.total_cmp(&b.1.median);
            let (label, rival) = if slowest { timed.max_by(by_median) } else { timed.min_by(by_median) }?;
            // Nothing can be said of a time for the wrong bytes.
            let limit = limit.filter(|_| ours.void.is_none());
            let ratio = Judged::new(wall.median / rival.median, limit);
            Some(Rival { label: label.to_owned(), wall: rival, ratio })
        };
        let mib = |peak: Option<u64>| peak.unwrap_or_default() as f64 / 1024.0;
        let own = mib(ours.samples.iter().map(|sample| sample.own_peak).max());
        let floor = rival(Role::Floor, case.limits.floor, true);
        Some(Row {
            name: case.name,
            title: case.title,
            wall,
            cpu: Spread::of(ours.samples.iter().map(|sample| sample.user + sample.system))?.median,
            predecessor: rival(Role::Predecessor, case.limits.predecessor, false),
            best: rival(Role::Best, case.limits.best, false),
            memory: Judged::new(own, case.limits.memory.map(|mib| mib as f64)),
            memory_with_children: mib(ours.samples.iter().map(|sample| sample.tree_peak).max()),
            void: ours.void.clone(),
            notes: entries.iter().filter_map(|entry| note(case.title, entry, floor.as_ref())).collect(),
            floor,
        })
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.title.to_owned(), time(&self.wall)];
        if self.void.is_some() {
            cells[1] = "**void**".to_owned();
        }
        for rival in [&self.predecessor, &self.best, &self.floor] {
            match rival {
                None => cells.extend(["-".to_owned(), "-".to_owned()]),
                Some(Rival { label, wall, ratio }) => {
                    cells.push(format!("{} {}", time(wall), label.replace('|', "\\|")));
                    let shown = judged(ratio, |value| format!("{value:.2}"));
                    cells.push(if self.void.is_some() { "void".to_owned() } else { shown });
                }
            }
        }
        let memory = judged(&self.memory, |mib| format!("{mib:.0}"));
        let beyond = self.memory_with_children - self.memory.value;
        let children = if beyond > 1.0 { format!("; child {:.0}", self.memory_with_children) } else { String::new() };
        cells.extend([duration(self.cpu), memory + &children]);
        cells
    }
}

fn walls(entry: &Entry) -> Option<Spread> {
    Spread::of(entry.samples.iter().map(|sample| sample.wall))
}

/// Words on a contender that has no column.
fn note(title: &str, entry: &Entry, shown: Option<&Rival>) -> Option<String> {
    let label = entry.contender.label;
    let wall = walls(entry)?;
    match (&entry.void, entry.contender.role) {
        (Some(reason), _) => Some(format!("{title}: {label} is void after {}: {reason}", duration(wall.median))),
        (None, Role::Floor) if shown.is_some_and(|rival| rival.label == label) => None,
        (None, Role::Other | Role::Floor) => Some(format!("{title}: {label} {}", time(&wall))),
        _ => None,
    }
}

/// Seconds, or milliseconds when there is less than a tenth of one.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn time(spread: &Spread) -> String {
    let Spread { median, min, max } = spread;
    if *max < 0.1 {
        return format!("{} ({:.1}-{:.1})", duration(*median), min * 1e3, max * 1e3);
    }
    format!("{median:.2} s ({min:.2}-{max:.2})")
}

fn judged(judged: &Judged, show: impl Fn(f64) -> String) -> String {
    let value = show(judged.value);
    match judged.limit {
        None => value,
        Some(limit) if judged.holds == Some(true) => format!("{value} <= {} ok", show(limit)),
        Some(limit) => format!("**{value} > {} missed**", show(limit)),
    }
}

/// All rows as a Markdown table that reads well as it is, too.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let heads = [
        "case",
        "simpleimage",
        "predecessor's way",
        "ratio",
        "best existing tool",
        "ratio",
        "floor",
        "ratio",
        "CPU",
        "peak MiB",
    ];
    let lines: Vec<Vec<String>> =
        std::iter::once(heads.map(str::to_owned).to_vec()).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if index == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            text += &format!("|{}|\n", rules.join("|"));
        }
    }
    let notes = rows.iter().flat_map(|row| &row.notes).map(|note| format!("- {note}\n")).collect::<String>();
    if notes.is_empty() { text } else { format!("{text}\n{notes}") }
}

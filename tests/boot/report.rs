// SPDX-License-Identifier: BSD-2-Clause
//! What a guest says of itself on its serial console.

/// Before each line of the report.
const MARK: &str = "report: ";

/// A whole report.
#[derive(Debug)]
pub(crate) struct Report(Vec<(String, String)>);

impl Report {
    /// The report in a console's text; none unless it is there from its beginning to its end.
    pub(crate) fn find(console: &str) -> Option<Self> {
        let lines = console.lines().filter_map(|line| line.trim_end().split_once(MARK).map(|(_, said)| said));
        let mut lines = lines.skip_while(|said| *said != "begin").skip(1).map(str::to_owned);
        let mut facts = Vec::new();
        loop {
            let said = lines.next()?;
            match said.split_once(' ') {
                None if said == "end" => return Some(Report(facts)),
                None => facts.push((said, String::new())),
                Some((name, value)) => facts.push((name.to_owned(), value.trim().to_owned())),
            }
        }
    }

    /// Every value under `name`, in the guest's order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value under `name`.
    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {self:?}");
        all[0]
    }
}

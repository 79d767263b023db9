// SPDX-License-Identifier: BSD-2-Clause
//! The times as bars, in an SVG that fits light and dark pages.

use std::fmt::Write as _;

use crate::table::{Row, Spread, duration};

/// All lengths in pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 104.0;
/// Leaves room for the words at a bar's end.
const RIGHT: f64 = 210.0;
const TOP: f64 = 64.0;
const BAR: f64 = 13.0;
const GAP: f64 = 16.0;
const FOOT: f64 = 40.0;

/// The pixels of a bar that takes as long as the predecessor's way.
const WHOLE: f64 = WIDTH - LEFT - RIGHT;

/// A longer bar is cut there.
const LONGEST: f64 = WHOLE * 1.05;

const TITLE: &str = "Time until all is done, in percent of the predecessor's";

const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.case { text-anchor: end; font-weight: 600 }
.faint { fill: #59636e }
.ours { fill: #d9480f } .predecessor { fill: #8c959f } .best { fill: #4c84d8 }
.grid { stroke: #d1d9e0 } .spread { stroke: #24292f; stroke-opacity: .55 } .floor { stroke: #1a7f37; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .faint { fill: #9198a1 }
.ours { fill: #ff8a4c } .predecessor { fill: #7d8590 } .best { fill: #6ea8fe }
.grid { stroke: #3d444d } .spread { stroke: #e6edf3 } .floor { stroke: #3fb950 }
}";

struct Bar<'r> {
    class: &'static str,
    words: String,
    wall: &'r Spread,
}

/// A bar for the provider and each rival of each case, as a share of the predecessor's time: the cases take from
/// milliseconds to minutes. A tick in the provider's bar is the floor.
pub(crate) fn svg(rows: &[Row], setting: &str) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for row in rows.iter().filter(|row| row.void.is_none()) {
        if let Some(whole) = &row.predecessor {
            y = group(&mut body, row, y, WHOLE / whole.wall.median) + GAP;
        }
    }
    let height = y + FOOT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-labelledby=\"title\">\n<style>{STYLE}\n</style>\n\
         <text id=\"title\" class=\"title\" x=\"12\" y=\"24\">{TITLE}</text>\n"
    );
    legend(&mut text);
    grid(&mut text, y);
    text += &body;
    let foot = height - 10.0;
    let _ = writeln!(text, "<text class=\"faint\" x=\"12\" y=\"{foot:.0}\">{}</text>\n</svg>", escape(setting));
    text
}

fn bars(row: &Row) -> Vec<Bar<'_>> {
    let mut bars = vec![Bar { class: "ours", words: "simpleimage".to_owned(), wall: &row.wall }];
    let rivals = [("best", &row.best), ("predecessor", &row.predecessor)];
    for (class, rival) in rivals {
        bars.extend(rival.iter().map(|rival| Bar { class, words: rival.label.clone(), wall: &rival.wall }));
    }
    bars
}

/// Gives where the next group may begin.
fn group(text: &mut String, row: &Row, top: f64, scale: f64) -> f64 {
    let bars = bars(row);
    let middle = top + BAR * bars.len() as f64 / 2.0 + 4.0;
    let _ =
        writeln!(text, "<text class=\"case\" x=\"{:.0}\" y=\"{middle:.1}\">{}</text>", LEFT - 10.0, escape(row.name));
    let mut y = top;
    for Bar { class, words, wall } in &bars {
        let at = |seconds: f64| LEFT + (seconds * scale).min(LONGEST);
        let (least, end, most, line) = (at(wall.min), at(wall.median), at(wall.max), y + BAR / 2.0);
        let _ = writeln!(
            text,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
             <line class=\"spread\" x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{line:.1}\" y2=\"{line:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{} <tspan class=\"faint\">{}</tspan></text>",
            end - LEFT,
            BAR - 1.5,
            most + 6.0,
            y + BAR - 3.0,
            duration(wall.median),
            escape(words)
        );
        y += BAR;
    }
    if let Some(floor) = &row.floor {
        let x = LEFT + (floor.wall.median * scale).min(LONGEST);
        let _ = writeln!(
            text,
            "<line class=\"floor\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            top - 2.0,
            top + BAR
        );
    }
    y
}

fn legend(text: &mut String) {
    let mut x = LEFT;
    for (class, words) in
        [("ours", "simpleimage"), ("best", "best existing tool"), ("predecessor", "predecessor's way")]
    {
        let _ = write!(text, "<rect class=\"{class}\" x=\"{x}\" y=\"38\" width=\"12\" height=\"12\"/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"48\">{}</text>", x + 18.0, escape(words));
        x += 40.0 + 7.0 * words.len() as f64;
    }
    let _ = write!(text, "<line class=\"floor\" x1=\"{0}\" x2=\"{0}\" y1=\"37\" y2=\"51\"/>", x + 6.0);
    let _ = writeln!(text, "<text x=\"{}\" y=\"48\">floor</text>", x + 14.0);
}

fn grid(text: &mut String, bottom: f64) {
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let x = LEFT + WHOLE * percent / 100.0;
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"faint\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent}</text>",
            TOP - 4.0,
            bottom + 12.0
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
